"""Resolving byte ranges against a map, faced with a linear search."""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vimraft.core.resolve import OverlapError, Piece, SegmentIndex, Unmapped
from vimraft.core.tables import Segment


class Span(NamedTuple):
    """As the data plane has them."""

    offset: int
    length: int
    real: str


def naive(spans, offset, length):
    """One byte after the other; None if any of them is nowhere."""
    pieces = []
    for byte in range(offset, offset + length):
        holder = next((s for s in spans if s.offset <= byte < s.offset + s.length), None)
        if holder is None:
            return None
        if pieces and pieces[-1].segment is holder:
            pieces[-1] = pieces[-1]._replace(length=pieces[-1].length + 1)
        else:
            pieces.append(Piece(holder, byte - holder.offset, byte, 1))
    return pieces


@st.composite
def maps(draw):
    """Spans with holes between some of them, in any order."""
    spans, at = [], 0
    for number, (gap, length) in enumerate(
        draw(st.lists(st.tuples(st.sampled_from([0, 0, 3]), st.integers(1, 9)), max_size=8))
    ):
        spans.append(Span(at + gap, length, f"r{number}"))
        at += gap + length
    return draw(st.permutations(spans))


@given(maps(), st.integers(0, 60), st.integers(0, 60))
def test_finds_what_a_linear_search_finds(spans, offset, length):
    expected = naive(spans, offset, length)
    index = SegmentIndex(spans)
    if expected is None:
        with pytest.raises(Unmapped):
            index.find(offset, length)
    else:
        assert index.find(offset, length) == expected


def test_core_segments_are_in_sectors_and_answers_in_bytes():
    first, second = Segment(0, 2, "a", 0, 2048), Segment(2, 3, "b", 1, 4096)
    index = SegmentIndex([first, second])
    assert index.find(1000, 100) == [Piece(first, 1000, 1000, 24), Piece(second, 0, 1024, 76)]
    assert (len(index), index.end_bytes) == (2, 5 * 512)


@pytest.mark.parametrize(("offset", "length", "missing"), [(5, 1, 5), (4, 2, 5), (-1, 1, -1), (-1, 3, -1)])
def test_the_first_byte_that_is_nowhere_is_named(offset, length, missing):
    with pytest.raises(Unmapped) as caught:
        SegmentIndex([Span(0, 5, "a")]).find(offset, length)
    assert caught.value.offset == missing


def test_nothing_lies_in_an_empty_map():
    index = SegmentIndex([])
    assert index.find(0, 0) == []
    with pytest.raises(Unmapped):
        index.find(0, 1)


@pytest.mark.parametrize("spans", [[Span(0, 5, "a"), Span(4, 5, "b")], [Span(0, 0, "a")], [Span(-1, 3, "a")]])
def test_a_map_that_overlaps_is_no_map(spans):
    with pytest.raises(OverlapError):
        SegmentIndex(spans)
