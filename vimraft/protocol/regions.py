"""The write-intent record of a store: its floor, and for each copy which regions are active and in which
epoch each was last written.

May live here: the record, and the changes that it consists of. The same class is the store's memory and what
its disk holds: the disk is a list of `Change`s, and `StoreRecord.of(changes)` is what they amount to.

- *Active*: it may have been written and not flushed everywhere, so copies may differ there. Bounded.
- *Tag*: of a region that is not active any more, the epoch in which it was cleared: copies that were in sync
  then have all that was written there before. So a copy that left in epoch L missed at most what is active,
  and what has a newer tag than L. Tags never fall.
- *In step*: what a resync that has not ended yet need not copy again, unless it was written since.
- *Id*: what is known of the tags only counts for whoever left under the same id; another one, or none: full
  copy.
"""

from array import array
from collections.abc import Iterable, Iterator

from msgspec import Struct

from vimraft.core.ids import LocalName

MAX_ACTIVE = 4_096
"""Active regions of one copy in one store; whoever needs one more waits for a flush and a clear."""
CHUNK_REGIONS = 4_096
"""Tags are kept in arrays of so many: 8 bytes for each region of a volume, only where it was written."""


class FloorRaised(Struct, frozen=True, gc=False, tag=True):
    """Nothing older than `epoch` is ever accepted again."""

    epoch: int


class Marked(Struct, frozen=True, gc=False, tag=True):
    """Active, and written in `epoch`."""

    copy: LocalName
    regions: tuple[int, ...]
    epoch: int


class Tagged(Struct, frozen=True, gc=False, tag=True):
    """As if written and cleared in `epoch`."""

    copy: LocalName
    regions: tuple[int, ...]
    epoch: int


class Cleared(Struct, frozen=True, gc=False, tag=True):
    """Not active any more, by an owner in `epoch`; 0: the tags stay."""

    copy: LocalName
    regions: tuple[int, ...]
    epoch: int = 0


class Identified(Struct, frozen=True, gc=False, tag=True):
    copy: LocalName
    record: str


class Doubted(Struct, frozen=True, gc=False, tag=True):
    """A flush failed in this boot: nobody knows what of it is on the disk. "": that is over."""

    copy: LocalName
    boot: str


class InStep(Struct, frozen=True, gc=False, tag=True):
    """A resync has brought these regions to what was written before epoch `since`, on stable storage. Said
    with another epoch or record id than before, it is all that is known."""

    copy: LocalName
    regions: tuple[int, ...]
    since: int
    record: str


class Merged(Struct, frozen=True, gc=False, tag=True):
    """The segments that `copy` stood for belong to `into` now."""

    copy: LocalName
    into: LocalName


class Dropped(Struct, frozen=True, gc=False, tag=True):
    """The copy is no more."""

    copy: LocalName


Change = FloorRaised | Marked | Tagged | Cleared | Identified | Doubted | InStep | Merged | Dropped


