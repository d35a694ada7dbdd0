"""What a node tells about itself and its peers.

May live here: reading the node, in its own thread, into the port's LogStatus. Changes nothing.
"""

from typing import TYPE_CHECKING

from pysyncobj.node import TCPNode

from vimraft.metadata.port import LogStatus, MemberRole, PeerStatus

if TYPE_CHECKING:
    from vimraft.metadata.pysyncobj.node import RaftNode


def status_of(node: "RaftNode", now_s: float) -> LogStatus:
    leader = node._getLeader()
    own = node.configuration.members.get(node.config.self_address)
    role: MemberRole = "joining" if own is None else "voter" if own.voter else "observer"
    own_voter = own is not None and own.voter
    peers = tuple(_peer(node, address, now_s) for address in _others(node))
    return LogStatus(
        self_address=node.config.self_address,
        leader_address=None if leader is None else leader.id,
        is_leader=node._isLeader(),
        has_quorum=node.has_quorum(now_s),
        term=node.raftCurrentTerm,
        raft_applied=node.raftLastApplied,
        raft_commit=node.raftCommitIndex,
        log_entries=node._getRaftLogSize(),
        role=role,
        problem=_problem(node, peers, heard=not own_voter or node.has_quorum(now_s)),
        node_id=node.identity.node_id,
        cluster=node.network.identity.cluster,
        generation=node.identity.generation,
        birth=node.identity.birth,
        peers=peers,
    )


def _others(node: "RaftNode") -> list[str]:
    return sorted(node.configuration.members.keys() - {node.config.self_address})


def _peer(node: "RaftNode", address: str, now_s: float) -> PeerStatus:
    peer = TCPNode(address)
    contact = node.transport.last_contact(peer)
    return PeerStatus(
        address=address,
        node_id=node.acquaintances.node_id(address),
        voter=node.configuration.members[address].voter,
        connected=peer in node._SyncObj__connectedNodes,
        last_contact_ms=None if contact is None else max(0, int((now_s - contact) * 1000)),
        match_index=node._SyncObj__raftMatchIndex.get(peer) if node._isLeader() else None,
        refused=node.transport.refusals.get(address, ""),
    )


def _problem(node: "RaftNode", peers: tuple[PeerStatus, ...], *, heard: bool) -> str:
    """`heard`: it has a leader, or is none of those who choose one."""
    later = node.identity.superseded_by
    superseded = later and (
        f"generation {later} of this cluster is in force, and this manager has the tables of generation "
        f"{node.identity.generation}: it decides nothing any more. To come back run here: "
        "vimraft site join --replace NAME"
    )
    formation = node.peers.formation.problem
    return node.disk_problem or superseded or formation or _all_refuse(peers) or _unheard(peers, heard)


def _unheard(peers: tuple[PeerStatus, ...], heard: bool) -> str:
    """Such as while members that came meanwhile are not let in, or do not let this one in."""
    refused = [peer for peer in peers if peer.voter and peer.refused and not peer.connected]
    if heard or not refused:
        return ""
    return f"hears no leader, and {refused[0].address} has no link: {refused[0].refused}"


def _all_refuse(peers: tuple[PeerStatus, ...]) -> str:
    """Such as after this manager was removed while it was away."""
    voters = [peer for peer in peers if peer.voter]
    if not voters or not all(peer.refused and not peer.connected for peer in voters):
        return ""
    return f"every voter refuses the link; {voters[0].address}: {voters[0].refused}"
