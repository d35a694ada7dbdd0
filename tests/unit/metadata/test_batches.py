"""Several commands in one entry: put together, checked on the wire, applied and answered one by one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pysyncobj import FAIL_REASON

from tests.unit.metadata.test_raft_node import OTHER, Bench
from vimraft.core import levels
from vimraft.core.tables import State
from vimraft.metadata.pysyncobj import applying, batches, wire
from vimraft.metadata.pysyncobj.batches import MAX_BATCH, join, may_join, room, split
from vimraft.metadata.pysyncobj.members import encode_change
from vimraft.metadata.pysyncobj.records import BATCH, MAX_COMMAND_BYTES, REGULAR

COMMANDS = st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=MAX_BATCH)

# --- the format -------------------------------------------------------------------------------------


@given(COMMANDS)
def test_what_was_put_together_comes_out_alike(commands: list[bytes]) -> None:
    entry = join([REGULAR + command for command in commands])
    assert list(split(entry)) == commands
    assert entry[:1] == (REGULAR if len(commands) == 1 else BATCH)
    assert batches.for_tables(entry)


@given(st.lists(st.integers(1, MAX_COMMAND_BYTES), min_size=1, max_size=2 * MAX_BATCH))
def test_what_has_room_is_never_longer_than_a_command_may_be(lengths: list[int]) -> None:
    taken: list[bytes] = []
    for length in lengths:
        command = REGULAR + bytes(length)
        if taken and room(taken, sum(map(len, taken)), command):
            taken.append(command)
        elif not taken:
            taken = [command]
    assert len(taken) <= MAX_BATCH
    assert len(join(taken)) <= MAX_COMMAND_BYTES + 1


def test_small_commands_share_an_entry_until_it_is_full() -> None:
    full = [REGULAR + b"x"] * MAX_BATCH
    assert room(full[1:], 2 * (MAX_BATCH - 1), full[0])
    assert not room(full, 2 * MAX_BATCH, full[0])


@given(COMMANDS, st.data())
def test_a_torn_batch_is_never_taken_for_a_whole_one(commands: list[bytes], data: st.DataObject) -> None:
    """Cut anywhere, it either says so, or is a batch of fewer: what the checksums of the journal and of TLS
    leave to a peer that lies."""
    entry = join([REGULAR + b"first", *[REGULAR + command for command in commands]])
    cut = entry[: data.draw(st.integers(1, len(entry) - 1))]
    try:
        found = list(split(cut))
    except ValueError:
        return
    assert found == [b"first", *commands][: len(found)]
    assert len(found) <= len(commands)


@pytest.mark.parametrize(
    "entry",
    [
        BATCH,
        BATCH + b"\1",
        BATCH + b"\1\0\0\0",
        BATCH + b"\0\0\0\0",
        BATCH + b"\2\0\0\0a",
        BATCH + b"\1\0\0\0a\0\0\0\0",
        BATCH + b"\xff\xff\xff\xffa",
        BATCH + b"\1\0\0\0a" * (MAX_BATCH + 1),
    ],
)
def test_a_batch_that_apply_could_not_take_apart_is_refused_on_the_wire(entry: bytes) -> None:
    append = {"type": "append_entries", "term": 5, "commit_index": 0, "prevLogIdx": 7, "prevLogTerm": 5}
    whole = BATCH + b"\1\0\0\0a" * 2
    for message, bad in (
        ({**append, "entries": [(whole, 8, 5)]}, {**append, "entries": [(entry, 8, 5)]}),
        ({"type": "apply_command", "command": whole}, {"type": "apply_command", "command": entry}),
    ):
        wire.decode(msgspec.msgpack.encode(message))
        with pytest.raises(wire.WireError):
            wire.decode(msgspec.msgpack.encode(bad))


# --- a node -----------------------------------------------------------------------------------------


class Asked:
    """Commands put to a node, and what came back for each."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.answers: dict[bytes, list[tuple[Any, int]]] = {}

    def put(self, *commands: bytes) -> None:
        for command in commands:
            answers = self.answers[command] = []
            self._bench.node.commit(command, lambda *answer, answers=answers: answers.append(answer))

    def all_done(self) -> bool:
        return all(
            answers == [(b"done:" + command, FAIL_REASON.SUCCESS)]
            for command, answers in self.answers.items()
        )


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    made.node.state = State(level=levels.LATEST)
    yield made
    made.node.close()


def commands_in(bench: Bench, count: int) -> list[bytes]:
    """The last entries of its log."""
    return [command for command, _, _ in bench.node.journal[len(bench.node.journal) - count :]]


def test_entries_hold_many_only_where_every_release_can_read_them() -> None:
    assert not may_join(levels.FIRST)
    assert may_join(levels.LATEST)


def test_commands_that_wait_together_share_an_entry_and_each_has_its_own_outcome(bench: Bench) -> None:
    bench.lead()
    before, asked = bench.node.last_index, Asked(bench)
    asked.put(b"a", b"b", b"c")
    bench.run()
    assert bench.node.last_index == before + 1
    bench.acknowledge(bench.node.last_index)
    bench.run()
    assert bench.applied == [b"a", b"b", b"c"]
    assert asked.all_done()


def test_at_the_first_level_each_command_has_an_entry(bench: Bench) -> None:
    bench.node.state = State()
    bench.lead()
    before, asked = bench.node.last_index, Asked(bench)
    asked.put(b"a", b"b", b"c")
    bench.run()
    assert bench.node.last_index == before + 3
    assert commands_in(bench, 3) == [b"\0a", b"\0b", b"\0c"]
    bench.acknowledge(bench.node.last_index)
    bench.run()
    assert asked.all_done()


