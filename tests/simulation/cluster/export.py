"""The export of a site: the owners of its volumes, clients, and the forwarding of what others own.

May live here: the shell of owners: what they want done is done on the simulated world. Forwarding is in
`forward`.
"""

from collections.abc import Callable
from typing import Any

from tests.simulation.cluster.forward import Forwards, Task
from tests.simulation.cluster.host import Host
from tests.simulation.cluster.process import Process
from tests.simulation.cluster.wire import Connection
from vimraft.core.change import stamp_of
from vimraft.core.commands import Applied, LeaseStamp, Outcome
from vimraft.core.ids import LocalName, ManagerName, VolumeName
from vimraft.core.tables import State
from vimraft.protocol.desk import Leases, Limits
from vimraft.protocol.handover import HandOver
from vimraft.protocol.lease import OthersLease, OwnLease, SoleHolderRight
from vimraft.protocol.losses import NO_LOSS, LossMark
from vimraft.protocol.maps import VolumeMap, map_of
from vimraft.protocol.messages import Session, StoreAnswer, for_owner
from vimraft.protocol.owner import Owner
from vimraft.protocol.owner_effects import (
    ClientRequest,
    Effect,
    Persist,
    Propose,
    Reply,
    Send,
    SetTimer,
    StoreRequest,
)
from vimraft.protocol.resync import Resync
from vimraft.protocol.takeover import TakeOver

RESYNC_AGAIN_S = 0.7
WAIT_S = 0.1


