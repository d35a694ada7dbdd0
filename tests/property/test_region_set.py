"""A set of regions against a plain set."""

from hypothesis import given
from hypothesis import strategies as st

from vimraft.protocol.region_set import RegionSet

REGIONS = st.integers(0, 40)


def check(found: RegionSet, wanted: set[int]) -> None:
    assert list(found) == sorted(wanted)
    assert len(found) == len(wanted)
    for region in range(50):
        assert (region in found) == (region in wanted)
        assert found.after(region) == min((one for one in wanted if one >= region), default=None)
    for first in range(0, 50, 7):
        for end in range(first, 50, 5):
            assert found.covers(range(first, end)) == wanted.issuperset(range(first, end))


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), REGIONS),
            st.tuples(st.just("discard"), REGIONS),
            st.tuples(st.just("add_all"), st.tuples(REGIONS, REGIONS)),
            st.tuples(st.just("update"), st.lists(REGIONS, max_size=5)),
            st.tuples(st.just("clear"), st.none()),
        ),
        max_size=20,
    )
)
def test_it_does_what_a_set_does(steps: list[tuple[str, object]]) -> None:
    found, wanted = RegionSet(), set[int]()
    for step, value in steps:
        match step, value:
            case "add", int(region):
                found.add(region)
                wanted.add(region)
            case "discard", int(region):
                found.discard(region)
                wanted.discard(region)
            case "add_all", (int(first), int(length)):
                found.add_all(range(first, first + length))
                wanted.update(range(first, first + length))
            case "update", list(regions):
                found.update(regions)
                wanted.update(regions)
            case _:
                found.clear()
                wanted.clear()
        known = {region for region in wanted if region < 50}
        if known == wanted:
            check(found, wanted)
        assert len(found) == len(wanted)
