"""Comparing one region of all copies in sync by checksums, and making them equal there if that is wanted.

May live here: the life of one such region: locked, looked at, looked at again, mended. Which regions, how
many at once and how fast is `verify`'s. Keeps INV-3 and INV-5:

- It is looked at under the shared range lock, so that no write is under way at any copy: what differs then
  differs for good. A difference counts when a second look under the same lock finds it, too.
- Copies may lie in pieces at several stores, cut at different places: it is cut wherever one of them is.
- A lock is held for as long as two looks take, and no longer than `LOOK_NS` each: who has not answered by
  then is asked again later.
- Mending writes what the source holds to the others, under the exclusive lock and to stable storage. It
  begins only when every copy in sync has answered.
- The region does not become active by that. A takeover makes active regions equal, from any copy in sync: if
  this owner died meanwhile, it might write over the source what was to be mended. So a difference stays one
  until it is mended, and whoever goes on finds it again. What active marks are for otherwise is done apart:
  copies that are away find the region in the records (`hand_over`), syncing ones get it again.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

from msgspec import Struct

from vimraft.core.ids import LocalName
from vimraft.protocol.asks import Answer, Ask, AskKind
from vimraft.protocol.desk import MS, Desk
from vimraft.protocol.maps import REGION_BYTES, Copy
from vimraft.protocol.owner import Owner
from vimraft.protocol.owner_effects import Invalidate

LOOK_NS = 2_000 * MS
"""A look that takes longer is given up, and the range lock with it."""
MAJORITY_OF = 3
"""With fewer copies in sync nobody can tell by their number which one is right."""
_NO_COPY = LocalName("")
Groups = tuple[tuple[LocalName, ...], ...]


class Difference(Struct, frozen=True):
    """Bytes `first … end-1` are not the same in all copies."""

    first: int
    end: int
    groups: Groups
    """Copies that hold the same, the largest group first."""
    repaired: bool = False


class Mending(Struct, frozen=True):
    """`source` None: what most copies hold, if there is such."""

    source: LocalName | None = None

    def of(self, groups: Groups) -> LocalName | None:
        """The copy to take; None: nobody can tell."""
        if self.source is not None:
            return self.source if any(self.source in group for group in groups) else None
        copies = sum(len(group) for group in groups)
        most = groups[0]
        return most[0] if copies >= MAJORITY_OF and 2 * len(most) > copies else None


class Checked(Struct, frozen=True):
    copies: tuple[LocalName, ...]
    """Compared with each other; fewer than two: nothing was."""
    differences: tuple[Difference, ...] = ()
    why: str = ""
    """Why not all copies in sync are among them; "": they are."""
    passing: bool = False
    """What keeps one from answering may pass: it is worth another look."""
    later: bool = False
    """The map is changing: as if it had not begun."""
    unmended: str = ""
    """Why a difference stays that was to be repaired."""
    tried: bool = False
    """Mending had begun."""


def pieces(copies: Sequence[Copy], first: int, end: int) -> list[tuple[int, int]]:
    """`first … end-1`, cut wherever a part of one of the copies ends."""
    cuts = {first, end}
    for copy in copies:
        cuts.update(part.first for part in copy.split(first, end))
    found = sorted(cuts)
    return list(pairwise(found))


class _Look:
    """What every copy in sync says of a range, once."""

    def __init__(self, desk: Desk, first: int, end: int, ended: Callable[["_Look"], None]) -> None:
        self._desk = desk
        self._ended = ended
        self._under_way = 0
        self._sums: dict[tuple[int, int], dict[LocalName, bytes]] = {}
        self._silent: dict[LocalName, str] = {}
        self._passing = False
        self.over = False
        copies = desk.map.in_sync
        self.copies = tuple(copy.name for copy in copies)
        self._pieces = pieces(copies, first, end)
        self._asks = [
            Ask("checksum", part.store, copy.name, part.first, part.end, self, must=True)
            for piece in self._pieces
            for copy in copies
            for part in copy.split(*piece)
        ]

    def send(self) -> None:
        desk = self._desk
        self._timer = desk.later(LOOK_NS, self._too_late)
        self._under_way = len(self._asks)
        desk.in_flight += 1
        for ask in self._asks:
            desk.ask(ask)

    def answered(self, ask: Ask, answer: Answer) -> None:
        if answer.how == "done":
            self._sums.setdefault((ask.first, ask.end), {})[ask.copy] = answer.data
        else:
            self._silent[ask.copy] = f"copy {ask.copy} at {ask.store}: {_WORDS.get(answer.how, answer.how)}"
            self._passing |= answer.how not in ("failed", "away", "unsupported")
        self._under_way -= 1
        if self._under_way == 0:
            self._desk.in_flight -= 1
            self._end()

    def _too_late(self) -> None:
        for copy in self.copies:
            if any(copy not in self._sums.get(piece, {}) for piece in self._pieces):
                self._silent.setdefault(copy, f"copy {copy} has not answered in time")
                self._passing = True
        self._end()

    def _end(self) -> None:
        if not self.over:
            self.over = True
            self._desk.never(self._timer)
            self._ended(self)

    def checked(self) -> Checked:
        heard = tuple(copy for copy in self.copies if copy not in self._silent)
        found: list[Difference] = []
        for piece in self._pieces:
            sums = {copy: digest for copy, digest in self._sums.get(piece, {}).items() if copy in heard}
            by_sum: dict[bytes, list[LocalName]] = {}
            for copy in heard:
                by_sum.setdefault(sums[copy], []).append(copy)
            if len(by_sum) > 1:
                groups = sorted((tuple(group) for group in by_sum.values()), key=lambda g: (-len(g), g))
                found.append(Difference(*piece, tuple(groups)))
        why = "; ".join(self._silent.values())
        return Checked(heard, tuple(found), why, passing=self._passing)


_WORDS = {
    "failed": "it cannot be read there",
    "away": "its store takes no requests for it",
    "older": "its store goes by other tables",
    "lost": "no answer",
    "silent": "no answer",
    "busy": "its store has too much to do",
    "unsupported": "the release of its store knows no checksums",
}


_Answers = list[tuple[Ask, Answer]]


class _Round:
    """Some messages at once, and all their answers."""

    def __init__(self, desk: Desk, ended: Callable[[_Answers], None]) -> None:
        self._desk = desk
        self._ended = ended
        self._under_way = 0
        self._answers: _Answers = []

    def send(self, asks: Sequence[Ask]) -> None:
        """At least one."""
        self._desk.in_flight += 1
        self._under_way = len(asks)
        for ask in asks:
            self._desk.ask(ask)

    def answered(self, ask: Ask, answer: Answer) -> None:
        self._answers.append((ask, answer))
        self._under_way -= 1
        if self._under_way == 0:
            self._desk.in_flight -= 1
            self._ended(self._answers)


def _asks(kind: AskKind, copy: Copy, where: Difference, round_: _Round, data: bytes = b"") -> list[Ask]:
    """To all stores of a copy; `data`: for stable storage."""
    found: list[Ask] = []
    for part in copy.split(where.first, where.end):
        piece = data[part.first - where.first : part.end - where.first]
        found.append(
            Ask(
                kind,
                part.store,
                copy.name,
                part.first,
                part.end,
                round_,
                data=piece,
                fua=bool(data),
                must=True,
            )
        )
    return found


class RegionCheck:
    """`ended` is called once. `mending` None: differences are only told."""

    def __init__(
        self, owner: Owner, region: int, mending: Mending | None, ended: Callable[[Checked], None]
    ) -> None:
        self._owner = owner
        self._desk = owner.desk
        self._region = region
        self._first = region * REGION_BYTES
        self._last = min(self._first + REGION_BYTES, owner.desk.map.size_bytes)
        self._mending = mending
        self._ended = ended
        self._lock: int | None = None
        self._looks = 0
        self._found: tuple[Difference, ...] = ()
        self._todo: list[Difference] = []
        self._unmended = ""
        self._passing = False
        """Mending failed because of something that may pass."""
        self.over = False

    def start(self) -> bool:
        """False: there is no room for one more range lock."""
        return self._acquire(self._look, exclusive=False)

    # --- the range lock -------------------------------------------------------------------------------

    def _acquire(self, then: Callable[[], None], *, exclusive: bool) -> bool:
        granted = False

        def grant() -> None:
            nonlocal granted
            granted = True
            if self._lock is not None and not self.over:
                then()

        self._lock = None
        self._lock = self._owner.lock(self._first, self._last, exclusive=exclusive, granted=grant)
        if granted:
            then()
        return self._lock is not None

    def _finish(self, checked: Checked) -> None:
        if self.over:
            return
        self.over = True
        if self._lock is not None:
            self._owner.unlock(self._lock)
        self._ended(checked)

    # --- looking --------------------------------------------------------------------------------------

    def _look(self) -> None:
        desk = self._desk
        if desk.held or desk.full or len(desk.map.in_sync) < 2:
            self._finish(Checked((), later=True))
            return
        self._looks += 1
        _Look(desk, self._first, self._last, self._looked).send()

    def _looked(self, look: _Look) -> None:
        if self.over:
            return
        checked = look.checked()
        if not checked.differences:
            self._finish(checked)
        elif self._looks == 1:
            self._look()
        elif checked.why or self._mending is None or not self._desk.ours:
            self._finish(checked)
        else:
            self._found = checked.differences
            if self._lock is not None:
                self._owner.unlock(self._lock)
            if not self._acquire(self._look_to_mend, exclusive=True):
                self._finish(Checked((), later=True))

    # --- mending --------------------------------------------------------------------------------------

    def _look_to_mend(self) -> None:
        """Clients may have written there before the lock was ours."""
        desk = self._desk
        if desk.held or desk.full or desk.undecided:
            self._finish(Checked((), later=True))
        else:
            _Look(desk, self._first, self._last, self._looked_to_mend).send()

    def _looked_to_mend(self, look: _Look) -> None:
        if self.over:
            return
        checked = look.checked()
        if checked.why or not self._desk.ours:
            self._finish(Checked(checked.copies, self._found, checked.why, passing=checked.passing))
            return
        self._todo = list(checked.differences)
        if self._todo:
            self._note()
        else:
            self._mend_next()

    def _note(self) -> None:
        """For copies that are not in sync: those that get every write get the region again, and those that
        are away find it in the records as written now."""
        desk = self._desk
        for copy in desk.newest.syncing:
            desk.misses(copy.name).add(self._region)
        away = desk.record and any(copy.state == "stale" for copy in desk.newest.copies)
        stores = dict.fromkeys(store for copy in desk.map.in_sync for store in copy.stores) if away else ()
        if not stores:
            self._mend_next()
            return
        round_ = _Round(desk, self._noted)
        regions = (self._region,)
        round_.send(
            [Ask("hand_over", s, _NO_COPY, 0, 0, round_, record=desk.record, regions=regions) for s in stores]
        )

    def _noted(self, answers: _Answers) -> None:
        if any(answer.how != "done" for _, answer in answers):
            self._unmended = "it could not be noted for copies that are away"
            self._todo.clear()
        self._mend_next()

    def _mend_next(self) -> None:
        desk = self._desk
        if self.over:
            return
        if desk.held:
            desk.waiting.append(self._mend_next)
            return
        while self._todo:
            difference = self._todo.pop()
            source = self._source(difference)
            if source is not None:
                fetch = _Round(desk, partial(self._fetched, difference, source))
                fetch.send(_asks("read", source, difference, fetch))
                return
        _Look(desk, self._first, self._last, self._looked_at_end).send()

    def _source(self, difference: Difference) -> Copy | None:
        assert self._mending is not None, "nothing is mended that was not asked for"
        wanted = self._mending.source
        name = self._mending.of(difference.groups)
        copy = None if name is None else self._desk.map.copy(name)
        if copy is not None and copy.state == "in_sync":
            return copy
        named = f"copy {wanted} is not in sync" if wanted else ""
        self._unmended = named or "nobody can tell which copy is right: name it"
        return None

    def _fetched(self, difference: Difference, source: Copy, answers: _Answers) -> None:
        desk = self._desk
        if self.over:
            return
        if desk.held or not desk.ours or any(answer.how != "done" for _, answer in answers):
            self._unmended = "the source could not be read"
            self._mend_next()  # it stays as it is, and the last look says so
            return
        data = b"".join(answer.data for _, answer in sorted(answers, key=lambda pair: pair[0].first))
        right = next(group for group in difference.groups if source.name in group)
        wrong = [copy for copy in desk.map.in_sync if copy.name not in right]
        if not wrong:
            self._mend_next()  # they have left the copies in sync
            return
        desk.effects.append(Invalidate(difference.first, difference.end))
        mend = _Round(desk, self._mended)
        mend.send([ask for copy in wrong for ask in _asks("mend", copy, difference, mend, data)])

    def _mended(self, answers: _Answers) -> None:
        lost = {ask.store for ask, answer in answers if answer.how in ("lost", "silent")}
        if lost:
            self._desk.fence(sorted(lost))  # it may happen yet, and must not overtake what comes next
        for ask, answer in answers:
            if answer.how != "done":
                self._unmended = f"copy {ask.copy} could not be written"
                self._passing |= answer.how not in ("failed", "away", "unsupported")
        self._mend_next()

    def _looked_at_end(self, look: _Look) -> None:
        checked = look.checked()
        left = {(one.first, one.end) for one in checked.differences}
        copies = checked.copies if len(checked.copies) > 1 else ()
        known = not checked.why and len(look.copies) > 1
        told = tuple(
            Difference(one.first, one.end, one.groups, known and (one.first, one.end) not in left)
            for one in self._found
        )
        passing = (self._passing or checked.passing) and not all(one.repaired for one in told)
        self._finish(Checked(copies, told, checked.why, passing, unmended=self._unmended, tried=True))
