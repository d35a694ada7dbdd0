"""The disks of one host: a page cache over stable storage, and small records that are kept durably.

May live here: what a kernel and its disks do with reads, writes and flushes. A power cut keeps any subset of
the sectors that were not flushed, each as it was at some time since. A flush that fails loses what it was to
make durable: the pages count as clean, may be gone from the cache at any time, and a second flush succeeds.
When a process dies, what it had asked for happens or not; nothing of it happens later.
"""

import random
from collections.abc import Callable, Container, Iterator
from typing import Any

from tests.simulation.cluster.record import SECTOR
from tests.simulation.world import World

NOTHING = bytes(SECTOR)
GROUP = 128
"""Sectors; a group in which nobody ever wrote anything but zeros costs nothing."""
Place = tuple[Any, int]
"""Real volume, sector."""
Done = Callable[[bool, bytes], None]
MAX_EVICTED_AFTER_S = 10.0
LAST_EVICTED_AFTER_S = 1.0
"""At the last copy: while nobody knows which bytes are there."""


class Media:
    def __init__(self, world: World, rng: random.Random, io_s: float) -> None:
        self.world = world
        self.random = rng
        self.io_s = io_s
        self.slow_s = 0.0
        self.errors: list[tuple[str, float]] = []
        """(kind of I/O, share of it that fails)"""
        self.failing_flushes = 0
        self.may_fail: Callable[[], bool] = lambda: True
        """A flush that fails at the last copy loses what nobody else has, which is nobody's promise."""
        self.lost: Callable[[], bool] | None = None
        """Asked once a flush could fail at the last copy; if it does, it is the only one."""
        self._used: set[tuple[Any, int]] = set()
        """Groups that were written."""
        self._cache: dict[Place, bytes] = {}
        self._stable: dict[Place, bytes] = {}
        self._dirty: dict[Place, list[bytes]] = {}
        """Contents since the last flush, oldest first."""
        self._running: dict[int, Callable[[], Any]] = {}
        self._number = 0

    def at(self, place: Place) -> bytes:
        return self._cache.get(place, NOTHING)

    def read(self, real: Any, first: int, sectors: int, done: Done) -> None:
        def act() -> tuple[bool, bytes]:
            if self._fails("read"):
                return False, b""
            return True, b"".join(self._contents(real, first, sectors))

        self._begin(act, done)

    @staticmethod
    def _groups(first: int, sectors: int) -> Iterator[tuple[int, int]]:
        """(first sector, sectors) of what lies in each group."""
        while sectors:
            count = min(sectors, GROUP - first % GROUP)
            yield first, count
            first, sectors = first + count, sectors - count

    def _contents(self, real: Any, first: int, sectors: int) -> Iterator[bytes]:
        for start, count in self._groups(first, sectors):
            if (real, start // GROUP) in self._used:
                yield from [self.at((real, start + at)) for at in range(count)]
            else:
                yield bytes(count * SECTOR)

    def write(self, real: Any, first: int, data: bytes, done: Done) -> None:
        def act() -> tuple[bool, bytes]:
            fails = self._fails("write")
            for start, count in self._groups(first, len(data) // SECTOR):
                group = (real, start // GROUP)
                part = data[(start - first) * SECTOR : (start - first + count) * SECTOR]
                if group not in self._used and part == bytes(len(part)):
                    continue
                self._used.add(group)
                for at in range(count):
                    if not fails or self.random.random() < 0.5:
                        self._put((real, start + at), part[at * SECTOR : (at + 1) * SECTOR])
            return not fails, b""

        self._begin(act, done)

    def flush(self, done: Done, reals: Container[Any] | None = None) -> None:
        """Covers what had been written when it began (to these real volumes)."""
        covered = {
            place: versions[-1]
            for place, versions in self._dirty.items()
            if reals is None or place[0] in reals
        }

        def act() -> tuple[bool, bytes]:
            if self.failing_flushes and self.may_fail():
                self.failing_flushes -= 1
                self._drop(covered, MAX_EVICTED_AFTER_S)
                return False, b""
            if self.lost is not None and covered and self.lost():
                self.lost = None
                self._drop(covered, LAST_EVICTED_AFTER_S)
                return False, b""
            for place, content in covered.items():
                self._make_stable(place, content)
            return True, b""

        self._begin(act, done)

    def _begin(self, act: Callable[[], tuple[bool, bytes]], done: Done) -> None:
        self._number += 1
        number = self._number
        self._running[number] = act
        delay_s = self.io_s * (0.5 + self.random.random()) + self.slow_s * self.random.random()
        self.world.after(delay_s, self._finish, number, done)

    def _finish(self, number: int, done: Done) -> None:
        act = self._running.pop(number, None)
        if act is not None:
            done(*act())

    def _fails(self, kind: str) -> bool:
        return any(what == kind and self.random.random() < share for what, share in self.errors)

    def _put(self, place: Place, content: bytes) -> None:
        self._cache[place] = content
        self._dirty.setdefault(place, []).append(content)

    def _make_stable(self, place: Place, content: bytes) -> None:
        self._stable[place] = content
        versions = self._dirty.get(place)
        if versions is not None and content in versions:
            del versions[: versions.index(content) + 1]
            if not versions:
                del self._dirty[place]

    def _drop(self, covered: dict[Place, bytes], longest_s: float) -> None:
        for place, content in covered.items():
            if self._dirty.get(place, [b""])[-1] == content:
                del self._dirty[place]
                delay_s = self.random.random() * longest_s
                self.world.after(delay_s, self._evict, place, content)

    def _evict(self, place: Place, content: bytes) -> None:
        if place not in self._dirty and self._cache.get(place) == content:
            self._cache[place] = self._stable.get(place, NOTHING)

    # --- ends -------------------------------------------------------------------------------------

    def process_ends(self) -> None:
        """What it had asked for happens now, or never."""
        running, self._running = self._running, {}
        for act in running.values():
            if self.random.random() < 0.5:
                act()

    def power_cut(self) -> None:
        self.process_ends()
        share = self.random.choice([0.0, 1.0, self.random.random()])
        for place, versions in sorted(self._dirty.items()):
            if self.random.random() < share:
                self._stable[place] = self.random.choice(versions)
        self._dirty.clear()
        self._cache = dict(self._stable)


class Records:
    """Small values by key, durable when `done` is called; in the order of their puts."""

    def __init__(self, world: World, rng: random.Random, write_s: float) -> None:
        self.world = world
        self.random = rng
        self.write_s = write_s
        self.kept: dict[Any, Any] = {}
        self._running: dict[int, tuple[Any, Any]] = {}
        self._number = 0
        self._last_s = 0.0

    def put(self, key: Any, value: Any, done: Callable[[], None]) -> None:
        self._number += 1
        self._running[self._number] = (key, value)
        when = max(self._last_s, self.world.now + self.write_s * (0.5 + self.random.random()))
        self._last_s = when
        self.world.at(when, self._finish, self._number, done)

    def _finish(self, number: int, done: Callable[[], None]) -> None:
        found = self._running.pop(number, None)
        if found is not None:
            self.kept[found[0]] = found[1]
            done()

    def ends(self, keys: Callable[[Any], bool] = lambda _key: True) -> None:
        """Whoever wrote (these keys) is gone: of what was under way, the first few are there."""
        mine = [number for number, (key, _) in self._running.items() if keys(key)]
        survive = self.random.randrange(len(mine) + 1)
        for at, number in enumerate(mine):
            key, value = self._running.pop(number)
            if at < survive:
                self.kept[key] = value
