"""Free lists and the search for space."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vimraft.core.allocate import (
    AllocationError,
    Placed,
    free_units,
    give,
    place,
    take,
    take_at,
    take_run,
    take_upto,
)
from vimraft.core.ids import RealId
from vimraft.core.tables import Run

A, B, C = RealId("a", 0), RealId("b", 0), RealId("c", 0)
HOLED = (Run(1, 2), Run(5, 4), Run(20, 3))


def units(runs):
    return [unit for run in runs for unit in range(run.first, run.first + run.count)]


free_lists = st.sets(st.integers(1, 60)).map(lambda some: give((), [Run(unit, 1) for unit in some]))


def test_first_fit_takes_the_lowest_run_that_is_long_enough():
    assert take_run(HOLED, 3) == (Run(5, 3), (Run(1, 2), Run(8, 1), Run(20, 3)))


def test_a_run_that_fits_exactly_disappears():
    assert take_run(HOLED, 4) == (Run(5, 4), (Run(1, 2), Run(20, 3)))


def test_no_run_is_long_enough():
    assert take_run(HOLED, 5) is None


def test_without_a_long_run_the_lowest_ones_are_taken():
    assert take(HOLED, 7) == ((Run(1, 2), Run(5, 4), Run(20, 1)), (Run(21, 2),))


@pytest.mark.parametrize("count", [10, 0, -1])
def test_what_is_not_there_is_not_taken(count):
    assert take(HOLED, count) is None


def test_taking_up_to_more_than_there_is_takes_all():
    assert take_upto(HOLED, 100) == (HOLED, ())


@pytest.mark.parametrize(
    ("first", "count", "taken", "left"),
    [
        (5, 2, 2, (Run(1, 2), Run(7, 2), Run(20, 3))),
        (5, 9, 4, (Run(1, 2), Run(20, 3))),
        (6, 1, 0, HOLED),
        (30, 1, 0, HOLED),
    ],
)
def test_extending_takes_only_what_begins_right_there(first, count, taken, left):
    assert take_at(HOLED, first, count) == (taken, left)


def test_given_back_units_coalesce_with_both_neighbours():
    assert give(HOLED, [Run(3, 2)]) == (Run(1, 8), Run(20, 3))


@pytest.mark.parametrize("runs", [[Run(6, 1)], [Run(8, 2)], [Run(30, 1), Run(30, 1)], [Run(30, 0)]])
def test_units_that_are_free_cannot_be_given_back(runs):
    with pytest.raises(AllocationError):
        give(HOLED, runs)


@given(free_lists, st.integers(1, 70))
def test_taken_and_left_are_what_was_free(free, count):
    taken = take(free, count)
    if taken is None:
        assert free_units(free) < count
        return
    runs, rest = taken
    assert free_units(runs) == count
    assert sorted(units(runs) + units(rest)) == units(free)
    assert give(rest, runs) == free


@given(free_lists, st.integers(1, 60), st.integers(1, 60))
def test_taking_at_a_unit_gives_back_to_the_same_list(free, first, count):
    taken, rest = take_at(free, first, count)
    assert (give(rest, [Run(first, taken)]) if taken else rest) == free


def test_one_long_run_at_the_first_site_beats_lower_scattered_ones():
    found = place([[(A, (Run(1, 2), Run(9, 2))), (B, (Run(1, 3),))]], 3)
    assert found is not None
    assert found.placed == (Placed(B, Run(1, 3)),)
    assert found.free == {B: ()}


def test_a_site_is_used_up_before_the_next_one():
    found = place([[(A, (Run(1, 2),)), (B, (Run(4, 1), Run(6, 1)))], [(C, (Run(1, 50),))]], 6)
    assert found is not None
    assert found.placed == (
        Placed(A, Run(1, 2)),
        Placed(B, Run(4, 1)),
        Placed(B, Run(6, 1)),
        Placed(C, Run(1, 2)),
    )
    assert found.free == {A: (), B: (), C: (Run(3, 48),)}


def test_too_little_everywhere_takes_nothing():
    assert place([[(A, (Run(1, 2),))], [(B, ())], []], 3) is None
