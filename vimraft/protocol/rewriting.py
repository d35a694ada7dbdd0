"""After a flush failed at the last copy in sync: what it was to make durable is written there again.

May live here: that, region by region. The kernel counts the pages as clean: what they show now is gone as
soon as it evicts them, at any time, and the next flush says nothing of it. Clients have been told. But a copy
that is brought back into step reads what the pages show now (INV-4: copies in sync are equal), and so does
whoever reads twice. So each active region is read and written again, under its exclusive lock, to all copies
that writes go to: whatever was found then is what stays. Until a region had its turn it is not cleared, and
until all had it no copy is promoted.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from vimraft.protocol.balance import Balance
from vimraft.protocol.copying import Equalise
from vimraft.protocol.desk import Desk
from vimraft.protocol.maps import REGION_BYTES
from vimraft.protocol.owner_effects import Invalidate
from vimraft.protocol.writes import End

MAX_PARALLEL = 2
"""Regions at once: clients go on."""


class Locking(Protocol):
    """`Owner.lock`."""

    def __call__(
        self, first: int, end: int, *, exclusive: bool, granted: Callable[[], None]
    ) -> int | None: ...


class Rewriting:
    """Of one life of the owner; another one reads what its stores have."""

    def __init__(self, desk: Desk, balance: Balance, lock: Locking, unlock: Callable[[int], None]) -> None:
        self._desk = desk
        self._balance = balance
        self._lock = lock
        self._unlock = unlock
        self._queue: list[int] = []
        self._running: dict[int, int] = {}
        """Range lock by region; 0: not known yet."""

    @property
    def busy(self) -> bool:
        return bool(self._queue or self._running)

    def begin(self) -> None:
        """A flush has failed: every region that is active now. One that is under way may have been read
        before, and comes again."""
        desk, waiting = self._desk, set(self._queue)
        regions = sorted((region for region in desk.tracker.active if region not in waiting), reverse=True)
        desk.tracker.begin(regions, desk.now_ns)
        self._queue[:0] = regions
        self._go_on()

    def _go_on(self) -> None:
        desk = self._desk
        while self._queue and len(self._running) < MAX_PARALLEL and desk.ours:
            region = self._queue[-1]
            if region in self._running or not self._rewrite(region):
                return

    def _range(self, region: int) -> tuple[int, int]:
        first = region * REGION_BYTES
        return first, min(first + REGION_BYTES, self._desk.map.size_bytes)

    def _rewrite(self, region: int) -> bool:
        """False: there is no room for one more range lock; later."""
        desk = self._desk
        first, end = self._range(region)
        self._queue.pop()
        self._running[region] = 0
        copying = Equalise(desk, self._balance, first, end, partial(self._ended, region))
        lock = self._lock(first, end, exclusive=True, granted=copying.start)
        if lock is None:
            del self._running[region]
            self._queue.append(region)
            desk.later(desk.limits.retry_ns, self._go_on)
            return False
        if region in self._running:
            self._running[region] = lock
        else:
            self._unlock(lock)  # it ended at once
        return True

    def _ended(self, region: int, _how: End) -> None:
        lock = self._running.pop(region)
        self._desk.tracker.end((region,))
        self._desk.effects.append(Invalidate(*self._range(region)))
        if lock:
            self._unlock(lock)
        self._go_on()
