"""FLUSH at the owner: one round covers everybody who asked before it began; and clearing regions after it.

May live here: rounds of flushes, and the clearing that only they allow. Keeps INV-3: a round is done when all
in-sync copies of the newest applied map have flushed, and no promotion of our own is undecided. A flush goes
to copies, whatever epochs their data were written in. A copy whose flush failed is retired, its flush is
never tried again (the kernel forgets the failure with the data); the last one's error goes to the clients.
A disk may be busy with one for long: unlike a write, it is sent again to a store that was silent.
"""

from collections import Counter
from collections.abc import Callable

from vimraft.core.ids import LocalName
from vimraft.protocol.asks import Answer, Ask
from vimraft.protocol.desk import Desk
from vimraft.protocol.maps import REGION_BYTES
from vimraft.protocol.tracker import CLEAR_AFTER_NS
from vimraft.protocol.writes import MAX_ATTEMPTS, End

Told = Callable[[End], None]


class FlushRound:
    def __init__(self, desk: Desk, ended: Told) -> None:
        self._desk = desk
        self._ended = ended
        self._mark = desk.tracker.mark()
        self._asked: dict[LocalName, int] = {}
        self._under_way = 0
        self._ok: set[LocalName] = set()
        self._failed: set[LocalName] = set()
        self._broken: set[LocalName] = set()
        """Of those, whose disk said so. Others cannot be reached, and may be again."""
        self._again: set[LocalName] = set()
        self._losses: Counter[LocalName] = Counter()
        self._timer: int | None = None
        self.over = False

    def send(self) -> None:
        """To every copy that has not answered for good."""
        desk = self._desk
        wanted = [c for c in desk.map.targets if c.name not in self._ok and c.name not in self._failed]
        self._again.clear()
        if desk.stuck:
            wanted, others = desk.helpful(wanted)
            self._failed.update(copy.name for copy in others)
        asks = [
            Ask("flush", store, copy.name, 0, desk.map.size_bytes, self)
            for copy in wanted
            for store in copy.stores
        ]
        for copy in wanted:
            self._asked[copy.name] = len(copy.stores)
        if not asks:
            self.settle()
            return
        desk.in_flight += 1
        self._under_way = len(asks)
        for ask in asks:
            desk.ask(ask)

    def answered(self, ask: Ask, answer: Answer) -> None:
        self._asked[ask.copy] -= 1
        self._under_way -= 1
        if answer.how in ("older", "lost", "silent"):
            self._again.add(ask.copy)
            self._losses[ask.copy] += answer.how != "older"
            if self._desk.behind(ask, answer):
                self._losses[ask.copy] = MAX_ATTEMPTS
        elif answer.how != "done":
            self._failed.add(ask.copy)
            if answer.how == "failed":
                self._broken.add(ask.copy)
                self._desk.doubt((ask.copy,))
            self._note_syncing(ask.copy)
        elif not self._asked[ask.copy] and ask.copy not in self._again | self._failed:
            self._ok.add(ask.copy)
        if self._under_way == 0:
            self._desk.in_flight -= 1
            self.settle()
        elif self._desk.needed() <= self._ok and not self.over:
            self._settle_done()  # syncing copies owe an answer that nobody waits for

    def _note_syncing(self, name: LocalName) -> None:
        """It lost what it could not flush, also when nobody waited for that: it gets it again."""
        if any(copy.name == name for copy in self._desk.newest.syncing):
            self._desk.misses(name).update(self._desk.tracker.active)

    def _settle_done(self) -> None:
        desk = self._desk
        if desk.ours and not desk.undecided:
            desk.tracker.flushed(self._mark)
            self._end("done")

    def settle(self) -> None:
        desk = self._desk
        if self.over or self._under_way or not desk.ours:
            return
        given_up = {name for name in self._again if self._losses[name] >= MAX_ATTEMPTS}
        self._failed |= given_up
        self._again -= given_up
        wanted = desk.needed()
        if wanted <= self._ok:
            self._settle_done()
            return
        if desk.newest.epoch != desk.map.epoch:
            return  # it goes on when that map is installed
        if self._again & wanted:
            self._later()
        elif not self._ok & wanted and wanted <= self._broken:
            self._end("failed")
        elif not self._ok & wanted:
            recovering = self._failed - self._broken
            self._failed -= recovering
            self._again |= recovering
            self._later()
        else:
            desk.retire(self._failed & wanted)
            self._later()

    def _later(self) -> None:
        if self._timer is None:
            self._timer = self._desk.later(self._desk.limits.retry_ns, self._retry)

    def _retry(self) -> None:
        self._timer = None
        if self.over or self._under_way:
            return
        if self._again and not self._desk.held:
            self.send()
        else:
            self.settle()

    def map_changed(self) -> None:
        if not self.over and self._under_way == 0 and self._desk.ours:
            self._losses.clear()
            self.send()

    def _end(self, how: End) -> None:
        if self.over:
            return
        self.over = True
        if self._timer is not None:
            self._desk.never(self._timer)
        self._ended(how)


