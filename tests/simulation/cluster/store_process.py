"""The store process of a site: `Store` machines over the simulated disks.

May live here: what the shell of a store does: connections, the record, backends, the maps that the manager
feeds. All data of a copy lie where the tables of the installed map put them.
"""

from collections.abc import Callable
from typing import Any

from tests.simulation.cluster.host import Host
from tests.simulation.cluster.process import Process
from tests.simulation.cluster.record import SECTOR
from tests.simulation.cluster.wire import Connection
from vimraft.core.ids import LocalName, RealId, VolumeName
from vimraft.core.tables import State, Volume
from vimraft.protocol.effects import (
    Answered,
    BackendFlush,
    BackendIo,
    Drained,
    Keep,
    StoreEffect,
)
from vimraft.protocol.maps import map_of
from vimraft.protocol.messages import Session
from vimraft.protocol.owner_effects import SetTimer, StoreRequest
from vimraft.protocol.regions import StoreRecord
from vimraft.protocol.store import Store
from vimraft.protocol.store_requests import StoreLimits


class StoreProcess(Process):
    def __init__(self, host: Host) -> None:
        super().__init__(host.world, host.clock, host.name, "store")
        self.host = host
        self.me = host.name
        self.stores: dict[VolumeName, Store] = {}
        self._rows: dict[VolumeName, Volume] = {}
        self._state: State | None = None
        self._connections: dict[Session, Connection] = {}
        self._timers: dict[VolumeName, int] = {}
        """The one that counts of each: it replaces the one before."""
        self._kept = 0
        self._limits = StoreLimits(
            active_regions=host.settings.max_active,
            waiting_ns=int(host.settings.store_timeout_s * 4e8),
        )

    def started(self) -> None:
        self.stores, self._timers = {}, {}
        self._rows, self._connections, self._state = {}, {}, None
        if self.host.manager.up:
            self.world.after(0, self.run, self.life, self._first)

    def _first(self) -> None:
        if self._state is None:
            self.take([self.host.manager.state])
            self.host.manager.run(self.host.manager.life, self.host.manager.look)

    def ended(self) -> None:
        self.host.media.process_ends()
        self.host.records.ends(lambda key: key[0] == "record")

    # --- maps -----------------------------------------------------------------------------------------

    def take(self, states: list[State]) -> None:
        for state in states:
            before, self._state = self._state, state
            if before is not None and state.index < before.index:
                self._state = before
                continue
            boots = before is None or state.boots is not before.boots
            for name in sorted({*self.stores, *state.volumes}):
                row = state.volumes.get(name)
                if row is not self._rows.get(name) or boots:
                    self._apply(state, name, row)

    def _apply(self, state: State, name: VolumeName, row: Volume | None) -> None:
        found = None if row is None else map_of(state, name)
        store = self.stores.get(name)
        if store is None:
            if found is None or not any(self.me in copy.stores for copy in found.copies):
                return
            record = StoreRecord.of(self._changes(name))
            store = Store(self.me, self.host.boot, record, rules=self.host.rules, limits=self._limits)
            self.stores[name] = store
        if row is not None:
            self._rows[name] = row
        self.perform(name, store.applied(found, state.boots, self.now_ns, state.index))

    def _changes(self, name: VolumeName) -> list[Any]:
        kept = self.host.records.kept
        keys = sorted(key for key in kept if key[0] == "record" and key[1] == name)
        return [change for key in keys for change in kept[key]]

    def record_ids(self) -> tuple[tuple[VolumeName, str], ...]:
        """What the stores' records are called, where all copies here agree."""
        found = []
        for name in sorted(self.host.manager.state.volumes):
            record = StoreRecord.of(self._changes(name))
            ids = {copy.id for copy in record.copies.values()}
            if len(ids) == 1:
                found.append((name, ids.pop()))
        return tuple(found)

    # --- requests -------------------------------------------------------------------------------------

    def received(self, connection: Connection, payload: Any) -> None:
        session, request = payload
        assert isinstance(request, StoreRequest), "owners send nothing else"
        store = self.stores.get(request.volume)
        if store is None:
            return  # its tables do not have it yet; the owner asks again
        self._connections[session] = connection
        self.perform(request.volume, store.request(session, request, self.now_ns))

    def lost(self, connection: Connection) -> None:
        """Stores are not told: what a session asked for goes on, or waits its time out, unanswered."""
        for session in [one for one, used in self._connections.items() if used is connection]:
            del self._connections[session]

    # --- effects --------------------------------------------------------------------------------------

    def perform(self, name: VolumeName, effects: list[StoreEffect]) -> None:
        for effect in effects:
            match effect:
                case Answered(to=session, answer=answer):
                    connection = self._connections.get(session)
                    if connection is not None:
                        connection.send(self, (name, answer))
                case BackendIo():
                    self._io(name, effect)
                case BackendFlush(token=token, copy=copy):
                    self.host.media.flush(self._done(name, token), reals_of(self._rows[name], copy))
                case Keep(token=token, changes=changes):
                    self._keep(name, token, changes)
                case SetTimer(at_ns=at_ns):
                    self._timers[name] = at_ns
                    self.at_ns(at_ns, self._timer, name, at_ns)
                case Drained():
                    pass

    def _keep(self, name: VolumeName, token: int, changes: object) -> None:
        self._kept += 1
        life = self.life

        def done() -> None:
            self.run(life, self._persisted, name, token)

        self.host.records.put(("record", name, self._kept), changes, done)

    def _persisted(self, name: VolumeName, token: int) -> None:
        self.perform(name, self.stores[name].persisted(token, True, self.now_ns))

    def _timer(self, name: VolumeName, at_ns: int) -> None:
        if self._timers.get(name) == at_ns:
            del self._timers[name]
            self.perform(name, self.stores[name].timer(self.now_ns))

    def _done(self, name: VolumeName, token: int) -> Callable[[bool, bytes], None]:
        life = self.life

        def done(ok: bool, data: bytes) -> None:
            self.run(life, self._backend_done, name, token, ok, data)

        return done

    def _backend_done(self, name: VolumeName, token: int, ok: bool, data: bytes) -> None:
        store = self.stores[name]
        self.perform(name, store.backend_done(token, "ok" if ok else "error", data, self.now_ns))

    def _io(self, name: VolumeName, io: BackendIo) -> None:
        """All pieces of it; FUA flushes everything."""
        pieces = pieces_of(self._rows[name], io.copy, io.first, io.end)
        reals = {piece[0] for piece in pieces}
        finish = self._done(name, io.token)
        found: dict[int, bytes] = {}
        ok = True
        left = len(pieces)

        def piece_done(at: int, fine: bool, data: bytes) -> None:
            nonlocal ok, left
            ok, left = ok and fine, left - 1
            found[at] = data
            if left:
                return
            if io.fua and ok:
                self.host.media.flush(lambda flushed, _data: finish(flushed, b""), reals)
            else:
                finish(ok, b"".join(found[at] for at in sorted(found)) if io.kind == "read" else b"")

        for at, (real, sector, count, offset) in enumerate(pieces):

            def done(fine: bool, data: bytes, at: int = at) -> None:
                piece_done(at, fine, data)

            if io.kind == "read":
                self.host.media.read(real, sector, count, done)
            else:
                data = io.data[offset : offset + count * SECTOR] if io.data else bytes(count * SECTOR)
                self.host.media.write(real, sector, data, done)


def reals_of(row: Volume, copy: LocalName) -> set[RealId]:
    replica = next(r for r in row.replicas if r.local_name == copy.removesuffix("+"))
    return {segment.real_id for segment in (replica.moving if copy.endswith("+") else replica.segments)}


def pieces_of(row: Volume, copy: LocalName, first: int, end: int) -> list[tuple[RealId, int, int, int]]:
    """Bytes `first … end-1` of a copy: (real volume, its sector, sectors, offset in the request)."""
    moving = copy.endswith("+")
    replica = next(r for r in row.replicas if r.local_name == copy.removesuffix("+"))
    found = []
    low, high = first // SECTOR, end // SECTOR
    for segment in sorted(replica.moving if moving else replica.segments, key=lambda s: s.virtual_first):
        start, stop = max(low, segment.virtual_first), min(high, segment.virtual_end)
        if start < stop:
            real_sector = segment.real_first + start - segment.virtual_first
            found.append((segment.real_id, real_sector, stop - start, (start - low) * SECTOR))
    assert sum(piece[2] for piece in found) == high - low, f"{copy} has no bytes {first}…{end}"
    return found
