"""Bringing one copy back into step: what it missed is copied under client I/O, then it is promoted.

May live here: that sequence for one copy, stale, syncing already, or the new segments of a copy that moves.
Keeps INV-3 and INV-4:

- Its stores seal first: nothing of its former life runs there. After `BeginResync` every write goes there.
- It gets what is active at the others or was written since it left, by their record, and what is active at
  its own stores (it may have executed what nobody else has). Another record in the tables, or none: all.
- A region is copied under the shared lock: reads go on, writes wait. `Desk.missing` has what is left; a write
  that the copy misses meanwhile puts its region back. Marks at its stores are cleared after a flush, by the
  owner's ordinary clearing, and never for a region that is missing.
- Before it is promoted: acknowledgements are held, what is under way has ended, it has flushed, and nothing
  is missing. They stay held until the promotion is decided. It is bound to the boots that flushed.
- When the last copy in sync has lost what was not flushed, this one may have what nobody can read there any
  more: the resync begins anew, and what is active at that copy is copied again.

What it has copied survives its end and its owner (`in_step`): the next attempt goes on from there.
"""

from typing import Literal

from msgspec import Struct

from vimraft.core.commands import BeginResync, MoveSegments, Promote
from vimraft.core.ids import LocalName, ManagerName
from vimraft.protocol.asks import Answer, Ask, AskKind
from vimraft.protocol.copying import Equalise
from vimraft.protocol.in_step import Kept
from vimraft.protocol.maps import REGION_BYTES, Copy, regions_of
from vimraft.protocol.owner import Owner
from vimraft.protocol.owner_effects import Command, Decision, Effect
from vimraft.protocol.pacing import Pacing
from vimraft.protocol.region_set import RegionSet
from vimraft.protocol.writes import End

MAX_PARALLEL = 4
"""Regions being copied at once."""
MAX_FAILURES = 8
"""Regions that failed one after the other, before the copy is given up for now."""
Phase = Literal[
    "sealing", "beginning", "asking", "comparing", "copying",
    "draining", "flushing", "promoting", "over", "failed",
]  # fmt: skip
_WHILE_SYNCING = ("asking", "comparing", "copying", "draining", "flushing")


class Progress(Struct, frozen=True, gc=False):
    copy: LocalName
    phase: Phase
    regions: int
    """So many were to be copied when it was found out."""
    left: int
    copied_bytes: int
    full: bool


