"""Commands on their way into the log, and answers on their way out.

May live here: the queue between other threads and the node's, and what becomes of each command: into the
log (leader), on to the leader (follower), or refused. PySyncObj's own way does one message for each
command and each follower, waits for ever for answers that a broken link has swallowed, has no bound on
what waits for a commit, and runs an entry twice when a callback raises.

What waits here when a round begins, and came from this process, goes on in as few entries as possible.

Keeps: every queue has a bound; a callback gets one answer at most and never harms the round.
"""

import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

import structlog
from pysyncobj import FAIL_REASON
from pysyncobj.node import Node

from vimraft.metadata.pysyncobj import batches
from vimraft.metadata.pysyncobj.config import COMMAND_QUEUE
from vimraft.metadata.pysyncobj.members import is_membership, parse_change
from vimraft.metadata.pysyncobj.membership import refusal
from vimraft.metadata.pysyncobj.records import MAX_COMMAND_BYTES, REGULAR
from vimraft.metadata.pysyncobj.wire import WireError, check_change

if TYPE_CHECKING:
    from vimraft.metadata.pysyncobj.node import RaftNode

log = structlog.get_logger(__name__)

MAX_UNCOMMITTED: Final = 16_384
"""Entries that a leader holds without a majority's word, and requests that a follower has passed on."""
MAX_TAKEN_PER_ROUND: Final = 2_048

Answer = Callable[[bytes | None, int], None]
"""(outcome bytes, FAIL_REASON)"""
EntryAnswer = Callable[[Any, int], None]
"""The same for an entry: its outcome, or the list of those of a batch."""
Request = tuple[Node, int]
"""Who asked, and its number for it: a command that a follower has passed on."""


class Intake:
    def __init__(self, node: "RaftNode") -> None:
        self._node = node
        self._queue: deque[tuple[bytes, Answer | Request | None]] = deque()

    def put(self, command: bytes, callback: Answer | Request | None) -> None:
        """Any thread."""
        if len(self._queue) >= COMMAND_QUEUE:  # a few threads at most may pass at once
            self._refuse(callback, FAIL_REASON.QUEUE_FULL)
        else:
            self._queue.append((command, callback))

    def take(self) -> bool:
        """Deal with what has been put; whether anything came into the log."""
        node, queue = self._node, self._queue
        if node.hand_over.under_way and node._isLeader():
            return False  # the next leader could not catch up
        leading, before = node._isLeader(), node.last_index
        joins = batches.may_join(node.state.level)
        for _ in range(MAX_TAKEN_PER_ROUND):
            if not queue:
                break
            command, callback = self._next(joins=joins)
            if leading:
                self._append(command, callback)
            elif node._getLeader() is None:
                self._refuse(callback, FAIL_REASON.MISSING_LEADER)
            elif isinstance(callback, tuple):
                self._refuse(callback, FAIL_REASON.NOT_LEADER)
            else:
                self._pass_on(command, callback)
        if queue:
            node.wake()
        return node.last_index != before

    def _next(self, *, joins: bool) -> "tuple[bytes, EntryAnswer | Request | None]":
        """The oldest command of the queue, with those behind it that may share its entry."""
        queue = self._queue
        command, callback = queue.popleft()
        if not joins or not queue or command[:1] != REGULAR or isinstance(callback, tuple):
            return command, callback
        commands, callbacks, size = [command], [callback], len(command)
        while queue:
            command, callback = queue[0]
            if command[:1] != REGULAR or isinstance(callback, tuple):
                break
            if not batches.room(commands, size, command):
                break
            queue.popleft()
            commands.append(command)
            callbacks.append(callback)
            size += len(command)
        if len(commands) == 1:
            return commands[0], callbacks[0]
        return batches.join(commands), functools.partial(self._answer_each, callbacks)

    def _answer_each(self, callbacks: "list[Answer | None]", results: list[bytes] | None, code: int) -> None:
        each: Iterable[bytes | None] = itertools.repeat(None) if results is None else results
        for callback, result in zip(callbacks, each, strict=False):
            if callback is not None:
                self.answer(callback, result, code)

    def answer(self, callback: EntryAnswer, result: Any, code: int) -> None:
        try:
            callback(result, code)
        except Exception:
            log.exception("raft.callback_failed")

    def _append(self, command: bytes, callback: EntryAnswer | Request | None) -> None:
        node = self._node
        if not 0 < len(command) <= MAX_COMMAND_BYTES + 1:
            self._refuse(callback, FAIL_REASON.REQUEST_DENIED)
            return
        if node.last_index - node.raftCommitIndex >= MAX_UNCOMMITTED:
            self._refuse(callback, FAIL_REASON.QUEUE_FULL)
            return
        if not self._may_enter(command):
            self._refuse(callback, FAIL_REASON.REQUEST_DENIED)
            return
        index, term = node.append(command)
        if isinstance(callback, tuple):
            sender, request_id = callback
            place = {"request_id": request_id, "log_idx": index, "log_term": term}
            node.send(sender, {"type": "apply_command_response", **place})
        elif callback is not None:
            node._SyncObj__commandsWaitingCommit[index].append((term, callback))

    def _may_enter(self, command: bytes) -> bool:
        node = self._node
        if not is_membership(command):
            return True
        try:
            check_change(command, made_now=True)
            change = parse_change(command)
        except (WireError, ValueError) as error:
            log.error("raft.command_refused", why=str(error))
            return False
        assert change is not None
        why = refusal(change, node.configuration.members, node.peers.progress())
        if why:
            log.info("raft.change_refused", kind=change.kind, member=change.address, why=why)
        return not why

    def _pass_on(self, command: bytes, callback: EntryAnswer | None) -> None:
        node = self._node
        leader, waiting = node._getLeader(), node._SyncObj__commandsWaitingReply
        if len(waiting) >= MAX_UNCOMMITTED:
            self._refuse(callback, FAIL_REASON.QUEUE_FULL)
            return
        assert leader is not None
        node._SyncObj__commandsLocalCounter += 1
        request_id = node._SyncObj__commandsLocalCounter
        sent = node.send(leader, {"type": "apply_command", "command": command, "request_id": request_id})
        if not sent:
            self._refuse(callback, FAIL_REASON.MISSING_LEADER)
        elif callback is not None:
            waiting[request_id] = callback

    def _refuse(self, callback: EntryAnswer | Request | None, code: int) -> None:
        if isinstance(callback, tuple):
            sender, request_id = callback
            self._node.send(
                sender, {"type": "apply_command_response", "request_id": request_id, "error": code}
            )
        elif callback is not None:
            self.answer(callback, None, code)
