"""A follower behind a slow link: what a leader sends it, and what it keeps for it."""

import random
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from immutables import Map
from pysyncobj.monotonic import monotonic
from pysyncobj.node import Node, TCPNode

from tests.raft_cases import free_addresses
from tests.simulation.disk import SimDisk
from vimraft.core.tables import State, Storage
from vimraft.metadata.pysyncobj import compaction, snapshot
from vimraft.metadata.pysyncobj.config import PySyncObjConfig
from vimraft.metadata.pysyncobj.environment import AtOnce, Environment
from vimraft.metadata.pysyncobj.gate import GatedTransport
from vimraft.metadata.pysyncobj.members import encode_change
from vimraft.metadata.pysyncobj.node import NodeHooks, RaftNode
from vimraft.metadata.pysyncobj.recovery import recover
from vimraft.metadata.pysyncobj.wire import decode, encode

LEADER, FOLLOWER = free_addresses(2)
COMPACTION_ENTRIES = 20
CONGESTED_BYTES = 8_000
BYTES_PER_STEP = 4_000
COMMAND = bytes(200)


class Link(GatedTransport):
    """To the other node; what it has not taken yet is in `unread`."""

    def __init__(self, node: Any, self_node: Node, other_nodes: set[Node]) -> None:
        super().__init__(node, self_node, other_nodes)
        self.unread: deque[bytes] = deque()
        self.peer: Node | None = None
        self.strangers: frozenset[Node] = frozenset()
        """Whom the log here does not name yet."""
        self.sent: list[dict[str, Any]] = []

    def tryGetReady(self) -> None: ...

    @property
    def ready(self) -> bool:
        return True

    def addNode(self, node: Node) -> None:
        self.peer = node
        self.strangers -= {node}

    @property
    def guests(self) -> frozenset[Node]:
        return self.strangers

    def dropNode(self, node: Node) -> None: ...

    def destroy(self) -> None: ...

    def congested(self, node: Node) -> bool:
        return sum(map(len, self.unread)) > CONGESTED_BYTES

    def _transmit(self, node: Node, message: dict[str, Any]) -> bool:
        self.sent.append(message)
        self.unread.append(encode(message))
        return True


class Pair:
    """A leader that is the only voter, under load, and an observer."""

    def __init__(self, path: Path) -> None:
        self.leader = self._start(path, LEADER)
        self.follower = self._start(path, FOLLOWER)
        self.leader._SyncObj__raftElectionDeadline = 0.0
        self.leader.pump(0)
        assert self.leader._isLeader()
        row = Map({f"s{i}": Storage(f"s{i}", "tokyo", "x" * 100) for i in range(400)})
        self.leader.state = State(storages=row)
        self.budget_bytes = 0

    def _start(self, path: Path, address: str) -> RaftNode:
        disk = SimDisk()
        config = PySyncObjConfig(
            self_address=address,
            members=(LEADER,),
            data_dir=path,
            allow_plaintext=True,
            compaction_entries=COMPACTION_ENTRIES,
        )
        hooks = NodeHooks(apply=lambda state, _: (state, b""), fatal=self._fatal, changed=lambda: None)
        environment = Environment(disk, monotonic, random.Random(1), Link, AtOnce())
        return RaftNode(config, recover(disk, config), hooks, environment)

    def _fatal(self, code: int, why: str) -> None:
        raise AssertionError(f"{code}: {why}")

    def join(self) -> None:
        self.leader.change_members(encode_change("observe", FOLLOWER), lambda *_: None)
        self.leader.pump(0)
        self.leader.transport._onNodeConnected(TCPNode(FOLLOWER))
        self.follower.transport._onNodeConnected(TCPNode(LEADER))
        self.follower.transport.strangers = frozenset({TCPNode(LEADER)})

    def step(self, commands: int, budget_bytes: int = BYTES_PER_STEP) -> None:
        for _ in range(commands):
            self.leader.commit(COMMAND, lambda *_: None)
        self.leader.pump(0)
        self.budget_bytes += budget_bytes
        self._deliver(self.leader, self.follower, LEADER)
        self.follower.pump(0)
        self.follower.pump(0)
        answers, self.budget_bytes = self.budget_bytes, 1 << 30
        self._deliver(self.follower, self.leader, FOLLOWER)
        self.budget_bytes = answers

    def _deliver(self, sender: RaftNode, receiver: RaftNode, address: str) -> None:
        unread = sender.transport.unread
        while unread and len(unread[0]) <= self.budget_bytes:
            data = unread.popleft()
            self.budget_bytes -= len(data)
            receiver._receive(TCPNode(address), decode(data))
        if not unread:
            self.budget_bytes = 0

    def close(self) -> None:
        self.leader.close()
        self.follower.close()


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    monkeypatch.setattr(snapshot, "SNAPSHOT_CHUNK_BYTES", 1_000)
    monkeypatch.setattr(compaction, "PAUSE_S", 0.0)
    made = Pair(tmp_path)
    yield made
    made.close()


