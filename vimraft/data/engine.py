"""The data engine of one process: installed maps, real volumes, peers; opens handles; installs changes.

May live here: composition and the order of a change (hold, drain, swap, release). The interface behind which
another engine may come: install, hold, release, set_lease, open, list_exports, stats, problems, shut_down.
Keeps: no plan is swapped under a running request; a change that cannot drain keeps its volume held.
"""

import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from vimraft.data.errors import OlderMap, OpenError, PeerLost
from vimraft.data.feed import BackendSpec, IoCounters, MapUpdate, PeerSpec, Problem, Role, VolumeMap
from vimraft.data.gate import Lease, Totals, VolumeGate
from vimraft.data.handle import Handle, ParallelHandle, PeerHandle
from vimraft.data.reals import GONE, Opener, RealSlot, close_slot, open_labelled, open_slot
from vimraft.data.remote import LinkKey, LinkPool, Vitals, describe, describe_ticket
from vimraft.data.sessions import NotPresentLife, PeerExport, SessionTable, parse_peer_export
from vimraft.data.volume import FORWARD, SEGMENTS, make_plan

FIRST_MAP_S = 10.0
"""How long a client that comes before the first map waits for it."""
DRAIN_PATIENCE_S = 1.0
"""A drain that takes longer breaks the connections to peers in use (their requests are sent again)."""
REOPEN_S = 3.0
"""Between two tries to open a real volume that is missing."""
FAR_PEER_S = 1.0
"""How long the description of an owner's export waits for its stores."""
CHANGE = -1
"""The hold token of map changes; those of the manager are not negative."""


def host_boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


