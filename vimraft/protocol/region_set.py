"""A set of regions of one volume, of whatever size: what a copy misses may be all of them.

May live here: that set. One byte for each region up to the highest (10 MiB for 10 TiB), so that a full copy
of a large volume costs neither memory nor time in which I/O waits.
"""

from collections.abc import Iterable, Iterator

_IN = b"\x01"


class RegionSet:
    __slots__ = ("_bytes", "_count")

    def __init__(self, regions: Iterable[int] = ()) -> None:
        self._bytes = bytearray()
        self._count = 0
        self.update(regions)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, region: int) -> bool:
        return region < len(self._bytes) and self._bytes[region] == 1

    def __iter__(self) -> Iterator[int]:
        """In order."""
        region = self.after(0)
        while region is not None:
            yield region
            region = self.after(region + 1)

    def after(self, first: int) -> int | None:
        """The lowest one that is not below `first`."""
        found = self._bytes.find(_IN, first)
        return found if found >= 0 else None

    def covers(self, regions: range) -> bool:
        """All of them are in it."""
        return self._bytes.count(_IN, regions.start, regions.stop) == len(regions)

    def add(self, region: int) -> None:
        self.add_all(range(region, region + 1))

    def add_all(self, regions: range) -> None:
        first, end = regions.start, regions.stop
        if end > len(self._bytes):
            self._bytes.extend(bytes(end - len(self._bytes)))
        self._count += len(regions) - self._bytes.count(_IN, first, end)
        self._bytes[first:end] = _IN * len(regions)

    def update(self, regions: Iterable[int]) -> None:
        for region in regions:
            self.add(region)

    def discard(self, region: int) -> None:
        if region in self:
            self._bytes[region] = 0
            self._count -= 1

    def clear(self) -> None:
        self._bytes.clear()
        self._count = 0
