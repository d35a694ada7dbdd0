"""The owner of one volume: takes the requests of clients, orders them, and follows the changes of the map.

May live here: admission, deadlines, hold → drain → install → release, and what ends a request. How writes,
reads, flushes and copying proceed is in the modules of those names; `desk` has what they share. Events are
methods, each returns effects; `now_ns` is CLOCK_BOOTTIME. `SetTimer` says when to call `timer`.

Keeps INV-2 (nothing is acknowledged, and no read sent, by an owner that a newer map does not name), INV-3
(`writes`), INV-5 (the range lock; a range whose write ended with EIO stays locked until copies are equal).
"""

from collections.abc import Callable

from vimraft.core.ids import ManagerName
from vimraft.protocol.asks import Answer, WriteKind
from vimraft.protocol.balance import Balance, Preference
from vimraft.protocol.copying import Equalise
from vimraft.protocol.desk import ANY_SESSION, Desk, Leases, Limits, names
from vimraft.protocol.flushing import Clearing, Flushing
from vimraft.protocol.lease import SoleHolderRight
from vimraft.protocol.losses import NO_LOSS, Losses
from vimraft.protocol.maps import VolumeMap, regions_of
from vimraft.protocol.owner_effects import (
    ClientRequest,
    Decision,
    Effect,
    Installed,
    Invalidate,
    Reply,
    ReplyHow,
    SetTimer,
)
from vimraft.protocol.pace import Pace
from vimraft.protocol.reads import Read
from vimraft.protocol.reporting import Reporting
from vimraft.protocol.rewriting import Rewriting
from vimraft.protocol.rules import Rules
from vimraft.protocol.writes import End, Write

MAX_REQUESTS = 2_048
"""Client requests under way and waiting; more are told `full`."""
_NEVER = 1 << 62


class _Client:
    """A request that is not answered, or whose range is still being made equal."""

    __slots__ = ("deadline_ns", "has_room", "lock", "op", "regions", "request")

    def __init__(self, request: ClientRequest, lock: int, deadline_ns: int) -> None:
        self.request = request
        self.regions = regions_of(request.first, request.end)
        self.lock = lock
        self.deadline_ns = deadline_ns
        self.has_room = False
        """Its regions count as active, though nothing has been sent yet."""
        self.op: Write | Read | None = None


