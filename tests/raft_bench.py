"""One Raft node among peers that the test plays."""

import random
from pathlib import Path
from typing import Any

from pysyncobj.monotonic import monotonic
from pysyncobj.node import Node, TCPNode

from tests.raft_cases import free_addresses
from tests.simulation.disk import SimDisk
from vimraft.core.tables import State
from vimraft.metadata.pysyncobj.config import PySyncObjConfig
from vimraft.metadata.pysyncobj.elections import PRE_VOTE_REPLY
from vimraft.metadata.pysyncobj.environment import AtOnce, Environment
from vimraft.metadata.pysyncobj.gate import GatedTransport
from vimraft.metadata.pysyncobj.node import NodeHooks, RaftNode
from vimraft.metadata.pysyncobj.recovery import recover

HERE, PEER, OTHER = free_addresses(3)


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
