"""A volume as the data plane serves it: one immutable plan per map, resolved by bisection.

May live here: the plan and how it is made from a VolumeMap. No I/O. A plan is replaced whole, never changed;
`fast` is the same information as `entries`, laid out for the one lookup of the hot path.
"""

import errno
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

from vimraft.data.backends.base import Backend, Counters
from vimraft.data.errors import IoError
from vimraft.data.feed import Role, VolumeMap
from vimraft.data.reals import RealSlot
from vimraft.data.remote import LinkKey

if TYPE_CHECKING:
    from vimraft.data.copies.volumes import OwnedVolume

Kind = Literal["owned", "forward", "store", "copies"]
FORWARD = ".forward"
SEGMENTS = ".segments"


class Entry(NamedTuple):
    """Bytes `start … end-1` of the volume: at `real` (local, plus `delta`), or at a peer (`key`)."""

    start: int
    end: int
    real: RealSlot | None
    delta: int
    key: LinkKey | None


class Piece(NamedTuple):
    entry: Entry
    offset: int
    length: int


class FastEntry(NamedTuple):
    """`read_fd`/`write_fd` are -1 where the hot path must not go."""

    end: int
    read_fd: int
    write_fd: int
    delta: int
    counters: Counters
    backend: Backend
    """For its `broken`; only there with a descriptor."""
    key: LinkKey | None


_NO_COUNTERS = Counters()


class Plan:
    """How one volume is served now."""

    __slots__ = (
        "copies",
        "entries",
        "epoch",
        "fast",
        "keys",
        "kind",
        "map",
        "needs_lease",
        "reals",
        "size_bytes",
        "starts",
        "writable",
    )

    def __init__(self, volume: VolumeMap, kind: Kind, entries: Sequence[Entry]) -> None:
        self.map = volume
        self.kind: Kind = kind
        self.copies: OwnedVolume | None = None
        """Who carries requests out, if `kind` is "copies"; set before the plan is installed."""
        self.epoch = volume.epoch
        self.size_bytes = volume.size_bytes
        self.writable = not volume.read_only
        self.needs_lease = kind == "owned" and volume.needs_lease
        self.entries = list(entries)
        if not self.entries or self.entries[0].start:
            end = self.entries[0].start if self.entries else volume.size_bytes
            self.entries.insert(0, Entry(0, end, None, 0, None))  # so that bisection always finds one
        self.starts = [entry.start for entry in self.entries]
        self.fast = [_fast(entry, self.writable) for entry in self.entries]
        self.reals = tuple(dict.fromkeys(e.real for e in self.entries if e.real is not None))
        self.keys = tuple(dict.fromkeys(e.key for e in self.entries if e.key is not None))

    def pieces(self, ranges: Sequence[tuple[int, int]]) -> list[Piece]:
        """Ranges of bytes → pieces that lie in one entry each, in order. Raises IoError."""
        found = []
        for offset, left in ranges:
            if left < 0 or offset < 0 or offset + left > self.size_bytes:
                raise IoError(errno.EINVAL, f"{offset}+{left} lies outside of {self.map.name}")
            index = bisect_right(self.starts, offset) - 1
            while left:
                entry = self.entries[index] if 0 <= index < len(self.entries) else None
                if entry is None or not entry.start <= offset < entry.end:
                    raise IoError(errno.EIO, f"{self.map.name}: no segment here holds byte {offset}")
                step = min(left, entry.end - offset)
                found.append(Piece(entry, offset, step))
                offset += step
                left -= step
                index += 1
        return found


def _fast(entry: Entry, writable: bool) -> FastEntry:
    backend = entry.real.backend if entry.real is not None else None
    if backend is None:
        return FastEntry(
            entry.end, -1, -1, 0, _NO_COUNTERS, cast(Backend, None), entry.key if writable else None
        )
    write_fd = backend.fd if writable else -1
    return FastEntry(entry.end, backend.fd, write_fd, entry.delta, backend.counters, backend, None)


def same_volume(a: VolumeMap, b: VolumeMap) -> bool:
    """Or another one was built under its name: local names are never used twice. Of one volume all copies
    may have been replaced, too."""
    if a.created_ms and b.created_ms:
        return a.created_ms == b.created_ms
    return bool(_local_names(a) & _local_names(b))


def _local_names(volume: VolumeMap) -> set[str]:
    names = {volume.local_name, *volume.copy_names}
    if volume.copies is not None:
        names.update(copy.name for copy in volume.copies.map.copies)
    return names


def make_plan(volume: VolumeMap, role: Role, real_of: Callable[[str], RealSlot]) -> Plan:
    if role == "export" and not volume.owned:
        key = LinkKey(FORWARD, volume.owner, volume.name)
        return Plan(volume, "forward", [Entry(0, volume.size_bytes, None, 0, key)])
    if role == "export" and volume.copies is not None:
        return Plan(volume, "copies", [Entry(0, volume.size_bytes, None, 0, None)])
    entries = []
    for segment in sorted(volume.segments, key=lambda s: s.offset):
        end = segment.offset + segment.length
        if segment.manager:
            key = LinkKey(SEGMENTS, segment.manager, volume.name)
            entries.append(Entry(segment.offset, end, None, 0, key))
        else:
            delta = segment.real_offset - segment.offset
            entries.append(Entry(segment.offset, end, real_of(segment.real), delta, None))
    return Plan(volume, "owned" if role == "export" else "store", entries)