class Resync:
    """Of one copy. Its events are the owner's; `over` or `failed` at the end. After `failed`, begin anew."""

    def __init__(self, owner: Owner, name: LocalName) -> None:
        self._owner = owner
        self._desk = owner.desk
        self.name = name
        self.phase: Phase = "sealing"
        self.full = False
        self.why = ""
        """It failed."""
        self._kept = Kept(owner.desk, name, lambda: self._fail("the copy could not flush"))
        self._own_active = RegionSet()
        self._boots: dict[ManagerName, str] = {}
        self._missed: set[int] = set()
        self._asking = 0
        self._refused = False
        self._answer = ""
        self._promotion: int | None = None
        self._proposed_epoch = 0
        self._lossy_epoch = owner.desk.newest.lossy_epoch
        self._running: dict[int, int] = {}
        self._first: list[int] = []
        """Regions to copy before others; the next one is the last."""
        self._at = 0
        """Those from here on come then."""
        self._pacing = Pacing(owner, self._paced)
        self._failures = 0
        self._no_room = False
        """A store of the copy had no room for a region: which are active there is to be asked again."""
        self._total = 0
        self._copied_bytes = 0

    def start(self, now_ns: int) -> list[Effect]:
        self._owner.begin(now_ns)
        self._owner.looks(self._look)
        copy = self._copy
        if copy is None:
            self._finish("over")
        else:
            self._ask_all("seal", copy, must=True)
        return self._owner.end()

    @property
    def progress(self) -> Progress:
        left = len(self._desk.missing.get(self.name, ()))
        return Progress(self.name, self.phase, self._total, left, self._copied_bytes, self.full)

    @property
    def _copy(self) -> Copy | None:
        copy = self._desk.newest.copy(self.name)
        return copy if copy is not None and copy.state in ("stale", "syncing") else None

    @property
    def _source(self) -> Copy:
        return self._desk.map.in_sync[0]

    # --- asking stores --------------------------------------------------------------------------------

    def _ask_all(
        self,
        kind: AskKind,
        copy: Copy,
        *,
        regions: tuple[int, ...] = (),
        since: int = 0,
        must: bool = False,
    ) -> None:
        desk = self._desk
        self._refused = False
        stores = copy.stores
        self._asking = len(stores)
        for store in stores:
            ask = Ask(kind, store, copy.name, 0, desk.map.size_bytes, self, regions=regions, since=since)
            ask.must = must
            ask.record = desk.record
            desk.ask(ask)

    def answered(self, ask: Ask, answer: Answer) -> None:
        self._asking -= 1
        if answer.how != "done":
            self._refused = True
            self._answer = f"{ask.kind} at {ask.store}: {answer.how}"
        if answer.how == "done":
            if ask.kind == "seal":
                self._own_active.update(answer.regions)
            elif ask.kind == "missed":
                self._missed.update(answer.regions)
                self.full |= answer.record != self._desk.record  # that store began another one
            elif ask.kind == "flush":
                self._boots[ask.store] = answer.boot
        if self._asking or self.phase in ("over", "failed"):
            return
        if self.phase == "copying":
            self._no_room = self._refused
            self._go_on()
        elif self._refused:
            self._fail(self._answer)
        elif ask.kind == "seal":
            self._sealed()
        elif ask.kind == "missed":
            self._know_missed()
        elif ask.kind == "flush":
            self._flushed()
        elif ask.kind == "hand_over":
            self._promote()

    def _fail(self, why: str) -> None:
        """For now. A copy that was syncing is taken out of it, so that writes do not try it any more."""
        if self.phase in ("over", "failed"):
            return
        copy = self._copy
        self._finish("failed", f"{self.phase}: {why}")
        if copy is not None and copy.state == "syncing" and copy.moves is None:
            self._desk.retire((self.name,))

    def _finish(self, phase: Phase, why: str = "") -> None:
        self.why = why
        self._owner.looks_no_more(self._look)
        self._owner_release()
        self.phase = phase
        self._release_acknowledgements()

    def _owner_release(self) -> None:
        if self.phase in ("draining", "flushing"):
            self._owner.unhold(f"promote {self.name}")

    # --- beginning ------------------------------------------------------------------------------------

    def _sealed(self) -> None:
        copy, desk = self._copy, self._desk
        if copy is None:
            self._finish("over")
        elif copy.state == "syncing":
            self._ask_missed(copy)
        else:
            self.phase = "beginning"
            newest = desk.newest
            command = BeginResync(newest.volume, newest.epoch, desk.me, self.name, desk.record)
            self._proposed_epoch = newest.epoch
            desk.propose(command, self._begun)

    def _begun(self, decision: Decision) -> None:
        if decision == "rejected":
            self._fail("another change came first")

    def _look(self) -> None:
        """The end of any event of the owner."""
        desk = self._desk
        if self.phase in ("over", "failed"):
            return
        copy = self._copy
        if not desk.ours or copy is None:
            self._finish("over")
        elif self.phase == "promoting":
            if desk.newest.epoch > self._proposed_epoch:
                # decided: apply refuses it
                self._finish("failed", "promoting: another change came first")
        elif self.phase == "beginning" and copy.state == "syncing" and desk.map is desk.newest:
            self._ask_missed(copy)
        elif copy.state == "stale" and (self.phase in _WHILE_SYNCING or self._too_late):
            self._fail("another change came first")
        elif self._source_lost:
            if (
                not self._running
            ):  # nothing that was read there before comes after what is read by the next one
                self._finish("failed", f"{self.phase}: the source has lost what it had not flushed")
        elif self.phase == "copying":
            self._go_on()
        elif self.phase == "draining" and self._owner.drained:
            self._drained()

    @property
    def _source_lost(self) -> bool:
        return self._desk.newest.lossy_epoch > self._lossy_epoch and self.phase in _WHILE_SYNCING

    @property
    def _too_late(self) -> bool:
        """Another change came before the beginning; or after it, before it was installed here."""
        return self.phase == "beginning" and self._desk.newest.epoch > self._proposed_epoch

    def _ask_missed(self, copy: Copy) -> None:
        desk = self._desk
        self.phase = "asking"
        self.full = copy.moves is not None or not copy.record or copy.record != desk.record
        if self.full:
            self._know_missed()
        else:
            self._ask_all("missed", self._source, since=copy.left_epoch + 1)

    def _know_missed(self) -> None:
        copy, desk = self._copy, self._desk
        if copy is None:
            return
        wanted = RegionSet()
        if self.full:
            for part in copy.parts:
                wanted.add_all(regions_of(part.first, part.end))
        else:
            wanted.update(self._missed)
            if desk.rules.returning_own_regions:
                wanted.update(self._own_active)
        self.phase = "comparing"
        self._kept.ask(copy, self._source, lambda found: self._know_in_step(wanted, found))

    def _know_in_step(self, wanted: RegionSet, found: set[int] | None) -> None:
        """What an attempt before this one has brought into step need not be copied again."""
        if self.phase != "comparing":
            return
        if found is None:
            self._fail("a store did not say what is in step")
            return
        all_wanted = len(wanted)
        for region in found:
            if region not in self._own_active:
                wanted.discard(region)
        if len(wanted) == all_wanted:
            self._kept.begin()
        missing = self._desk.missing.setdefault(self.name, wanted)
        if missing is not wanted:  # writes have been there before
            missing.update(wanted)
        self._total = len(missing)
        self._next_round(missing)
        self.phase = "copying"
        self._go_on()

    # --- copying --------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        desk, copy = self._desk, self._copy
        if copy is None or copy.paused or desk.held or self._asking or self._source_lost:
            return
        if self._no_room:
            self._look_for_room(copy)
            return
        missing = desk.missing.get(self.name, RegionSet())
        while len(self._running) < MAX_PARALLEL:
            region = self._next(missing)
            if region is None or not desk.room_for(range(region, region + 1)) or not self._pacing.may_begin():
                break
            self._take(region)
            if not self._copy_region(region):
                break
        if missing or self._running or self._owner.rewriting.busy or self.phase != "copying":
            return
        if desk.leases.fresh(desk.now_ns):  # otherwise I/O would be held for as long as nobody decides
            self._stop_the_world()

    def _look_for_room(self, copy: Copy) -> None:
        """Regions that are active there need no room, and leave some when they are copied and flushed; they
        may be others than at the beginning."""
        if not self._running and self._pacing.may_begin():
            self._own_active.clear()
            self._first.clear()
            self._at = self._desk.map.regions
            self._ask_all("seal", copy)

    def _next(self, missing: RegionSet) -> int | None:
        """What failed comes again when all others had their turn."""
        found = self._next_of_round(missing)
        if found is None and len(missing) > len(self._running):
            self._next_round(missing)
            found = self._next_of_round(missing)
        return found

    def _next_round(self, missing: RegionSet) -> None:
        """Those that are active at its stores first: they need no room, and leave some when flushed."""
        few, many = sorted((missing, self._own_active), key=len)
        self._first = [region for region in few if region in many]
        self._first.reverse()
        self._at = 0

    def _next_of_round(self, missing: RegionSet) -> int | None:
        first = self._first
        while first and (first[-1] not in missing or first[-1] in self._running):
            first.pop()
        if first:
            return first[-1]
        region = missing.after(self._at)
        while region is not None and region in self._running:
            region = missing.after(region + 1)
        return region

    def _take(self, region: int) -> None:
        if self._first:
            self._first.pop()
        else:
            self._at = region + 1

    def _paced(self) -> None:
        if self.phase == "copying":
            self._go_on()

    def _copy_region(self, region: int) -> bool:
        """False: there is no room for one more range lock; later."""
        desk = self._desk
        first = region * REGION_BYTES
        end = min(first + REGION_BYTES, desk.map.size_bytes)
        self._running[region] = 0

        def ended(how: End) -> None:
            self._region_ended(region, end - first, how)

        copying = Equalise(desk, self._owner.balance, first, end, ended, only=self.name)

        def granted() -> None:
            desk.tracker.begin((region,), desk.now_ns)
            self._pacing.begin(end - first)
            copying.start()

        lock = self._owner.lock(first, end, exclusive=False, granted=granted)
        if lock is None:
            self._running.pop(region, None)
            desk.later(desk.limits.retry_ns, self._paced)
            return False
        if region in self._running:
            self._running[region] = lock
        else:
            self._owner.unlock(lock)  # it ended at once
        return True

    def _region_ended(self, region: int, length: int, how: End) -> None:
        desk = self._desk
        lock = self._running.pop(region, 0)
        desk.tracker.end((region,))
        self._pacing.end()
        if how == "done":
            self._failures = 0
            self._own_active.add(region)
            self._copied_bytes += length
            desk.missing.get(self.name, RegionSet()).discard(region)
            self._kept.copied(region)
        elif desk.room_wanted:
            self._no_room = True
        else:
            self._failures += 1
        if lock:
            self._owner.unlock(lock)
        if self.phase != "copying":
            return
        if self._failures >= MAX_FAILURES:
            self._fail(f"{MAX_FAILURES} regions in a row could not be copied")
        elif how == "failed":
            self._pacing.rest(desk.limits.retry_ns)

    # --- promoting ------------------------------------------------------------------------------------

    def _stop_the_world(self) -> None:
        """New I/O waits until what is under way has ended and the copy has flushed: then it has every write
        that was acknowledged, on stable storage, and those that follow are not acknowledged before the
        promotion is decided."""
        self.phase = "draining"
        self._promotion = self._desk.token()
        if self._desk.rules.hold_before_own_promotion:
            self._desk.undecided.add(self._promotion)
        self._owner.pause(f"promote {self.name}")
        if self._owner.drained:
            self._drained()

    def _drained(self) -> None:
        copy = self._copy
        if self._desk.missing.get(self.name) or self._owner.rewriting.busy or copy is None:
            self._back_to_copying()
        else:
            self.phase = "flushing"
            self._ask_all("flush", copy)

    def _back_to_copying(self) -> None:
        self._release_acknowledgements()
        self._owner_release()
        self.phase = "copying"

    def _release_acknowledgements(self) -> None:
        if self._promotion is not None:
            self._desk.undecided.discard(self._promotion)
            self._promotion = None
            self._owner.look_again()

    def _flushed(self) -> None:
        """Hand the record over: whoever else is away must find in it what it missed."""
        desk, copy = self._desk, self._copy
        assert copy is not None, "looked at before"
        away = [other for other in desk.newest.copies if other.name != self.name and other.state != "in_sync"]
        regions = tuple(range(desk.map.regions)) if away and self.full else tuple(sorted(self._missed))
        self._ask_all("hand_over", copy, regions=regions if away else ())

    def _promote(self) -> None:
        desk, copy = self._desk, self._copy
        assert copy is not None, "looked at before"
        newest, boots = desk.newest, tuple(sorted(self._boots.items()))
        command: Command
        if copy.moves is not None:
            command = MoveSegments(newest.volume, newest.epoch, desk.me, copy.moves, boots)
        else:
            command = Promote(newest.volume, newest.epoch, desk.me, self.name, boots)
        self._proposed_epoch = newest.epoch
        desk.propose(command, self._decided, ends_sole=True)
        self._owner_release()
        self.phase = "promoting"

    def _decided(self, decision: Decision) -> None:
        """Refused: it never happens. Otherwise acknowledgements wait until the map here is newer than the one
        that it was proposed by: that one says what became of it."""
        if decision == "rejected" and self.phase == "promoting":
            self._finish("failed", "promoting: the tables refused it")