def test_what_does_not_fit_goes_into_the_next_entry_in_order(bench: Bench) -> None:
    bench.lead()
    before, asked = bench.node.last_index, Asked(bench)
    many = [b"%d" % number for number in range(MAX_BATCH + 1)]
    large = [bytes([65 + number]) * (MAX_COMMAND_BYTES // 2) for number in range(3)]
    asked.put(*many, *large)
    bench.run()
    assert bench.node.last_index == before + 4
    bench.acknowledge(bench.node.last_index)
    bench.run()
    assert bench.applied == many + large
    assert asked.all_done()


def test_a_membership_change_has_an_entry_of_its_own_between_what_came_before_and_after(
    bench: Bench,
) -> None:
    bench.lead()
    bench.acknowledge(bench.node.last_index)
    bench.run()
    asked = Asked(bench)
    change = encode_change("observe", "127.0.0.1:1")
    asked.put(b"a", b"b")
    bench.node.change_members(change, lambda *_: None)
    asked.put(b"c", b"d")
    bench.run()
    assert commands_in(bench, 3) == [join([b"\0a", b"\0b"]), change, join([b"\0c", b"\0d"])]


def test_a_command_that_is_too_long_is_refused_alone(bench: Bench) -> None:
    bench.lead()
    asked = Asked(bench)
    long = bytes(MAX_COMMAND_BYTES + 1)
    asked.put(b"a", long, b"b")
    bench.run()
    assert asked.answers.pop(long) == [(None, FAIL_REASON.REQUEST_DENIED)]
    bench.acknowledge(bench.node.last_index)
    bench.run()
    assert asked.all_done()


def test_a_follower_passes_on_what_waits_as_one_request(bench: Bench) -> None:
    bench.receive(bench.entries(term=5))
    asked = Asked(bench)
    asked.put(b"a", b"b")
    bench.run()
    (sent,) = bench.said("apply_command")
    entry = sent["command"]
    assert entry == join([b"\0a", b"\0b"])
    place = {"request_id": sent["request_id"], "log_idx": bench.node.last_index + 1, "log_term": 5}
    bench.receive({"type": "apply_command_response", **place})
    bench.receive({**bench.entries(entry), "commit_index": 99})
    bench.run()
    assert asked.all_done()


def test_a_leader_puts_what_was_passed_on_into_an_entry_as_it_is(bench: Bench) -> None:
    bench.lead()
    asked, passed_on = Asked(bench), join([b"\0x", b"\0y"])
    asked.put(b"a")
    bench.receive({"type": "apply_command", "command": passed_on, "request_id": 7})
    asked.put(b"b")
    bench.run()
    assert commands_in(bench, 3) == [b"\0a", passed_on, b"\0b"]
    (answer,) = bench.said("apply_command_response")
    assert answer["log_idx"] == bench.node.last_index - 1


def test_a_refused_batch_is_refused_to_each(bench: Bench) -> None:
    bench.receive(bench.entries(term=5))
    asked = Asked(bench)
    asked.put(b"a", b"b")
    bench.run()
    (sent,) = bench.said("apply_command")
    refused = {"request_id": sent["request_id"], "error": FAIL_REASON.NOT_LEADER}
    bench.receive({"type": "apply_command_response", **refused})
    assert set(map(tuple, asked.answers.values())) == {((None, FAIL_REASON.NOT_LEADER),)}


def test_a_batch_that_a_new_leader_replaces_is_discarded_for_each(bench: Bench) -> None:
    bench.lead()
    before, asked = bench.node.last_index, Asked(bench)
    asked.put(b"a", b"b")
    bench.run()
    term = bench.node.raftCurrentTerm + 1
    bench.receive({**bench.entries(b"\0z", term=term, after=before), "commit_index": before + 1}, OTHER)
    bench.run(2)
    assert bench.applied == [b"z"]
    assert set(map(tuple, asked.answers.values())) == {((None, FAIL_REASON.DISCARDED),)}


def test_a_callback_that_raises_costs_the_others_of_its_batch_nothing(bench: Bench) -> None:
    bench.lead()
    asked = Asked(bench)
    asked.put(b"a")
    bench.node.commit(b"b", lambda *_: 1 / 0)  # type: ignore[arg-type,return-value]
    asked.put(b"c")
    bench.run()
    bench.acknowledge(bench.node.last_index)
    bench.run()
    assert bench.applied == [b"a", b"b", b"c"]
    assert asked.all_done()


def test_after_so_many_commands_apply_leaves_the_rest_to_the_next_round(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(applying, "MAX_APPLY_PER_ROUND", 5)
    entries = [join([b"\0%d%d" % (entry, number) for number in range(3)]) for entry in range(5)]
    bench.receive({**bench.entries(*entries), "commit_index": 99})
    counts = []
    while len(bench.applied) < 15:
        bench.run()
        counts.append(len(bench.applied))
        assert len(counts) < 10
    assert [count for count in counts if count] == [6, 12, 15]  # an entry is not taken apart


def test_a_batch_survives_a_restart_and_a_power_cut(bench: Bench) -> None:
    bench.lead()
    asked = Asked(bench)
    asked.put(b"a", b"b")
    bench.run()
    bench.acknowledge(bench.node.last_index)
    bench.run()
    bench.node.persist(lambda: None)
    bench.run()
    bench.disk.crash(bench.node._environment.random)
    bench.applied.clear()
    bench.start()
    assert bench.applied == [b"a", b"b"]
