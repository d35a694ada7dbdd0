"""The store side of one volume at one manager: what may reach its backends, and in which order.

May live here: waiting for what is older, and what each kind of request does. (`store_gate` compares requests,
`store_backends` has what is under way, `store_copies` what a copy has here, `keeper` what goes to the disk.)
Events are methods, each returns effects; `now_ns` is CLOCK_BOOTTIME. Keeps INV-2 to INV-4 at the far end:

- Data go to a backend only in the exact epoch of the tables here, in the boot that they name, from the owner,
  in its newest session, and after everything older has ended. Older is refused; newer waits, bounded.
- A life of an owner begins with an epoch of its own (`reopen`). So of two lives the one first seen in the
  newer epoch is the newer one; a second life in one epoch is refused.
- A seal raises the floor at once, and is answered when the floor is durable, the tables have its epoch, and
  nothing older is under way. Requests of an earlier life of this process are gone with it.
- A region is durably marked, in the present epoch, before its data are written (but by `mend`).
- A failed flush stays failed for the boot; an unknown outcome counts as under way.
- When the record cannot be kept, everything is refused (`RecordFailed`) until the store begins anew.

`record` is the store's from then on, and ahead of the disk by the batches that are not durable.
"""

from collections.abc import Mapping

from vimraft.core.ids import ManagerName
from vimraft.protocol.asks import READS
from vimraft.protocol.effects import Answered, Drained, Outcome, StoreEffect
from vimraft.protocol.keeper import Keeper
from vimraft.protocol.maps import VolumeMap
from vimraft.protocol.messages import (
    Busy,
    Done,
    IoFailed,
    NewerEpoch,
    NoRoom,
    NotDrained,
    NotFlushed,
    NotServed,
    RecordFailed,
    Refusal,
    Result,
    Session,
    StoreAnswer,
    TooMany,
    Unknown,
)
from vimraft.protocol.owner_effects import SetTimer, StoreRequest
from vimraft.protocol.regions import (
    Change,
    Cleared,
    Doubted,
    Identified,
    InStep,
    Marked,
    StoreRecord,
    Tagged,
)
from vimraft.protocol.rules import ALL_RULES, Rules
from vimraft.protocol.store_backends import Backends
from vimraft.protocol.store_copies import Copies, CopyHere
from vimraft.protocol.store_gate import Gate
from vimraft.protocol.store_requests import Op, StoreCounters, StoreLimits

_DONE = Done()


