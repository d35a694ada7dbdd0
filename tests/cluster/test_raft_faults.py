"""Random kills and pauses under load: nothing acknowledged is lost, nothing applies twice.

A failure prints its seed; RAFT_FAULT_SEED and RAFT_FAULT_SECONDS repeat or lengthen the run.
"""

import asyncio
import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.raft_cases import CallFailed, NodeProcess, RaftCluster, raft_cluster, real

pytestmark = pytest.mark.cluster

SECONDS = float(os.environ.get("RAFT_FAULT_SECONDS", "12"))
WORKERS = 16
FAULTS = ("pause", "pause leader", "pause and kill another", "kill", "kill leader", "kill all")


class Load:
    """Adds real volumes through any node; each has its own number, and a second application of one
    would be refused."""

    def __init__(self, cluster: RaftCluster, rng: random.Random) -> None:
        self.acknowledged: set[int] = set()
        self.stopped = False
        self._cluster = cluster
        self._rng = rng

    async def work(self, worker: int) -> None:
        number = worker
        while not self.stopped:
            number += WORKERS
            node = self._rng.choice(self._cluster.nodes)
            try:
                outcome = await node.propose(real(number), deadline_ms=3_000)
            except (CallFailed, AssertionError, ConnectionError):  # killed, or no majority in time
                await asyncio.sleep(0.02)
                continue
            assert outcome["reason"] is None
            self.acknowledged.add(number)


async def disturb(cluster: RaftCluster, rng: random.Random, fault: str) -> None:
    victim = rng.choice(cluster.nodes)
    if "leader" in fault:
        with contextlib.suppress(AssertionError, CallFailed):  # none at the moment: any node will do
            victim = await cluster.leader(timeout_s=5)
    if fault == "kill all":
        await asyncio.gather(*(node.kill() for node in cluster.nodes))
        await cluster.start()
    elif fault.startswith("pause"):
        victim.signal(signal.SIGSTOP)
        await asyncio.sleep(rng.uniform(0.1, 1.5))
        if "kill" in fault:
            other: NodeProcess = rng.choice([node for node in cluster.nodes if node is not victim])
            await other.kill()
            victim.signal(signal.SIGCONT)
            await other.start()
        victim.signal(signal.SIGCONT)
    else:
        await victim.kill()
        await asyncio.sleep(rng.uniform(0, 0.5))
        await victim.start()


@pytest.mark.parametrize("compaction_entries", [60, 20_000])
async def test_random_faults_lose_and_repeat_nothing(tmp_path: Path, compaction_entries: int) -> None:
    seed = int(os.environ.get("RAFT_FAULT_SEED", random.randrange(1 << 32)))
    print(f"RAFT_FAULT_SEED={seed}")
    rng = random.Random(seed)
    async with raft_cluster(tmp_path, compaction_entries=compaction_entries) as cluster:
        load = Load(cluster, rng)
        workers = [asyncio.create_task(load.work(i)) for i in range(WORKERS)]
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            await disturb(cluster, rng, rng.choice(FAULTS))
            await asyncio.sleep(rng.uniform(0.1, 0.8))
        load.stopped = True
        await asyncio.gather(*workers)
        await cluster.nodes[0].call("barrier", deadline_ms=15_000)
        tables = await cluster.same_digest(cluster.nodes)
        assert len(load.acknowledged) > 50
        assert load.acknowledged <= set(tables["reals"])
        assert not any("[critical" in node.stderr for node in cluster.nodes)
