"""Simulated time: one queue of events, one source of randomness, one history.

May live here: what everything else in the simulation stands on. Nothing in it reads a real clock or a
real source of randomness, so a seed is a run: the same events at the same simulated times in any process.
"""

import hashlib
import heapq
import random
import zlib
from collections.abc import Callable
from typing import Any

MAX_EVENTS = 200_000
"""A run that needs more is a loop in the simulation, not a slow cluster."""


class Runaway(Exception):
    """The simulation itself went round in circles."""


class World:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.now = 0.0
        """Seconds since the start of the run."""
        self.history: list[tuple[Any, ...]] = []
        self.wall_offset_s = 0.0
        """How far the wall clock has been stepped."""
        self.current: Any = None
        """The machine whose code runs now."""
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self.count = 0
        """Events so far."""

    def at(self, when: float, call: Callable[..., None], *args: Any) -> None:
        """Events of one moment happen in the order in which they were asked for."""
        self.count += 1
        heapq.heappush(self._queue, (max(when, self.now), self.count, call, args))

    def after(self, delay_s: float, call: Callable[..., None], *args: Any) -> None:
        self.at(self.now + delay_s, call, *args)

    def run_until(self, end: float) -> None:
        queue = self._queue
        while queue and queue[0][0] <= end:
            self.now, _, call, args = heapq.heappop(queue)
            call(*args)
            if self.count > MAX_EVENTS:
                raise Runaway(f"seed {self.seed}: more than {MAX_EVENTS} events by {self.now:.3f} s")
        self.now = max(self.now, end)

    def note(self, who: str, what: str, *details: Any) -> None:
        self.history.append((round(self.now, 6), who, what, *details))

    def fork_random(self, name: str) -> random.Random:
        """A stream of its own, so that one part's draws do not shift another's."""
        return random.Random(self.seed * 1_000_003 + zlib.crc32(name.encode()))

    def digest(self) -> str:
        return hashlib.sha256(repr(self.history).encode()).hexdigest()

    def lines(self) -> list[str]:
        return [
            f"{when:10.6f}  {who:<8} {what:<14} {' '.join(str(detail) for detail in details)}"
            for when, who, what, *details in self.history
        ]
