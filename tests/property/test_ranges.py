"""The range lock against a dumb list: fair, exclusive, and everybody gets in at last."""

from hypothesis import given, settings
from hypothesis import strategies as st

from vimraft.protocol.ranges import BUCKET_BYTES, MAX_BUCKETS_EACH, RangeLock

sizes = st.one_of(
    st.integers(1, 3), st.integers(1, 4 * BUCKET_BYTES), st.integers(1, 2 * MAX_BUCKETS_EACH * BUCKET_BYTES)
)
requests = st.tuples(st.integers(0, 6 * BUCKET_BYTES), sizes, st.booleans())
steps = st.lists(st.one_of(requests, st.integers(0, 40)), max_size=60)


class Dumb:
    """All entries in order of arrival; one is granted when no earlier one conflicts with it."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, int, int, bool]] = []

    def granted(self) -> set[int]:
        found = set()
        for number, (token, first, end, exclusive) in enumerate(self.entries):
            if not any(
                (exclusive or other[3]) and first < other[2] and other[1] < end
                for other in self.entries[:number]
            ):
                found.add(token)
        return found


@settings(max_examples=150, deadline=None)
@given(steps)
def test_it_grants_what_a_list_searched_from_its_beginning_grants(given_steps) -> None:
    lock, dumb = RangeLock(), Dumb()
    granted: set[int] = set()
    for token, step in enumerate(given_steps):
        if isinstance(step, tuple):
            first, length, exclusive = step
            dumb.entries.append((token, first, first + length, exclusive))
            if lock.acquire(token, first, length, exclusive=exclusive):
                granted.add(token)
        elif dumb.entries:
            gone = dumb.entries.pop(step % len(dumb.entries))[0]
            granted.discard(gone)
            named = lock.release(gone)
            assert named == sorted(named)
            assert not granted & set(named)
            granted |= set(named)
        assert granted == dumb.granted()
        assert {entry[0] for entry in dumb.entries if lock.holds(entry[0])} == granted
        assert len(lock) == len(dumb.entries)
    while dumb.entries:
        gone = dumb.entries.pop(0)[0]
        assert lock.holds(gone), "the first to come always holds"
        lock.release(gone)
    assert not lock._buckets
    assert not lock._wide
