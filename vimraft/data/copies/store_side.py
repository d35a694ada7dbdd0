"""The shell around `protocol.store.Store` of one volume: its machine under a lock, its backends, its record.

May live here: one life of a store, from opening its record to giving it up; performing the machine's effects.
Whose turn it is to have one: `store_turns`. Keeps:

- The thread of a request does the first slow thing that comes of it itself (the ordinary write: all of it,
  and `done` is called before `ask` returns); the rest goes to a crew. Nothing blocks under the lock.
- Effects are performed on the real volumes of the map under which the machine gave them (`Tables`). Whoever
  replaces a real volume waits until nothing uses the tables that have it.
- A trim reads as zeros afterwards at every copy: a backend may ignore trims, and then copies would differ.
- An unknown outcome stays unknown until the real volume answers something else: its sessions are drained
  before a new one is opened (see `backends.nbd_pool`), so what was under way happened by then or never will.
- INV-3: what a lost backend session may have lost fails the next flush of the copies on it, also when the
  session ended with the process that had it: then whatever is active on a volatile real volume is in doubt.
"""

import threading
import time
from bisect import bisect_right
from collections.abc import Callable
from typing import Protocol

from vimraft.core.ids import LocalName, ManagerName
from vimraft.data.backends.base import Backend
from vimraft.data.backends.nbd_pool import NoAnswer
from vimraft.data.copies.checksums import new_checksum
from vimraft.data.copies.record_file import RecordError, RecordFile
from vimraft.data.copies.store_tables import Range, Tables
from vimraft.data.copies.workers import Crew, Timers, boottime_ns
from vimraft.data.feed import CopiesMap
from vimraft.data.reals import RealSlot
from vimraft.protocol.effects import (
    Answered,
    BackendFlush,
    BackendIo,
    Drained,
    Keep,
    Outcome,
    StoreEffect,
)
from vimraft.protocol.messages import NewerEpoch, Session, StoreAnswer
from vimraft.protocol.owner_effects import SetTimer, StoreRequest
from vimraft.protocol.regions import Doubted
from vimraft.protocol.store import Store

OPEN_WAIT_S = 3.0
"""How long I/O waits for a real volume that is being opened; less than owners wait for an answer."""
OPEN_POLL_S = 0.02
RESOLVE_S = 1.0
"""Between two looks whether a real volume that did not answer does so again."""
LABEL_LOOK_BYTES = 512
CHECKSUM_PIECE_BYTES = 1 << 20
Done = Callable[[StoreAnswer], None]
Log = Callable[..., None]


class Watch(Protocol):
    """Who is told that a real volume misbehaves."""

    def real_failed(self, real: RealSlot, error: OSError) -> None: ...

    def flush_failed(self, real: RealSlot, error: OSError) -> None: ...


class Tools:
    """What all stores in one process share."""

    def __init__(
        self, real_of: Callable[[str], RealSlot], watch: Watch, crew: Crew, timers: Timers, log: Log
    ) -> None:
        self.real_of = real_of
        self.watch = watch
        self.crew = crew
        self.timers = timers
        self.log = log


class _NotYet(Exception):
    """A real volume is being opened, or its former life flushed."""