class Owner:
    """Clients wait until `serve`, which is called when the takeover is over (see `takeover`)."""

    def __init__(
        self,
        me: ManagerName,
        first: VolumeMap,
        leases: Leases,
        *,
        right: SoleHolderRight | None = None,
        rules: Rules = Rules(),  # noqa: B008  (frozen)
        limits: Limits = Limits(),  # noqa: B008  (frozen)
        preference: Preference = Preference(),  # noqa: B008  (frozen)
    ) -> None:
        self.desk = Desk(me, first, leases, right or SoleHolderRight(), rules, limits)
        self.serving = False
        self._before: list[Callable[[], None]] = []
        """What clients asked for before it serves (bounded by MAX_REQUESTS)."""
        self.balance = Balance(me, preference)
        self.flushing = Flushing(self.desk, self.lost_unflushed)
        self.clearing = Clearing(self.desk, self.flushing, self._granted)
        self.rewriting = Rewriting(self.desk, self.balance, self.lock, self.unlock)
        self._clients: dict[int, _Client] = {}
        self._locks: dict[int, _Client | Callable[[], None]] = {}
        self._holds: set[str] = set()
        self._held_since_ns = 0
        self._timer_ns: int | None = None
        self._for_room: dict[int, _Client] = {}
        """Writes that wait for room for their regions, in the order in which they came."""
        self.losses = Losses(first.lossy_epoch)
        self._reporting = Reporting(self.desk, self.losses)
        self.pace = Pace(self.desk.limits.pace)
        self._followers: list[Callable[[], None]] = []

    # --- events ---------------------------------------------------------------------------------------

    def request(self, request: ClientRequest, now_ns: int) -> list[Effect]:
        self.begin(now_ns)
        if not self.desk.ours:
            self._reply(request, "moved")
        elif len(self._clients) >= MAX_REQUESTS or self.desk.full:
            self._reply(request, "full")
        else:
            assert request.id not in self._clients, f"request {request.id} is there already"
            self._admit(request)
        return self.end()

    def answer(self, store: ManagerName, answer: Answer, now_ns: int) -> list[Effect]:
        self.begin(now_ns)
        self.desk.answered(store, answer)
        return self.end()

    def store_lost(self, store: ManagerName, now_ns: int, session: int = ANY_SESSION) -> list[Effect]:
        """A connection of that session ended: nobody knows what became of what it had not answered."""
        self.begin(now_ns)
        self.desk.lost(store, session=session)
        return self.end()

    def applied(self, newer: VolumeMap, now_ns: int) -> list[Effect]:
        """This manager's tables have it. Maps come in the order of the log."""
        self.begin(now_ns)
        if newer.epoch > self.desk.newest.epoch:
            self._follow(newer)
        elif newer.epoch == self.desk.newest.epoch:
            self._take_note(newer)
        return self.end()

    def leases_changed(self, installed: dict[ManagerName, int], now_ns: int) -> list[Effect]:
        """The lease table moved: `installed` has the index that each manager says it has installed. The
        lease machines themselves (`Leases`) were told before."""
        self.begin(now_ns)
        self.desk.leases_changed(installed)
        self.look_again()
        return self.end()

    def outcome(self, token: int, decision: Decision, now_ns: int) -> list[Effect]:
        self.begin(now_ns)
        self.desk.outcome(token, decision)
        self.look_again()
        return self.end()

    def persisted(self, token: int, now_ns: int) -> list[Effect]:
        self.begin(now_ns)
        self.desk.persisted(token)
        return self.end()

    def timer(self, now_ns: int) -> list[Effect]:
        self.begin(now_ns)
        self._timer_ns = None
        self._expire()
        self.desk.due()
        self.look_again()
        return self.end()

    def hold(self, why: str, now_ns: int) -> list[Effect]:
        """New I/O waits until `release` with the same word; see `drained`."""
        self.begin(now_ns)
        self.pause(why)
        return self.end()

    def release(self, why: str, now_ns: int) -> list[Effect]:
        self.begin(now_ns)
        self.unhold(why)
        return self.end()

    @property
    def drained(self) -> bool:
        return self.desk.held and self.desk.in_flight == 0

    # --- requests -------------------------------------------------------------------------------------

    def _admit(self, request: ClientRequest) -> None:
        desk = self.desk
        client = _Client(request, desk.token(), desk.now_ns + desk.limits.io_timeout_ns)
        desk.expect(client.deadline_ns)
        self._clients[request.id] = client
        if request.kind == "flush":
            self._when_serving(lambda: self._flush(client))
            return
        if self.serving and not desk.held:
            self._enter(client)
        else:
            self._when_serving(lambda: self._enter(client))

    def _when_serving(self, call: Callable[[], None]) -> None:
        if self.serving:
            self.desk.when_free(call)
        else:
            self._before.append(call)

    def _enter(self, client: _Client) -> None:
        """Room for its regions first, then its range: whoever waits for room must not keep a region from
        being cleared."""
        if not self._here(client):
            return
        if client.request.kind == "read":
            self._lock(client)
        elif self._for_room or not self.desk.room_for(client.regions):
            self._for_room[client.request.id] = client
        else:
            self._take_room(client)

    def _take_room(self, client: _Client) -> None:
        self.desk.tracker.begin(client.regions, self.desk.now_ns)
        client.has_room = True
        self._lock(client)

    def _lock(self, client: _Client) -> None:
        request, ranges = client.request, self.desk.ranges
        if ranges.full:
            self._forget(client)
            self._reply(request, "full")
            return
        self._locks[client.lock] = client
        length = request.end - request.first
        if ranges.acquire(client.lock, request.first, length, exclusive=request.kind != "read"):
            self._start(client)

    def _here(self, client: _Client) -> bool:
        """Nobody has answered it."""
        return self._clients.get(client.request.id) is client

    def _granted(self, locks: list[int]) -> None:
        for lock in locks:
            waiting = self._locks.get(lock)
            if isinstance(waiting, _Client):
                self._start(waiting)
            elif waiting is not None:
                waiting()

    def lock(self, first: int, end: int, *, exclusive: bool, granted: Callable[[], None]) -> int | None:
        """For parts that copy: `granted` is called when the range is theirs, till `unlock`. None: no room."""
        if self.desk.ranges.full:
            return None
        token = self.desk.token()
        self._locks[token] = granted
        if self.desk.ranges.acquire(token, first, end - first, exclusive=exclusive):
            granted()
        return token

    def unlock(self, token: int) -> None:
        self._locks.pop(token, None)
        granted = self.desk.ranges.release(token)
        if granted:
            self._granted(granted)

    def _start(self, client: _Client) -> None:
        request, desk = client.request, self.desk
        if not self._here(client):
            return
        if desk.held:
            desk.waiting.append(lambda: self._start(client))
            return
        if request.kind == "read":
            client.op = Read(
                desk, self.balance, request.first, request.end, lambda data: self._read_ended(client, data)
            )
        else:
            client.op = Write(
                desk,
                _write_kind(request),
                request.first,
                request.end,
                request.data,
                fua=request.fua,
                ended=lambda how: self._write_ended(client, how),
                acknowledged=lambda: self._acknowledge(client),
            )
        client.op.send()

    def _read_ended(self, client: _Client, data: bytes | None) -> None:
        self._forget(client)
        if data is None:
            self._reply(client.request, "failed")
        else:
            self._done(client, data)

    def _acknowledge(self, client: _Client) -> None:
        """Its range stays locked until the syncing copies have answered, too."""
        if self._clients.pop(client.request.id, None) is not None:
            self._done(client)

    def _done(self, client: _Client, data: bytes = b"") -> None:
        request, now_ns = client.request, self.desk.now_ns
        began_ns = client.deadline_ns - self.desk.limits.io_timeout_ns
        self.pace.client(request.kind, request.end - request.first, now_ns - began_ns, now_ns)
        self._reply(request, "done", data)

    def _write_ended(self, client: _Client, how: End) -> None:
        request, desk = client.request, self.desk
        assert isinstance(client.op, Write), "only writes end here"
        if how == "done":
            desk.tracker.end(client.regions)
            self._acknowledge(client)
            self.unlock(client.lock)
            return
        if self._clients.pop(request.id, None) is not None:
            self._reply(request, "failed")
        desk.effects.append(Invalidate(request.first, request.end))
        if request.fua and client.op.disks_failed:
            self.lost_unflushed()  # a flush was part of it
        desk.fence(sorted(client.op.stores))
        if not desk.rules.equalise_after_eio:
            self._repaired(client)
            return
        repair = Equalise(desk, self.balance, request.first, request.end, lambda _how: self._repaired(client))
        repair.start()

    def _repaired(self, client: _Client) -> None:
        """All copies are equal where a write ended with EIO: others may go there again."""
        self.desk.tracker.end(client.regions)
        self.unlock(client.lock)

    def _flush(self, client: _Client) -> None:
        if not self._here(client):
            return
        if self._owed(client):
            self._flush_ended(client, "done")
        else:
            self.flushing.flush(lambda how: self._flush_ended(client, how))

    def _flush_ended(self, client: _Client, how: End) -> None:
        """What was lost while it was under way it tells, too."""
        if not self._here(client):
            return
        self._forget(client)
        self._reply(client.request, "failed" if how == "failed" or self._owed(client) else "done")

    def _owed(self, client: _Client) -> bool:
        return client.request.since < self.losses.mark

    def _forget(self, client: _Client) -> None:
        """It needs nothing any more; of a write nothing was sent."""
        self._clients.pop(client.request.id, None)
        if client.has_room:
            self.desk.tracker.give_back(client.regions)
        if client.request.kind != "flush":
            self.unlock(client.lock)

    def _reply(self, request: ClientRequest, how: ReplyHow, data: bytes = b"") -> None:
        told = self.losses.mark if request.kind == "flush" and how == "failed" else NO_LOSS
        self.desk.effects.append(Reply(request.id, how, data, told))

    def _expire(self) -> None:
        """Requests come in the order of their deadlines."""
        while self._clients:
            client = next(iter(self._clients.values()))
            if client.deadline_ns > self.desk.now_ns:
                return
            if client.op is not None:
                client.op.give_up()
            else:
                self._forget(client)
                self._reply(client.request, "failed")

    # --- the map --------------------------------------------------------------------------------------

    def _follow(self, newer: VolumeMap) -> None:
        desk = self.desk
        left = names(desk.newest.in_sync) - names(newer.in_sync)
        stores = [store for copy in desk.newest.copies if copy.name in left for store in copy.stores]
        desk.newest = newer
        desk.close_gate(stores, newer.index)
        if not desk.ours:
            self._lose()
        self.pause("map")
        for store in sorted(desk.stuck):
            desk.lost(store)  # the drain would wait for it once more

    def _take_note(self, newer: VolumeMap) -> None:
        """Nothing that I/O goes by has changed (a resync is to rest, or to go on)."""
        desk = self.desk
        if desk.map is desk.newest:
            desk.map = newer
        desk.newest = newer

    def _lose(self) -> None:
        """Another manager owns the volume: what was not acknowledged is for it to answer."""
        clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            self._reply(client.request, "moved")
        self.desk.parked.clear()
        self.desk.waiting.clear()

    def pause(self, why: str) -> None:
        if not self._holds:
            self._held_since_ns = self.desk.now_ns
        self._holds.add(why)
        self.desk.held = True

    def unhold(self, why: str) -> None:
        self._holds.discard(why)
        if self._holds or not self.desk.held or not self.desk.ours:
            return
        self.desk.held = False
        self._release_waiting()
        self.flushing.start()
        self.look_again()

    def serve(self) -> None:
        """The takeover is over."""
        self.serving = True
        before, self._before = self._before, []
        for call in before:
            self.desk.when_free(call)

    def lost_unflushed(self) -> None:
        """A flush failed at the last copy."""
        self.losses.lost(self.desk.newest.epoch)
        if self.desk.rules.rewrite_after_failed_flush:
            self.rewriting.begin()

    @property
    def busy(self) -> bool:
        """Clients are waiting for something."""
        return bool(self._clients)

    def looks(self, look: Callable[[], None]) -> None:
        """`look` is called at the end of every event: for parts that follow the map, leases and proposals."""
        self._followers.append(look)

    def looks_no_more(self, look: Callable[[], None]) -> None:
        if look in self._followers:
            self._followers.remove(look)

    def _install(self) -> None:
        desk = self.desk
        before = desk.install()
        stores = {store for copy in desk.map.in_sync for store in copy.stores}
        desk.tracker.installed(stores, lossy=desk.map.lossy_epoch > before.lossy_epoch)
        self.losses.lossy_epoch = desk.map.lossy_epoch if desk.rules.lossy_mark else 0
        self.balance.forget(names(desk.map.copies))
        for name in desk.missing.keys() - names(desk.map.syncing):
            del desk.missing[name]
        desk.effects.append(Installed(desk.map.index, desk.map.epoch, desk.now_ns - self._held_since_ns))
        if not desk.ours:
            return
        self._holds.discard("map")
        desk.held = bool(self._holds)
        parked = list(desk.parked.values())
        if desk.held:
            desk.waiting += [op.map_changed for op in parked]
        else:
            for op in parked:
                op.map_changed()
        self.flushing.map_changed()
        if not desk.held:
            self._release_waiting()

    def _release_waiting(self) -> None:
        waiting, self.desk.waiting = self.desk.waiting, []
        for call in waiting:
            call()

    def look_again(self) -> None:
        """The gates of acknowledgement, or the right to read, may have moved."""
        for op in list(self.desk.parked.values()):
            op.settle()
        self.flushing.settle()

    # --- around every event ---------------------------------------------------------------------------

    def begin(self, now_ns: int) -> None:
        """An event begins; parts that are told of events of their own use it, too."""
        self.desk.now_ns = now_ns

    def end(self) -> list[Effect]:
        desk = self.desk
        if self._holds and "map" in self._holds and desk.in_flight == 0 and desk.map is not desk.newest:
            self._install()
        if self._for_room and desk.ours and not desk.held:
            self._use_room()
        self._reporting.look()
        if self._followers:
            for look in self._followers[:]:
                look()
        if desk.ours and (desk.room_wanted or desk.tracker.ripe(desk.now_ns)):
            self.clearing.look()
        self._set_timer()
        effects, desk.effects = desk.effects, []
        return effects

    def _use_room(self) -> None:
        while self._for_room:
            client = next(iter(self._for_room.values()))
            if self._here(client) and not self.desk.room_for(client.regions):
                return
            del self._for_room[client.request.id]
            if self._here(client):
                self._take_room(client)

    def _set_timer(self) -> None:
        desk = self.desk
        if self._timer_ns is not None and desk.soonest_ns >= self._timer_ns:
            return  # nothing that has come since is due earlier
        desk.soonest_ns = _NEVER
        times = [desk.next_ns()]
        if self._clients:
            times.append(next(iter(self._clients.values())).deadline_ns)
        at_ns = min((time for time in times if time is not None), default=None)
        if at_ns is not None and (self._timer_ns is None or at_ns < self._timer_ns):
            self._timer_ns = at_ns
            desk.effects.append(SetTimer(at_ns))


def _write_kind(request: ClientRequest) -> WriteKind:
    assert request.kind in ("write", "zero", "trim"), f"{request.kind} writes nothing"
    return request.kind
