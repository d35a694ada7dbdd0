"""The range lock: who waits for whom, and its bound."""

import pytest

from vimraft.protocol.ranges import MAX_LOCKED, RangeLock


def test_reads_share_and_a_write_waits_for_all_of_them() -> None:
    lock = RangeLock()
    assert lock.acquire(1, 0, 4096, exclusive=False)
    assert lock.acquire(2, 0, 4096, exclusive=False)
    assert not lock.acquire(3, 512, 512, exclusive=True)
    assert lock.release(1) == []
    assert lock.release(2) == [3]


def test_a_read_does_not_overtake_a_waiting_write() -> None:
    lock = RangeLock()
    lock.acquire(1, 0, 4096, exclusive=False)
    lock.acquire(2, 0, 4096, exclusive=True)
    assert not lock.acquire(3, 0, 4096, exclusive=False)
    assert lock.release(1) == [2]
    assert lock.release(2) == [3]


def test_ranges_that_only_touch_do_not_meet() -> None:
    lock = RangeLock()
    assert lock.acquire(1, 0, 4096, exclusive=True)
    assert lock.acquire(2, 4096, 4096, exclusive=True)
    assert lock.acquire(3, 1 << 40, 512, exclusive=True)


def test_a_wide_range_meets_everything_in_it() -> None:
    lock = RangeLock()
    lock.acquire(1, 900 << 20, 512, exclusive=True)
    assert not lock.acquire(2, 0, 1 << 30, exclusive=True)
    assert not lock.acquire(3, 5 << 20, 512, exclusive=False)
    assert lock.release(1) == [2]
    assert lock.release(2) == [3]


def test_who_gives_up_waiting_lets_those_behind_pass() -> None:
    lock = RangeLock()
    lock.acquire(1, 0, 512, exclusive=False)
    lock.acquire(2, 0, 512, exclusive=True)
    lock.acquire(3, 0, 512, exclusive=False)
    assert lock.release(2) == [3]
    assert lock.release(2) == []


def test_a_token_may_come_back_while_someone_waits_behind_its_first_life() -> None:
    lock = RangeLock()
    lock.acquire(1, 0, 512, exclusive=True)
    lock.acquire(2, 0, 512, exclusive=True)
    lock.release(2)
    lock.acquire(2, 4096, 512, exclusive=True)
    assert lock.release(1) == []
    assert lock.holds(2)


def test_it_is_bounded() -> None:
    lock = RangeLock()
    for token in range(MAX_LOCKED):
        lock.acquire(token, token * 512, 512, exclusive=True)
    assert lock.full
    with pytest.raises(AssertionError, match="full"):
        lock.acquire(MAX_LOCKED, 1 << 40, 512, exclusive=True)
