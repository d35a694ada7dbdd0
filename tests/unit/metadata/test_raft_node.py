"""One Raft node among peers that the test plays: what it says, when, and what it takes in."""

import asyncio
import errno
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pysyncobj import FAIL_REASON
from pysyncobj.monotonic import monotonic
from pysyncobj.node import Node, TCPNode

from tests.raft_cases import free_addresses
from tests.simulation.disk import SimDisk
from vimraft.core.tables import State
from vimraft.metadata.port import UnknownOutcome
from vimraft.metadata.pysyncobj.config import PySyncObjConfig
from vimraft.metadata.pysyncobj.elections import PRE_VOTE, PRE_VOTE_REPLY
from vimraft.metadata.pysyncobj.environment import AtOnce, Environment
from vimraft.metadata.pysyncobj.gate import GatedTransport
from vimraft.metadata.pysyncobj.inbox import STEP_ASIDE
from vimraft.metadata.pysyncobj.journal import open_journal
from vimraft.metadata.pysyncobj.member_changes import MemberChanges
from vimraft.metadata.pysyncobj.members import encode_change
from vimraft.metadata.pysyncobj.node import EXIT_DATA, Dead, NodeHooks, RaftNode
from vimraft.metadata.pysyncobj.proposals import Proposals
from vimraft.metadata.pysyncobj.recovery import recover
from vimraft.metadata.pysyncobj.snapshot_file import Snapshot, encode_snapshot

HERE, PEER, OTHER = free_addresses(3)
DENIED = FAIL_REASON.REQUEST_DENIED


class Post(GatedTransport):
    """Everybody is connected; what is sent is kept."""

    def __init__(self, node: Any, self_node: Node, other_nodes: set[Node]) -> None:
        super().__init__(node, self_node, other_nodes)
        self.nodes: dict[str, Node] = {}
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self._fresh = list(other_nodes)
        node.addOnTickCallback(self._connect)

    def addNode(self, node: Node) -> None:
        self._fresh.append(node)

    def dropNode(self, node: Node) -> None:
        self.nodes.pop(node.id, None)

    def _connect(self) -> None:
        while self._fresh:
            node = self._fresh.pop()
            self.nodes[node.id] = node
            self._onNodeConnected(node)

    def _transmit(self, node: Node, message: dict[str, Any]) -> bool:
        self.sent.append((node.id, message))
        return True


class Bench:
    """The node under test, its disk, and its peers' side of the links."""

    def __init__(self, path: Path) -> None:
        self.disk = SimDisk()
        self.config = PySyncObjConfig(
            self_address=HERE,
            members=(HERE, PEER, OTHER),
            data_dir=path,
            allow_plaintext=True,
            journal_slack_bytes=0,
        )
        self.applied: list[bytes] = []
        self.ended: list[tuple[int, str]] = []
        self.late_s = 0.0
        self.start()

    def start(self) -> None:
        hooks = NodeHooks(
            apply=self._apply, fatal=lambda code, why: self.ended.append((code, why)), changed=lambda: None
        )
        environment = Environment(self.disk, monotonic, random.Random(1), Post, AtOnce())
        self.node = RaftNode(self.config, recover(self.disk, self.config), hooks, environment)
        self.post: Post = self.node.transport
        self.run()

    def _apply(self, state: State, data: bytes) -> tuple[State, bytes]:
        self.applied.append(data)
        return state, b"done:" + data

    def run(self, rounds: int = 1) -> None:
        for _ in range(rounds):
            self.node.pump(0)

    def receive(self, message: dict[str, Any], sender: str = PEER) -> None:
        """A message; not yet the round that follows."""
        self.node._receive(TCPNode(sender), message)

    def said(self, kind: str) -> list[dict[str, Any]]:
        return [message for _, message in self.post.sent if message["type"] == kind]

    def forget(self) -> None:
        self.post.sent.clear()

    def entries(self, *commands: bytes, term: int = 5, after: int | None = None) -> dict[str, Any]:
        """append_entries of PEER, which leads."""
        previous = self.node.last_index if after is None else after
        return {
            "type": "append_entries",
            "term": term,
            "commit_index": 0,
            "prevLogIdx": previous,
            "prevLogTerm": self.node.journal[previous - self.node.journal[0][1]][2],
            "entries": [(command, previous + 1 + i, term) for i, command in enumerate(commands)],
        }

    def lead(self) -> None:
        """An election that everybody is for."""
        self.node._SyncObj__raftElectionDeadline = 0.0
        self.run()
        term = self.node.raftCurrentTerm + 1
        self.receive({"type": PRE_VOTE_REPLY, "term": term, "granted": True})
        self.run()
        assert self.node.raftCurrentTerm == term
        self.receive({"type": "response_vote", "term": term})
        self.run()
        assert self.node._isLeader()

    def lead_alone(self) -> None:
        self.node._SyncObj__raftElectionDeadline = 0.0
        self.run()
        assert self.node._isLeader()

    def acknowledge(self, index: int, *, sender: str = PEER, **changed: Any) -> None:
        message = {"type": "next_node_idx", "next_node_idx": index + 1, "reset": False, "success": True}
        self.receive({**message, "term": self.node.raftCurrentTerm, **changed}, sender)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.node.close()


