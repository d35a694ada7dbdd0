"""What leaves before, and what only after, the disk has it."""

from typing import Any

import pytest
from pysyncobj.node import Node

from vimraft.metadata.pysyncobj.gate import MAX_HELD, REPEAT_S, GatedTransport


class Raft:
    raftCurrentTerm = 3  # noqa: N815 (PySyncObj's name)
    now_s = 100.0

    def clock(self) -> float:
        return self.now_s


class Carrier(GatedTransport):
    def __init__(self, raft: Raft) -> None:
        super().__init__(raft, Node("a:1"), set())
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def _transmit(self, node: Node, message: dict[str, Any]) -> bool:
        self.sent.append((node.id, message))
        return True

    def values(self, key: str) -> list[Any]:
        return [message[key] for _, message in self.sent]


B, C = Node("b:1"), Node("c:1")


@pytest.fixture
def raft() -> Raft:
    return Raft()


@pytest.fixture
def gate(raft: Raft) -> Carrier:
    return Carrier(raft)


def acknowledgement(index: int, *, success: bool = True, reset: bool = False) -> dict[str, Any]:
    return {"type": "next_node_idx", "next_node_idx": index, "reset": reset, "success": success}


@pytest.mark.parametrize("kind", ["append_entries", "apply_command", "timeout_now", "vimraft_pre_vote_reply"])
def test_what_promises_nothing_leaves_at_once(gate: Carrier, kind: str) -> None:
    assert gate.send(B, {"type": kind, "term": 3})
    assert gate.values("type") == [kind]


@pytest.mark.parametrize("kind", ["request_vote", "response_vote"])
def test_votes_wait_for_the_sync(gate: Carrier, kind: str) -> None:
    gate.send(B, {"type": kind, "term": 3})
    assert gate.holds
    assert not gate.sent
    gate.release()
    assert gate.values("type") == [kind]
    gate.release()
    assert len(gate.sent) == 1


def test_an_acknowledgement_carries_the_term_in_which_it_was_given(raft: Raft, gate: Carrier) -> None:
    gate.send(B, acknowledgement(10))
    raft.raftCurrentTerm = 4  # before the disk was ready, another leader came
    gate.send(C, acknowledgement(7))
    gate.release()
    assert [(node, m["term"], m["next_node_idx"]) for node, m in gate.sent] == [("b:1", 3, 10), ("c:1", 4, 7)]


def test_the_newest_acknowledgement_of_a_peer_stands_for_all(gate: Carrier) -> None:
    for index in (5, 9, 12):
        gate.send(B, acknowledgement(index))
    gate.send(C, acknowledgement(6))
    gate.release()
    assert gate.values("next_node_idx") == [12, 6]


def test_a_later_one_takes_nothing_back_that_was_acknowledged_in_the_term(raft: Raft, gate: Carrier) -> None:
    gate.send(B, acknowledgement(12))
    gate.send(B, acknowledgement(8))  # the answer to a message that came twice
    raft.raftCurrentTerm = 4
    gate.send(B, acknowledgement(3))
    gate.release()
    assert [(m["term"], m["next_node_idx"]) for _, m in gate.sent] == [(3, 12), (4, 3)]


def test_a_reset_and_a_sign_of_life_do_not_replace_an_acknowledgement(gate: Carrier) -> None:
    gate.send(B, acknowledgement(12))
    gate.send(B, acknowledgement(13, success=False))
    gate.send(B, acknowledgement(4, success=False, reset=True))
    gate.release()
    assert gate.values("next_node_idx") == [12, 13, 4]


def test_while_the_disk_is_full_promises_are_dropped_for_good(gate: Carrier) -> None:
    gate.send(B, acknowledgement(12))
    gate.send(B, {"type": "response_vote", "term": 3})
    gate.drop_held()
    gate.release()
    assert not gate.sent
    assert not gate.holds


def test_what_is_held_has_a_bound(raft: Raft, gate: Carrier) -> None:
    for term in range(MAX_HELD + 10):
        raft.raftCurrentTerm = term
        gate.send(B, acknowledgement(1))
    gate.release()
    assert len(gate.sent) == MAX_HELD
    assert gate.sent[-1][1]["term"] == MAX_HELD + 9


def test_what_was_just_said_is_not_said_again(raft: Raft, gate: Carrier) -> None:
    for _ in range(3):
        gate.send(B, acknowledgement(12))
        gate.release()
    assert len(gate.sent) == 1
    raft.now_s += REPEAT_S
    gate.send(B, acknowledgement(12))
    gate.release()
    assert len(gate.sent) == 2


@pytest.mark.parametrize("changed", ["index", "term", "reset", "peer"])
def test_anything_new_is_said_at_once(raft: Raft, gate: Carrier, changed: str) -> None:
    gate.send(B, acknowledgement(12))
    gate.release()
    if changed == "term":
        raft.raftCurrentTerm = 4
    reset = changed == "reset"
    message = acknowledgement(13 if changed == "index" else 12, success=not reset, reset=reset)
    for count in (2, 3):
        gate.send(C if changed == "peer" else B, message)
        gate.release()
        assert len(gate.sent) == (count if reset else 2)  # a reset asks for something: always said


def test_what_found_no_link_has_not_been_said(raft: Raft) -> None:
    class Broken(Carrier):
        def _transmit(self, node: Node, message: dict[str, Any]) -> bool:
            super()._transmit(node, message)
            return False

    gate = Broken(raft)
    for _ in range(2):
        gate.send(B, acknowledgement(12))
        gate.release()
    assert len(gate.sent) == 2