class Flushing:
    """One round at a time; whoever comes while it runs waits for the next one, which begins later."""

    def __init__(self, desk: Desk, lost: Callable[[], None]) -> None:
        """`lost` is told, before anybody, that a flush failed at the last copy: a disk tells that once, so
        every session must hear of it from us, whoever asked for this flush."""
        self._desk = desk
        self._lost = lost
        self.round: FlushRound | None = None
        self._present: list[Told] = []
        self._next: list[Told] = []

    def flush(self, told: Told) -> None:
        self._next.append(told)
        self.start()

    def start(self) -> None:
        if self.round is not None or not self._next or self._desk.held:
            return
        self._present, self._next = self._next, []
        self.round = FlushRound(self._desk, self._done)
        self.round.send()

    def _done(self, how: End) -> None:
        told, self._present = self._present, []
        assert self.round is not None, "a round ended that was not running"
        self.round = None
        if how == "failed":
            self._lost()
        for call in told:
            call(how)
        self.start()

    def map_changed(self) -> None:
        if self.round is not None:
            self.round.map_changed()
        self.start()

    def settle(self) -> None:
        if self.round is not None:
            self.round.settle()


class Clearing:
    """Clears regions at all stores of the in-sync copies, each under its exclusive lock: no write can set
    the bit again before it is cleared. Nobody waits for it, so that its failure costs nothing: the region
    stays active, and is offered again."""

    def __init__(
        self,
        desk: Desk,
        flushing: Flushing,
        released: Callable[[list[int]], None],
    ) -> None:
        """`released` is told whose ranges are granted now."""
        self._desk = desk
        self._flushing = flushing
        self._released = released
        self._under_way = 0
        self._locks: list[int] = []
        self._regions: tuple[int, ...] = ()
        self._failed = False
        self.refused = False
        """The last attempt failed: a store knows of a write that no flush has covered there."""
        self._again_ns = 0
        self._room_again_ns = 0
        """Not before this is flushed again for the sake of room: many flushes may follow that make none."""
        self._ripe_again_ns = 0
        """Nor before this because of regions that were left alone."""

    @property
    def busy(self) -> bool:
        return self._under_way > 0

    def look(self) -> None:
        """Regions are ripe, or room is wanted."""
        desk = self._desk
        if self.busy or desk.held:
            return
        self._start(at_once=desk.room_wanted)
        if self.busy or self._flushing.round is not None:
            return
        now_ns = desk.now_ns
        if (desk.room_wanted or self.refused) and now_ns >= self._room_again_ns:
            self._room_again_ns = now_ns + desk.limits.retry_ns
            desk.later(desk.limits.retry_ns, lambda: None)  # the end of that event looks again
            self._flushing.flush(_told_by_flushing)
        elif now_ns >= self._ripe_again_ns and desk.tracker.ripe_unflushed(now_ns):
            self._ripe_again_ns = now_ns + CLEAR_AFTER_NS
            self._flushing.flush(_told_by_flushing)

    def hasten(self) -> None:
        """Whatever a flush has covered may go now, however short it was left alone."""
        if not self.busy and not self._desk.held:
            self._start(at_once=True)

    def _start(self, *, at_once: bool) -> None:
        desk = self._desk
        if not desk.ours or desk.map.epoch != desk.newest.epoch:
            return
        if desk.now_ns < self._again_ns:
            return
        regions: list[int] = []
        for number in desk.tracker.clearable(desk.now_ns, at_once=at_once):
            first = number * REGION_BYTES
            if desk.ranges.full or desk.ranges.overlaps(first, REGION_BYTES, exclusive=True):
                continue
            lock = desk.token()
            desk.ranges.acquire(lock, first, REGION_BYTES, exclusive=True)
            self._locks.append(lock)
            regions.append(number)
        if regions:
            self._send(tuple(regions))

    def _send(self, regions: tuple[int, ...]) -> None:
        desk = self._desk
        self._regions, self._failed = regions, False
        asks = []
        for copy in desk.map.targets:
            keep = desk.missing.get(copy.name, ()) if copy.state == "syncing" else ()
            some = tuple(number for number in regions if number not in keep)
            asks += [
                Ask("clear", store, copy.name, 0, 0, self, regions=some) for store in copy.stores if some
            ]
        desk.in_flight += 1
        self._under_way = len(asks)
        for ask in asks:
            desk.ask(ask)

    def answered(self, _ask: Ask, answer: Answer) -> None:
        self._failed |= answer.how != "done"
        self._under_way -= 1
        if self._under_way:
            return
        desk = self._desk
        desk.in_flight -= 1
        self.refused = self._failed
        if self._failed:
            self._again_ns = desk.now_ns + desk.limits.retry_ns
            desk.later(desk.limits.retry_ns, lambda: None)  # the end of that event tries again
        else:
            desk.tracker.cleared(self._regions)
        locks, self._locks = self._locks, []
        desk.room_wanted = False
        for lock in locks:
            self._released(desk.ranges.release(lock))


def _told_by_flushing(_how: End) -> None:
    """A failure, too; and regions that were not flushed stay active."""
