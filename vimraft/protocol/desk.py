"""What the parts of a volume's owner share: its maps, the range lock, what was asked of stores, proposals.

May live here: bookkeeping that writes, reads, flushes, copying, takeover and resync all need, and the gates
of an acknowledgement. Keeps INV-2 and INV-3: nobody is told that a write is done unless `may_acknowledge`.

Time comes in with each event (`now_ns`, CLOCK_BOOTTIME) and effects are collected until the event is over.
"""

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from typing import Protocol

from msgspec import Struct

from vimraft.core.commands import Retire
from vimraft.core.ids import LocalName, ManagerName
from vimraft.protocol.asks import SLOW, Answer, Ask, How
from vimraft.protocol.lease import OthersLease, OwnLease, SoleHolderRight
from vimraft.protocol.maps import Copy, VolumeMap, moving_name
from vimraft.protocol.owner_effects import (
    Command,
    Decision,
    Effect,
    Persist,
    Propose,
    Send,
    store_request,
)
from vimraft.protocol.pace import PaceLimits
from vimraft.protocol.ranges import RangeLock
from vimraft.protocol.region_set import RegionSet
from vimraft.protocol.regions import MAX_ACTIVE
from vimraft.protocol.rules import Rules
from vimraft.protocol.tracker import Tracker

MS = 1_000_000
MAX_ASKS = 65_536
"""Messages to stores without an answer; while there are as many, new client requests wait."""


SESSION_BITS = 32
"""So many sessions may follow one another in the life of an owner."""
ANY_SESSION = 1 << 63
"""Newer than all."""


class Parked(Protocol):
    def settle(self) -> None: ...

    def map_changed(self) -> None: ...


Decided = Callable[[Decision], None]


class Limits(Struct, frozen=True, gc=False):
    io_timeout_ns: int = 30_000 * MS
    """A client's request fails no earlier than this because of something that may pass."""
    store_timeout_ns: int = 10_000 * MS
    """A store that has not answered within it is silent."""
    retry_ns: int = 200 * MS
    """Between two attempts at what failed for now."""
    seal_grace_ns: int = 1_000 * MS
    """How long a takeover waits for further copies when one has sealed."""
    in_step_regions: int = 128
    """So many regions of a resync are copied before the copy is told that they are in step."""
    active_regions: int = MAX_ACTIVE
    """What stores have room for. Writes to further regions wait here: at the stores they would wait for each
    other, each with room at one of them."""
    pace: PaceLimits = PaceLimits()
    """Of resyncs and verifications."""


STOOD_STILL_PART = 4
"""Who looks by such a part of the store timeout too late stood still himself: answers may be there."""
FRESH_PART = 0.4
"""Of the time that others wait: half of a lease. It is renewed every third of one."""


class Leases(Struct, frozen=True):
    """The rights that an owner serves by; the shell keeps them, one of each kind for all its volumes."""

    own: OwnLease
    others: OthersLease

    def fresh(self, now_ns: int) -> bool:
        """The lease was renewed lately, and somebody is there to renew it: what is proposed now is likely
        to be decided soon. What holds I/O until it is decided waits for that; nothing is safe by it."""
        return not self.own.alone and self.own.deadline_ns - now_ns >= self.others.lasts_ns * FRESH_PART


