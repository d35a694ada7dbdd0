"""What a node does with each message, before PySyncObj sees it, or instead.

May live here: one method per kind of message, as far as PySyncObj's own handling is wrong or missing (each
says what). Runs in the node's thread.

Keeps: a term newer than ours ends our office, whatever message it comes in; an acknowledgement counts only
in the term in which it was given; nothing that matches is cut; nothing applied is ever replaced.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import structlog
from pysyncobj.node import Node

from vimraft.metadata.pysyncobj.elections import PRE_VOTE, PRE_VOTE_REPLY, Standing
from vimraft.metadata.pysyncobj.gate import ACKNOWLEDGEMENT, Message
from vimraft.metadata.pysyncobj.matching import heartbeat, match
from vimraft.metadata.pysyncobj.members import is_membership

if TYPE_CHECKING:
    from vimraft.metadata.pysyncobj.node import RaftNode

log = structlog.get_logger(__name__)

PING: Final = "vimraft_ping"
STEP_ASIDE: Final = "vimraft_step_aside"
GUESTS_MAY: Final = frozenset(
    {PING, PRE_VOTE, "append_entries", "request_vote", "timeout_now", "apply_command_response"}
)
"""What is heard of those who are no members here yet (see handshake.py): nothing that would be counted."""


class Inbox:
    def __init__(self, node: "RaftNode") -> None:
        self._node = node
        self._handlers: dict[str, Callable[[Node, Message], None]] = {
            PING: lambda _node, _message: None,
            STEP_ASIDE: self._step_aside,
            PRE_VOTE: self._pre_vote,
            PRE_VOTE_REPLY: self._pre_vote_reply,
            ACKNOWLEDGEMENT: self._acknowledgement,
            "append_entries": self._append_entries,
            "request_vote": self._request_vote,
            "response_vote": self._response_vote,
            "timeout_now": self._timeout_now,
            "apply_command": self._deliver,
            "apply_command_response": self._deliver,
        }

    def receive(self, sender: Node, message: Any) -> None:
        kind = message.get("type") if isinstance(message, dict) else None
        handler = self._handlers.get(kind) if isinstance(kind, str) else None
        if handler is not None and self._hears(sender, kind):
            handler(sender, message)

    def _hears(self, sender: Node, kind: Any) -> bool:
        node = self._node
        if node.identity.superseded_by:
            return False
        return kind in GUESTS_MAY if sender in node.transport.guests else node.talks_to(sender)

    def _deliver(self, sender: Node, message: Message) -> None:
        self._node._SyncObj__onMessageReceived(sender, message)

    # --- elections --------------------------------------------------------------------------------

    def _pre_vote(self, sender: Node, message: Message) -> None:
        node, now = self._node, self._node.clock()
        asked = Standing(message["term"], message["last_log_index"], message["last_log_term"])
        own = node.standing()
        may_vote = not node.disk_problem and not node.barred
        if may_vote and node.elections.grant(
            now, sender.id, asked, own, leading=node._isLeader() and node.has_quorum(now)
        ):
            node.send(sender, {"type": PRE_VOTE_REPLY, "term": asked.term, "granted": True})
        elif own.term >= asked.term:
            self._answer_old_term(sender)

    def _answer_old_term(self, sender: Node) -> None:
        reply = {"type": PRE_VOTE_REPLY, "term": self._node.raftCurrentTerm, "granted": False}
        self._node.send(sender, reply)

    def _pre_vote_reply(self, sender: Node, message: Message) -> None:
        node, term = self._node, message["term"]
        if not message["granted"]:
            node.see_term(term)
        elif node.elections.granted(sender.id, term, node.standing(), node.configuration.voters()):
            node._SyncObj__raftElectionDeadline = 0.0  # at the next round

    def _request_vote(self, sender: Node, message: Message) -> None:
        node = self._node
        if message["term"] < node.raftCurrentTerm:
            self._answer_old_term(sender)
        elif not node.disk_problem and not node.barred:  # what cannot be written down must not be given
            self._deliver(sender, message)

    def _response_vote(self, sender: Node, message: Message) -> None:
        # PySyncObj counts messages, and those of whoever sends them.
        node, term = self._node, message["term"]
        node.see_term(term)
        if node.elections.counts(sender.id, term, node.raftCurrentTerm, node.configuration.voters()):
            self._deliver(sender, message)

    def _timeout_now(self, sender: Node, message: Message) -> None:
        node = self._node
        node.see_term(message["term"])
        if node.is_voter and not node.disk_problem and not node.barred:
            self._deliver(sender, message)

    def _step_aside(self, _sender: Node, _message: Message) -> None:
        self._node.hand_over.begin()

    # --- acknowledgements (leader) ----------------------------------------------------------------

    def _acknowledgement(self, sender: Node, message: Message) -> None:
        """PySyncObj takes one of any term, lets a late reset rewind what has been acknowledged since, and
        sends again, at each acknowledgement, what is under way behind it."""
        node, term = self._node, message["term"]
        node.see_term(term)
        matched = node._SyncObj__raftMatchIndex.get(sender)
        if term != node.raftCurrentTerm or not node._isLeader() or matched is None:
            return
        last, upcoming = node.last_index, message[ACKNOWLEDGEMENT]
        if message["success"]:
            if upcoming - 1 > last:
                log.error("raft.acknowledged_too_much", peer=sender.id, entry=upcoming - 1, last=last)
                return
            matched = node._SyncObj__raftMatchIndex[sender] = max(matched, upcoming - 1)
        following = upcoming if message["reset"] else node._SyncObj__raftNextIndex[sender]
        node._SyncObj__raftNextIndex[sender] = min(max(following, matched + 1), last + 1)
        node._SyncObj__lastResponseTime[sender] = node.clock()

    # --- entries (follower) -----------------------------------------------------------------------

    def _append_entries(self, sender: Node, message: Message) -> None:
        node = self._node
        if message["term"] < node.raftCurrentTerm:
            self._answer_old_term(sender)  # or a leader of an older term would never learn of the newer
            return
        if message["term"] == node.raftCurrentTerm and node._isLeader():
            node.end_for_data(f"{sender.id} leads in term {message['term']}, and so does this node")
        node.heard_leader(sender)
        if node.disk_problem:
            # Nothing is taken in that cannot be written down, so memory stays bounded.
            self._deliver(sender, heartbeat(message, node.raftCommitIndex))
            return
        if "serialized" in message:
            self._snapshot_part(sender, message)
            return
        decided = max(node.raftLastApplied, node.raftCommitIndex)
        matched = match(node.journal, message, node.raftCommitIndex, node.raftLastApplied)
        if matched.conflict is not None and matched.conflict <= decided:
            node.end_for_data(
                f"{sender.id} has another entry {matched.conflict}, which is decided here: this node's log "
                "is not the cluster's. Run there: vimraft site join --replace NAME"
            )
        self._deliver(sender, matched.message)
        for command, index, _ in matched.message.get("entries", ()):
            if is_membership(command):
                node.peers.appended(index, command)
        if matched.acknowledge is not None:
            self._acknowledge(sender, matched.acknowledge, success=True)
        if matched.restart_from is not None:
            self._acknowledge(sender, matched.restart_from, success=False, reset=True)

    def _snapshot_part(self, sender: Node, message: Message) -> None:
        node = self._node
        self._deliver(
            sender, match(node.journal, message, node.raftCommitIndex, node.raftLastApplied).message
        )
        # PySyncObj is silent until the last part: its leader would count this node as lost.
        self._acknowledge(sender, node.last_index + 1, success=False)

    def _acknowledge(self, sender: Node, next_index: int, *, success: bool, reset: bool = False) -> None:
        message = {"type": ACKNOWLEDGEMENT, ACKNOWLEDGEMENT: next_index, "reset": reset, "success": success}
        self._node.send(sender, message)
