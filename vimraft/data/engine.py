"""The data engine of one process: installed maps, real volumes, peers; opens handles; installs changes.

May live here: composition and the order of a change (hold, drain, swap, release). The interface behind which
another engine may come: install, hold, release, set_lease, open, list_exports, stats, problems, shut_down.
Keeps: no plan is swapped under a running request; a change that cannot drain keeps its volume held, and that
volume alone. Changes come one at a time (`_change`); nothing that may take long is done under that lock but
waiting for a drain.
"""

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from vimraft.core.ids import ManagerName
from vimraft.data.copies.peer_exports import StoreExports, StoreHandle
from vimraft.data.copies.shell import Shell
from vimraft.data.copies.store_turns import Draining, StoreTurns
from vimraft.data.copies.volumes import OwnedVolume, OwnedVolumes
from vimraft.data.drain import Closed, Drain, drain_all
from vimraft.data.errors import OlderMap, OpenError, PeerLost
from vimraft.data.feed import (
    Boot,
    CopiesStatus,
    Decided,
    FromPlane,
    HoldTimes,
    IoCounters,
    Leases,
    Loads,
    MapUpdate,
    MoveDone,
    MoveOwnerTo,
    PeerSpec,
    Problem,
    Proposal,
    Role,
    VerifyCopies,
    VerifyTold,
    VolumeMap,
)
from vimraft.data.gate import Lease, VolumeGate
from vimraft.data.handle import Handle, ParallelHandle, PeerHandle
from vimraft.data.holds import Holds
from vimraft.data.losses import LossBook
from vimraft.data.real_table import RealTable
from vimraft.data.reals import GONE, Opener, RealSlot, open_labelled
from vimraft.data.remote import COPIES, LinkKey, LinkPool, Vitals, describe, describe_ticket
from vimraft.data.sessions import NotPresentLife, PeerExport, SessionTable, parse_peer_export
from vimraft.data.volume import FORWARD, SEGMENTS, Plan, make_plan, same_volume

FIRST_MAP_S = 10.0
"""How long a client that comes before the first map waits for it."""
NEWS_S = 1.0
"""How long whoever opens a volume that is not known waits for it."""
FAR_PEER_S = 1.0
"""How long the description of an owner's export waits for its stores."""
CHANGE = -1
"""The hold token of map changes; those of the manager are not negative."""


def host_boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


