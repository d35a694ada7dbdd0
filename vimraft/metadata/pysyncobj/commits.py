"""How far a leader's log is committed.

May live here: the count. PySyncObj counts entry by entry and voter by voter, which at a full load is most
of what its part of a round costs; here the voters' positions are sorted once (Raft §5.3, §5.4.2).
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vimraft.metadata.pysyncobj.node import RaftNode


def advance(node: "RaftNode") -> None:
    """Commit what a majority of the voters has on disk, this leader's own disk included. Its thread only."""
    if not node._isLeader():
        return
    voters = node._SyncObj__otherNodes
    matches = node._SyncObj__raftMatchIndex
    positions = sorted([node.journal.synced_index, *[matches[voter] for voter in voters]], reverse=True)
    index = positions[len(positions) // 2]  # as far as this one, or further, are more than half
    if index <= node.raftCommitIndex or index > node.last_index:
        return
    if node.journal[index - node.journal[0][1]][2] == node.raftCurrentTerm:
        node._SyncObj__raftCommitIndex = index
        node.journal.setRaftCommitIndex(index)