# --- what leaves when -------------------------------------------------------------------------------


def test_an_acknowledgement_leaves_after_the_sync_that_covers_it(bench: Bench) -> None:
    bench.receive(bench.entries(b"\x00a"))
    assert not bench.said("next_node_idx")
    assert bench.node.journal.synced_index < bench.node.last_index
    bench.run()
    assert [m["next_node_idx"] for m in bench.said("next_node_idx")] == [bench.node.last_index + 1]
    assert bench.node.journal.synced_index == bench.node.last_index


def test_a_vote_leaves_after_the_sync_and_is_remembered_after_a_power_cut(bench: Bench) -> None:
    request = {"type": "request_vote", "term": 7, "last_log_index": 99, "last_log_term": 6}
    bench.receive(request)
    assert not bench.said("response_vote")
    bench.run()
    assert len(bench.said("response_vote")) == 1
    bench.disk.crash(random.Random(2))
    bench.start()
    bench.receive(request, OTHER)
    bench.run()
    assert not bench.said("response_vote")
    assert bench.node.raftCurrentTerm == 7


def test_an_acknowledgement_for_an_older_leader_carries_the_older_term(bench: Bench) -> None:
    bench.receive(bench.entries(b"\x00a", term=5))
    bench.receive({"type": "request_vote", "term": 6, "last_log_index": 99, "last_log_term": 5}, OTHER)
    bench.run()
    assert [m["term"] for m in bench.said("next_node_idx")] == [5]
    assert bench.node.raftCurrentTerm == 6


def test_a_leader_sends_before_its_own_disk_has_it_and_counts_after(bench: Bench) -> None:
    bench.lead()
    order: list[str] = []
    sync = bench.node.journal.sync
    bench.node.journal.sync = lambda: (order.append("sync"), sync())[1]  # type: ignore[method-assign,func-returns-value]
    transmit = bench.post._transmit

    def watched(node: Node, message: dict[str, Any]) -> bool:
        order.append(message["type"])
        return transmit(node, message)

    bench.post._transmit = watched  # type: ignore[method-assign]
    answers: list[Any] = []
    bench.node.commit(b"x", lambda *answer: answers.append(answer))
    bench.run()
    assert order[:3] == ["append_entries", "append_entries", "sync"]
    assert not answers
    bench.acknowledge(bench.node.last_index)
    bench.run()
    assert answers == [(b"done:x", 0)]
    assert bench.node.journal.getRaftCommitIndex() == bench.node.last_index


# --- terms ------------------------------------------------------------------------------------------


def test_acknowledgements_of_another_term_commit_nothing(bench: Bench) -> None:
    bench.lead()
    bench.node.commit(b"x", lambda *_: None)
    bench.run()
    bench.acknowledge(bench.node.last_index, term=bench.node.raftCurrentTerm - 1)
    bench.run()
    assert not bench.applied
    bench.acknowledge(bench.node.last_index)
    bench.run()
    assert bench.applied == [b"x"]


@pytest.mark.parametrize(
    "message",
    [
        {"type": "next_node_idx", "next_node_idx": 1, "reset": False, "success": False},
        {"type": PRE_VOTE_REPLY, "granted": False},
        {"type": "response_vote"},
    ],
)
def test_a_newer_term_in_any_answer_ends_an_office_durably(bench: Bench, message: dict[str, Any]) -> None:
    bench.lead()
    bench.receive({**message, "term": 40})
    assert not bench.node._isLeader()
    bench.run()
    bench.disk.crash(random.Random(3))
    bench.start()
    assert bench.node.raftCurrentTerm == 40