class Tags:
    """An epoch for each region; 0: never written."""

    def __init__(self) -> None:
        self._chunks: dict[int, array[int]] = {}
        self.newest = 0

    def __getitem__(self, region: int) -> int:
        chunk = self._chunks.get(region // CHUNK_REGIONS)
        return 0 if chunk is None else chunk[region % CHUNK_REGIONS]

    def raise_to(self, region: int, epoch: int) -> None:
        number, at = divmod(region, CHUNK_REGIONS)
        chunk = self._chunks.get(number)
        if chunk is None:
            if epoch == 0:
                return
            chunk = self._chunks[number] = array("Q", bytes(8 * CHUNK_REGIONS))
        if epoch > chunk[at]:
            chunk[at] = epoch
            self.newest = max(self.newest, epoch)

    def items(self) -> Iterator[tuple[int, int]]:
        """(region, epoch) of all that were ever written, in order."""
        for number in sorted(self._chunks):
            for at, epoch in enumerate(self._chunks[number]):
                if epoch:
                    yield number * CHUNK_REGIONS + at, epoch

    def since(self, epoch: int) -> tuple[int, ...]:
        return tuple(region for region, tag in self.items() if tag >= epoch)


class RegionRecord:
    """Of one copy."""

    def __init__(self) -> None:
        self.id = ""
        self.active: set[int] = set()
        self.tags = Tags()
        self.doubtful = ""
        """The boot in which a flush failed; the page cache of any other one knows nothing of it."""
        self.in_step = Tags()
        """Those in step have the epoch `in_step_since`."""
        self.in_step_since = 0
        self.in_step_record = ""

    def brought(self, regions: Iterable[int], since: int, record: str) -> None:
        """As `InStep` says."""
        if (since, record) != (self.in_step_since, self.in_step_record):
            self.in_step = Tags()
            self.in_step_since, self.in_step_record = since, record
        for region in regions:
            self.in_step.raise_to(region, since)

    def mark(self, regions: Iterable[int], epoch: int) -> None:
        for region in regions:
            self.active.add(region)
            self.tags.raise_to(region, epoch)

    def clear(self, regions: Iterable[int], epoch: int) -> None:
        self.active.difference_update(regions)
        for region in regions:
            self.tags.raise_to(region, epoch)

    def missed_since(self, epoch: int) -> tuple[int, ...]:
        """What a copy may lack that was in step before this epoch began, in order."""
        return tuple(sorted(self.active.union(self.tags.since(epoch))))

    def known_in_step(self, name: LocalName) -> InStep:
        """Of this record, which is the one of `name`."""
        since = self.in_step_since
        return InStep(name, self.in_step.since(since) if since else (), since, self.in_step_record)

    def merge(self, other: "RegionRecord") -> None:
        """Of two ids none is left: neither covers what the other's segments missed."""
        self.id = other.id if other.id == self.id or not self.tags.newest else ""
        self.active |= other.active
        for region, epoch in other.tags.items():
            self.tags.raise_to(region, epoch)
        self.doubtful = self.doubtful or other.doubtful
        self.brought((), 0, "")


class StoreRecord:
    def __init__(self) -> None:
        self.floor = 0
        self.copies: dict[LocalName, RegionRecord] = {}

    @classmethod
    def of(cls, changes: Iterable[Change]) -> "StoreRecord":
        record = cls()
        for change in changes:
            record.add(change)
        return record

    def copy(self, name: LocalName) -> RegionRecord:
        found = self.copies.get(name)
        if found is None:
            found = self.copies[name] = RegionRecord()
        return found

    def add(self, change: Change) -> None:
        match change:
            case FloorRaised(epoch):
                self.floor = max(self.floor, epoch)
            case Marked(copy, regions, epoch):
                self.copy(copy).mark(regions, epoch)
            case Tagged(copy, regions, epoch):
                tags = self.copy(copy).tags
                for region in regions:
                    tags.raise_to(region, epoch)
            case Cleared(copy, regions, epoch):
                self.copy(copy).clear(regions, epoch)
            case Identified(copy, record):
                self.copy(copy).id = record
            case Doubted(copy, boot):
                self.copy(copy).doubtful = boot
            case InStep(copy, regions, since, record):
                self.copy(copy).brought(regions, since, record)
            case Merged(copy, into):
                gone = self.copies.pop(copy, None)
                if gone is not None:
                    self.copy(into).merge(gone)
            case Dropped(copy):
                self.copies.pop(copy, None)

    def changes(self) -> tuple[Change, ...]:
        """The shortest list that amounts to this: what a long one on disk may be replaced with."""
        found: list[Change] = [FloorRaised(self.floor)] if self.floor else []
        for name, copy in self.copies.items():
            by_epoch: dict[int, list[int]] = {}
            for region, epoch in copy.tags.items():
                by_epoch.setdefault(epoch, []).append(region)
            found += [Tagged(name, tuple(regions), epoch) for epoch, regions in sorted(by_epoch.items())]
            found.append(Identified(name, copy.id))
            if copy.active:
                found.append(Marked(name, tuple(sorted(copy.active)), 0))
            if copy.doubtful:
                found.append(Doubted(name, copy.doubtful))
            if copy.in_step_since:
                found.append(copy.known_in_step(name))
        return tuple(found)
