"""Where the local copies of one map lie on real volumes.

May live here: the layout of one map, look-ups in it, and the count of who uses it. Keeps: it is never
changed; whoever replaces a real volume makes new tables, and waits until nothing uses those that have it.
"""

import os
import time
from bisect import bisect_right
from collections.abc import Callable

from vimraft.data.feed import CopiesMap
from vimraft.data.reals import RealSlot
from vimraft.protocol.effects import BackendIo

_preadv, _pwritev, _clock_ns = os.preadv, os.pwritev, time.perf_counter_ns


class Range:
    """Bytes `first … end-1` of the volume lie in `slot`, `delta` further."""

    __slots__ = ("delta", "end", "first", "slot")

    def __init__(self, first: int, end: int, slot: RealSlot, delta: int) -> None:
        self.first = first
        self.end = end
        self.slot = slot
        self.delta = delta


class Tables:
    __slots__ = ("copies", "reals", "running")

    def __init__(self, copies: CopiesMap | None, real_of: Callable[[str], RealSlot]) -> None:
        self.running = 0
        """Effects in hand, counted under the store's lock."""
        self.copies: dict[str, tuple[list[int], list[Range]]] = {}
        self.reals: set[str] = set()
        for name, segments in copies.segments.items() if copies is not None else ():
            ranges = [
                Range(s.offset, s.offset + s.length, real_of(s.real), s.real_offset - s.offset)
                for s in sorted(segments, key=lambda s: s.offset)
                if not s.manager
            ]
            self.copies[name] = ([r.first for r in ranges], ranges)
            self.reals |= {r.slot.real for r in ranges}

    def slots(self, copy: str) -> list[RealSlot]:
        _, ranges = self.copies.get(copy, ([], []))
        return list(dict.fromkeys(r.slot for r in ranges))

    def straight(self, effect: BackendIo) -> bytes | None:
        """What is one system call on a file, as nearly every request is: the data that were read (none of a
        write), when it is done. None: it is something else, or it failed; do it again the long way."""
        starts, ranges = self.copies[effect.copy]
        first, kind = effect.first, effect.kind
        found = ranges[bisect_right(starts, first) - 1] if ranges else None
        backend = found.slot.backend if found is not None and found.first <= first else None
        if found is None or backend is None or backend.fd < 0 or effect.end > found.end:
            return None
        counters, length, began_ns = backend.counters, effect.end - first, _clock_ns()
        try:
            if kind == "write" and not effect.fua and not backend.broken:
                if _pwritev(backend.fd, (effect.data,), first + found.delta) == length:
                    counters.writes += 1
                    counters.write_bytes += length
                    counters.write_ns += _clock_ns() - began_ns
                    return b""
            elif kind == "read":
                data = bytearray(length)
                if _preadv(backend.fd, (data,), first + found.delta) == length:
                    counters.reads += 1
                    counters.read_bytes += length
                    counters.read_ns += _clock_ns() - began_ns
                    return data  # type: ignore[return-value]  # nobody changes it
        except OSError:
            return None
        return None