def test_an_older_leader_is_told_the_newer_term_and_its_entries_are_not_taken(bench: Bench) -> None:
    bench.receive(bench.entries(b"\x00a", term=9))
    bench.run()
    before = bench.node.last_index
    bench.forget()
    bench.receive(bench.entries(b"\x00b", term=8), OTHER)
    assert bench.said(PRE_VOTE_REPLY) == [{"type": PRE_VOTE_REPLY, "term": 9, "granted": False}]
    assert bench.node.last_index == before


# --- elections --------------------------------------------------------------------------------------


def test_an_election_without_anyones_consent_raises_no_term(bench: Bench) -> None:
    term = bench.node.raftCurrentTerm
    for _ in range(5):
        bench.node._SyncObj__raftElectionDeadline = 0.0
        bench.run()
    assert len(bench.said(PRE_VOTE)) == 10
    assert not bench.said("request_vote")
    assert bench.node.raftCurrentTerm == term


def test_a_repeated_vote_makes_no_leader(tmp_path: Path) -> None:
    """Of five, one vote that comes twice and the own one are no majority."""
    more = free_addresses(2)
    bench = Bench.__new__(Bench)
    bench.disk, bench.applied, bench.ended = SimDisk(), [], []
    bench.config = PySyncObjConfig(
        self_address=HERE, members=(HERE, PEER, OTHER, *more), data_dir=tmp_path, allow_plaintext=True
    )
    bench.start()
    bench.node._SyncObj__raftElectionDeadline = 0.0
    bench.run()
    for peer in (PEER, OTHER):
        bench.receive({"type": PRE_VOTE_REPLY, "term": 1, "granted": True}, peer)
    bench.run()
    for _ in range(3):
        bench.receive({"type": "response_vote", "term": 1}, PEER)
    bench.run()
    assert not bench.node._isLeader()
    bench.receive({"type": "response_vote", "term": 1}, OTHER)
    assert bench.node._isLeader()
    bench.node.close()


def test_after_a_long_round_what_waits_is_read_before_anyone_is_called_dead(bench: Bench) -> None:
    """Such as one in which a large snapshot was installed."""
    bench.receive(bench.entries(term=5))
    bench.run()
    bench.node._last_pump -= bench.config.election_min_ms / 1000
    bench.node._SyncObj__raftElectionDeadline = 0.0
    bench.run(2)
    assert not bench.said(PRE_VOTE)
    bench.node._SyncObj__raftElectionDeadline = 0.0
    bench.run()
    assert bench.said(PRE_VOTE)


def test_who_hears_a_leader_grants_no_pre_vote(bench: Bench) -> None:
    ask = {"type": PRE_VOTE, "term": 6, "last_log_index": 99, "last_log_term": 5}
    bench.receive(bench.entries(term=5))
    bench.receive(ask, OTHER)
    assert not bench.said(PRE_VOTE_REPLY)


# --- what a leader remembers of its followers -------------------------------------------------------


def test_a_late_reset_does_not_take_back_what_was_acknowledged(bench: Bench) -> None:
    bench.lead()
    for i in range(5):
        bench.node.commit(b"%d" % i, lambda *_: None)
    bench.run()
    last = bench.node.last_index
    bench.acknowledge(last - 1)
    peer = TCPNode(PEER)
    for asked, follows in ((1, last), (last + 50, last + 1)):
        bench.acknowledge(asked - 1, success=False, reset=True)
        assert bench.node._SyncObj__raftNextIndex[peer] == follows
    bench.acknowledge(last + 7)  # nobody has what does not exist
    assert bench.node._SyncObj__raftMatchIndex[peer] == last - 1


# --- the disk ---------------------------------------------------------------------------------------


class FullDisk:
    """Makes the journal's writes fail."""

    def __init__(self, bench: Bench) -> None:
        self.full = True
        self._write = bench.node.journal.write
        bench.node.journal.write = self._try  # type: ignore[method-assign]

    def _try(self) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._write()


