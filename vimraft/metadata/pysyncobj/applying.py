"""From committed entries to tables: applying, and taking in a snapshot that replaces them.

May live here: the place of PySyncObj's methods for both. The stock ones apply what may not be on disk, all of
it at once, run an entry again when a callback raises, let an exception in apply poison every later round, and
swallow whatever goes wrong while a snapshot is loaded. Runs in the node's thread.

Keeps: what is applied is on this node's disk, and the commit index is in the file before; the tables are
replaced, never changed; if apply fails, the process ends before anything diverges (INV-8).
"""

import sys
from typing import TYPE_CHECKING, Final

import structlog
from pysyncobj import FAIL_REASON

from vimraft.metadata.pysyncobj.batches import for_tables, split
from vimraft.metadata.pysyncobj.errors import SyncFailed
from vimraft.metadata.pysyncobj.records import REGULAR, LogEntry
from vimraft.metadata.pysyncobj.snapshot_file import Snapshot

if TYPE_CHECKING:
    from vimraft.metadata.pysyncobj.node import RaftNode

log = structlog.get_logger(__name__)

EXIT_BUG: Final = 70
MAX_APPLY_PER_ROUND: Final = 500
"""Commands, some 20 ms: heartbeats and elections go on while a long log is applied (but at start, see
`recovered`)."""


class Applying:
    def __init__(self, node: "RaftNode") -> None:
        self._node = node
        self.untold = False
        """The followers have not been told yet what is committed."""

    def committed(self) -> None:
        """Apply what is committed, and on disk here."""
        node = self._node
        applied = node._SyncObj__raftLastApplied
        end = min(node._SyncObj__raftCommitIndex, node.journal.synced_index)
        if end <= applied or not node.durability.write():
            return
        self._up_to(min(end, applied + MAX_APPLY_PER_ROUND), MAX_APPLY_PER_ROUND)
        if node._SyncObj__raftLastApplied < end:
            node.wake()
        self.untold = True

    def recovered(self) -> None:
        """All that the journal knew to be committed, however long it takes: this node has shown it before,
        and nobody may see older tables again. Nobody else is kept waiting: the elections of the others go on
        without it, and `pump` knows of the pause."""
        node = self._node
        begun, applied = node.clock(), node.raftLastApplied
        self._up_to(min(node._SyncObj__raftCommitIndex, node.journal.synced_index), sys.maxsize)
        if node.raftLastApplied - applied > MAX_APPLY_PER_ROUND:
            seconds = round(node.clock() - begun, 1)
            log.info("raft.log_applied", entries=node.raftLastApplied - applied, seconds=seconds)

    def _up_to(self, end: int, most: int) -> None:
        """Entries as far as `end`, but no further one once `most` commands have been applied."""
        node = self._node
        applied = node._SyncObj__raftLastApplied
        start = applied + 1 - node.journal[0][1]
        waiting = node._SyncObj__commandsWaitingCommit
        for command, index, term in node.journal[start : start + max(0, end - applied)]:
            result = self.one(command)
            most -= len(result) if isinstance(result, list) else 1
            node._SyncObj__raftLastApplied = index
            for asked_term, callback in waiting.pop(index, ()):
                if asked_term == term:
                    node.intake.answer(callback, result, FAIL_REASON.SUCCESS)
                else:
                    node.intake.answer(callback, None, FAIL_REASON.DISCARDED)
            if most <= 0:
                break
        node.hooks.changed()
        node.hooks.answered()

    def one(self, entry: bytes) -> bytes | list[bytes] | None:
        """The outcome of an entry, or its outcomes; None for those that are not for the tables."""
        node = self._node
        if not for_tables(entry):
            node.peers.applied(entry)
            return None
        state, outcomes = node.state, []
        try:
            for data in split(entry):
                state, outcome = node.hooks.apply(state, data)
                outcomes.append(outcome)
        except BaseException as error:
            # A bug. PySyncObj would try this entry again and again, also after a restart.
            log.critical("raft.apply_failed", applied=node.raftLastApplied, exc_info=True)
            node.end(EXIT_BUG, f"apply raised {error!r}")
        node.state = state
        return outcomes[0] if entry[:1] == REGULAR else outcomes

    # --- snapshots --------------------------------------------------------------------------------

    def current(self, previous: LogEntry, last: LogEntry) -> Snapshot:
        """The tables now, after the entry `last`."""
        node = self._node
        identity = node.identity
        return Snapshot(
            members=tuple(node.configuration.at(last[1]).values()),
            previous=previous,
            last=last,
            state=node.state,
            cluster=identity.cluster,
            generation=identity.generation,
            birth=identity.birth,
            config_index=node.configuration.index_at(last[1]),
        )

    def wants(self, snapshot: Snapshot) -> bool:
        """Whether a received one is of this cluster and ahead of this node."""
        node = self._node
        if node.identity.cluster and snapshot.cluster not in ("", node.identity.cluster):
            return False
        journal = node.journal
        offset = snapshot.index - journal[0][1]
        known = 0 <= offset < len(journal) and journal[offset][2] == snapshot.last[2]
        return snapshot.index > node.raftLastApplied and not known

    def install(self, snapshot: Snapshot) -> None:
        node = self._node
        node.state = snapshot.state
        members = {member.address: member for member in snapshot.members}
        node.configuration.restart(members, snapshot.config_index)

    def received(self) -> None:
        """A received snapshot is in place of ours, on disk: go on from it."""
        node = self._node
        _, last, previous, _ = node.exchange.deserialize()
        try:
            node.journal.restart(previous, last)
        except SyncFailed as error:
            node.end_for_data(str(error))
        node._SyncObj__raftLastApplied = last[1]
        node._SyncObj__raftCommitIndex = max(node._SyncObj__raftCommitIndex, last[1])
        node.compaction.replaced()
        node.peers.replaced()
        waiting = node._SyncObj__commandsWaitingCommit
        for index in [index for index in waiting if index <= last[1]]:
            for _, callback in waiting.pop(index):  # applied or not: it is inside the snapshot
                node.intake.answer(callback, None, FAIL_REASON.UNKNOWN_OUTCOME)
        node.hooks.changed()
