"""What a leader sends: to each member the entries that it lacks, or parts of the snapshot, or a heartbeat.

May live here: the place of PySyncObj's own method, which sends on to a peer that reads nothing until its link
is cut, takes any snapshot for one that ends where the journal begins now, and knows a path for large
entries that is never taken here (see wire.py). Runs in the node's thread.

Keeps: every connected member gets one message at least, however long the others take; to one that leaves too
much unread go heartbeats only, so that it still hears its leader; after a snapshot come the entries that
follow *that* snapshot.
"""

from typing import TYPE_CHECKING, Any

from pysyncobj.node import Node

from vimraft.metadata.pysyncobj.config import BATCH_BYTES

if TYPE_CHECKING:
    from vimraft.metadata.pysyncobj.node import RaftNode
    from vimraft.metadata.pysyncobj.records import LogEntry


class Outbox:
    def __init__(self, node: "RaftNode") -> None:
        self._node = node

    def send(self) -> None:
        node = self._node
        period_s = node.config.heartbeat_ms / 1000
        until_s = node.clock() + period_s
        node._SyncObj__newAppendEntriesTime = until_s
        connected = node._SyncObj__connectedNodes
        # An order that does not depend on hashes.
        for peer in sorted(
            node._SyncObj__otherNodes | node._SyncObj__readonlyNodes, key=lambda peer: peer.id
        ):
            while peer in connected and self._send_one(peer) and node.clock() <= until_s:
                pass

    def _send_one(self, peer: Node) -> bool:
        """Whether there is more for it now."""
        node, journal = self._node, self._node.journal
        message: dict[str, Any] = {
            "type": "append_entries",
            "term": node.raftCurrentTerm,
            "commit_index": node.raftCommitIndex,
        }
        first, last = journal[0][1], node.last_index
        following = min(node._SyncObj__raftNextIndex[peer], last + 1)
        if following <= first:
            return self._send_part(peer, message)
        previous = following - 1
        entries = [] if node.transport.congested(peer) else self._batch(following - first)
        if entries:
            following = node._SyncObj__raftNextIndex[peer] = entries[-1][1] + 1
        message.update(entries=entries, prevLogIdx=previous, prevLogTerm=journal[previous - first][2])
        return node.send(peer, message) and bool(entries) and following <= last

    def _batch(self, position: int) -> "list[LogEntry]":
        journal, size, end = self._node.journal, 0, position
        while end < len(journal) and size < BATCH_BYTES:
            size += len(journal[end][0])
            end += 1
        return journal[position:end]

    def _send_part(self, peer: Node, message: dict[str, Any]) -> bool:
        node = self._node
        part = node.exchange.getTransmissionData(peer)
        if not node.send(peer, {**message, "serialized": part}) or part is None:
            return False
        if part[2]:
            node._SyncObj__raftNextIndex[peer] = node.exchange.sent_index(peer) + 1
        return True