def test_with_a_full_disk_a_leader_steps_down_and_nothing_is_promised(bench: Bench) -> None:
    bench.lead()
    disk = FullDisk(bench)
    answers: list[Any] = []
    bench.node.commit(b"x", lambda *answer: answers.append(answer))
    bench.run(3)
    assert not bench.node._isLeader()
    assert "No space left" in bench.node.problem
    bench.forget()
    length = len(bench.node.journal)
    term = bench.node.raftCurrentTerm + 1
    bench.receive({"type": PRE_VOTE, "term": term + 2, "last_log_index": 99, "last_log_term": 9}, OTHER)
    assert not bench.said(PRE_VOTE_REPLY)
    for _ in range(20):  # memory does not grow while a leader goes on sending
        bench.receive(bench.entries(b"\x00a", b"\x00b", term=term, after=length))
        bench.run()
    bench.receive({"type": "request_vote", "term": term + 1, "last_log_index": 99, "last_log_term": 9}, OTHER)
    assert bench.node.raftCurrentTerm == term
    bench.run()
    assert len(bench.node.journal) == length
    assert not bench.said("next_node_idx")
    assert not bench.said("response_vote")
    disk.full = False
    bench.node.durability._retry_s = 0.0
    bench.receive(bench.entries(b"\x00a", term=term, after=length - 1))
    bench.run(2)
    assert not bench.node.disk_problem
    assert bench.node.journal.synced_index == bench.node.last_index


def test_what_is_not_on_the_own_disk_is_not_applied(bench: Bench) -> None:
    bench.receive({**bench.entries(b"\x00a"), "commit_index": 99})
    bench.node._SyncObj__applyLogEntries()
    assert not bench.applied
    FullDisk(bench)
    bench.run(3)
    assert bench.node.raftCommitIndex == bench.node.last_index
    assert not bench.applied


def test_the_commit_index_is_in_the_file_before_anything_is_applied(bench: Bench) -> None:
    written: list[bool] = []
    bench.receive(bench.entries(b"\x00a"))
    bench.run()
    bench.receive({**bench.entries(), "commit_index": bench.node.last_index})
    bench.node.hooks = NodeHooks(
        apply=lambda state, data: (written.append(not bench.node.journal.unwritten), (state, b""))[1],  # type: ignore[func-returns-value]
        fatal=lambda *_: None,
        changed=lambda: None,
    )
    bench.run()
    assert written == [True]


def test_persist_waits_for_a_sync_of_the_commit_index(bench: Bench) -> None:
    bench.receive({**bench.entries(b"\x00a"), "commit_index": 99})
    bench.run()
    assert bench.applied
    done: list[int] = []
    bench.node.persist(lambda: done.append(bench.node.journal.synced_commit))
    assert not done
    bench.run()
    assert done == [bench.node.last_index]


@pytest.mark.parametrize("file", ["snapshot.new", "journal.new"])
def test_a_failed_sync_while_the_log_is_compacted_ends_the_process_at_once(bench: Bench, file: str) -> None:
    """What the disk has is unknown: nothing more may be said, not even in the same round."""
    bench.receive({**bench.entries(b"\x00a", b"\x00b", b"\x00c"), "commit_index": 99})
    bench.run()
    fail_syncs_after(bench.disk, "rename", file)
    bench.node.forceLogCompaction()
    bench.forget()
    with pytest.raises(Dead):
        bench.run(2)
    assert [code for code, _ in bench.ended] == [EXIT_DATA]
    assert "not made durable" in bench.ended[0][1]
    assert not bench.said("next_node_idx")


@pytest.mark.parametrize("file", ["snapshot.incoming", "journal.new"])
def test_a_failed_sync_while_a_snapshot_is_installed_ends_the_process_at_once(
    bench: Bench, file: str
) -> None:
    state = State(index=50)
    members = tuple(bench.node.known_members.values())
    snapshot = Snapshot(members, (b"\x00p", 49, 4), (b"\x00l", 50, 4), state)
    fail_syncs_after(bench.disk, "rename", file)
    part = {"type": "append_entries", "term": 5, "commit_index": 60}
    bench.receive({**part, "serialized": (encode_snapshot(snapshot), True, False)})
    with pytest.raises(Dead):
        bench.receive({**part, "serialized": (b"", False, True)})
    assert [code for code, _ in bench.ended] == [EXIT_DATA]
    assert not bench.said("next_node_idx")
    bench.disk.fail_sync = False


def fail_syncs_after(disk: SimDisk, what: str, name: str) -> None:
    def watch(file: str, operation: str) -> None:
        if (operation, file) == (what, name):
            disk.fail_sync = True

    disk.on_operation = watch


