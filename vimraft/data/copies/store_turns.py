"""Which process of a host has the store of a volume: the owner's export, else the store process.

May live here: whose turn it is by the installed maps, opening and giving up. Keeps:

- One process at a time, whatever the maps of the two say: a store lives from the flock on its record to its
  release, and that is released when nothing of the volume is under way in this process. A process that stands
  still keeps the lock. When it goes on, its turn is over by the next map or it is not: what it does late, it
  does as the only store here, with the floor, the sessions and the record that every request was compared
  with; and no other process could have sealed, answered or marked anything meanwhile. When it dies, the lock
  goes with its last thread, after its system calls.
- Whoever waits for its turn serves nothing: what is asked of it waits for a bounded time if the turn has
  come, and is then told `NewerEpoch`, which an owner takes for "ask again".
- A failed flush of a real volume is noted for all copies on it, so that no other process takes for written
  what the kernel has forgotten (it tells one process only).
- Every map of a volume reaches its store in the order of installation. A store that is opened begins with the
  newest one.

Opening never blocks a change of the map: it is done by a crew and tried again, with pauses that double, for
as long as it is this process's turn.
"""

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from vimraft.core.ids import ManagerName
from vimraft.data.copies.record_file import (
    RecordBusy,
    RecordError,
    RecordFile,
    find_record,
    open_record,
    parse,
)
from vimraft.data.copies.store_side import Done, Log, StoreSide, Tools, Watch
from vimraft.data.copies.workers import Crew, Timers
from vimraft.data.feed import Boot, CopiesMap, MapUpdate, Role, VolumeMap
from vimraft.data.reals import RealSlot
from vimraft.protocol.messages import NewerEpoch, Session, StoreAnswer
from vimraft.protocol.owner_effects import StoreRequest

MAX_THREADS = 16
"""What is not done by the threads of requests."""
MAX_OPENERS = 4
RETRY_FIRST_S = 0.005
RETRY_LAST_S = 0.1
"""Between two looks whether the other process has given a record up, or this one is drained."""
EARLY_S = 2.0
"""How long a request waits for the opening of the record when it is this process's turn."""
MAX_EARLY = 256
TROUBLE_S = 2.0
"""Before a record that could not be used is tried again."""
LONG_S = 5.0
"""A turn that takes so long to begin or to end is told in the log."""


class VolumeStore:
    """The store of one volume here, whoever has its record now. Its `ask` never waits for the turn."""

    def __init__(self, volume: str, boot: str, timers: Timers) -> None:
        self.volume = volume
        self.boot = boot
        self._timers = timers
        self._early: dict[object, tuple[Session, StoreRequest, Done]] = {}
        """What came while the record was being opened: the first seal of a takeover does."""
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.side: StoreSide | None = None
        self.wanted: tuple[CopiesMap, int] | None = None
        """The newest map and the index of its tables; None: it is not our turn."""
        self.working = False
        """Somebody opens or closes, or will look again."""
        self.restart = False
        """The record failed: begin anew."""
        self.problem = ""
        """Why there is no store although it is our turn."""
        self.waits_since = 0.0
        """time.monotonic() since which a turn waits for its beginning or its end; 0: none does, or it has
        been told."""

    def ask(self, session: Session, request: StoreRequest, done: Done) -> None:
        """`done` is called once: before this returns, or later from another thread."""
        side = self.side
        if side is None:
            side = self._keep_early(session, request, done)
        if side is not None:
            side.ask(session, request, done)

    def _keep_early(self, session: Session, request: StoreRequest, done: Done) -> StoreSide | None:
        """The store, if it is open now."""
        key = object()
        with self.lock:
            if self.side is not None:
                return self.side
            kept = self.wanted is not None and len(self._early) < MAX_EARLY
            if kept:
                self._early[key] = (session, request, done)
        if kept:
            self._timers.after(EARLY_S, lambda: self._too_early(key))
        else:
            done(StoreAnswer(request.number, self.boot, 0, NewerEpoch(0)))
        return None

    def _too_early(self, key: object) -> None:
        with self.lock:
            found = self._early.pop(key, None)
        if found is not None:
            found[2](StoreAnswer(found[1].number, self.boot, 0, NewerEpoch(0)))

    def take_early(self) -> list[tuple[Session, StoreRequest, Done]]:
        """Under the lock."""
        early, self._early = self._early, {}
        return list(early.values())

    def wait_open(self, timeout_s: float) -> bool:
        """Until there is a store to ask; False at once if it is not our turn."""
        if self.side is not None:
            return True
        with self.changed:
            self.changed.wait_for(lambda: self.side is not None or self.wanted is None, timeout_s)
        return self.side is not None


