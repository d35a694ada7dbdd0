"""Comparing all copies of a volume while it is used: region by region, and mending them if that is wanted.

May live here: which regions, how many at once, how fast, what became of them. One region is `comparing`'s.
Keeps:

- Nothing is told to be equal that was not compared: a region counts as compared when every copy that was in
  sync then took part, else as skipped. How many regions each copy took part in is told, too.
- `Tally` is always that of the regions before `done`: whoever goes on from it (another owner, after this one)
  counts nothing twice and leaves nothing out.
- It goes at the rates of resync, and yields to clients like that.
- While fewer than two copies are in sync it waits, bounded, for one to come back.
"""

from typing import Literal

import msgspec
from msgspec import Struct

from vimraft.core.ids import LocalName
from vimraft.protocol.comparing import Checked, Difference, Mending, RegionCheck
from vimraft.protocol.maps import REGION_BYTES
from vimraft.protocol.owner import Owner
from vimraft.protocol.owner_effects import Effect
from vimraft.protocol.pacing import Pacing

MAX_PARALLEL = 4
"""Regions being compared at once."""
MAX_AHEAD = 64
"""No region begins so far behind one that must be asked for again: what is known of those is kept apart."""
MAX_ATTEMPTS = 5
"""Looks at a region of which not every copy was heard."""
MAX_DIFFERENCES = 64
"""Told one by one; further ones are only counted."""
ALONE_NS = 30_000_000_000
"""How long it waits for a second copy in sync before it skips what is left."""
Phase = Literal["comparing", "over", "moved", "stopped"]
"""`over`: all regions were looked at. `moved`: this manager is not the owner any more. `stopped`: somebody
asked for it."""


class Tally(Struct, frozen=True):
    """Of the regions before `done`."""

    regions: int = 0
    """Of the volume."""
    done: int = 0
    compared: int = 0
    """In all copies that were in sync then."""
    differing: int = 0
    repaired: int = 0
    """Of those."""
    skipped: int = 0
    """Not compared, or not in all copies in sync; `compared + skipped == done`."""
    copies: dict[LocalName, int] = {}
    """How many regions of each copy were compared."""
    differences: tuple[Difference, ...] = ()
    """The first MAX_DIFFERENCES, adjacent ones of the same kind joined."""
    why: str = ""
    """Why a region was skipped, or not repaired, last."""
    partly: tuple[LocalName, ...] = ()
    """At the end: copies in sync that were not compared everywhere."""
    out_of_step: tuple[LocalName, ...] = ()
    """At the end: copies that are not in sync, so that nothing is said of them."""

    @property
    def clean(self) -> bool:
        """All copies in sync are known to be equal (again)."""
        return self.differing == self.repaired and not self.skipped and not self.partly