def test_alone_among_observers_nothing_of_a_new_term_leaves_before_it_is_on_disk(tmp_path: Path) -> None:
    bench = Bench.__new__(Bench)
    bench.disk, bench.applied, bench.ended = SimDisk(), [], []
    bench.config = PySyncObjConfig(
        self_address=HERE, members=(HERE,), data_dir=tmp_path, allow_plaintext=True
    )
    bench.start()
    bench.lead_alone()
    bench.node.change_members(encode_change("observe", PEER), lambda *_: None)
    bench.run(3)
    assert bench.node.talks_to(TCPNode(PEER))
    bench.node.step_down("a test")
    bench.forget()
    durable: list[int] = []

    def watched(node: Node, message: dict[str, Any]) -> bool:
        survivor = bench.disk.survivor()
        durable.append(open_journal(survivor, bench.node.identity.stamp).getCurrentTerm())
        bench.post.sent.append((node.id, message))
        return True

    bench.post._transmit = watched  # type: ignore[method-assign]
    bench.lead_alone()
    terms = [message["term"] for _, message in bench.post.sent]
    assert terms
    assert all(term <= there for term, there in zip(terms, durable, strict=True))
    bench.node.close()


# --- the log ----------------------------------------------------------------------------------------


def test_a_leader_that_replaces_a_decided_entry_ends_the_process(bench: Bench) -> None:
    bench.receive({**bench.entries(b"\x00a", b"\x00b"), "commit_index": 99})
    bench.run()
    with pytest.raises(Dead):
        bench.receive(bench.entries(b"\x00c", term=6, after=bench.node.last_index - 1), OTHER)
    assert [code for code, _ in bench.ended] == [EXIT_DATA]
    assert "not the cluster's" in bench.ended[0][1]


def test_a_leader_whose_log_differs_where_ours_is_decided_ends_the_process(bench: Bench) -> None:
    bench.receive({**bench.entries(b"\x00a", b"\x00b"), "commit_index": 99})
    bench.run()
    differs = {**bench.entries(b"\x00c", term=6, after=bench.node.last_index), "prevLogTerm": 6}
    with pytest.raises(Dead):
        bench.receive(differs, OTHER)
    assert [code for code, _ in bench.ended] == [EXIT_DATA]
    assert "not the cluster's" in bench.ended[0][1]


def test_a_cut_tail_takes_its_membership_change_with_it(bench: Bench) -> None:
    fourth = free_addresses(1)[0]
    bench.receive(bench.entries(b"\x00a", encode_change("observe", fourth)))
    bench.run()
    assert fourth in bench.node.known_members
    assert bench.node.talks_to(TCPNode(fourth))
    bench.receive(bench.entries(b"\x00b", term=6, after=bench.node.last_index - 1), OTHER)
    bench.run()
    assert bench.node.known_members.keys() == {HERE, PEER, OTHER}
    assert not bench.node.talks_to(TCPNode(fourth))


def test_the_status_shows_a_change_of_the_members_from_the_round_that_takes_it_in(bench: Bench) -> None:
    """Who has been told that a member is gone must not be shown it any more."""
    for command, present in ((encode_change("rem", OTHER), False), (encode_change("add", OTHER), True)):
        bench.receive(bench.entries(command))
        bench.run()
        assert (OTHER in bench.node.known_members) == present
        published = bench.node.published
        assert published is not None
        assert (OTHER in {peer.address for peer in published[1].peers}) == present


def test_one_change_at_a_time_and_only_after_the_own_terms_first_entry(bench: Bench) -> None:
    fourth, fifth = free_addresses(2)
    codes: list[int] = []
    note: Callable[..., None] = lambda _, code: codes.append(code)  # noqa: E731
    bench.lead()
    bench.node.change_members(encode_change("observe", fourth), note)
    bench.run()
    assert codes == [DENIED]  # nothing of this term is committed
    bench.acknowledge(bench.node.last_index)
    bench.run()
    bench.node.change_members(encode_change("observe", fourth), note)
    bench.node.change_members(encode_change("observe", fifth), note)
    bench.run()
    assert codes == [DENIED, DENIED]
    assert fourth in bench.node.known_members
    bench.acknowledge(bench.node.last_index)
    bench.run()
    assert codes == [DENIED, DENIED, FAIL_REASON.SUCCESS]