class Draining:
    """What a change of the map waits for: one volume's I/O by older maps. (The gate of a one-copy volume
    has the same three.)"""

    def __init__(self, name: str, side: StoreSide, patience_s: float) -> None:
        self.name = name
        self._side = side
        self._until = time.monotonic() + patience_s

    @property
    def idle(self) -> bool:
        """An outcome that a server owes us is waited for, but not for ever."""
        side = self._side
        return side.idle and (side.drained or time.monotonic() >= self._until)

    @property
    def real_names(self) -> list[str]:
        return self._side.reals()


class StoreTurns:
    def __init__(
        self,
        role: Role,
        manager: str,
        boot: str,
        directory: Path,
        *,
        real_of: Callable[[str], RealSlot],
        watch: Watch,
        log: Log,
    ) -> None:
        self._role: Role = role
        self._me = ManagerName(manager)
        self.boot = boot
        self._directory = directory
        self._log = log
        self._timers = Timers(self._bug)
        self._openers = Crew("copies-records", MAX_OPENERS, self._bug)
        self._tools = Tools(real_of, watch, Crew("copies-store", MAX_THREADS, self._bug), self._timers, log)
        self._volumes: dict[str, VolumeStore] = {}
        self._lock = threading.Lock()
        self._appeared = threading.Condition(self._lock)
        self._ending = False

    def _bug(self, error: Exception) -> None:
        self._log("copies.bug", error=repr(error))

    def volume(self, name: str) -> VolumeStore:
        """For whoever asks; it may have no store yet, or never get one."""
        with self._lock:
            found = self._volumes.get(name)
            if found is None:
                found = self._volumes[name] = VolumeStore(name, self.boot, self._timers)
                self._appeared.notify_all()
            return found

    def known(self, name: str, wait_s: float = 0.0) -> VolumeStore | None:
        """None: no map here has shown copies of it, also not within `wait_s`."""
        found = self._volumes.get(name)
        if found is None and wait_s:
            with self._appeared:
                self._appeared.wait_for(lambda: name in self._volumes, wait_s)
                found = self._volumes.get(name)
        return found

    # --- maps, under the engine's change lock -----------------------------------------------------------

    def install(self, update: MapUpdate, patience_s: float) -> list[Draining]:
        """Follow these maps; returns what is to be waited for before they count as installed."""
        found: list[Draining] = []
        seen = {volume.name for volume in update.volumes}
        gone = set(update.removed_volumes) | (set(self._volumes) - seen if update.full else set())
        for name in gone - seen:
            found += self._follow(name, None, update.index, patience_s)
        for volume in update.volumes:
            found += self._follow(volume.name, self._turn(volume), update.index, patience_s)
        return found

    def _turn(self, volume: VolumeMap) -> CopiesMap | None:
        copies = volume.copies
        mine = copies is not None and (copies.map.owner == self._me) == (self._role == "export")
        return copies if copies is not None and mine and copies.segments else None

    def _follow(self, name: str, copies: CopiesMap | None, index: int, patience_s: float) -> list[Draining]:
        volume = self._volumes.get(name)
        if volume is None:
            if copies is None:
                return []
            volume = self.volume(name)
        with volume.changed:
            before = volume.wanted
            if before is not None and copies is not None and _another(before[0], copies):
                before = None  # built anew under the name of a deleted one
                volume.restart = True
            volume.wanted = None if copies is None else (copies, index)
            volume.changed.notify_all()
            side = volume.side
            if side is not None:
                if copies is None or volume.restart or side.stopped:
                    side.stop()
                else:
                    side.applied(copies, index)
            self._look(volume)
            return [] if side is None else [Draining(name, side, patience_s)]

    def renew(self, reals: set[str], patience_s: float) -> list[Draining]:
        """These real volumes have other slots now."""
        found: list[Draining] = []
        if not reals:
            return found
        for name, volume in tuple(self._volumes.items()):
            with volume.lock:
                side = volume.side
                if side is not None and side.uses(reals):
                    side.reals_replaced()
                    found.append(Draining(name, side, patience_s))
        return found

    def stop(self) -> None:
        """The process is about to end: nothing new goes to a backend. The records go with the process, since
        a last flush of the real volumes may fail, and is noted in them then."""
        self._ending = True
        for volume in tuple(self._volumes.values()):
            with volume.lock:
                if volume.side is not None:
                    volume.side.stop()

    def flush_failed(self, real: str) -> None:
        """May take as long as a disk does."""
        for volume in tuple(self._volumes.values()):
            side = volume.side
            if side is not None and side.uses({real}):
                side.note_broken(real)

    # --- opening and closing ----------------------------------------------------------------------------

    def _look(self, volume: VolumeStore) -> None:
        """Under its lock: begin what is to be done, unless somebody is at it."""
        if not (volume.working or self._ending) and (self._to_open(volume) or self._to_close(volume)):
            volume.working, volume.waits_since = True, time.monotonic()
            self._openers.submit(lambda: self._work(volume, RETRY_FIRST_S))

    @staticmethod
    def _to_open(volume: VolumeStore) -> bool:
        return volume.side is None and volume.wanted is not None

    @staticmethod
    def _to_close(volume: VolumeStore) -> bool:
        """A side that was stopped serves no more, also when the turn has come back meanwhile."""
        side = volume.side
        return side is not None and (volume.wanted is None or volume.restart or side.stopped)

    def _work(self, volume: VolumeStore, pause_s: float) -> None:
        """One step; what has to wait is looked at again after a pause."""
        try:
            again_s = self._step(volume, pause_s)
        except Exception as error:  # noqa: BLE001 - a bug must not leave the volume without a store for ever
            self._bug(error)
            again_s = TROUBLE_S
        with volume.lock:
            if again_s is None:
                volume.working = False
                self._look(volume)
                return
        longer_s = min(2 * again_s, RETRY_LAST_S)
        self._timers.after(again_s, lambda: self._openers.submit(lambda: self._work(volume, longer_s)))

    def _step(self, volume: VolumeStore, pause_s: float) -> float | None:
        """None: done. Else: look again after so many seconds."""
        if self._ending:
            return None
        with volume.lock:
            side, wanted = volume.side, volume.wanted
            closes, opens = self._to_close(volume), self._to_open(volume)
        if closes:
            assert side is not None
            side.stop()
            if not side.over:
                self._tell_long(volume, "requests under way here have not ended")
                return pause_s
            with volume.changed:
                failed, volume.side, volume.restart = volume.restart and bool(volume.problem), None, False
            side.close()
            self._log("copies.store_closed", volume=volume.volume)
            return TROUBLE_S if failed else None
        if not opens:
            return None
        assert wanted is not None
        try:
            record = self._open(volume.volume, wanted[0])
        except RecordBusy:
            self._tell_long(volume, "the other process of this host has not given its record up")
            return pause_s
        except (RecordError, OSError) as error:
            if str(error) != volume.problem:
                volume.problem = str(error)
                self._log("copies.record_failed", volume=volume.volume, error=volume.problem)
            return TROUBLE_S
        self._begin(volume, record)
        return None

    def _tell_long(self, volume: VolumeStore, why: str) -> None:
        """Once for each turn."""
        if volume.waits_since and time.monotonic() - volume.waits_since >= LONG_S:
            volume.waits_since = 0.0
            self._log("copies.turn_waits", volume=volume.volume, why=why)

    def _open(self, name: str, copies: CopiesMap) -> RecordFile:
        return open_record(self._directory, name, [str(copy.name) for copy in copies.map.copies])

    def _begin(self, volume: VolumeStore, record: RecordFile) -> None:
        with volume.changed:
            wanted = volume.wanted
            if wanted is None or set(record.copies).isdisjoint(copy.name for copy in wanted[0].map.copies):
                record.close()
                return
            side = StoreSide(
                self._me, self.boot, record, self._tools, failed=lambda why: self._record_failed(volume, why)
            )
            side.applied(*wanted)
            volume.side, volume.problem, volume.restart = side, "", False
            volume.changed.notify_all()
            early = volume.take_early()
        for one in early:
            self._tools.crew.submit(lambda one=one: side.ask(*one))  # type: ignore[misc]
        self._log("copies.store_opened", volume=volume.volume, epoch=wanted[0].map.epoch)

    def _record_failed(self, volume: VolumeStore, why: str) -> None:
        """Nothing can be promised by this life of the store: begin another one."""
        with volume.lock:
            volume.problem, volume.restart = why, True
            self._look(volume)

    # --- for the manager --------------------------------------------------------------------------------

    def boot_message(self, volumes: Iterable[VolumeMap]) -> Boot:
        """The ids of the records here, whichever process has them. What cannot be read has none."""
        records = []
        for volume in volumes:
            if volume.copies is not None:
                found = self._record_id(volume.name, volume.copies)
                if found:
                    records.append((volume.name, found))
        return Boot(self.boot, tuple(records))

    def _record_id(self, name: str, copies: CopiesMap) -> str:
        try:
            path = find_record(self._directory, name, tuple(str(c.name) for c in copies.map.copies))
            loaded = None if path is None else parse(path.read_bytes(), str(path))
        except (OSError, RecordError) as error:
            self._log("copies.record_failed", volume=name, error=str(error))
            return ""
        if loaded is None:
            return ""
        ids = {record.id for copy, record in loaded.record().copies.items() if copy in copies.segments}
        return ids.pop() if len(ids) == 1 else ""


def _another(before: CopiesMap, after: CopiesMap) -> bool:
    """No copy in common: not the same volume, or one of which every copy was replaced meanwhile."""
    return {copy.name for copy in before.map.copies}.isdisjoint(copy.name for copy in after.map.copies)
