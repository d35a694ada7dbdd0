"""The chunked sequence against a plain tuple."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vimraft.core.chunked import Chunked

Step = tuple[str, int]
steps = st.lists(st.tuples(st.sampled_from(["append", "drop"]), st.integers(0, 40)), max_size=30)


@given(st.lists(st.integers(), max_size=100), steps)
def test_it_is_the_tuple_that_it_stands_for(first: list[int], given_steps: list[Step]) -> None:
    chunked, plain = Chunked(first), tuple(first)
    for kind, count in given_steps:
        if kind == "append":
            for number in range(count):
                chunked, plain = chunked.appended(number), (*plain, number)
        else:
            count = min(count, len(plain))
            chunked, plain = chunked.without_first(count), plain[count:]
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
    assert three != Chunked([1, 2])
    assert three != [1, 2, 3]
