"""Leases: the holder's count ends before everybody else's, and the sole-holder right."""

from hypothesis import given
from hypothesis import strategies as st

from vimraft.core.commands import LeaseStamp
from vimraft.core.ids import ManagerName
from vimraft.protocol.lease import MAX_STAMPS_OPEN, Mark, OthersLease, OwnLease, SoleHolderRight

S = 1_000_000_000
LEASE = 4 * S
PARIS = ManagerName("paris")


def test_a_lease_counts_from_before_its_proposal_not_from_its_application() -> None:
    lease = OwnLease("one", LEASE)
    stamp = lease.next_stamp()
    lease.proposing(stamp, 10 * S)
    assert not lease.holds(10 * S)
    assert lease.applied(stamp) == 14 * S
    assert lease.holds(14 * S - 1)
    assert not lease.holds(14 * S)


def test_a_retry_does_not_restart_the_count() -> None:
    lease = OwnLease("one", LEASE)
    stamp = lease.next_stamp()
    lease.proposing(stamp, 10 * S)
    lease.proposing(stamp, 13 * S)
    assert lease.applied(stamp) == 14 * S


def test_a_stamp_that_was_not_proposed_here_gives_nothing() -> None:
    lease = OwnLease("two", LEASE)
    assert lease.applied(LeaseStamp("one", 1)) is None
    assert lease.applied(LeaseStamp("two", 1)) is None
    assert not lease.holds(0)


def test_a_later_stamp_makes_earlier_ones_worthless_and_the_deadline_never_goes_back() -> None:
    lease = OwnLease("one", LEASE)
    first, second = lease.next_stamp(), lease.next_stamp()
    lease.proposing(first, 1 * S)
    lease.proposing(second, 2 * S)
    assert lease.applied(second) == 6 * S
    assert lease.applied(first) is None
    assert lease.deadline_ns == 6 * S


def test_what_is_remembered_of_proposals_is_bounded() -> None:
    lease = OwnLease("one", LEASE)
    stamps = [lease.next_stamp() for _ in range(MAX_STAMPS_OPEN + 1)]
    for at, stamp in enumerate(stamps):
        lease.proposing(stamp, at * S)
    assert lease.applied(stamps[0]) is None
    assert lease.applied(stamps[1]) == 5 * S


def test_others_count_from_when_they_applied_it_and_a_quarter_longer() -> None:
    others = OthersLease(LEASE)
    assert not others.ended(PARIS, 1 << 62)
    others.applied(PARIS, LeaseStamp("one", 1), 10 * S)
    others.applied(PARIS, LeaseStamp("one", 1), 12 * S)
    assert not others.ended(PARIS, 15 * S - 1)
    assert others.ended(PARIS, 15 * S)
    others.applied(PARIS, LeaseStamp("one", 2), 15 * S)
    assert not others.ended(PARIS, 15 * S)
    assert others.stamp(PARIS) == LeaseStamp("one", 2)
    others.forget(PARIS)
    assert others.ends_ns(PARIS) is None


@given(
    st.integers(1, 60_000),
    st.floats(0.889, 1.11),
    st.floats(0.889, 1.11),
    st.integers(0, 10 * S),
    st.integers(0, 10 * S),
)
def test_the_holder_stops_before_anyone_else_starts(lease_ms, holder, other, proposed, delay) -> None:
    """Times are true ns; both clocks run at rates that differ by less than 1.25."""
    own, others = OwnLease("one", lease_ms * 1_000_000), OthersLease(lease_ms * 1_000_000)
    stamp = own.next_stamp()
    own.proposing(stamp, int(proposed * holder))
    own.applied(stamp)
    others.applied(PARIS, stamp, int((proposed + delay) * other))
    ends = others.ends_ns(PARIS)
    assert ends is not None
    assert own.deadline_ns / holder <= ends / other + 4


def test_a_sole_holder_serves_without_a_lease_until_he_gives_the_right_up() -> None:
    right = SoleHolderRight()
    assert right.serves(True, 7)
    assert not right.serves(False, 7)
    mark = right.give_up(7, 1)
    assert mark == Mark(7, 1)
    assert not right.serves(True, 7)
    assert not right.decided(1), "a mark that is being written cannot go yet"
    right.kept()
    assert not right.decided(2)
    assert right.decided(1)
    assert right.serves(True, 7)


def test_the_right_stays_given_up_over_a_restart_until_a_later_epoch() -> None:
    right = SoleHolderRight(Mark(7, 1))
    assert not right.serves(True, 7)
    assert right.serves(True, 8)


def test_without_the_durable_mark_the_right_is_never_given_up() -> None:
    right = SoleHolderRight(durable=False)
    assert right.give_up(7, 1) is None
    assert right.serves(True, 7)
