"""When a snapshot is begun, and when the log that it covers goes.

May live here: these two decisions; snapshots themselves are snapshot.py's. PySyncObj trims its log as soon as
a snapshot is written. A follower that is just being sent an older one, or the entries behind it, then begins
again with the newer one, and under a constant load never arrives. So a leader keeps its log for those that
are catching up. Runs in the node's thread.

The managers write their snapshots one after the other: all at once, as they would if each went by the length
of its log alone, would slow the majority that every change waits for.

Keeps: what waits is bounded by the length of the log and of its file; who does not answer holds nothing up.
After a restart a log that is longer than its snapshot needs is trimmed by recovery.
"""

from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from vimraft.metadata.pysyncobj.node import RaftNode

log = structlog.get_logger(__name__)

RETRY_S: Final = 5.0
PAUSE_S: Final = 0.1
MAX_HELD_LOGS: Final = 8
"""The log is kept up to so many times compaction_entries …"""
MAX_HELD_BYTES: Final = 128 << 20
"""… and up to this size of the journal: all of it is in memory as well."""


class Compaction:
    def __init__(self, node: "RaftNode", now: float) -> None:
        self._node = node
        self._after_s = now
        self._trim_to: int | None = None
        """A snapshot is on disk; the log begins with this entry once nobody needs those before."""
        self._begins = self._snapshot = node.state.index
        """Index of the tables at the beginning of the log, and in the newest snapshot."""

    def failed(self) -> None:
        """The snapshot could not be written."""
        self._after_s = self._node.clock() + RETRY_S

    def replaced(self) -> None:
        """The tables are those of a received snapshot."""
        self._begins = self._snapshot = self._node.state.index

    def written(self, first: int) -> None:
        """The snapshot that makes the entries before `first` superfluous is on stable storage."""
        self._trim_to = first
        self._trim_if_free(self._node.clock())

    def look(self, now: float) -> None:
        """Once a round."""
        node = self._node
        if self._trim_to is not None and not self._needed(self._trim_to, now):
            # The log goes by copying what is left of it. When that has become much meanwhile, it would keep
            # the leader from its heartbeats (some 3 µs an entry): a newer snapshot leaves less.
            if node.last_index - self._trim_to > node.config.compaction_entries:
                self._trim_to = None
            else:
                self._trim_if_free(now)
        if self._trim_to is None and now >= self._after_s and self._due():
            self._after_s = now + PAUSE_S
            self._snapshot = node.state.index
            node.forceLogCompaction()

    def _due(self) -> bool:
        """The log is longer than compaction_entries, and this node's turn has come since: each has its own in
        every so many."""
        node, period = self._node, self._node.config.compaction_entries
        too_long = self._length() - period
        if too_long <= 0 or len(node.configuration.members) == 1:
            return too_long > 0
        addresses = sorted(node.configuration.members)
        own = node.config.self_address
        rank = addresses.index(own) if own in addresses else 0
        turn = rank * period // len(addresses)
        return too_long > (node.state.index - turn) % period or too_long > period

    def _length(self) -> int:
        """Of the log, in commands, since an entry may hold many; or in entries, since it may hold none."""
        entries: int = self._node._getRaftLogSize()
        return max(entries, self._node.state.index - self._begins)

    def _trim_if_free(self, now: float) -> None:
        node, first = self._node, self._trim_to
        assert first is not None
        if not self._needed(first, now):
            self._trim_to = None
            self._begins = self._snapshot
            node.trim(first)
            node.exchange.drop_older(first)

    def _needed(self, first: int, now: float) -> bool:
        """Somebody is on the way to `first`, and answers."""
        node = self._node
        if (
            not node._isLeader()
            or self._length() >= MAX_HELD_LOGS * node.config.compaction_entries
            or node.journal.file_bytes >= MAX_HELD_BYTES
        ):
            return False
        since = now - node.config.connection_timeout_ms / 1000
        answered, matched = node._SyncObj__lastResponseTime, node._SyncObj__raftMatchIndex
        return any(
            answered.get(peer, since) > since and matched.get(peer, 0) < first
            for peer in node._SyncObj__connectedNodes
            if node.talks_to(peer)
        )