class Desk:
    """`map`: installed, requests are sent by it. `newest`: applied here; the one that decides about
    acknowledgements. They differ only while a newer one waits for the drain."""

    def __init__(
        self,
        me: ManagerName,
        first: VolumeMap,
        leases: Leases,
        right: SoleHolderRight,
        rules: Rules,
        limits: Limits,
    ) -> None:
        self.me = me
        self.map = self.newest = first
        self.leases = leases
        self.right = right
        self.rules = rules
        self.limits = limits
        self.now_ns = 0
        self.record = ""
        """Id of the write-intent records of the in-sync copies; "" until stores have told it."""
        self.ranges = RangeLock(shared_reads=rules.shared_read_lock)
        self.tracker = Tracker()
        self.missing: dict[LocalName, RegionSet] = {}
        """Regions that a syncing copy does not have in step yet."""
        self.in_flight = 0
        """Requests with something under way at stores: a drain waits for them. Parked ones do not count."""
        self.undecided: set[int] = set()
        """Promotions of our own: from before they are proposed until they are decided."""
        self.held = False
        """Nothing new is sent to stores: a map waits to be installed, or somebody asked for it."""
        self.parked: dict[int, Parked] = {}
        """What is not under way and not over: looked at again whenever the gates may have moved, and after a
        change of the map. Bounded by the requests that there are."""
        self.waiting: list[Callable[[], None]] = []
        """To be called when the hold is over (bounded likewise)."""
        self.doubted: set[LocalName] = set()
        """In-sync copies at which a flush failed; empty when that is the last one, whose clients are told."""
        self.stuck: set[ManagerName] = set()
        """Stores that did not answer in time, or whose tables did not catch up in time, and have done nothing
        since."""
        self.room_wanted = False
        """A store has no room for one more active region."""
        self.effects: list[Effect] = []
        self.soonest_ns = 0
        """Nothing that `next_ns` has not told of comes earlier; 0: look anew."""
        self._later: dict[int, tuple[int, Callable[[], None]]] = {}
        self._asks: dict[int, Ask] = {}
        self._sessions: dict[ManagerName, int] = {}
        self._first_session = (first.epoch << SESSION_BITS) + 1
        """Higher than all of an owner that this process was before, in an older epoch."""
        self._gate: dict[ManagerName, int] = {}
        self._installed: dict[ManagerName, int] = {}
        self._proposals: dict[int, Decided] = {}
        self._marked: dict[int, Command] = {}
        self._retiring: int | None = None
        self._number = 0
        self._tokens = 0

    def room_for(self, regions: range) -> bool:
        """False: it has been asked for, and whoever wants it looks again at the end of an event."""
        if self.tracker.room_for(regions, self.limits.active_regions):
            return True
        self.room_wanted = True
        return False

    # --- numbers and time -----------------------------------------------------------------------------

    def token(self) -> int:
        self._tokens += 1
        return self._tokens

    def later(self, after_ns: int, call: Callable[[], None]) -> int:
        """Returns a number for `never`."""
        token = self.token()
        at_ns = self.now_ns + after_ns
        self._later[token] = (at_ns, call)
        self.expect(at_ns)
        return token

    def expect(self, at_ns: int) -> None:
        """Something will be due then."""
        if at_ns < self.soonest_ns:
            self.soonest_ns = at_ns

    def never(self, token: int) -> None:
        self._later.pop(token, None)

    def due(self) -> None:
        """What time alone changes: leases that ended, answers that are overdue, what asked to be called."""
        self.gate_open()
        while self._asks:
            ask = next(iter(self._asks.values()))
            if ask.deadline_ns > self.now_ns:
                break
            late_ns = self.now_ns - ask.deadline_ns
            if ask.kind in SLOW:
                self.answered(ask.store, Answer(ask.number, "lost"))
            elif late_ns * STOOD_STILL_PART >= self.limits.store_timeout_ns:
                self.lost(ask.store)
            else:
                self.stuck.add(ask.store)
                self.lost(ask.store, "silent")
        for token in [token for token, (at_ns, _) in self._later.items() if at_ns <= self.now_ns]:
            entry = self._later.pop(token, None)
            if entry is not None:
                entry[1]()

    def next_ns(self) -> int | None:
        """When `due` has something to do."""
        times = [at_ns for at_ns, _ in self._later.values()]
        if self._asks:
            times.append(next(iter(self._asks.values())).deadline_ns)
        times += self._gate_ends()
        return min(times, default=None)

    def when_free(self, call: Callable[[], None]) -> None:
        if self.held:
            self.waiting.append(call)
        else:
            call()

    # --- stores ---------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        return len(self._asks) >= MAX_ASKS

    def ask(self, ask: Ask) -> None:
        self._number = number = self._number + 1
        ask.number = number
        ask.session = self._sessions.setdefault(ask.store, self._first_session)
        ask.epoch = self.map.epoch
        ask.deadline_ns = deadline_ns = self.now_ns + self.limits.store_timeout_ns
        if deadline_ns < self.soonest_ns:
            self.soonest_ns = deadline_ns
        self._asks[number] = ask
        self.effects.append(Send(ask.store, store_request(ask, self.map.volume, self.leases.own.incarnation)))

    def answered(self, store: ManagerName, answer: Answer) -> None:
        """An answer that nobody waits for any more is dropped: it belongs to a session that was given up."""
        if self.stuck and answer.how == "done":
            self.stuck.discard(store)
        number = answer.number
        ask = self._asks.get(number)
        if ask is None or ask.store != store:
            return
        del self._asks[number]
        if answer.how == "older" and self.behind(ask, answer):
            self.stuck.add(store)
        if answer.boot:
            self.tracker.boot(store, answer.boot)
        ask.op.answered(ask, answer)

    def behind(self, ask: Ask, answer: Answer) -> bool:
        """The store has waited in vain for tables as new as ours: perhaps its manager is gone. (Whatever else
        it takes for older it refuses at once.)"""
        return answer.how == "older" and ask.deadline_ns - self.now_ns < self.limits.store_timeout_ns // 2

    def helpful(self, copies: Iterable[Copy]) -> tuple[list[Copy], list[Copy]]:
        """Copies to ask, and those that are not worth it: one of their stores is stuck, and some copy in sync
        has none that is. Nobody waits for a store once more that others have waited for in vain."""
        copies = list(copies)
        free = [copy for copy in copies if self.stuck.isdisjoint(copy.stores)]
        if not any(copy.state == "in_sync" for copy in free):
            return copies, []
        return free, [copy for copy in copies if copy not in free]

    def fence(self, stores: Iterable[ManagerName]) -> None:
        """What was sent there may still happen: whatever is sent from now on belongs to a newer session,
        which a store begins only when it has drained the older one. Answers of the older one still count."""
        for store in stores:
            self._sessions[store] = self._sessions.get(store, self._first_session) + 1

    def boot_of(self, store: ManagerName) -> str:
        """The boot of its last answer; "" before the first."""
        return self.tracker.boot_of(store)

    def lost(self, store: ManagerName, how: How = "lost", *, session: int = ANY_SESSION) -> None:
        """The connection ended, or an answer is overdue: what was asked has an unknown outcome. `session`: of
        the connection; what was asked in newer ones goes on."""
        if session >= self._sessions.get(store, self._first_session):
            self.fence((store,))
        for ask in [ask for ask in self._asks.values() if ask.store == store and ask.session <= session]:
            if self._asks.pop(ask.number, None) is not None:
                ask.op.answered(ask, Answer(ask.number, how))

    def misses(self, name: LocalName) -> RegionSet:
        """To be added to."""
        return self.missing.setdefault(name, RegionSet())

    # --- acknowledging --------------------------------------------------------------------------------

    def leases_changed(self, installed: dict[ManagerName, int]) -> None:
        self.soonest_ns = 0
        for manager, index in installed.items():
            self._installed[manager] = max(index, self._installed.get(manager, 0))

    def close_gate(self, managers: Iterable[ManagerName], index: int) -> None:
        """Nothing is acknowledged until these managers have installed the maps of `index`, or their leases
        have run out: until then they may serve reads by an older map."""
        for manager in managers:
            if manager != self.me and self.rules.wait_for_retired_side:
                self.soonest_ns = 0
                self._gate[manager] = max(index, self._gate.get(manager, 0))

    def _gate_ends(self) -> list[int]:
        ends = [self.leases.others.ends_ns(manager) for manager in self._gate]
        return [end for end in ends if end is not None]

    def gate_open(self) -> bool:
        if not self._gate:
            return True
        for manager, index in list(self._gate.items()):
            if self._installed.get(manager, -1) >= index or self.leases.others.ended(manager, self.now_ns):
                del self._gate[manager]
        return not self._gate

    @property
    def ours(self) -> bool:
        return self.newest.owner == self.me

    def needed(self) -> AbstractSet[LocalName]:
        """Who must have what was sent by `map` before it may be acknowledged by `newest`. Where a move has
        ended, a copy's name stands for other segments: whatever stood for those must have it as well."""
        newest = self.newest
        if self.map is newest:
            return newest.in_sync_names
        wanted = set(newest.in_sync_names)
        for name in newest.in_sync_names:
            moving = moving_name(name)
            if self.map.copy(moving) is not None and newest.copy(moving) is None:
                wanted.add(moving)
        return wanted

    def may_acknowledge(self) -> bool:
        return self.newest.owner == self.me and not self.undecided and (not self._gate or self.gate_open())

    def may_read(self) -> bool:
        """Checked after the request arrived, before it is sent to a store."""
        if self.newest.owner != self.me:
            return False
        if not self.rules.check_lease or self.leases.own.holds(self.now_ns):
            return True
        return self.right.serves(self.newest.sole(), self.newest.epoch)

    # --- proposals ------------------------------------------------------------------------------------

    def propose(self, command: Command, decided: Decided, *, ends_sole: bool = False) -> int:
        """`ends_sole`: it may end the sole-holder state, so the right is given up durably first."""
        token = self.token()
        self._proposals[token] = decided
        if ends_sole and self.newest.sole():
            mark = self.right.give_up(self.newest.epoch, token)
            if mark is not None:
                self._marked[token] = command
                self.effects.append(Persist(token, mark))
                return token
        self.effects.append(Propose(token, command))
        return token

    def persisted(self, token: int) -> None:
        command = self._marked.pop(token, None)
        if command is not None:
            self.right.kept()
            self.effects.append(Propose(token, command))

    def outcome(self, token: int, decision: Decision) -> None:
        """`unknown`: the shell goes on asking with the same id, and says so again when it knows."""
        decided = self._proposals.get(token)
        if decided is None:
            return
        if decision != "unknown":
            del self._proposals[token]
            if self.right.decided(token):
                self.effects.append(Persist(token, None))
        decided(decision)

    def retire(self, names: Iterable[LocalName]) -> None:
        """Take these copies out of the in-sync set, one proposal at a time; whoever waits for it looks again
        when a newer map is there, or when `again` calls. Not, if those that are left are all in doubt."""
        newest = self.newest
        wanted = tuple(sorted(set(names)))
        if self._retiring is not None or not wanted or not self.ours:
            return
        if self.doubted and newest.in_sync_names.difference(wanted) <= self.doubted:
            wanted = tuple(sorted(self.doubted))
        command = Retire(newest.volume, newest.epoch, self.me, wanted, self.record)
        self._retiring = self.propose(command, self._retired)

    def doubt(self, copies: Iterable[LocalName]) -> None:
        """A flush failed at these copies: what was acknowledged may be gone there. While another one is in
        sync they are retired, also when that one does not answer just now: the reverse would make what it
        has alone be forgotten."""
        self.doubted |= self.newest.in_sync_names & set(copies)
        if self.doubted >= self.newest.in_sync_names:
            self.doubted.clear()
        self.retire(self.doubted)

    def install(self) -> VolumeMap:
        """The newest map is the one that requests are sent by. Returns the one that was before."""
        before, self.map = self.map, self.newest
        self.doubted &= self.map.in_sync_names
        self.doubt(())
        return before

    def _retired(self, decision: Decision) -> None:
        if decision != "unknown":
            self._retiring = None


def names(copies: Iterable[Copy]) -> set[LocalName]:
    return {copy.name for copy in copies}