class Verify:
    """Of one volume, from where `tally` ends. Its events are the owner's, which must serve already."""

    def __init__(self, owner: Owner, mending: Mending | None = None, tally: Tally | None = None) -> None:
        self._owner = owner
        self._desk = owner.desk
        self._mending = mending
        self.tally = msgspec.structs.replace(tally or Tally(), regions=owner.desk.map.regions)
        self.phase: Phase = "comparing"
        self._next = self.tally.done
        self._again: list[int] = []
        """To be looked at again now, before any further one."""
        self._running: dict[int, RegionCheck] = {}
        self._waiting = 0
        """Regions that are to be looked at again later."""
        self._attempts: dict[int, int] = {}
        self._most_attempts = MAX_ATTEMPTS
        """One, when that many were in vain for the last region: its store may be silent for long."""
        self._tried: dict[int, tuple[Difference, ...]] = {}
        """Found in regions whose mending had an unknown end: if nothing differs any more, it succeeded."""
        self._known: dict[int, Checked] = {}
        """Of regions behind one that is not known yet."""
        self._stopping = False
        self._alone_since_ns: int | None = None
        self._pacing = Pacing(owner, lambda: None)  # the end of any event looks again

    def start(self, now_ns: int) -> list[Effect]:
        self._owner.begin(now_ns)
        self._owner.looks(self._look)
        self._look()
        return self._owner.end()

    def stop(self, now_ns: int) -> list[Effect]:
        """What is being looked at comes to its end; `tally` counts on."""
        self._owner.begin(now_ns)
        self._stopping = True
        self._look()
        return self._owner.end()

    @property
    def ended(self) -> bool:
        return self.phase in ("over", "moved", "stopped")

    def _look(self) -> None:
        """The end of any event of the owner."""
        if self.ended:
            return
        if not self._desk.ours:
            for check in self._running.values():
                check.over = True
            self._finish("moved")
        elif self.phase == "comparing":
            self._go_on()

    # --- regions --------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        while self.phase == "comparing" and len(self._running) < MAX_PARALLEL:
            if self._stopping or (self._next >= self.tally.regions and not self._again):
                self._end_if_idle()
                return
            if self._desk.held or self._desk.full or self._alone():
                return
            far = self._next - self.tally.done >= MAX_AHEAD or self._next >= self.tally.regions
            if (far and not self._again) or not self._pacing.may_begin():
                return
            if self._again:
                region = self._again.pop()
            else:
                region, self._next = self._next, self._next + 1
            self._check(region)

    def _check(self, region: int) -> None:
        check = RegionCheck(
            self._owner, region, self._mending, lambda checked: self._checked(region, checked)
        )
        self._running[region] = check
        self._pacing.begin(REGION_BYTES)
        if not check.start():
            del self._running[region]
            self._pacing.end()
            self._later(region, 1)

    def _checked(self, region: int, checked: Checked) -> None:
        del self._running[region]
        self._pacing.end()
        attempts = self._attempts.get(region, 0) + (not checked.later)
        if checked.later or (checked.passing and attempts < self._most_attempts):
            self._attempts[region] = attempts
            if checked.tried:
                self._tried[region] = checked.differences
            self._later(region, max(1, attempts))
            return
        self._attempts.pop(region, None)
        before = self._tried.pop(region, ())
        if before and not checked.differences and not checked.why:
            mended = tuple(msgspec.structs.replace(one, repaired=True) for one in before)
            checked = msgspec.structs.replace(checked, differences=mended)
        self._most_attempts = 1 if checked.passing else MAX_ATTEMPTS
        self._known[region] = checked
        self._count()
        # what comes next begins at the end of this event, which calls `_look`

    def _later(self, region: int, pauses: int) -> None:
        def again() -> None:
            self._waiting -= 1
            self._again.append(region)

        self._waiting += 1
        self._desk.later(self._desk.limits.retry_ns * pauses, again)

    def _alone(self) -> bool:
        desk = self._desk
        if len(desk.map.in_sync) > 1:
            self._alone_since_ns = None
            return False
        if self._alone_since_ns is None:
            self._alone_since_ns = desk.now_ns
            desk.later(ALONE_NS, lambda: None)  # the end of that event looks again
        elif desk.now_ns - self._alone_since_ns >= ALONE_NS and not self._running:
            self._skip_rest("only one copy is in sync")
            self._over()
        return True

    # --- counting -------------------------------------------------------------------------------------

    def _count(self) -> None:
        while (checked := self._known.pop(self.tally.done, None)) is not None:
            self.tally = _with(self.tally, checked)

    def _skip_rest(self, why: str) -> None:
        for region in sorted(self._known):
            self.tally = _skipped(self.tally, region, why)
            self._count()
        self.tally = _skipped(self.tally, self.tally.regions, why)

    def _end_if_idle(self) -> None:
        if self._running or self.phase != "comparing":
            return
        if self._stopping:
            self._finish("stopped")
        elif not self._waiting:
            self._over()

    def _over(self) -> None:
        newest, tally = self._desk.newest, self.tally
        partly = [c.name for c in newest.in_sync if tally.copies.get(c.name, 0) < tally.regions]
        others = [c.name for c in newest.copies if c.state != "in_sync" and c.moves is None]
        self.tally = msgspec.structs.replace(tally, partly=tuple(partly), out_of_step=tuple(others))
        self._finish("over")

    def _finish(self, phase: Phase) -> None:
        self.phase = phase
        self._owner.looks_no_more(self._look)


def _skipped(tally: Tally, end: int, why: str) -> Tally:
    left = end - tally.done
    if left <= 0:
        return tally
    return msgspec.structs.replace(tally, done=end, skipped=tally.skipped + left, why=why)


def _with(tally: Tally, checked: Checked) -> Tally:
    """One region more."""
    compared = len(checked.copies) > 1 and not checked.why
    copies = dict(tally.copies)
    if len(checked.copies) > 1:
        for copy in checked.copies:
            copies[copy] = copies.get(copy, 0) + 1
    found = checked.differences
    mended = bool(found) and all(one.repaired for one in found)
    return msgspec.structs.replace(
        tally,
        done=tally.done + 1,
        compared=tally.compared + compared,
        skipped=tally.skipped + (not compared),
        differing=tally.differing + bool(found),
        repaired=tally.repaired + mended,
        copies=copies,
        differences=_joined(tally.differences, found),
        why=checked.why or checked.unmended or tally.why,
    )


def _joined(known: tuple[Difference, ...], found: tuple[Difference, ...]) -> tuple[Difference, ...]:
    joined = list(known)
    for one in found:
        last = joined[-1] if joined else None
        if last is not None and (last.end, last.groups, last.repaired) == (
            one.first,
            one.groups,
            one.repaired,
        ):
            joined[-1] = msgspec.structs.replace(last, end=one.end)
        elif len(joined) < MAX_DIFFERENCES:
            joined.append(one)
    return tuple(joined)
