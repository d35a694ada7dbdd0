"""Resolve: which segments hold a range of a virtual volume, in O(log n).

May live here: the index and its lookup, in bytes, since that is what requests carry. The data plane
builds one index per installed map and asks it for every request, so construction may take time and
`find` may not: one bisection over a list of starts, then one piece per segment touched.

Keeps INV-5 (resolving side): pieces cover the range asked for exactly, in order; a range that the map
does not cover is refused, never guessed.
"""

from bisect import bisect_right
from collections.abc import Iterable
from typing import Generic, NamedTuple, Protocol, TypeVar, cast

from vimraft.core.ids import SECTOR_BYTES
from vimraft.core.tables import Segment


class HasSpan(Protocol):
    """Anything that lies at `offset` … `offset + length - 1` bytes of a volume."""

    @property
    def offset(self) -> int: ...

    @property
    def length(self) -> int: ...


S = TypeVar("S")


class Piece(NamedTuple, Generic[S]):
    """`length` bytes at `offset` of the volume lie in `segment`, from its byte `skip` on."""

    segment: S
    skip: int
    offset: int
    length: int


class Unmapped(LookupError):
    """No segment holds the byte at `offset`: beyond the end, or in a hole of a partial map."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"no segment holds byte {offset}")
        self.offset = offset


class OverlapError(ValueError):
    """Segments overlap or are empty: no index is built from such a map."""


def _span(segment: object) -> tuple[int, int]:
    if isinstance(segment, Segment):
        return segment.virtual_first * SECTOR_BYTES, segment.sectors * SECTOR_BYTES
    spanned = cast(HasSpan, segment)
    return spanned.offset, spanned.length


class SegmentIndex(Generic[S]):
    """Immutable; safe from any thread. Takes core Segments or anything with `offset` and `length`.

    Segments may come in any order and leave holes; raises OverlapError if they overlap.
    """

    __slots__ = ("_ends", "_segments", "_starts", "end_bytes")

    def __init__(self, segments: Iterable[S]) -> None:
        spans = sorted(((*_span(segment), segment) for segment in segments), key=lambda span: span[0])
        self._starts: list[int] = [span[0] for span in spans]
        self._ends: list[int] = [span[0] + span[1] for span in spans]
        self._segments: list[S] = [span[2] for span in spans]
        self.end_bytes: int = self._ends[-1] if spans else 0
        reached = 0
        for start, end in zip(self._starts, self._ends, strict=True):
            if start < reached or end <= start:
                raise OverlapError(f"a segment at bytes {start} … {end - 1} overlaps or is empty")
            reached = end

    def __len__(self) -> int:
        return len(self._segments)

    def find(self, offset_bytes: int, length_bytes: int) -> list[Piece[S]]:
        """The pieces of a range, in order; none for an empty range. Raises Unmapped."""
        starts, ends = self._starts, self._ends
        at = bisect_right(starts, offset_bytes) - 1
        if at >= 0 and 0 < length_bytes <= ends[at] - offset_bytes:
            return [Piece(self._segments[at], offset_bytes - starts[at], offset_bytes, length_bytes)]
        pieces: list[Piece[S]] = []
        end = offset_bytes + length_bytes
        while offset_bytes < end:
            if not 0 <= at < len(starts) or not starts[at] <= offset_bytes < ends[at]:
                raise Unmapped(offset_bytes)
            upto = min(end, ends[at])
            pieces.append(
                Piece(self._segments[at], offset_bytes - starts[at], offset_bytes, upto - offset_bytes)
            )
            offset_bytes = upto
            at += 1
        return pieces
