"""The chunked sequence against a plain tuple."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vimraft.core.chunked import Chunked

Step = tuple[int, int]
"""So many are dropped, so many appended."""
steps = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40)), max_size=30)


@given(st.lists(st.integers(), max_size=100), steps)
def test_it_is_the_tuple_that_it_stands_for(first: list[int], given_steps: list[Step]) -> None:
    chunked, plain = Chunked(first), tuple(first)
    for drop, append in given_steps:
        for number in range(append):
            count = min(drop, len(plain)) if number == 0 else 0
            assert chunked.first(count) == plain[:count]
            chunked, plain = chunked.rolled(count, number), (*plain[count:], number)
        assert len(chunked) == len(plain)
        assert tuple(chunked) == plain
        assert tuple(reversed(chunked)) == plain[::-1]
        assert chunked == Chunked(plain) == plain
        assert hash(chunked) == hash(Chunked(plain))
        for at in (0, -1, len(plain) // 2):
            assert chunked[at : at + 3] == plain[at : at + 3]
            if plain:
                assert chunked[at] == plain[at]
    assert pickle.loads(pickle.dumps(chunked)) == plain


def test_what_is_not_there_is_an_error() -> None:
    three = Chunked([1, 2, 3])
    for at in (3, -4):
        with pytest.raises(IndexError):
            three[at]
    with pytest.raises(IndexError):
        three.rolled(4, 4)
    assert three != Chunked([1, 2])
    assert three != [1, 2, 3]