def test_under_constant_load_a_new_observer_behind_a_slow_link_catches_up(pair: Pair) -> None:
    for _ in range(20):
        pair.step(5)
    assert pair.leader.journal[0][1] > 1  # only a snapshot helps
    pair.join()
    longest = 0
    left: list[int] = []
    trim = pair.leader.trim
    pair.leader.trim = lambda first: (left.append(pair.leader.last_index - first), trim(first))[1]  # type: ignore[func-returns-value,method-assign]
    for _ in range(200):
        pair.step(5)
        longest = max(longest, len(pair.leader.journal))
        if pair.leader.last_index - pair.follower.last_index <= 10:
            break
    else:
        pytest.fail(f"at {pair.follower.last_index} of {pair.leader.last_index}")
    assert pair.follower.state.storages == pair.leader.state.storages
    assert longest <= compaction.MAX_HELD_LOGS * COMPACTION_ENTRIES + 10
    for _ in range(20):
        pair.step(5)
    assert left
    assert max(left) <= 2 * COMPACTION_ENTRIES  # what is left is copied in the leader's own time
    assert len(pair.leader.journal) <= 3 * COMPACTION_ENTRIES  # nothing is held any more
    assert pair.leader.last_index - pair.follower.last_index <= 10


def test_who_takes_nothing_holds_the_log_to_a_bound_only(pair: Pair) -> None:
    for _ in range(10):
        pair.step(5)
    pair.join()
    pair.step(5)
    for _ in range(200):
        pair.step(5, budget_bytes=0)
        assert len(pair.leader.journal) <= compaction.MAX_HELD_LOGS * COMPACTION_ENTRIES + 10
    assert pair.leader.journal[0][1] > 500


def test_who_does_not_answer_holds_nothing(pair: Pair) -> None:
    pair.join()
    for _ in range(50):
        pair.step(0)
    pair.leader._SyncObj__lastResponseTime[TCPNode(FOLLOWER)] = 0.0
    for _ in range(100):
        pair.step(5, budget_bytes=0)
        assert len(pair.leader.journal) <= 3 * COMPACTION_ENTRIES


def test_to_a_peer_that_leaves_much_unread_go_heartbeats_only(pair: Pair) -> None:
    pair.join()
    for _ in range(50):
        pair.step(0)
    sent = pair.leader.transport.sent
    for _ in range(100):
        pair.step(5, budget_bytes=0)
    before = len(sent)
    assert sum(map(len, pair.leader.transport.unread)) < 3 * CONGESTED_BYTES + 100 * 200
    for _ in range(20):
        pair.step(1, budget_bytes=0)
    assert len(sent) > before
    assert not any(message.get("entries") or message.get("serialized") for message in sent[before:])
    for _ in range(100):
        pair.step(1)
    assert pair.follower.last_index == pair.leader.last_index