class Plane:
    def __init__(
        self, role: Role, manager: str, *, opener: Opener = open_labelled, parallel: bool = False,
        copies_dir: Path = Path("copies"),
        report: Callable[[Problem], None] = lambda _problem: None,
        log: Callable[..., None] = lambda _event, **_fields: None,
    ) -> None:  # fmt: skip
        self.role: Role = role
        self.manager = manager
        self.instance = uuid.uuid4().hex[:16]
        self.boot_id = host_boot_id()
        self.installed_index = -1
        self.report = report
        self.tell: Callable[[Proposal | MoveDone | VerifyTold | Boot], None] = lambda _message: None
        """To the manager, whenever there is one."""
        self.copies_dir = copies_dir
        """Where records and marks of volumes with copies are kept; the same for export and store."""
        self.lease = Lease()
        self.stopping = False
        self.sessions = SessionTable()
        self.links = LinkPool(manager, self.instance, self._address_of, self._note_vitals)
        self._client_class = ParallelHandle if parallel else Handle
        self._peer_class = ParallelHandle if parallel else PeerHandle
        self._io_timeout_s = 30.0
        shell = Shell(
            ManagerName(manager), self.instance, copies_dir,
            address_of=self._store_address, tell=self._tell_manager, log=log,
        )  # fmt: skip
        self.copies = OwnedVolumes(
            shell,
            lambda volume: self.turns.volume(volume.name),
            cachers=lambda: [ManagerName(peer) for peer in self._peers],
            io_timeout_s=lambda: self._io_timeout_s,
        )
        self._losses = LossBook(copies_dir / f"losses.{role}", self.boot_id, log)
        self._volumes: dict[str, VolumeGate] = {}
        self._maps: dict[str, VolumeMap] = {}
        self._peers: dict[str, PeerSpec] = {}
        self._holds: dict[int, tuple[str, ...]] = {}
        self._incarnation = ""
        """Of the manager that spoke last."""
        self._change = threading.RLock()
        self._reals = RealTable(
            opener,
            self._change,
            replaced=self._real_replaced,
            report=self._tell,
            bug=lambda error: log("real.bug", error=repr(error)),
        )
        self.turns = StoreTurns(
            role, manager, self.boot_id, copies_dir, real_of=self._reals.slot, watch=self, log=log
        )
        self.store_exports = StoreExports(self.turns)
        self._first_map = threading.Event()
        self._news = threading.Condition()

    # --- changes --------------------------------------------------------------------------------
    def install(self, update: MapUpdate) -> int:
        """Returns the longest time, in µs, that one volume was held for it. Raises OlderMap."""
        with self._change:
            if update.index < self.installed_index:
                raise OlderMap(
                    f"tables of index {update.index} were sent, {self.installed_index} is installed"
                )
            self._io_timeout_s = update.io_timeout_ms / 1000
            for gate in self._volumes.values():
                gate.io_timeout_s = self._io_timeout_s
            self._install_peers(update)
            changed_reals, retired = self._reals.install(update)
            self.copies.meet(update.volumes)
            maps = {volume.name: volume for volume in update.volumes}
            gone = set(update.removed_volumes) - maps.keys()
            if update.full:
                gone |= self._volumes.keys() - maps.keys()
            drains = [drain for name in gone for drain in self._remove(name)]
            drains += _drains(self.turns.install(update, self._io_timeout_s))
            drains += _drains(self.turns.renew(changed_reals, self._io_timeout_s))
            for name, volume in self._maps.items():
                if name not in maps and _uses(volume, changed_reals):
                    maps[name] = volume
            changed = [v for v in maps.values() if v != self._maps.get(v.name) or _uses(v, changed_reals)]
            longest_us = self._install_volumes(changed, drains)
            for slot in retired:
                self._reals.retire(slot)
            self.installed_index = update.index
            with self._news:
                self._news.notify_all()
            if not self._first_map.is_set():
                self._first_map.set()
                for message in self._boot():
                    self.tell(message)
            return longest_us

    def _install_peers(self, update: MapUpdate) -> None:
        peers = {peer.manager: peer for peer in update.peers}
        kept = {} if update.full else {k: v for k, v in self._peers.items() if k not in update.removed_peers}
        self._peers = kept | peers
        self.sessions.retain(self._peers)

    def _install_volumes(self, volumes: Sequence[VolumeMap], drains: list[Drain]) -> int:
        """Each volume goes on as soon as it is drained itself; returns when all are, and `drains` too."""
        longest_us = 0

        def install(gate: VolumeGate, plan: Plan, start_ns: int) -> None:
            nonlocal longest_us
            if plan.kind == "copies":
                plan.copies = self.copies.open(plan.map, gate.hold_times)
            gate.swap(plan)
            gate.release(CHANGE)
            self._maps[plan.map.name] = plan.map
            held_ns = time.perf_counter_ns() - start_ns
            gate.hold_times.note(plan.epoch, held_ns)
            longest_us = max(longest_us, held_ns // 1000)

        followed: list[tuple[OwnedVolume, int]] = []
        for plan in [make_plan(volume, self.role, self._reals.slot) for volume in volumes]:
            name = plan.map.name
            gate = self._volumes.get(name)
            if gate is not None and not same_volume(gate.plan.map, plan.map):
                drains += self._remove(name)  # deleted, and another one built under its name
                gate = None
            if gate is None:
                self._add(plan)
                continue
            owned = gate.plan.copies
            if owned is not None and plan.kind == "copies":
                plan.copies = owned
                owned.follow(plan.map)  # it holds, drains and goes on by itself
                followed.append((owned, plan.epoch))
                gate.swap(plan)
                self._maps[name] = plan.map
                continue
            start_ns = time.perf_counter_ns()
            gate.hold(CHANGE)
            if owned is not None:
                self.copies.close(owned, plan.map)
            if gate.idle:
                install(gate, plan, start_ns)
            else:
                drains.append(Drain(gate, partial(install, gate, plan, start_ns)))
        self._drain(drains)
        deadline = time.monotonic() + self._io_timeout_s
        for owned, epoch in followed:
            owned.wait_installed(epoch, deadline)
        return longest_us

    def _add(self, plan: Plan) -> None:
        name = plan.map.name
        holds = Holds()
        if plan.kind == "copies":
            plan.copies = self.copies.open(plan.map, holds, new=self._first_map.is_set())
        gate = VolumeGate(plan, self.lease, self._io_timeout_s, holds, self._losses.known(name))
        for token, names in self._holds.items():
            if not names or name in names:
                gate.hold(token)
        self._volumes[name] = gate
        self._maps[name] = plan.map

    def _remove(self, name: str) -> list[Drain]:
        self._maps.pop(name, None)
        self._losses.forget(name)
        if (gate := self._volumes.pop(name, None)) is None:
            return []
        gate.remove("the volume was removed")
        if gate.plan.copies is not None:
            self.copies.close(gate.plan.copies, None)
        return [Drain(gate, lambda: None if name in self._volumes else self.links.forget(name))]

    def _drain(self, drains: list[Drain]) -> None:
        """However long it takes: a plan is never swapped under a running request."""

        def stuck(gate: Closed, seconds: float) -> None:
            real = next(iter(gate.real_names), "")
            text = f"{gate.name}: a request has been running for over {seconds:.0f} s; I/O is held"
            self.report(Problem(real, "io", text))

        drain_all(drains, self._io_timeout_s, break_off=self.links.abort, stuck=stuck)

    def _real_replaced(self, real: str) -> None:
        drains = _drains(self.turns.renew({real}, self._io_timeout_s))
        self._install_volumes([volume for volume in self._maps.values() if _uses(volume, {real})], drains)

    def hold(self, token: int, names: tuple[str, ...]) -> None:
        """Returns when the volumes (all, if none is named) are held and drained."""
        with self._change:
            self._holds[token] = names
            gates = [gate for name, gate in self._volumes.items() if not names or name in names]
            for gate in gates:
                gate.hold(token)
            self._drain([Drain(gate, lambda: None) for gate in gates])

    def release(self, token: int) -> None:
        with self._change:
            self._holds.pop(token, None)
            for gate in self._volumes.values():
                gate.release(token)

    def meet_manager(self, incarnation: str) -> None:
        """Whoever speaks now. Holds of a manager that is dead will not be released by it any more; those of
        the same one count on, also when it was out of touch for a while."""
        with self._change:
            if self._incarnation not in ("", incarnation):
                for token in tuple(self._holds):
                    self.release(token)
            self._incarnation = incarnation

    def set_lease(self, boottime_ns: int) -> None:
        self.lease.until_ns = boottime_ns
        self.copies.set_lease(boottime_ns)
        for gate in tuple(self._volumes.values()):
            if gate.plan.needs_lease:
                gate.wake()

    def note_leases(self, leases: Leases) -> None:
        self.copies.note_leases(leases)

    def lose_manager(self) -> None:
        self.copies.lose_manager()

    def note_loads(self, loads: Loads) -> None:
        self.copies.note_loads(loads)

    def note_decided(self, decided: Decided) -> None:
        self.copies.shell.decided(decided)

    def move_owner(self, wanted: MoveOwnerTo) -> None:
        self.copies.move(wanted)

    def verify_copies(self, wanted: VerifyCopies) -> None:
        self.copies.verify(wanted)

    def reopen_missing(self) -> None:
        """Called about once a second; does not wait."""
        self._reals.reopen_missing()

    def pause_all(self, timeout_s: float) -> None:
        """Before a clean end: let what runs finish, and hold the rest."""
        deadline = time.monotonic() + timeout_s
        gates = tuple(self._volumes.values())
        for gate in gates:
            gate.hold(CHANGE)
        for gate in gates:
            gate.drain(max(0.0, deadline - time.monotonic()))

    def shut_down(self) -> None:
        """Turn every request away, also those that wait for a hold or a peer."""
        self.stopping = True
        for gate in tuple(self._volumes.values()):
            gate.remove("this process is stopping")
            if gate.plan.copies is not None:
                self.copies.close(gate.plan.copies, None)
        self.links.abort()
        self.copies.shell.links.abort()
        self.turns.stop()

    def flush_all(self) -> None:
        for slot in self._reals.slots():
            if slot.backend is not None:
                try:
                    slot.backend.flush()
                except OSError as error:
                    self.flush_failed(slot, error)

    # --- handles --------------------------------------------------------------------------------
    def open(self, name: str) -> tuple[Handle | StoreHandle, PeerExport | None]:
        """Raises OpenError."""
        if self.stopping:
            raise OpenError("this process is stopping")
        if not name:
            raise OpenError(
                "give an export name: " + (", ".join(sorted(self._volumes)[:20]) or "no volume yet")
            )
        if not self._first_map.wait(FIRST_MAP_S):
            raise OpenError(f"export {name[:200]!r}: this site's manager has not sent its tables yet")
        if self.role == "store" and self.store_exports.serves(name):
            return self.store_exports.open(name, self._peers), None
        if name.startswith("."):
            return self._open_for_peer(parse_peer_export(name))
        gate = self._gate_of(name) if self.role == "export" else None
        if gate is None:
            raise OpenError(f"no virtual volume is called {name[:200]!r}; see `vimraft vol list`")
        return self._client_class(gate, self.links, self), None

    def _gate_of(self, volume: str) -> VolumeGate | None:
        """It may have been built at another site just now: tables that have it are on their way then."""
        with self._news:
            self._news.wait_for(lambda: volume in self._volumes, NEWS_S)
        return self._volumes.get(volume)

    def _open_for_peer(self, name: PeerExport) -> tuple[Handle, PeerExport]:
        if name.kind != (FORWARD if self.role == "export" else SEGMENTS):
            raise OpenError(f"{name.kind} is not served by the {self.role}")
        gate = self._gate_of(name.volume)
        if gate is None:
            raise OpenError(f"no virtual volume is called {name.volume[:200]!r} here")
        deadline = time.monotonic() + self._io_timeout_s
        gate.wait_for_epoch(name.epoch, deadline)
        plan = gate.plan
        if plan.epoch != name.epoch or gate.removed:
            raise OpenError(f"{name.volume}: epoch {name.epoch} was asked for, {plan.epoch} is served")
        if plan.kind == "forward":
            raise OpenError(f"{name.volume}: its owner is {plan.map.owner}, not {self.manager}")
        if name.manager not in self._peers:
            raise OpenError(f"the tables know no manager {name.manager[:200]!r}")
        handle = self._peer_class(gate, self.links, self, name.epoch)
        try:
            self.sessions.enter(name, handle, max(0.0, deadline - time.monotonic()))
        except NotPresentLife as refused:
            handle.superseded = True  # it does no I/O: it exists for its description
            handle.ticket = refused.ticket
        except OpenError:
            handle.close()
            raise
        return handle, name

    def close(self, handle: Handle | StoreHandle, name: PeerExport | None) -> None:
        if isinstance(handle, StoreHandle):
            self.store_exports.close(handle)
            return
        if name is not None:
            self.sessions.leave(name, handle)
        handle.close()

    def describe(self, handle: Handle | StoreHandle, name: PeerExport | None) -> str:
        """For peers: what they need for INV-3; for people otherwise."""
        if isinstance(handle, StoreHandle):
            return handle.describe()
        gate = handle.gate
        plan = gate.plan
        if name is None:
            return f"{plan.size_bytes // 512} sectors, owner {plan.map.owner}, {plan.map.local_name}"
        if handle.ticket:
            return describe_ticket(handle.ticket)
        if plan.copies is not None:
            return describe(COPIES, self.instance, plan.copies.owed.text)
        if any(real.opening for real in plan.reals):
            return describe("?", self.instance, gate.losses())
        boot = self.boot_id
        if any(real.volatile for real in plan.reals):
            boot += "." + self.instance
        if plan.keys:
            if not handle.reach_peers(time.monotonic() + FAR_PEER_S):
                return describe("?", self.instance, gate.losses())
            vitals = [str(gate.peer_vitals(key)) for key in sorted(plan.keys)]
            boot = uuid.uuid5(uuid.NAMESPACE_OID, "|".join([boot, *vitals])).hex
        return describe(boot, self.instance, self._losses.note(gate.name, gate.losses()))

    def list_exports(self) -> list[tuple[str, str]]:
        if self.role == "store":
            return []
        self._first_map.wait(FIRST_MAP_S)
        found = []
        for name, gate in sorted(self._volumes.items()):
            found.append((name, f"{gate.plan.size_bytes // 512} sectors, owner {gate.plan.map.owner}"))
        return found

    # --- what links and handles tell ------------------------------------------------------------
    def _address_of(self, key: LinkKey) -> tuple[str, int]:
        peer = self._peers.get(key.peer)
        address = "" if peer is None else (peer.nbd_address if key.kind == FORWARD else peer.peer_address)
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or self.stopping:
            raise PeerLost(f"no address of {key.peer} is known")
        return host.strip("[]"), int(port)

    def _store_address(self, manager: ManagerName) -> tuple[str, int]:
        return self._address_of(LinkKey(SEGMENTS, manager, ""))

    def _tell_manager(self, message: Proposal | MoveDone | VerifyTold) -> None:
        self.tell(message)

    def _note_vitals(self, key: LinkKey, vitals: Vitals) -> None:
        gate = self._volumes.get(key.volume)
        if gate is not None:
            gate.note_vitals(key, vitals)

    def real_failed(self, real: RealSlot, error: OSError) -> None:
        if error.errno in GONE and not real.lost:
            real.lost = str(error)
        self._report_once(real, "missing" if real.lost else "io", f"{real.spec.uri}: {error}")

    def flush_failed(self, real: RealSlot, error: OSError) -> None:
        self.turns.flush_failed(real.real)
        for gate in tuple(self._volumes.values()):  # as their next lives will count
            self._losses.note(gate.name, gate.losses() + (real in gate.plan.reals))
        self._report_once(real, "flush", f"{real.spec.uri}: flush failed: {error}")

    def _tell(self, problem: Problem) -> None:
        self.report(problem)

    def _report_once(self, real: RealSlot, kind: Literal["missing", "io", "flush"], message: str) -> None:
        if real.problem != message:
            real.problem = message
            self.report(Problem(real.real, kind, message))

    def problems(self) -> list[Problem]:
        """Real volumes that cannot be opened now: for a manager that has just connected."""
        return self._reals.problems()

    def untold(self) -> list[FromPlane]:
        """What a manager that has just connected must be told again: it may never have heard of it."""
        return [*self._boot(), *self.copies.shell.undecided()]

    def _boot(self) -> list[Boot]:
        """Of the stores at this manager's sites; the one process says it for both."""
        if self.role != "store" or not self._first_map.is_set():
            return []
        return [self.turns.boot_message(tuple(self._maps.values()))]

    # --- figures --------------------------------------------------------------------------------
    def stats(self) -> tuple[dict[str, IoCounters], dict[str, IoCounters], int]:
        gates = tuple(self._volumes.items())
        volumes = {name: gate.counters() for name, gate in gates}
        return volumes, self._reals.counters(), sum(gate.waiting for _, gate in gates)

    def copies_status(self) -> dict[str, CopiesStatus]:
        return self.copies.status()

    def hold_times(self) -> dict[str, HoldTimes]:
        found = {name: gate.hold_times.times() for name, gate in tuple(self._volumes.items())}
        return {name: times for name, times in found.items() if times is not None}


def _drains(closed: Sequence[Draining]) -> list[Drain]:
    return [Drain(one, lambda: None) for one in closed]


def _uses(volume: VolumeMap, reals: set[str]) -> bool:
    if not reals:
        return False
    copies = volume.copies.segments.values() if volume.copies is not None else ()
    here = [segment for segments in (volume.segments, *copies) for segment in segments]
    return any(segment.real in reals and not segment.manager for segment in here)
