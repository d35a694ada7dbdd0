"""The copies of a volume of which one store has bytes, and which of their regions may be written at once.

May live here: what the tables say of a copy here, joined with its record; and following a change of the map:
copies that come, leave, or take the segments that were moved for them (`A+` becomes part of `A`).

- `sure`: regions whose mark is durable. Only there data may go without waiting.
- `marking`: regions whose mark is on its way to the disk, with the batch that has it.
- `written`: when a write ended, counted in one sequence for the store; a flush covers what ended before it
  began. A region that was active when the store began needs a flush of this life (0).
"""

from collections.abc import Iterable

from vimraft.core.ids import LocalName, ManagerName
from vimraft.core.tables import ReplicaState
from vimraft.protocol.maps import REGION_BYTES, VolumeMap, moving_name, regions_of
from vimraft.protocol.regions import Change, Doubted, Dropped, InStep, Merged, RegionRecord, StoreRecord

Ranges = tuple[tuple[int, int], ...]
SHIFT = REGION_BYTES.bit_length() - 1


class CopyHere:
    __slots__ = (
        "doubtful",
        "flushed",
        "flushing",
        "marking",
        "name",
        "ranges",
        "readable",
        "record",
        "state",
        "sure",
        "writable",
        "written",
    )

    def __init__(self, name: LocalName, record: RegionRecord) -> None:
        """`record`: as it is on the disk."""
        self.name = name
        self.record = record
        self.state: ReplicaState = "stale"
        self.ranges: Ranges = ()
        """Bytes of the volume that lie here."""
        self.readable = self.writable = False
        self.doubtful = False
        """A flush failed in this boot."""
        self.sure = set(record.active)
        self.marking: dict[int, int] = {}
        self.written: dict[int, int] = {}
        self.flushed = -1
        self.flushing = False

    def has(self, first: int, end: int) -> bool:
        """All of these bytes lie here. What touches lies in one range, so that one of them has them all."""
        for start, stop in self.ranges:  # noqa: SIM110 - asked for every request: a generator takes longer
            if start <= first < end <= stop:
                return True
        return False

    def unmarked(self, first: int, end: int) -> list[int]:
        """Regions of the range that may not be written yet."""
        region = first >> SHIFT
        if region in self.sure and (end - 1) >> SHIFT == region:
            return []
        return [region for region in regions_of(first, end) if region not in self.sure]

    def begin_marking(self, regions: Iterable[int], batch: int) -> None:
        for region in regions:
            self.marking[region] = batch

    def marked(self, regions: Iterable[int], batch: int) -> None:
        """That batch is durable."""
        for region in regions:
            if self.marking.get(region) == batch:
                del self.marking[region]
                self.sure.add(region)

    def ended(self, first: int, end: int, sequence: int) -> None:
        region = first >> SHIFT
        self.written[region] = sequence
        if (end - 1) >> SHIFT != region:
            for further in regions_of(first, end):
                self.written[further] = sequence

    def unflushed(self, region: int) -> bool:
        return region in self.marking or self.written.get(region, 0) > self.flushed

    def cleared(self, regions: Iterable[int]) -> None:
        for region in regions:
            self.sure.discard(region)
            self.written.pop(region, None)


class Copies:
    """By name, those that the installed map has here."""

    def __init__(self, me: ManagerName, boot: str, record: StoreRecord) -> None:
        self._me = me
        self._boot = boot
        self._record = record
        self.by_name: dict[LocalName, CopyHere] = {}

    def follow(self, newer: VolumeMap, sequence: int) -> list[Change]:
        """The map is installed now; returns what the record must follow with, which it does not have yet."""
        here = self._ranges(newer)
        changes = self._leave(here, sequence)
        for copy in newer.copies:
            if copy.name not in here:
                continue
            found = self.by_name.get(copy.name)
            if found is None:
                found = self.by_name[copy.name] = CopyHere(copy.name, self._record.copy(copy.name))
            left = found.state == "in_sync" != copy.state
            found.state, found.ranges = copy.state, here[copy.name]
            found.writable = copy.state in ("in_sync", "syncing")
            if found.record.doubtful and (left or not found.writable):
                changes.append(Doubted(copy.name, ""))
            if found.record.in_step_since and copy.state == "in_sync":
                changes.append(InStep(copy.name, (), 0, ""))
            found.doubtful = found.record.doubtful == self._boot and found.writable and not left
        self.judge(len(newer.in_sync) == 1)
        return changes

    def some(self, name: LocalName) -> list[CopyHere]:
        """The copy of that name; "": all in step that have bytes here."""
        if name:
            return [self.by_name[name]] if name in self.by_name else []
        return [copy for copy in self.by_name.values() if copy.state == "in_sync"]

    def begin_anew(self, name: LocalName) -> list[Change]:
        """All that is active is copied to it again, and so all that it could not flush."""
        copy = self.by_name.get(name)
        if copy is None or not copy.doubtful or copy.state != "syncing":
            return []
        copy.doubtful = False
        return [Doubted(copy.name, "")]

    def judge(self, only_one: bool) -> None:
        """Whether reads may go to a copy. The only one in sync is read even when it could not flush: clients
        hear of that by its failed flush, like from any disk."""
        for copy in self.by_name.values():
            copy.readable = copy.state == "in_sync" and (only_one or not copy.doubtful)

    def _ranges(self, newer: VolumeMap) -> dict[LocalName, Ranges]:
        here: dict[LocalName, Ranges] = {}
        for copy in newer.copies:
            ranges = tuple((part.first, part.end) for part in copy.parts if part.store == self._me)
            if ranges:
                here[copy.name] = ranges
        return here

    def _leave(self, here: dict[LocalName, Ranges], sequence: int) -> list[Change]:
        changes: list[Change] = []
        gone = [name for name in self._record.copies.keys() | self.by_name.keys() if name not in here]
        for name in sorted(gone):
            copy = self.by_name.pop(name, None)
            into = self._taken_by(name, copy, here)
            if name not in self._record.copies:
                continue
            changes.append(Dropped(name) if into is None else Merged(name, into))
            taker = None if into is None else self.by_name.get(into)
            if taker is not None:
                for region in self._record.copies[name].active:
                    taker.written[region] = sequence
        return changes

    @staticmethod
    def _taken_by(name: LocalName, copy: CopyHere | None, here: dict[LocalName, Ranges]) -> LocalName | None:
        """The copy that has the segments now that `name` stood for. Without a memory of them (a restart):
        the one that they were for, since a record that knows too much only costs some copying."""
        for other, ranges in here.items():
            if moving_name(other) == name and (
                copy is None or all(any(a <= x < y <= b for a, b in ranges) for x, y in copy.ranges)
            ):
                return other
        return None
