"""A follower cuts its journal only where an entry conflicts (Raft §5.3)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vimraft.metadata.pysyncobj.matching import match

Entry = tuple[bytes, int, int]


def journal(*terms: int, first: int = 1) -> list[Entry]:
    return [(b"c", first + i, term) for i, term in enumerate(terms)]


def message(previous: int, term: int, entries: list[Entry], commit: int = 0) -> dict[str, object]:
    return {
        "type": "append_entries", "term": 9, "prevLogIdx": previous, "prevLogTerm": term,
        "entries": entries, "commit_index": commit,
    }  # fmt: skip


def test_a_heartbeat_about_the_middle_neither_cuts_nor_acknowledges_the_rest() -> None:
    result = match(journal(1, 1, 1, 1), message(2, 1, [], commit=4), 1, 1)
    assert "prevLogIdx" not in result.message
    assert result.message["commit_index"] == 2  # the rest is not known to match
    assert result.acknowledge == 3


def test_a_repeated_message_acknowledges_what_it_holds() -> None:
    ours = journal(1, 1, 1, 1)
    result = match(ours, message(1, 1, ours[1:3]), 1, 1)
    assert "entries" not in result.message
    assert result.acknowledge == 4


def test_only_what_is_new_is_appended() -> None:
    ours, theirs = journal(1, 1, 1), journal(1, 1, 1, 2)
    result = match(ours, message(1, 1, theirs[1:]), 1, 1)
    assert result.message["prevLogIdx"] == 3
    assert result.message["entries"] == theirs[3:]
    assert result.conflict is None


def test_a_conflict_is_passed_on_from_its_first_entry() -> None:
    ours, theirs = journal(1, 1, 1, 1), journal(1, 1, 2)
    result = match(ours, message(1, 1, theirs[1:]), 1, 1)
    assert result.message["prevLogIdx"] == 2
    assert result.message["entries"] == theirs[2:]
    assert result.conflict == 3


@pytest.mark.parametrize(
    ("previous", "term"),
    [
        (9, 1),  # behind our end
        (13, 7),  # an entry of another term
        (3, 1),  # before our snapshot
        (None, None),  # the leader's log is shorter than it was told ours is
    ],
)
def test_what_does_not_fit_restarts_behind_what_is_decided(previous: int, term: int) -> None:
    ours = journal(1, 1, 1, 1, first=10)
    result = match(ours, message(previous, term, [(b"c", 50, 9)], commit=50), 11, 12)
    assert result.restart_from == 13
    assert result.acknowledge is None
    assert result.conflict is None
    assert "entries" not in result.message
    assert result.message["commit_index"] == 11


@pytest.mark.parametrize(("previous", "committed", "applied"), [(12, 12, 10), (11, 12, 10), (12, 10, 12)])
def test_another_entry_where_ours_is_decided_is_a_conflict_there(
    previous: int, committed: int, applied: int
) -> None:
    """Asking again from behind what is decided would only bring the same message, for ever."""
    ours = journal(1, 1, 1, 1, first=10)
    result = match(ours, message(previous, 3, [(b"c", previous + 1, 9)], commit=50), committed, applied)
    assert result.conflict == previous
    assert result.restart_from is None
    assert "entries" not in result.message


def test_a_part_of_a_snapshot_commits_nothing_of_the_own_log() -> None:
    part = {"type": "append_entries", "term": 9, "commit_index": 50, "serialized": (b"part", True, False)}
    result = match(journal(1, 1, 1, 1), part, 2, 1)
    assert result.message == {**part, "commit_index": 2}
    assert result.acknowledge is None


def stock(ours: list[Entry], delivered: dict[str, object]) -> list[Entry]:
    """What PySyncObj does with a message: cut after the previous entry, then append."""
    if "prevLogIdx" not in delivered:
        return ours
    offset = delivered["prevLogIdx"] - ours[0][1]
    return ours[: offset + 1] + delivered["entries"]


@given(data=st.data())
def test_any_message_leaves_what_raft_prescribes(data: st.DataObject) -> None:
    """Against Raft's own rule, entry by entry, on logs that share a prefix."""
    first = data.draw(st.integers(1, 5))
    common = data.draw(st.integers(1, 6))
    leader = journal(*[1] * common, *data.draw(st.lists(st.just(3), max_size=5)), first=first)
    ours = journal(*[1] * common, *data.draw(st.lists(st.sampled_from([1, 2]), max_size=5)), first=first)
    previous = data.draw(st.integers(first, first + common - 1))
    start = previous - first + 1
    sent = leader[start : data.draw(st.integers(start, len(leader)))]
    result = match(ours, message(previous, 1, sent, commit=99), 1, 1)

    expected = list(ours)
    for entry in sent:
        offset = entry[1] - first
        if offset < len(expected) and expected[offset][2] != entry[2]:
            del expected[offset:]
        if offset == len(expected):
            expected.append(entry)
    assert stock(ours, result.message) == expected
    if result.acknowledge is not None:
        assert result.acknowledge == previous + len(sent) + 1
        assert result.message["commit_index"] <= previous + len(sent)