class Store:
    def __init__(
        self,
        me: ManagerName,
        boot: str,
        record: StoreRecord,
        rules: Rules = ALL_RULES,
        limits: StoreLimits = StoreLimits(),  # noqa: B008  (frozen)
    ) -> None:
        self.me = me
        self.boot = boot
        self.record = record
        self.counters = StoreCounters()
        self._rules = rules
        self._limits = limits
        self._keeper = Keeper(record)
        self._backends = Backends(self.counters)
        self._copies = Copies(me, boot, record)
        self._gate = Gate(boot, rules, self._keeper, self._backends)
        self._straight = -1
        """The epoch in which the newest session needs no further comparison; -1: none."""
        self._waiting: dict[Op, None] = {}
        """For the tables, a drain or the next flush; in the order of their deadlines."""
        self._next_flush: dict[CopyHere, list[Op]] = {}
        self._drained: Drained | None = None
        """To be said when nothing of an older map is under way."""
        self._timer_ns: int | None = None
        self._now_ns = 0
        self._effects: list[StoreEffect] = []

    # --- events ---------------------------------------------------------------------------------------

    def applied(
        self,
        newer: VolumeMap | None,
        boots: Mapping[ManagerName, str],
        now_ns: int,
        index: int | None = None,
    ) -> list[StoreEffect]:
        """The tables here, in the order of the log. None: the volume is gone (or not there yet); whoever
        gives its disk space back drops the record. `index`: of the tables, if not that of the map."""
        self._now_ns = now_ns
        self._straight = -1
        gate = self._gate
        gate.bound = boots.get(self.me, "")
        if newer is None:
            if gate.gone():
                self._replace(index or 0, 0)
        elif newer.epoch >= gate.epoch:
            self._install(newer, newer.index if index is None else index)
        self._look_again()
        return self._end()

    def request(self, session: Session, request: StoreRequest, now_ns: int) -> list[StoreEffect]:
        """`session` has the manager that the connection belongs to."""
        self._now_ns = now_ns
        op = Op(session, request)
        if request.epoch == self._straight and session == self._gate.newest and request.kind != "seal":
            self._execute(op)
        else:
            if request.kind == "seal" and self._gate.raise_floor(session, request.epoch):
                self._straight = -1
            self._take(op)
        return self._end()

    def backend_done(self, token: int, outcome: Outcome, data: bytes, now_ns: int) -> list[StoreEffect]:
        self._now_ns = now_ns
        backends = self._backends
        op = backends.ops.get(token)
        if op is None:
            if token in backends.flushes:
                self._flush_done(token, outcome)
        elif outcome == "unknown" and op.request.kind not in READS:
            self._answer(op, Unknown())
        else:
            backends.ended(op)
            if outcome == "ok":
                self._answer(op, Done(data) if data else _DONE)
            elif outcome == "error" and op.request.fua:
                self._flush_failed(op.copy, [op])  # and with it whatever else was to be written
            else:
                self._answer(op, IoFailed(op.copy.name) if outcome == "error" else Unknown())
        if self._waiting and not backends.older:
            self._look_again()
        return self._end()

    def persisted(self, token: int, ok: bool, now_ns: int) -> list[StoreEffect]:
        self._now_ns = now_ns
        changes, ops = self._keeper.persisted(token, ok)
        for change in changes:
            copy = self._copies.by_name.get(change.copy) if isinstance(change, Marked) else None
            if copy is not None and isinstance(change, Marked):
                copy.marked(change.regions, token)
        for op in ops:
            if not ok:
                self._answer(op, RecordFailed())
            elif op.result is not None:
                self._answer(op, op.result)
            else:
                self._take(op)
        if not ok:
            self._straight = -1
            self._look_again()
        return self._end()

    def timer(self, now_ns: int) -> list[StoreEffect]:
        self._now_ns = now_ns
        self._timer_ns = None
        for op in list(self._waiting):
            if op.deadline_ns > now_ns:
                break
            self._forget(op)
            self._answer(op, self._overdue(op))
        return self._end()

    @property
    def drained(self) -> bool:
        """Nothing of an older map is under way in backends."""
        return self._backends.of_older_maps == 0

    @property
    def in_flight(self) -> int:
        """In backends, with those whose outcome is not known."""
        return len(self._backends)

    @property
    def waiting(self) -> int:
        return len(self._waiting) + self._keeper.waiting

    # --- the tables -----------------------------------------------------------------------------------

    def _install(self, newer: VolumeMap, index: int) -> None:
        gate = self._gate
        another = gate.map is None or newer.epoch > gate.epoch
        gate.map, gate.epoch = newer, newer.epoch
        for change in self._copies.follow(newer, self._backends.sequence + 1):
            self._keeper.add(change)
        if another:
            self._backends.sequence += 1
            self._replace(index, newer.epoch)

    def _replace(self, index: int, epoch: int) -> None:
        self._backends.installed()
        if self._rules.drain_at_seal:
            self._backends.replaced()
        self._drained = Drained(index, epoch)

    # --- comparing ------------------------------------------------------------------------------------

    def _take(self, op: Op) -> None:
        """Execute it, refuse it, or let it wait. Called again when that may have changed."""
        refusal = self._gate.refusal(op)
        if refusal is None:
            if self._backends.older:
                self._straight = -1
                self._wait(op)
                return
            if self._rules.session_compare:
                self._straight = op.request.epoch
            self._execute(op)
        elif isinstance(refusal, NewerEpoch):
            self._wait(op)
        else:
            self._answer(op, refusal)

    # --- waiting and answering ------------------------------------------------------------------------

    def _wait(self, op: Op) -> None:
        if op in self._waiting:
            return
        if self.waiting >= self._limits.waiting:
            self._answer(op, TooMany())
            return
        self.counters.waited += 1
        op.deadline_ns = self._now_ns + self._limits.waiting_ns
        self._waiting[op] = None

    def _forget(self, op: Op) -> None:
        self._waiting.pop(op, None)
        for riders in self._next_flush.values():
            if op in riders:
                riders.remove(op)

    def _look_again(self) -> None:
        """Who waits for the tables or a drain. (Whoever waits for a flush is looked at when it ends.)"""
        flushes = {op for riders in self._next_flush.values() for op in riders}
        for op in [op for op in self._waiting if op not in flushes]:
            deadline_ns = op.deadline_ns
            refusal = self._gate.refusal(op)
            if isinstance(refusal, NewerEpoch) or (refusal is None and self._backends.older):
                self._straight = -1
                continue  # it keeps its place
            del self._waiting[op]
            op.deadline_ns = deadline_ns
            self._take(op)

    def _overdue(self, op: Op) -> Refusal:
        if self._gate.map is None or op.request.epoch > self._gate.epoch:
            return NewerEpoch(self._gate.epoch)
        return NotDrained(self._backends.older) if self._backends.older else Unknown()

    def _answer(self, op: Op, result: Result) -> None:
        if op.answered:
            return
        op.answered = True
        if not isinstance(result, Done):
            self.counters.refused += 1
        self._effects.append(
            Answered(op.session, StoreAnswer(op.request.number, self.boot, self._gate.epoch, result))
        )

    def _answer_when_kept(self, op: Op, result: Result, batch: int) -> None:
        if self._keeper.failed:
            self._answer(op, RecordFailed())
            return
        op.result = result
        self._keeper.wait(op, batch)

    def _end(self) -> list[StoreEffect]:
        keep = self._keeper.begin()
        if keep is not None:
            self._effects.append(keep)
        if self._drained is not None and not self._backends.of_older_maps:
            self._effects.append(self._drained)
            self._drained = None
        if self._waiting:
            at_ns = next(iter(self._waiting)).deadline_ns
            if self._timer_ns is None or at_ns < self._timer_ns:
                self._timer_ns = at_ns
                self._effects.append(SetTimer(at_ns))
        effects, self._effects = self._effects, []
        return effects

    # --- executing ------------------------------------------------------------------------------------

    def _execute(self, op: Op) -> None:
        """It may: it is neither old nor early."""
        request = op.request
        kind = request.kind
        if kind == "seal":
            self._seal(op)
            return
        if kind == "hand_over":
            self._hand_over(op)
            return
        copy = self._copies.by_name.get(request.copy)
        if copy is None:
            self._answer(op, NotServed(request.copy, ""))
        elif kind in READS:
            self._read(op, copy)
        elif kind == "missed":
            self._missed(op, copy)
        elif kind == "what_is_in_step":
            known = copy.record.known_in_step(copy.name)
            self._answer(op, Done(regions=known.regions, record=known.record, since=known.since))
        elif not copy.writable:
            self._answer(op, NotServed(copy.name, copy.state))
        elif kind == "in_step":
            change = InStep(copy.name, request.regions, request.since, request.record)
            self._answer_when_kept(op, _DONE, self._keeper.add(change))
        elif kind == "flush":
            self._flush(op, copy)
        elif kind == "clear":
            self._clear(op, copy)
        else:
            self._write(op, copy)

    def _read(self, op: Op, copy: CopyHere) -> None:
        request, backends = op.request, self._backends
        if copy.state != "in_sync" or not copy.has(request.first, request.end):
            self._answer(op, NotServed(copy.name, copy.state))
        elif not copy.readable:
            self._answer(op, IoFailed(copy.name))
        elif backends.reads >= self._limits.busy_reads and not request.must:
            self.counters.busy += 1
            self._answer(op, Busy())
        elif len(backends) >= self._limits.in_flight:
            self._answer(op, TooMany())
        else:
            self._effects.append(backends.send(op, copy, "read" if request.kind == "read" else "checksum"))

    def _write(self, op: Op, copy: CopyHere) -> None:
        request, backends, kind = op.request, self._backends, op.request.kind
        assert kind in ("write", "zero", "trim", "mend"), f"{kind} writes nothing"
        short = kind in ("write", "mend") and len(request.data) != request.end - request.first
        if not copy.has(request.first, request.end) or short or (kind == "mend" and copy.state != "in_sync"):
            self._answer(op, NotServed(copy.name, copy.state))
        elif len(backends) + self._keeper.waiting >= self._limits.in_flight:
            self._answer(op, TooMany())
        elif kind == "mend" or self._marked(op, copy):
            self._effects.append(backends.send(op, copy, "write" if kind == "mend" else kind))

    def _marked(self, op: Op, copy: CopyHere) -> bool:
        """Whether its regions are marked; otherwise it waits for that, or is refused."""
        request = op.request
        wanted = copy.unmarked(request.first, request.end)
        if not wanted:
            return True
        new = tuple(region for region in wanted if region not in copy.marking)
        active = copy.record.active
        more = sum(
            region not in active for region in new
        )  # none: two copies that became one may have too many
        if more and len(active) + more > self._limits.active_regions:
            self._answer(op, NoRoom(len(active)))
            return False
        if new:
            self.counters.marks += len(new)
            copy.begin_marking(new, self._keeper.add(Marked(copy.name, new, request.epoch)))
        if not self._rules.intent_before_data:
            return True
        self._keeper.wait(op, max(copy.marking[region] for region in wanted))
        return False

    def _seal(self, op: Op) -> None:
        name = op.request.copy
        copies = self._copies.some(name)
        if name and not copies:
            self._answer(op, NotServed(name, ""))
        elif self._gate.floor_batch > self._keeper.kept:
            self._keeper.wait(op, self._gate.floor_batch)
        elif doubtful := [copy for copy in copies if copy.state == "in_sync" and not copy.readable]:
            self._answer(op, IoFailed(doubtful[0].name))  # no source: it may lack what it acknowledged
        else:
            for change in self._copies.begin_anew(name) if op.request.must else ():
                self._keeper.add(change)
            active = sorted({region for copy in copies for region in copy.record.active})
            ids = {copy.record.id for copy in copies}
            self._answer(op, Done(regions=tuple(active), record=ids.pop() if len(ids) == 1 else ""))

    def _hand_over(self, op: Op) -> None:
        request = op.request
        copies = self._copies.some(request.copy)
        batch = 0
        for copy in copies:
            changes: list[Change] = [Identified(copy.name, request.record)]
            if request.regions:
                changes.append(Tagged(copy.name, request.regions, request.epoch))
            for change in changes:
                batch = self._keeper.add(change)
        if batch:
            self._answer_when_kept(op, _DONE, batch)
        else:
            self._answer(op, NotServed(request.copy, ""))

    def _missed(self, op: Op, copy: CopyHere) -> None:
        if copy.state != "in_sync":
            self._answer(op, NotServed(copy.name, copy.state))
            return
        missed = copy.record.missed_since(op.request.since)
        self._answer(op, Done(regions=missed, record=copy.record.id))

    # --- flushing and clearing ------------------------------------------------------------------------

    def _flush(self, op: Op, copy: CopyHere) -> None:
        if copy.doubtful and copy.readable:
            # the only one in step: its owner hears of it once more, then clients go on with what is left
            copy.doubtful = False
            self._answer_when_kept(op, IoFailed(copy.name), self._keeper.add(Doubted(copy.name, "")))
        elif copy.doubtful:
            self._answer(op, IoFailed(copy.name))
        elif copy.flushing:
            self._wait(op)
            if not op.answered:
                self._next_flush.setdefault(copy, []).append(op)
        elif len(self._backends) >= self._limits.in_flight:
            self._answer(op, TooMany())
        else:
            self._effects.append(self._backends.flush(copy, [op]))

    def _flush_done(self, token: int, outcome: Outcome) -> None:
        if outcome == "unknown":
            for op in self._backends.flushes[token].riders:
                self._answer(op, Unknown())
            return
        flush = self._backends.flush_ended(token)
        copy = flush.copy
        if outcome == "ok":
            copy.flushed = max(copy.flushed, flush.sequence)
            for op in flush.riders:
                self._answer(op, _DONE)
            if not self._rules.owner_only_clearing:
                self._clear_regions(copy, [r for r in copy.record.active if not self._in_use(copy, r)])
        else:
            self._flush_failed(copy, flush.riders)
        self._next_round(copy)

    def _flush_failed(self, copy: CopyHere, ops: list[Op]) -> None:
        if not self._rules.doubt_after_failed_flush or self._copies.by_name.get(copy.name) is not copy:
            for op in ops:
                self._answer(op, IoFailed(copy.name))
            return
        batch = self._keeper.add(Doubted(copy.name, self.boot if copy.writable else ""))
        copy.doubtful = copy.writable
        self._copies.judge(self._gate.map is not None and len(self._gate.map.in_sync) == 1)
        for op in ops:
            self._answer_when_kept(op, IoFailed(copy.name), batch)

    def _next_round(self, copy: CopyHere) -> None:
        """All who waited for the end of the last one share the next one, if they still may."""
        riders: list[Op] = []
        for op in self._next_flush.pop(copy, []):
            self._waiting.pop(op, None)
            refusal = self._gate.refusal(op)
            if refusal is not None or self._backends.older or copy.doubtful:
                self._take(op)
            else:
                riders.append(op)
        if riders:
            self._effects.append(self._backends.flush(copy, riders))

    def _in_use(self, copy: CopyHere, region: int) -> bool:
        return copy.unflushed(region) or bool(self._backends.writes_at(copy, (region,)))

    def _clear(self, op: Op, copy: CopyHere) -> None:
        wanted = [region for region in op.request.regions if region in copy.record.active]
        busy = self._backends.writes_at(copy, wanted)
        held = next((region for region in wanted if region in busy or copy.unflushed(region)), None)
        if held is not None:
            self._answer(op, NotFlushed(held))
        elif wanted:
            self._answer_when_kept(op, _DONE, self._clear_regions(copy, wanted))
        else:
            self._answer(op, _DONE)

    def _clear_regions(self, copy: CopyHere, regions: list[int]) -> int:
        copy.cleared(regions)
        epoch = self._gate.epoch if self._rules.tag_when_cleared else 0
        return self._keeper.add(Cleared(copy.name, tuple(sorted(regions)), epoch)) if regions else 0