class Served:
    """One volume that this life of the export owns."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.timer_ns = 0
        """The one that counts: each replaces the one before."""
        self.takeover: TakeOver | None = None
        self.resyncs: dict[LocalName, Resync] = {}
        self.asked: dict[int, Callable[[Reply], None]] = {}


class Export(Process):
    def __init__(self, host: Host) -> None:
        super().__init__(host.world, host.clock, host.name, "export")
        self.host = host
        self.me = host.name
        self.own = OwnLease("", 1)
        self.others = OthersLease(1)
        self.ready = False
        self.served: dict[VolumeName, Served] = {}
        self.state: State | None = None
        self.forwards = Forwards(self)
        self._reopen_index: int | None = None
        self._granted: tuple[LeaseStamp, int] | None = None
        """The newest lease, and the index of the tables that have it."""
        self._links: dict[ManagerName, Connection | None] = {}
        """None: it is being made."""
        self._outbox: dict[ManagerName, list[Any]] = {}
        self._open: dict[tuple[VolumeName, int], tuple[VolumeName, Owner, int, Any, str]] = {}
        """Proposals that are not decided."""
        self._numbers = 0

    # --- life -----------------------------------------------------------------------------------------

    def started(self) -> None:
        settings = self.host.settings
        self.own = OwnLease(f"{self.me}.{self.life}", settings.lease_ms * 1_000_000)
        self.others = OthersLease(settings.lease_ms * 1_000_000)
        self.ready = not self.host.rules.reopen_on_restart
        self.served, self._links, self._outbox, self._open = {}, {}, {}, {}
        self.state, self._reopen_index, self._granted = None, None, None
        self.forwards = Forwards(self)
        self.world.after(0, self.run, self.life, self._first)

    def _first(self) -> None:
        if self.state is None:
            self.take([self.host.manager.state])
        if not self.ready:
            self._ask_to_reopen()
        self.after(RESYNC_AGAIN_S, self._look_at_copies)

    def _ask_to_reopen(self) -> None:
        manager = self.host.manager
        manager.run(manager.life, manager.reopen, self.life, self.own.incarnation)

    def ended(self) -> None:
        self.host.records.ends(lambda key: key[0] == "mark")
        self.forwards.ended()

    def reopened(self, index: int) -> None:
        self._reopen_index = index
        self._look_reopened()

    def _look_reopened(self) -> None:
        state = self.state
        if self.ready or state is None or self._reopen_index is None or state.index < self._reopen_index:
            return
        self.ready = True
        for name in sorted(state.volumes):
            self._follow(state, name)

    @property
    def installed_index(self) -> int:
        """Of the oldest map that anything here goes by."""
        if self.state is None:
            return 0
        held = [one.owner.desk.map.index for one in self.served.values() if self._holds(one.owner)]
        return min([self.state.index, *held])

    @staticmethod
    def _holds(owner: Owner) -> bool:
        return owner.desk.map is not owner.desk.newest

    # --- what the manager says ------------------------------------------------------------------------

    def granted(self, stamp: LeaseStamp, index: int) -> None:
        """Not before the tables of that index are here: another owner may have begun in them."""
        self._granted = (stamp, index)
        self._look_granted()

    def _look_granted(self) -> None:
        if self._granted is not None and self.state is not None and self.state.index >= self._granted[1]:
            stamp, self._granted = self._granted[0], None
            if self.own.applied(stamp) is not None:
                self._leases_changed()

    def take(self, states: list[State]) -> None:
        self._take(states)
        self._look_granted()

    def _take(self, states: list[State]) -> None:
        for state in states:
            before = self.state
            if before is not None and state.index <= before.index:
                continue
            self.state = state
            if before is None or state.leases is not before.leases or state.managers is not before.managers:
                self._note_leases(state)
            if not self.ready:
                self._look_reopened()
            elif before is None or state.volumes is not before.volumes:
                for name in sorted({*self.served, *state.volumes}):
                    if before is None or state.volumes.get(name) is not before.volumes.get(name):
                        self._follow(state, name)
        self.forwards.maps_changed()

    def _note_leases(self, state: State) -> None:
        for name in sorted(state.managers):
            self.others.applied(name, stamp_of(state, name), self.now_ns)
        self._leases_changed()

    def _installed(self) -> dict[ManagerName, int]:
        assert self.state is not None, "it follows the tables"
        return {lease.manager: lease.installed_index for lease in self.state.leases.values()}

    def _leases_changed(self) -> None:
        for name, served in list(self.served.items()):
            self.perform(name, served.owner.leases_changed(self._installed(), self.now_ns))

    def _follow(self, state: State, name: VolumeName) -> None:
        found = map_of(state, name)
        served = self.served.get(name)
        if served is not None and found is not None:
            self.perform(name, served.owner.applied(found, self.now_ns))
            if not served.owner.desk.ours:
                self._let_go(name, served)
                served = None
        if served is None and found is not None and found.owner == self.me:
            self._begin(name, found)

    def _let_go(self, name: VolumeName, served: Served) -> None:
        del self.served[name]
        left, served.asked = served.asked, {}
        for number, told in left.items():
            told(Reply(number, "moved"))

    def _begin(self, name: VolumeName, found: VolumeMap) -> None:
        host, rules, settings = self.host, self.host.rules, self.host.settings
        right = SoleHolderRight(host.records.kept.get(("mark", name)), durable=rules.durable_sole_holder_mark)
        limits = Limits(
            io_timeout_ns=int(settings.io_timeout_s * 1e9),
            store_timeout_ns=int(settings.store_timeout_s * 1e9),
            seal_grace_ns=500_000_000,
            active_regions=settings.max_active,
            in_step_regions=settings.in_step_regions,
        )
        owner = Owner(
            self.me,
            found,
            Leases(self.own, self.others),
            right=right,
            rules=rules,
            limits=limits,
        )
        served = self.served[name] = Served(owner)
        self.perform(name, owner.leases_changed(self._installed(), self.now_ns))
        assert self.state is not None, "it follows the tables"
        served.takeover = TakeOver(
            owner, [other for other in sorted(self.state.managers) if other != self.me]
        )
        self.perform(name, served.takeover.start(self.now_ns))

    # --- copies ---------------------------------------------------------------------------------------

    def _look_at_copies(self) -> None:
        self.after(RESYNC_AGAIN_S, self._look_at_copies)
        for name, served in list(self.served.items()):
            owner = served.owner
            if not owner.serving or not owner.desk.ours:
                continue
            for copy in owner.desk.newest.copies:
                running = served.resyncs.get(copy.name)
                if running is not None and running.phase not in ("over", "failed"):
                    continue
                if copy.paused or copy.state not in ("stale", "syncing"):
                    continue
                resync = served.resyncs[copy.name] = Resync(owner, copy.name)
                self.perform(name, resync.start(self.now_ns))

    def move_owner(self, name: VolumeName, new_owner: ManagerName) -> None:
        served = self.served.get(name)
        if served is not None and served.owner.serving and new_owner != self.me:
            self.perform(name, HandOver(served.owner, new_owner).start(self.now_ns))

    # --- clients --------------------------------------------------------------------------------------

    def known_loss(self, name: VolumeName) -> LossMark:
        """What a session that begins now need not be told."""
        row = None if self.state is None else self.state.volumes.get(name)
        return NO_LOSS if row is None else LossMark(row.epoch)

    def submit(self, task: Task) -> None:
        """Serve it here or send it on; `task.told` is called once, unless this life ends."""
        served = self.served.get(task.volume)
        if served is not None and served.owner.desk.ours:
            self._numbers += 1
            number = self._numbers
            served.asked[number] = lambda reply: self._answered(task, reply)
            request = ClientRequest(
                number, task.session, task.kind, task.first, task.end, task.data, task.fua, task.since
            )
            self.perform(task.volume, served.owner.request(request, self.now_ns))
        elif task.forwarded:
            task.told("moved", b"", NO_LOSS)
        else:
            self.forwards.send(task)

    def _answered(self, task: Task, reply: Reply) -> None:
        if reply.how in ("done", "failed") or task.forwarded:
            task.told(reply.how, reply.data, reply.told)
        elif reply.how == "moved":
            self.forwards.again(task)
        else:
            self.after(WAIT_S, self.submit, task)

    # --- effects --------------------------------------------------------------------------------------

    def perform(self, name: VolumeName, effects: list[Effect]) -> None:
        served = self.served.get(name)
        for effect in effects:
            match effect:
                case Send(store=store, request=request):
                    self._send(store, request)
                case Reply(id=number):
                    told = served.asked.pop(number, None) if served is not None else None
                    if told is not None:
                        told(effect)
                case Propose(token=token, command=command):
                    assert served is not None, "owners propose while they serve"
                    self._propose(name, served.owner, token, command)
                case Persist(token=token, mark=mark):
                    self.host.records.put(("mark", name), mark, self._kept(name, served, token))
                case SetTimer(at_ns=at_ns):
                    assert served is not None, "there is an owner"
                    served.timer_ns = at_ns
                    self.at_ns(at_ns, self._timer, name, served, at_ns)
                case _:
                    pass

    def manager_started(self) -> None:
        """Whatever the one before had not answered."""
        if not self.ready:
            self._ask_to_reopen()
        for proposal in list(self._open.values()):
            self._ask(*proposal)

    def _propose(self, name: VolumeName, owner: Owner, token: int, command: Any) -> None:
        self._numbers += 1
        request = f"{self.me}.export.{self.life}.{self._numbers}"
        self._open[name, token] = (name, owner, token, command, request)
        self._ask(name, owner, token, command, request)

    def _ask(self, name: VolumeName, owner: Owner, token: int, command: Any, request: str) -> None:
        life, manager = self.life, self.host.manager

        def decided(outcome: Outcome) -> None:
            how = "applied" if isinstance(outcome, Applied) else "rejected"
            self.world.after(0.0005, self.run, life, self._decided, name, owner, token, how)

        manager.run(manager.life, lambda: manager.propose(command, decided, name=request))

    def _decided(self, name: VolumeName, owner: Owner, token: int, how: Any) -> None:
        if (name, token) in self._open and self._open[name, token][1] is owner:
            del self._open[name, token]
        served = self.served.get(name)
        if served is not None and served.owner is owner:
            self.perform(name, owner.outcome(token, how, self.now_ns))

    def _kept(self, name: VolumeName, served: Served | None, token: int) -> Callable[[], None]:
        life = self.life
        return lambda: self.run(life, self._persisted, name, served, token)

    def _persisted(self, name: VolumeName, served: Served, token: int) -> None:
        if self.served.get(name) is served:
            self.perform(name, served.owner.persisted(token, self.now_ns))

    def _timer(self, name: VolumeName, served: Served, at_ns: int) -> None:
        if self.served.get(name) is served and served.timer_ns == at_ns:
            served.timer_ns = 0
            self.perform(name, served.owner.timer(self.now_ns))

    # --- stores ---------------------------------------------------------------------------------------

    def _send(self, store: ManagerName, request: StoreRequest) -> None:
        session = Session(self.me, request.incarnation, request.session)
        if store not in self._links:
            self._links[store] = None
            self.host.wire.connect(self, self.host.others[store].store)
        link = self._links[store]
        if link is None:
            self._outbox.setdefault(store, []).append((session, request))
        else:
            link.send(self, (session, request))

    def connected(self, connection: Connection) -> None:
        other = connection.ends[1]
        if other.role == "export":
            self.forwards.connected(connection)
            return
        store = ManagerName(other.site)
        self._links[store] = connection
        for message in self._outbox.pop(store, []):
            connection.send(self, message)

    def refused(self, other: Process) -> None:
        if other.role == "export":
            self.forwards.refused(ManagerName(other.site))
        else:
            self._store_lost(ManagerName(other.site))

    def accepted(self, connection: Connection) -> None:
        self.forwards.accepted(connection)

    def received(self, connection: Connection, payload: Any) -> None:
        if connection.ends[1].role == "export":
            self.forwards.received(connection, payload)
            return
        name, answer = payload
        assert isinstance(answer, StoreAnswer), "stores send nothing else"
        served = self.served.get(name)
        if served is not None:
            store = ManagerName(connection.ends[1].site)
            self.perform(name, served.owner.answer(store, for_owner(answer), self.now_ns))

    def lost(self, connection: Connection) -> None:
        if connection.ends[1].role == "export":
            self.forwards.lost(connection)
        else:
            self._store_lost(ManagerName(connection.ends[1].site))

    def _store_lost(self, store: ManagerName) -> None:
        self._links.pop(store, None)
        self._outbox.pop(store, None)
        for name, served in list(self.served.items()):
            self.perform(name, served.owner.store_lost(store, self.now_ns))
