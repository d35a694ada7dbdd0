"""Raft messages survive the wire unchanged; whatever else arrives is a WireError."""

import pickle
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vimraft.metadata.pysyncobj import handshake, wire
from vimraft.metadata.pysyncobj.members import encode_change

numbers = st.integers(0, wire.MAX_NUMBER)
small = st.integers(0, 1_000)
changes = st.builds(
    encode_change,
    st.sampled_from(["add", "observe", "rem"]),
    st.integers(1, 65_535).map(lambda port: f"127.0.0.1:{port}"),
    st.text(max_size=20),
)
first_release = b"\x02" + pickle.dumps(["add", "127.0.0.1:4321"], 2)
forwarded = st.builds(lambda rest: b"\0" + rest, st.binary(max_size=80)) | changes
commands = st.builds(lambda rest: b"\1" + rest, st.binary(max_size=80)) | st.just(first_release) | forwarded


def message(kind: str, **fields: st.SearchStrategy) -> st.SearchStrategy:
    return st.fixed_dictionaries({"type": st.just(kind), **fields})


@st.composite
def append_entries(draw: st.DrawFn) -> dict:
    previous, term = draw(small), draw(small)
    entries, at = [], term
    for offset, command in enumerate(draw(st.lists(commands, max_size=20))):
        at += draw(st.integers(0, 2))
        entries.append((command, previous + 1 + offset, at))
    lost = not entries and draw(st.booleans())
    return {
        "type": "append_entries",
        "term": at + draw(small),
        "commit_index": draw(numbers),
        "entries": entries,
        "prevLogIdx": None if lost else previous,
        "prevLogTerm": None if lost else term,
    }


part = st.tuples(st.binary(max_size=500), st.booleans(), st.booleans())
vote = {"term": numbers, "last_log_index": numbers, "last_log_term": numbers}
messages = st.one_of(
    append_entries(),
    message("append_entries", term=numbers, commit_index=numbers, serialized=st.none() | part),
    message("request_vote", **vote),
    message("response_vote", term=numbers),
    message("vimraft_pre_vote", **vote),
    message("vimraft_pre_vote_reply", term=numbers, granted=st.booleans()),
    message("next_node_idx", term=numbers, next_node_idx=numbers, reset=st.booleans(), success=st.booleans()),
    message("apply_command", command=forwarded),
    message("apply_command", command=forwarded, request_id=numbers),
    message("apply_command_response", request_id=numbers, error=st.integers(0, 255)),
    message("apply_command_response", request_id=numbers, log_idx=numbers, log_term=numbers),
    message("timeout_now", term=numbers),
    message("vimraft_ping"),
    message("vimraft_step_aside"),
)


@given(messages)
def test_a_message_arrives_as_it_was_sent(sent: dict) -> None:
    received = wire.decode(wire.encode(sent))
    assert received == sent
    assert [type(entry) for entry in received.get("entries", [])] == [tuple] * len(sent.get("entries", []))


@given(st.binary(max_size=300))
def test_random_bytes_are_an_error_and_nothing_else(data: bytes) -> None:
    for decode in (wire.decode, handshake.decode_frame):
        try:
            decode(data)
        except wire.WireError:
            continue


@given(messages, st.randoms(use_true_random=False))
def test_a_damaged_message_is_an_error_or_another_message(sent: dict, chance: random.Random) -> None:
    data = bytearray(wire.encode(sent))
    for _ in range(chance.randint(1, 4)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    try:
        received = wire.decode(bytes(data[: chance.randint(0, len(data))]))
    except wire.WireError:
        return
    assert wire.decode(wire.encode(received)) == received


ENTRIES = {"type": "append_entries", "term": 5, "commit_index": 1, "prevLogIdx": 7, "prevLogTerm": 3}


@pytest.mark.parametrize(
    "bad",
    [
        {**ENTRIES},
        {**ENTRIES, "entries": [(b"\0x", 9, 5)]},
        {**ENTRIES, "entries": [(b"\0x", 8, 2)]},
        {**ENTRIES, "entries": [(b"\0x", 8, 6)]},
        {**ENTRIES, "entries": [(b"\3x", 8, 5)]},
        {**ENTRIES, "entries": [(b"", 8, 5)]},
        {**ENTRIES, "entries": [], "serialized": (b"", True, True)},
        {**ENTRIES, "entries": [(b"\0x", 8, 5)], "prevLogIdx": None, "prevLogTerm": None},
        {**ENTRIES, "entries": [], "prevLogIdx": None},
        {**ENTRIES, "entries": [(b"\0" * (wire.MAX_ENTRY_BYTES + 1), 8, 5)]},
        {**ENTRIES, "transmission": "start", "data": b""},
        {"type": "response_vote", "term": -1},
        {"type": "response_vote", "term": 1 << 60},
        {"type": "response_vote", "term": 1 << 64},
        {"type": "response_vote", "term": True},
        {"type": "response_vote"},
        {"type": "response_vote", "term": 1, "more": 1},
        {"type": "next_node_idx", "next_node_idx": 1, "reset": False, "success": True},
        {"type": "apply_command", "command": b"\3\x80"},
        {"type": "apply_command", "command": b"\1"},
        {"type": "apply_command", "command": "text"},
        {"type": "apply_command", "command": b"\2"},
        {"type": "apply_command", "command": first_release},
        {"type": "apply_command", "command": encode_change("add", "nowhere")},
        {"type": "apply_command", "command": encode_change("add", ":1")},
        {"type": "apply_command", "command": encode_change("add", "host:65536")},
        {"type": "apply_command", "command": encode_change("add", "host:port")},
        {"type": "apply_command", "command": encode_change("steal", "host:1")},
        {**ENTRIES, "entries": [(b"\2\x93\xa3add", 8, 5)]},
        {**ENTRIES, "entries": [(b"\2\x80\x02cos\nsystem\n.", 8, 5)]},
        {**ENTRIES, "entries": [(encode_change("add", "nowhere"), 8, 5)]},
        {"type": "apply_command_response", "request_id": 1},
        {"type": "apply_command_response", "request_id": 1, "error": 1, "log_idx": 1, "log_term": 1},
        {"type": "set_version"},
        {"no": "type"},
        ["add", "127.0.0.1:1"],
        None,
    ],
)  # fmt: skip
def test_what_no_member_says_is_refused(bad: object) -> None:
    try:
        data = msgspec.msgpack.encode(bad)
    except OverflowError:
        pytest.skip("cannot even be written")
    with pytest.raises(wire.WireError):
        wire.decode(data)


def test_deep_nesting_and_huge_counts_are_refused_at_once() -> None:
    for data in (
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
    ):
        with pytest.raises(wire.WireError):
            wire.decode(data)


def test_a_pickle_is_not_read() -> None:
    with pytest.raises(wire.WireError):
        wire.decode(pickle.dumps({"type": "vimraft_ping"}))


def test_what_cannot_be_sent_says_so() -> None:
    with pytest.raises(wire.WireError):
        wire.encode({"type": "vimraft_ping", "x": object()})
    with pytest.raises(wire.WireError):
        wire.encode({"type": "append_entries", "serialized": (bytes(wire.MAX_FRAME_BYTES), True, False)})