class StoreSide:
    """`record` becomes this object's. `failed` is called once when the record cannot be kept."""

    def __init__(
        self,
        me: ManagerName,
        boot: str,
        record: RecordFile,
        tools: Tools,
        failed: Callable[[str], None] = lambda _why: None,
    ) -> None:
        self.boot = boot
        self._record = record
        self._tools = tools
        self._failed = failed
        self._lock = threading.Lock()
        self._disk = threading.Lock()
        """The record file is used by one thread at a time."""
        known = record.load()
        self._active_at_first = {str(name) for name, copy in known.copies.items() if copy.active}
        self._store = Store(me, boot, known)
        self._tables = Tables(None, tools.real_of)
        self._former: list[Tables] = []
        """Those of older maps that are in use."""
        self._map: CopiesMap | None = None
        self._waiters: dict[tuple[str, int], Done] = {}
        """By life of the owner and number of the request; the machine bounds them and answers them all."""
        self._losses: dict[tuple[str, str], int] = {}
        """(copy, real volume): the losses that its flushes have told."""
        self._stopped = False
        self._keeping = 0

    # --- requests -------------------------------------------------------------------------------------

    def ask(self, session: Session, request: StoreRequest, done: Done) -> None:
        """`done` is called once: before this returns, or later from another thread."""
        only: BackendIo | None = None
        with self._lock:
            stopped = self._stopped
            if not stopped:
                effects = self._store.request(session, request, boottime_ns())
                tables = self._tables
                if len(effects) == 1 and type(effects[0]) is BackendIo:
                    only = effects[0]
                    tables.running += 1
                else:
                    self._waiters[(session.incarnation, request.number)] = done
                    self._count(effects)
        if stopped:
            done(StoreAnswer(request.number, self.boot, 0, NewerEpoch(0)))
        elif only is None:
            self._perform(effects, tables, here=True)
        else:
            self._do_at_once(only, tables, (session, request.number), done)

    def _do_at_once(self, effect: BackendIo, tables: Tables, asked: tuple[Session, int], done: Done) -> None:
        """The one thing to be done for a request. Nobody else answers it before it has ended."""
        data = tables.straight(effect)
        answer: StoreAnswer | None = None
        session, number = asked
        key = (session.incarnation, number)
        if data is None:
            self._waiters[key] = done
            self._perform([effect], tables, here=True)
            return
        with self._lock:
            tables.running -= 1
            later = self._store.backend_done(effect.token, "ok", data, boottime_ns())
            only = later[0] if len(later) == 1 else None
            if type(only) is Answered and only.to is session and only.answer.number == number:
                answer = only.answer
            else:
                self._waiters[key] = done
                newer = self._count(later)
        if answer is not None:
            done(answer)
        else:
            self._perform(later, newer, here=True)

    # --- the tables -----------------------------------------------------------------------------------

    def applied(self, copies: CopiesMap, index: int) -> None:
        """In the order of the log; of tables at `index`. Does not wait for a drain (see `idle`)."""
        names = [str(copy.name) for copy in copies.map.copies]
        with self._disk:
            try:
                self._record.use_for(copies.map.volume, names)
            except (OSError, RecordError) as error:
                self._tools.log("copies.record_failed", volume=copies.map.volume, error=str(error))
        boots = {ManagerName(manager): boot for manager, boot in copies.boots.items()}
        with self._lock:
            self._map = copies
            self._replace_tables()
            effects = self._store.applied(copies.map, boots, boottime_ns(), index)
            tables = self._count(effects)
        self._perform(effects, tables, here=False)

    def reals_replaced(self) -> None:
        """Real volumes have other slots now."""
        with self._lock:
            self._replace_tables()

    def uses(self, reals: set[str]) -> bool:
        return not reals.isdisjoint(self._tables.reals)

    def _replace_tables(self) -> None:
        if self._tables.running:
            self._former.append(self._tables)
        self._tables = Tables(self._map, self._tools.real_of)
        for copy in self._tables.copies:
            for slot in self._tables.slots(copy):
                if slot.backend is None:
                    continue  # what kind it is will be known when it is opened
                doubt = slot.volatile and copy in self._active_at_first
                self._losses.setdefault((copy, slot.real), slot.losses - doubt)
        for key in [key for key in self._losses if key[0] not in self._tables.copies]:
            del self._losses[key]

    @property
    def idle(self) -> bool:
        """No thread uses the tables of an older map (of any, once it is stopped)."""
        with self._lock:
            self._former = [tables for tables in self._former if tables.running]
            return not self._former and not (self._stopped and self._tables.running)

    @property
    def drained(self) -> bool:
        """And what went by an older map is over in the backends too, as far as they say."""
        with self._lock:
            return self._store.drained

    def reals(self) -> list[str]:
        return sorted(self._tables.reals)

    def note_broken(self, real: str) -> None:
        """A flush of that real volume failed, whoever's: this process's backend refuses everything from now
        on, and the next process is to know why."""
        found = [
            name
            for name in self._tables.copies
            if any(slot.real == real for slot in self._tables.slots(name)) and self._in_sync(name)
        ]
        with self._disk:
            self._record.keep(tuple(Doubted(LocalName(name), self.boot) for name in found))

    def _in_sync(self, name: str) -> bool:
        copy = self._map.map.copy(LocalName(name)) if self._map is not None else None
        return copy is not None and copy.state == "in_sync"

    def figures(self) -> tuple[int, int, int]:
        """(reads, writes, regions marked) since it began."""
        counters = self._store.counters
        return counters.reads, counters.writes, counters.marks

    # --- the end --------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Nothing new goes to a backend from now on: the machine has no map, so that what waits goes on
        waiting and what comes is not taken."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            effects = self._store.applied(None, {}, boottime_ns())
            tables = self._count(effects)
        self._perform(effects, tables, here=False)

    @property
    def stopped(self) -> bool:
        return self._stopped

    @property
    def over(self) -> bool:
        """Stopped, and nothing is under way in backends or on its way to the record."""
        with self._lock:
            busy = self._keeping or self._tables.running or any(t.running for t in self._former)
            return self._stopped and not busy and not self._store.in_flight

    def close(self) -> None:
        """Give the record up. Whoever still waits is told to ask again."""
        assert self.over, "a record is given up only when nothing is under way"
        with self._disk:
            self._record.close()
        with self._lock:
            waiters, self._waiters = self._waiters, {}
        for (_, number), done in waiters.items():
            done(StoreAnswer(number, self.boot, 0, NewerEpoch(0)))

    # --- effects --------------------------------------------------------------------------------------

    def _count(self, effects: list[StoreEffect]) -> Tables:
        """Under the lock: these will use the present tables."""
        tables = self._tables
        for effect in effects:
            kind = type(effect)
            if kind is BackendIo or kind is BackendFlush:
                tables.running += 1
            elif kind is Keep:
                self._keeping += 1
        return tables

    def _perform(self, effects: list[StoreEffect], tables: Tables, *, here: bool) -> None:
        while True:
            mine: StoreEffect | None = None
            for effect in effects:
                kind = type(effect)
                if kind is Answered:
                    self._deliver(effect)  # type: ignore[arg-type]
                elif kind is SetTimer:
                    self._tools.timers.at(effect.at_ns, self._timer)  # type: ignore[union-attr]
                elif kind is Drained:
                    pass  # `drained` says it
                elif here and mine is None:
                    mine = effect
                else:
                    self._send_away(effect, tables)
            if mine is None:
                return
            effects, tables = self._do(mine, tables)

    def _send_away(self, effect: StoreEffect, tables: Tables) -> None:
        def work() -> None:
            self._perform(*self._do(effect, tables), here=True)

        self._tools.crew.submit(work)

    def _deliver(self, effect: Answered) -> None:
        done = self._waiters.pop((effect.to.incarnation, effect.answer.number), None)
        if done is not None:
            done(effect.answer)

    def _timer(self) -> None:
        with self._lock:
            effects = self._store.timer(boottime_ns())
            tables = self._count(effects)
        self._perform(effects, tables, here=False)

    def _do(self, effect: StoreEffect, tables: Tables) -> tuple[list[StoreEffect], Tables]:
        """Something that takes long; returns what comes of it."""
        if type(effect) is Keep:
            return self._keep(effect)
        assert type(effect) is BackendIo or type(effect) is BackendFlush
        deadline = 0.0
        while True:
            outcome: Outcome
            data = b""
            try:
                if type(effect) is BackendIo and effect.kind == "checksum":
                    outcome, data = self._checksum(effect, tables)
                elif type(effect) is BackendIo:
                    outcome, data = self._io(effect, tables)
                else:
                    outcome = self._flush(effect.copy, tables)
                break
            except _NotYet:
                now = time.monotonic()
                deadline = deadline or now + OPEN_WAIT_S
                if now >= deadline:
                    outcome = "error"
                    break
                tables = self._newer(effect.copy, tables)
            except Exception as error:  # noqa: BLE001 - it has ended, whatever it did, and must be counted so
                self._tools.log("copies.bug", error=repr(error))
                outcome = "error"
                break
        with self._lock:
            tables.running -= 1
            later = self._store.backend_done(effect.token, outcome, data, boottime_ns())
            return later, self._count(later)

    def _newer(self, copy: LocalName, tables: Tables) -> Tables:
        """After a pause: the real volume may have been opened, and is in newer tables then."""
        time.sleep(OPEN_POLL_S)
        with self._lock:
            if tables is not self._tables and copy in self._tables.copies:
                tables.running -= 1
                tables = self._tables
                tables.running += 1
        return tables

    def _keep(self, effect: Keep) -> tuple[list[StoreEffect], Tables]:
        with self._disk:
            kept = self._record.keep(effect.changes)
        with self._lock:
            self._keeping -= 1
            later = self._store.persisted(effect.token, kept, boottime_ns())
            tables = self._count(later)
        if not kept:
            self._tools.log("copies.record_failed", volume=self._record.volume, error=self._record.failed)
            self._failed(self._record.failed)
        return later, tables

    # --- backends -------------------------------------------------------------------------------------

    def _checksum(self, effect: BackendIo, tables: Tables) -> tuple[Outcome, bytes]:
        """Piece by piece, so that its memory is bounded, whatever was asked for."""
        digest = new_checksum()
        for first in range(effect.first, effect.end, CHECKSUM_PIECE_BYTES):
            end = min(first + CHECKSUM_PIECE_BYTES, effect.end)
            outcome, data = self._io(BackendIo(effect.token, "read", effect.copy, first, end), tables)
            if outcome != "ok":
                return outcome, b""
            digest.update(data)
        return "ok", digest.digest()

    def _io(self, effect: BackendIo, tables: Tables) -> tuple[Outcome, bytes]:
        starts, ranges = tables.copies[effect.copy]
        first, end = effect.first, effect.end
        at = max(0, bisect_right(starts, first) - 1)
        reads = effect.kind == "read"
        view = memoryview(bytearray(end - first) if reads else effect.data)
        position = first
        while position < end:
            found = ranges[at] if at < len(ranges) else None
            if found is None or not found.first <= position < found.end:
                return "error", b""
            stop = min(end, found.end)
            part = view if stop - position == len(view) else view[position - first : stop - first]
            outcome = self._one(effect, found, position, stop - position, part)
            if outcome != "ok":
                return outcome, b""
            position = stop
            at += 1
        return "ok", view.obj if reads else b""  # type: ignore[return-value]

    def _one(self, effect: BackendIo, found: Range, position: int, length: int, part: memoryview) -> Outcome:
        slot = found.slot
        backend = _backend_of(slot)
        if backend is None:
            return "error"
        kind, where = effect.kind, position + found.delta
        try:
            if kind == "write":
                backend.write(part, where, fua=effect.fua)
            elif kind == "read":
                backend.read_into(part, where)
            else:
                backend.zero(where, length, may_trim=kind == "trim", fua=effect.fua, fast=False)
        except NoAnswer as error:
            self._tools.watch.real_failed(slot, error)
            if kind != "read":
                self._resolve_later(effect.token, slot.real)
            return "unknown"
        except OSError as error:
            self._tools.watch.real_failed(slot, error)
            return "error"
        return "ok"

    def _flush(self, copy: LocalName, tables: Tables) -> Outcome:
        slots = tables.slots(copy)
        for slot in slots:
            if slot.history.unsettled:
                raise _NotYet
            _backend_of(slot)
        outcome: Outcome = "ok"
        for slot in slots:
            try:
                backend = _backend_of(slot)
                if backend is None:
                    outcome = "error"
                    continue
                backend.flush()
            except _NotYet:
                outcome = "error"
            except OSError as error:  # of NoAnswer, too, a second flush would tell nothing
                self._tools.watch.flush_failed(slot, error)
                outcome = "error"
            known = self._losses.get((copy, slot.real), slot.losses)
            if slot.losses != known:
                self._losses[(copy, slot.real)] = slot.losses
                outcome = "error"
        return outcome

    def _resolve_later(self, token: int, real: str) -> None:
        self._tools.timers.after(
            RESOLVE_S, lambda: self._tools.crew.submit(lambda: self._resolve(token, real))
        )

    def _resolve(self, token: int, real: str) -> None:
        """Once it answers, what had no answer is over; what it did nobody knows."""
        with self._lock:
            tables = self._tables
            tables.running += 1
        slot = self._tools.real_of(real)
        answers = slot.kind == "told"  # the tables do not know it any more, or call it failed: nobody uses it
        try:
            if slot.backend is not None and slot.volatile:
                slot.backend.read_into(memoryview(bytearray(LABEL_LOOK_BYTES)), 0)
                answers = True
        except OSError:
            answers = False
        with self._lock:
            tables.running -= 1
            effects = self._store.backend_done(token, "error", b"", boottime_ns()) if answers else []
            tables = self._count(effects)
        if not answers:
            self._resolve_later(token, real)
        self._perform(effects, tables, here=True)


def _backend_of(slot: RealSlot) -> Backend | None:
    """None: it cannot be used. Raises _NotYet."""
    if slot.backend is None and slot.opening:
        raise _NotYet
    return slot.backend