async def test_a_removal_that_may_still_be_replaced_is_not_called_done(bench: Bench) -> None:
    """The log holds it before the barrier and after it, but not the same one: a new leader has cut the first,
    and its own is not decided."""
    removal = encode_change("rem", OTHER)
    bench.receive(bench.entries(b"\x00a", removal))
    bench.run()
    loop = asyncio.get_running_loop()
    proposals = Proposals(HERE, loop, lambda: True, lambda: None)

    async def barrier(*, deadline_ms: int) -> State:
        del deadline_ms
        after = bench.entries(b"\x00barrier", removal, term=6, after=1)
        bench.receive({**after, "commit_index": 2})
        bench.run(3)
        assert bench.node.raftLastApplied == 2
        return bench.node.state

    changes = MemberChanges(bench.node, proposals, loop, barrier)
    assert OTHER not in bench.node.known_members
    with pytest.raises(UnknownOutcome):
        await changes.remove(OTHER, deadline_ms=150)
    bench.receive({**bench.entries(term=6), "commit_index": 3})
    bench.run(3)
    barrier_passed: Callable[..., Any] = lambda **_: asyncio.sleep(0)  # noqa: E731
    await MemberChanges(bench.node, proposals, loop, barrier_passed).remove(OTHER, deadline_ms=150)


def test_a_change_that_nobody_can_read_does_not_come_into_the_log(bench: Bench) -> None:
    bench.lead()
    bench.acknowledge(bench.node.last_index)
    bench.run()
    before = bench.node.last_index
    codes: list[int] = []
    for command in (b"\x02", b"\x02\x93\xa3add", b"\x02\x80\x02.", encode_change("add", "nowhere")):
        bench.node.change_members(command, lambda _, code: codes.append(code))
    bench.run()
    assert codes == [DENIED] * 4
    assert bench.node.last_index == before


def test_an_observer_is_never_counted(bench: Bench) -> None:
    fourth = free_addresses(1)[0]
    bench.lead()
    bench.acknowledge(bench.node.last_index)
    bench.run()
    bench.node.change_members(encode_change("observe", fourth), lambda *_: None)
    bench.run(2)
    bench.node.commit(b"x", lambda *_: None)
    bench.run()
    bench.acknowledge(bench.node.last_index, sender=fourth)
    bench.run()
    assert not bench.applied
    bench.acknowledge(bench.node.last_index, sender=OTHER)
    bench.run()
    assert bench.applied == [b"x"]


def test_answers_to_an_earlier_life_are_not_taken_for_ones_to_this(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.receive(bench.entries(term=5))
    bench.node.commit(b"x", lambda *_: None)
    bench.run()
    (sent,) = bench.said("apply_command")
    assert sent["request_id"] > 1 << 16
    bench.node.close()


def test_a_request_ends_in_doubt_when_the_link_to_the_leader_breaks(bench: Bench) -> None:
    bench.receive(bench.entries(term=5))
    codes: list[int] = []
    bench.node.commit(b"x", lambda _, code: codes.append(code))
    bench.run()
    assert not codes
    bench.post._onNodeDisconnected(TCPNode(PEER))
    assert codes == [FAIL_REASON.LEADER_CHANGED]  # in doubt: it may be in the log


# --- handing over -----------------------------------------------------------------------------------


def test_a_leader_that_is_to_step_aside_takes_nothing_new_until_another_has_everything(bench: Bench) -> None:
    bench.lead()
    bench.node.commit(b"before", lambda *_: None)
    bench.run()
    bench.receive({"type": STEP_ASIDE}, OTHER)
    last = bench.node.last_index
    bench.node.commit(b"meanwhile", lambda *_: None)
    bench.run(3)
    assert bench.node.last_index == last
    assert not bench.said("timeout_now")
    bench.acknowledge(last)
    bench.run(3)
    assert [peer for peer, message in bench.post.sent if message["type"] == "timeout_now"] == [PEER]
    bench.receive({**bench.entries(term=9), "prevLogTerm": bench.node.raftCurrentTerm})
    bench.run()
    assert [message["command"] for message in bench.said("apply_command")] == [b"\x00meanwhile"]


def test_a_leader_that_finds_nobody_to_hand_over_to_goes_on_after_an_election_timeout(bench: Bench) -> None:
    bench.lead()
    bench.receive({"type": STEP_ASIDE}, OTHER)
    last = bench.node.last_index
    bench.node.commit(b"meanwhile", lambda *_: None)
    bench.run()
    assert bench.node.last_index == last
    bench.node.hand_over._until_s = bench.node.clock()
    bench.run(2)
    assert bench.node._isLeader()
    assert bench.node.last_index == last + 1
    assert not bench.said("timeout_now")
