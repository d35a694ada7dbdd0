"""Acknowledged writes, and whether they are still there.

May live here: a load of additions (each with a number of its own; a second application of one would be
refused, and counted), and what trials find afterwards.
"""

import asyncio
from typing import NamedTuple

from tests.raft_cases import CallFailed, NodeProcess, RaftCluster, real

PATIENCE_MS = 30_000


class Finding(NamedTuple):
    acknowledged: int
    lost: int
    """Acknowledged and not there."""
    repeated: int
    """Applied twice."""
    diverged: bool
    """The nodes' tables differ."""
    note: str = ""

    @property
    def good(self) -> bool:
        return not (self.lost or self.repeated or self.diverged)


class Load:
    """Stops at a node that is gone; `request_ids`: goes on at another one, under the same id."""

    def __init__(self, cluster: RaftCluster, *, first: int = 0) -> None:
        self.acknowledged: set[int] = set()
        self.refused: dict[int, str] = {}
        self.stopped = False
        self._cluster = cluster
        self._next = first
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, workers: int, nodes: list[NodeProcess], *, deadline_ms: int = 5_000) -> None:
        self._tasks += [
            asyncio.create_task(self._work(nodes[worker % len(nodes)], deadline_ms))
            for worker in range(workers)
        ]

    async def _work(self, node: NodeProcess, deadline_ms: int) -> None:
        while not self.stopped:
            number = self._next
            self._next += 1
            try:
                outcome = await node.propose(real(number), deadline_ms=deadline_ms)
            except CallFailed as failure:
                if failure.kind == "Gone":
                    return
                continue
            except (AssertionError, ConnectionError):  # killed this moment
                return
            if outcome["reason"] is None:
                self.acknowledged.add(number)
            else:
                self.refused[number] = outcome["reason"]

    async def stop(self) -> None:
        self.stopped = True
        await asyncio.gather(*self._tasks)
        self._tasks.clear()

    async def check(self, nodes: list[NodeProcess]) -> Finding:
        """After a barrier. `nodes` run."""
        await nodes[0].call("barrier", deadline_ms=PATIENCE_MS)
        present = set((await nodes[0].tables())["reals"])
        lost = len(self.acknowledged - present)
        try:
            tables = await self._cluster.same_digest(nodes)
        except AssertionError:
            return Finding(len(self.acknowledged), lost, 0, True)
        repeated = len(self.refused) + tables["reals_added"] - len(tables["reals"])
        return Finding(len(self.acknowledged), lost, max(0, repeated), False)