class Plane:
    def __init__(
        self, role: Role, manager: str, *, opener: Opener = open_labelled, parallel: bool = False,
        report: Callable[[Problem], None] = lambda _problem: None,
    ) -> None:  # fmt: skip
        self.role: Role = role
        self.manager = manager
        self.instance = uuid.uuid4().hex[:16]
        self.boot_id = host_boot_id()
        self.installed_index = -1
        self.report = report
        self.lease = Lease()
        self.stopping = False
        self.sessions = SessionTable()
        self.links = LinkPool(manager, self.instance, self._address_of, self._note_vitals)
        self._opener = opener
        self._client_class = ParallelHandle if parallel else Handle
        self._peer_class = ParallelHandle if parallel else PeerHandle
        self._io_timeout_s = 30.0
        self._volumes: dict[str, VolumeGate] = {}
        self._maps: dict[str, VolumeMap] = {}
        self._reals: dict[str, RealSlot] = {}
        self._peers: dict[str, PeerSpec] = {}
        self._holds: dict[int, tuple[str, ...]] = {}
        self._change = threading.RLock()
        self._first_map = threading.Event()
        self._next_reopen = 0.0

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
            changed_reals, retired = self._install_reals(update)
            maps = {volume.name: volume for volume in update.volumes}
            gone = set(update.removed_volumes) - maps.keys()
            if update.full:
                gone |= self._volumes.keys() - maps.keys()
            for name in gone:
                self._remove(name)
            for name, volume in self._maps.items():
                if name not in maps and any(
                    s.real in changed_reals and not s.manager for s in volume.segments
                ):
                    maps[name] = volume
            changed = (v for v in maps.values() if v != self._maps.get(v.name) or _uses(v, changed_reals))
            longest_us = max((self._install_volume(volume) for volume in changed), default=0)
            for slot in retired:
                self._retire_real(slot)
            self.installed_index = update.index
            self._first_map.set()
            return longest_us

    def _install_peers(self, update: MapUpdate) -> None:
        peers = {peer.manager: peer for peer in update.peers}
        kept = {} if update.full else {k: v for k, v in self._peers.items() if k not in update.removed_peers}
        self._peers = kept | peers
        self.sessions.retain(self._peers)

    def _install_reals(self, update: MapUpdate) -> tuple[set[str], list[RealSlot]]:
        specs = {spec.real: spec for spec in update.backends}
        gone = set(update.removed_backends) - specs.keys()
        if update.full:
            gone |= self._reals.keys() - specs.keys()
        retired = [self._reals.pop(real) for real in gone if real in self._reals]
        changed = set(gone)
        for real, spec in specs.items():
            old = self._reals.get(real)
            if old is not None and old.spec == spec and (old.backend is not None or spec.failed):
                continue
            if old is not None:
                retired.append(old)
            self._open_real(spec, old.losses if old is not None else 0)
            changed.add(real)
        return changed, retired

    def _open_real(self, spec: BackendSpec, losses: int) -> RealSlot:
        slot = open_slot(spec, self._opener, losses)
        self._reals[spec.real] = slot
        problem = slot.report()
        if problem is not None:
            self.report(problem)
        return slot

    def _retire_real(self, slot: RealSlot) -> None:
        """After every plan that used it is gone."""
        losses = close_slot(slot)
        successor = self._reals.get(slot.real)
        if successor is not None:
            successor.base_losses += losses - slot.losses

    def _real_of(self, real: str) -> RealSlot:
        slot = self._reals.get(real)
        if slot is None:
            spec = BackendSpec(real, "", "", "", 0, "its manager did not describe it")
            slot = RealSlot(spec, None, "told", f"real volume {real}: {spec.failed}", 0)
        return slot

    def _install_volume(self, volume: VolumeMap) -> int:
        plan = make_plan(volume, self.role, self._real_of)
        gate = self._volumes.get(volume.name)
        if gate is not None and gate.plan.map.local_name != volume.local_name:
            self._remove(volume.name)  # deleted, and another one built under its name
            gate = None
        if gate is None:
            gate = VolumeGate(plan, self.lease, self._io_timeout_s)
            for token, names in self._holds.items():
                if not names or volume.name in names:
                    gate.hold(token)
            self._volumes[volume.name] = gate
            self._maps[volume.name] = volume
            return 0
        start_ns = time.perf_counter_ns()
        gate.hold(CHANGE)
        self._drain(gate)
        gate.swap(plan)
        self._maps[volume.name] = volume
        gate.release(CHANGE)
        return (time.perf_counter_ns() - start_ns) // 1000

    def _drain(self, gate: VolumeGate) -> None:
        """However long it takes: a plan is never swapped under a running request."""
        if gate.drain(DRAIN_PATIENCE_S):
            return
        waited_s = DRAIN_PATIENCE_S
        reported = False
        while True:
            self.links.abort(gate.name)
            if gate.drain(DRAIN_PATIENCE_S):
                return
            waited_s += DRAIN_PATIENCE_S
            if waited_s > self._io_timeout_s and not reported:
                reported = True
                real = gate.plan.reals[0].real if gate.plan.reals else ""
                text = f"{gate.name}: a request has been running for over {waited_s:.0f} s; I/O is held"
                self.report(Problem(real, "io", text))

    def _remove(self, name: str) -> None:
        gate = self._volumes.pop(name, None)
        self._maps.pop(name, None)
        if gate is not None:
            gate.remove("the volume was removed")
            self._drain(gate)
            self.links.forget(name)

    def hold(self, token: int, names: tuple[str, ...]) -> None:
        """Returns when the volumes (all, if none is named) are held and drained."""
        with self._change:
            self._holds[token] = names
            gates = [gate for name, gate in self._volumes.items() if not names or name in names]
            for gate in gates:
                gate.hold(token)
            for gate in gates:
                self._drain(gate)

    def release(self, token: int) -> None:
        with self._change:
            self._holds.pop(token, None)
            for gate in self._volumes.values():
                gate.release(token)

    def set_lease(self, boottime_ns: int) -> None:
        self.lease.until_ns = boottime_ns
        for gate in tuple(self._volumes.values()):
            if gate.plan.needs_lease:
                gate.wake()

    def reopen_missing(self) -> None:
        """Called about once a second: try real volumes again that could not be opened, or went away."""
        if time.monotonic() < self._next_reopen:
            return
        self._next_reopen = time.monotonic() + REOPEN_S
        for slot in tuple(self._reals.values()):
            if slot.lost or (slot.backend is None and not slot.spec.failed):
                with self._change:
                    if self._reals.get(slot.real) is slot:
                        self._replace_real(slot)

    def _replace_real(self, slot: RealSlot) -> None:
        fresh = open_slot(slot.spec, self._opener, slot.losses)
        if fresh.backend is None and slot.backend is None and fresh.problem == slot.problem:
            return
        self._reals[slot.real] = fresh
        problem = fresh.report()
        if problem is not None:
            self.report(problem)
        for volume in tuple(self._maps.values()):
            if _uses(volume, {slot.real}):
                self._install_volume(volume)
        self._retire_real(slot)

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
        self.links.abort()

    def flush_all(self) -> None:
        for slot in tuple(self._reals.values()):
            if slot.backend is not None:
                try:
                    slot.backend.flush()
                except OSError as error:
                    self.flush_failed(slot, error)

    # --- handles --------------------------------------------------------------------------------
    def open(self, name: str) -> tuple[Handle, PeerExport | None]:
        """Raises OpenError."""
        if self.stopping:
            raise OpenError("this process is stopping")
        if not name:
            raise OpenError(
                "give an export name: " + (", ".join(sorted(self._volumes)[:20]) or "no volume yet")
            )
        if not self._first_map.wait(FIRST_MAP_S):
            raise OpenError(f"export {name[:200]!r}: this site's manager has not sent its tables yet")
        if name.startswith("."):
            return self._open_for_peer(parse_peer_export(name))
        gate = self._volumes.get(name)
        if gate is None or self.role == "store":
            raise OpenError(f"no virtual volume is called {name[:200]!r}; see `vimraft vol list`")
        return self._client_class(gate, self.links, self), None

    def _open_for_peer(self, name: PeerExport) -> tuple[Handle, PeerExport]:
        if name.kind != (FORWARD if self.role == "export" else SEGMENTS):
            raise OpenError(f"{name.kind} is not served by the {self.role}")
        gate = self._volumes.get(name.volume)
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

    def close(self, handle: Handle, name: PeerExport | None) -> None:
        if name is not None:
            self.sessions.leave(name, handle)
        handle.close()

    def describe(self, handle: Handle, name: PeerExport | None) -> str:
        """For peers: what they need for INV-3; for people otherwise."""
        gate = handle.gate
        plan = gate.plan
        if name is None:
            return f"{plan.size_bytes // 512} sectors, owner {plan.map.owner}, {plan.map.local_name}"
        if handle.ticket:
            return describe_ticket(handle.ticket)
        boot = self.boot_id
        if any(real.volatile for real in plan.reals):
            boot += "." + self.instance
        if plan.keys:
            if not handle.reach_peers(time.monotonic() + FAR_PEER_S):
                return describe("?", self.instance, gate.losses())
            vitals = [str(gate.peer_vitals(key)) for key in sorted(plan.keys)]
            boot = uuid.uuid5(uuid.NAMESPACE_OID, "|".join([boot, *vitals])).hex
        return describe(boot, self.instance, gate.losses())

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

    def _note_vitals(self, key: LinkKey, vitals: Vitals) -> None:
        gate = self._volumes.get(key.volume)
        if gate is not None:
            gate.note_vitals(key, vitals)

    def real_failed(self, real: RealSlot, error: OSError) -> None:
        if error.errno in GONE and not real.lost:
            real.lost = str(error)
        self._report_once(real, "missing" if real.lost else "io", f"{real.spec.uri}: {error}")

    def flush_failed(self, real: RealSlot, error: OSError) -> None:
        self._report_once(real, "flush", f"{real.spec.uri}: flush failed: {error}")

    def _report_once(self, real: RealSlot, kind: Literal["missing", "io", "flush"], message: str) -> None:
        if real.problem != message:
            real.problem = message
            self.report(Problem(real.real, kind, message))

    def problems(self) -> list[Problem]:
        """Real volumes that cannot be opened now: for a manager that has just connected."""
        found = (slot.report() for slot in tuple(self._reals.values()))
        return [problem for problem in found if problem is not None]

    # --- figures --------------------------------------------------------------------------------
    def stats(self) -> tuple[dict[str, IoCounters], dict[str, IoCounters], int]:
        gates = tuple(self._volumes.items())
        reals = {}
        for real, slot in tuple(self._reals.items()):
            if slot.backend is not None:
                c = slot.backend.counters
                reals[real] = IoCounters(
                    c.reads, c.writes, c.read_bytes, c.write_bytes, c.read_ns, c.write_ns, c.flushes, c.errors
                )
        return {name: _volume_counters(gate) for name, gate in gates}, reals, sum(g.waiting for _, g in gates)


def _uses(volume: VolumeMap, reals: set[str]) -> bool:
    return bool(reals) and any(s.real in reals and not s.manager for s in volume.segments)


def _volume_counters(gate: VolumeGate) -> IoCounters:
    handles = tuple(gate.handles)
    total = Totals()
    total.add(gate.totals)
    for handle in handles:
        total.add(handle)
    return IoCounters(
        total.reads, total.writes, total.read_bytes, total.write_bytes, total.read_ns, total.write_ns,
        total.flushes, total.errors, sum(handle.busy for handle in handles), len(handles), total.forwarded,
    )  # fmt: skip
