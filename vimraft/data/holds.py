"""How long changes of the map kept I/O of one volume waiting in this process.

May live here: one book per volume, with figures of all changes and of the last ones. Whoever holds I/O notes
how long; so does a request that met a change and had to wait for it elsewhere (at another manager, which
gave the volume away or took it over). Of one epoch the longest of these counts.
"""

import threading
from collections import deque

from vimraft.data.feed import HoldTimes

MAX_KEPT = 256
"""Changes that the 99th percentile is of."""


class Holds:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept_us: deque[int] = deque(maxlen=MAX_KEPT)
        self._epoch = -1
        self._count = 0
        self._longest_us = 0

    def note(self, epoch: int, held_ns: int) -> None:
        """The change to this epoch; of an older one nothing is noted any more."""
        held_us = max(0, held_ns) // 1000
        with self._lock:
            if epoch < self._epoch:
                return
            if epoch == self._epoch:
                held_us = max(held_us, self._kept_us.pop())
            else:
                self._count += 1
            self._epoch = epoch
            self._kept_us.append(held_us)
            self._longest_us = max(self._longest_us, held_us)

    def times(self) -> HoldTimes | None:
        """None: the map has not changed."""
        with self._lock:
            if not self._count:
                return None
            ordered = sorted(self._kept_us)
            p99_us = ordered[(len(ordered) * 99 - 1) // 100]
            return HoldTimes(self._epoch, self._count, self._kept_us[-1], self._longest_us, p99_us)
