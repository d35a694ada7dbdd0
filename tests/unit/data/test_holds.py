"""How long changes of the map kept I/O waiting."""

from vimraft.data.feed import HoldTimes
from vimraft.data.holds import MAX_KEPT, Holds

MS = 1_000_000


def test_nothing_is_said_before_the_map_changed() -> None:
    assert Holds().times() is None


def test_the_last_the_longest_and_the_number_of_changes() -> None:
    holds = Holds()
    for epoch, ms in enumerate((3, 41, 5)):
        holds.note(epoch, ms * MS)
    assert holds.times() == HoldTimes(2, 3, 5_000, 41_000, 41_000)


def test_of_one_change_the_longest_wait_counts() -> None:
    holds = Holds()
    holds.note(7, 2 * MS)
    holds.note(7, 300 * MS)
    holds.note(7, 1 * MS)
    holds.note(6, 900 * MS)
    assert holds.times() == HoldTimes(7, 1, 300_000, 300_000, 300_000)


def test_one_long_hold_among_many_is_the_longest_and_not_the_99th_percentile() -> None:
    holds = Holds()
    for epoch in range(200):
        holds.note(epoch, (500 if epoch == 100 else 4) * MS)
    times = holds.times()
    assert times is not None
    assert (times.longest_us, times.p99_us, times.count) == (500_000, 4_000, 200)


def test_the_percentile_forgets_what_is_long_ago() -> None:
    holds = Holds()
    for epoch in range(MAX_KEPT):
        holds.note(epoch, 500 * MS)
    for epoch in range(MAX_KEPT, 2 * MAX_KEPT):
        holds.note(epoch, MS)
    times = holds.times()
    assert times is not None
    assert (times.longest_us, times.p99_us, times.count) == (500_000, 1_000, 2 * MAX_KEPT)
