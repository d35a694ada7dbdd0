"""The members in force, as PySyncObj and the transport must know them.

May live here: what follows from a changed configuration: whom this node talks to, whom it counts, what a
leader knows of each, and what members.json keeps. The decisions are in `membership`; the node's thread only.
"""

from typing import TYPE_CHECKING

import structlog
from pysyncobj.node import Node, TCPNode

from vimraft.metadata.pysyncobj.disk import Disk
from vimraft.metadata.pysyncobj.formation import Formation
from vimraft.metadata.pysyncobj.members import (
    ChangeKind,
    Member,
    MembersFile,
    by_address,
    encode_change,
    fold,
    parse_change,
    save_members,
    voters_at,
)
from vimraft.metadata.pysyncobj.membership import Acquaintances, Configuration, Progress
from vimraft.metadata.pysyncobj.recovery import Recovered

if TYPE_CHECKING:
    from vimraft.metadata.pysyncobj.node import RaftNode

log = structlog.get_logger(__name__)


class Peers:
    def __init__(self, node: "RaftNode", found: Recovered, disk: Disk) -> None:
        self._node = node
        self._disk = disk
        self._initial = tuple(sorted(found.initial_members))
        snapshot = found.snapshot
        self.configuration = Configuration(
            voters_at(self._initial) if snapshot is None else by_address(snapshot.members),
            found.journal[:],
            named=snapshot is not None,
            index=0 if snapshot is None else snapshot.config_index,
        )
        self.contacts = tuple(a for a in found.contacts if a != node.config.self_address)
        self.acquaintances = Acquaintances(
            dict(found.node_ids), lambda: self.configuration.members, self._save
        )
        self.formation = Formation(
            node.config.self_address,
            self._initial,
            found.met,
            over=lambda: not self.configuration.unlisted(),
            save=lambda: self._save(self.acquaintances.all()),
            configured=node.config.members,
        )
        self.noted: dict[str, Member] = dict(self.configuration.members)
        """As of the last round. Any thread."""
        applied = 0 if snapshot is None else snapshot.index
        self.decided: dict[str, Member] = self.configuration.at(applied)
        """As of the entries that are applied: no new leader takes this back. Any thread."""

    # --- the configuration changes ----------------------------------------------------------------

    def appended(self, index: int, command: bytes) -> None:
        """A membership change is entry `index` now."""
        self.configuration.append(index, command)
        self.reconcile()

    def cut(self, first: int) -> None:
        if self.configuration.last_change >= first:
            self.configuration.cut(first)
            self.reconcile()

    def applied(self, command: bytes) -> None:
        change = parse_change(command)
        if change is None:
            return
        self.decided = fold(self.decided, (command,))
        if change.kind == "rem" and change.address not in self.configuration.members:
            self.acquaintances.forget(change.address)

    def replaced(self) -> None:
        """A snapshot is in place of the log, and applied."""
        self.decided = dict(self.configuration.members)
        self.reconcile()

    def reconcile(self) -> None:
        """Voters are PySyncObj's other nodes; observers its readonly ones: replicated to, not counted."""
        node = self._node
        members = self.configuration.members
        present = {peer.id: peer for peer in node._SyncObj__otherNodes | node._SyncObj__readonlyNodes}
        for address in sorted(present.keys() - members.keys()):
            self._drop(present.pop(address))
        added = sorted(members.keys() - present.keys() - {node.config.self_address})
        present.update((address, TCPNode(address)) for address in added)
        node._SyncObj__otherNodes = {peer for address, peer in present.items() if members[address].voter}
        node._SyncObj__readonlyNodes = set(present.values()) - node._SyncObj__otherNodes
        for address in added:
            peer = present[address]
            node._SyncObj__raftNextIndex[peer] = node.last_index + 1
            node._SyncObj__raftMatchIndex[peer] = 0
            node._SyncObj__lastResponseTime[peer] = node.clock()
            node.transport.addNode(peer)
        node.transport.recheck()

    def _drop(self, peer: Node) -> None:
        node = self._node
        known_of: tuple[dict[Node, int] | dict[Node, float], ...] = (
            node._SyncObj__raftNextIndex,
            node._SyncObj__raftMatchIndex,
            node._SyncObj__lastResponseTime,
        )
        for known in known_of:
            known.pop(peer, None)
        node._SyncObj__connectedNodes.discard(peer)
        node._SyncObj__otherNodes.discard(peer)
        node._SyncObj__readonlyNodes.discard(peer)
        if peer == node._getLeader():
            node.follow_nobody()
        node.transport.dropNode(peer)

    # --- naming -----------------------------------------------------------------------------------

    def name_all(self) -> None:
        """As a new leader. Whom the log names it names with an id, as far as that is known."""
        unlisted = self.configuration.unlisted()
        for member in self.configuration.unnamed():
            if member in unlisted or self._id_of(member):
                self._name(member)

    def name_one(self) -> None:
        """A leader that has met a member whose id the log does not hold; not while a change is undecided,
        lest others wait for their turn behind many."""
        known = [member for member in self.configuration.unnamed() if self._id_of(member)]
        if known and not self.progress().undecided:
            self._name(known[0])

    def _name(self, member: Member) -> None:
        kind: ChangeKind = "add" if member.voter else "observe"
        self._node.append(encode_change(kind, member.address, self._id_of(member)))

    def _id_of(self, member: Member) -> str:
        if member.address == self._node.config.self_address:
            return self._node.identity.node_id
        return self.acquaintances.node_id(member.address)

    # --- what a leader knows ----------------------------------------------------------------------

    def progress(self) -> Progress:
        node = self._node
        undecided = node.raftLastApplied < max(node._SyncObj__noopIDx or 0, self.configuration.last_change)
        return Progress(node.config.self_address, undecided, self._behind)

    def _behind(self, address: str) -> int | None:
        node, peer = self._node, TCPNode(address)
        heard = node._SyncObj__lastResponseTime.get(peer)
        matched = node._SyncObj__raftMatchIndex.get(peer)
        if heard is None or not matched or node.clock() - heard > node.config.election_min_ms / 1000:
            return None
        return node.last_index - matched

    # --- members.json -----------------------------------------------------------------------------

    def note(self) -> None:
        """Once a round."""
        self.formation.settle()
        if self._node._isLeader():
            self.name_one()
        members = self.configuration.members
        if members == self.noted:
            return
        self.noted = dict(members)
        log.info("raft.members_changed", members=sorted(members))
        try:
            self._save(self.acquaintances.all())
        except OSError as error:
            # Not fatal: after a restart the log and the snapshot decide, this file only informs.
            log.error("raft.members_not_written", problem=str(error))

    def _save(self, node_ids: dict[str, str]) -> None:
        latest = tuple(member for _, member in sorted(self.configuration.members.items()))
        met = tuple(sorted(self.formation.met))
        save_members(self._disk, MembersFile(self._initial, latest, node_ids, self.contacts, met))
