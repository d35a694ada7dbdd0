"""Handing the leader's office over: to a voter that has everything, while nothing new comes in.

May live here: one hand-over, from being asked for to its end. PySyncObj asks the most advanced follower to
stand, and refuses when that lacks an entry, as under load it always does; one that stands without the newest
entries is voted for by nobody. So the queue waits meanwhile (see intake.py), for an election timeout at most;
then the office stays where it is. Runs in the node's thread.

Keeps: however often it is asked for, most of the time commands go on.
"""

from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from vimraft.metadata.pysyncobj.node import RaftNode

PAUSE_ELECTIONS: Final = 2
"""After one that failed none is begun for so many longest election timeouts."""

log = structlog.get_logger(__name__)


class HandOver:
    def __init__(self, node: "RaftNode") -> None:
        self._node = node
        self._until_s: float | None = None
        self._asked = False
        """Somebody was told to stand."""
        self._not_before_s = 0.0

    @property
    def under_way(self) -> bool:
        return self._until_s is not None

    def begin(self) -> None:
        """Of no effect at who does not lead, or has nobody to hand over to, and while one is under way."""
        node, now = self._node, self._node.clock()
        if self._until_s is None and now >= self._not_before_s and node._isLeader() and node.otherNodes:
            self._until_s = now + node.config.election_max_ms / 1000
            self._asked = False
            self.look()

    def look(self) -> None:
        """Once a round."""
        node, until_s = self._node, self._until_s
        if until_s is None:
            return
        if not node._isLeader() or node.clock() >= until_s:
            if node._isLeader():
                self._not_before_s = until_s + PAUSE_ELECTIONS * node.config.election_max_ms / 1000
                log.warning("raft.not_handed_over", asked=self._asked)
            self._until_s = None
            node.wake()  # for what waits
            return
        if not self._asked:
            node.transferLeadership(callback=self._answered)

    def _answered(self, _: object, code: int) -> None:
        self._asked = code == 0
