"""Trials with kill -9: one cluster of three processes each, acknowledged writes noted by the client.

May live here: what one trial does and finds. Run by the tests of this directory and, in numbers, by
trials.py. Random choices come from `rng` alone; the timing of real processes cannot be replayed.
"""

import asyncio
import random
import signal
import time
from pathlib import Path

from tests.fault.links import PROGRAM
from tests.fault.load import Finding, Load
from tests.raft_cases import NodeProcess, RaftCluster, raft_cluster, storage, until
from vimraft.core import levels

COMPACTION_ENTRIES = (20, 60, 200)
COMPACTION_OPERATIONS = 90
"""A few compactions, with the journal's own operations among them; the kill may be at any of them."""
WORKERS = 24
ENOUGH_WRITES = 25
DEATH_S = 6.0
"""Without a death by then all are killed where they are."""


async def _killed_all(cluster: RaftCluster) -> None:
    await asyncio.gather(*(node.kill() for node in cluster.nodes))


async def _first_death(cluster: RaftCluster) -> bool:
    """False: nobody has died."""
    deaths = [asyncio.ensure_future(node.exit_code(DEATH_S)) for node in cluster.nodes]
    await asyncio.wait(deaths, return_when=asyncio.FIRST_COMPLETED)
    for death in deaths:
        death.cancel()
    codes = await asyncio.gather(*deaths, return_exceptions=True)
    return any(isinstance(code, int) for code in codes)


async def kill_all_during_compaction(path: Path, rng: random.Random) -> Finding:
    """Each node kills itself at an operation of its own on the disk, in its first compactions; when the
    first has done so, the others get no time, a little, or until their own turn."""
    entries = rng.choice(COMPACTION_ENTRIES)
    async with raft_cluster(path, start=False, compaction_entries=entries) as cluster:
        ops = [rng.randint(1, COMPACTION_OPERATIONS) for _ in cluster.nodes]
        for node, at in zip(cluster.nodes, ops, strict=True):
            node.program = PROGRAM
            node.faults = {"kill_at": at, "seed": rng.randrange(1 << 30)}
        grace_s = rng.choice((0.0, rng.uniform(0, 0.05), 0.5))
        await cluster.start()
        load = Load(cluster)
        await cluster.form()
        load.start(WORKERS, cluster.nodes)
        died = await _first_death(cluster)
        await asyncio.sleep(grace_s)  # the fault's own timing
        await _killed_all(cluster)
        await load.stop()
        for node in cluster.nodes:
            node.faults = {}
        await cluster.start()
        found = await load.check(cluster.nodes)
        how = f"compaction every {entries} entries, at operations {ops}, grace {grace_s:.3f} s"
        return found._replace(note=how if died else f"nobody killed itself: {how}")


async def lagging_follower(path: Path, rng: random.Random) -> Finding:
    """One follower lags and catches up while the other is paused; the leader dies meanwhile."""
    compaction_entries = rng.choice((150, 20_000))
    async with raft_cluster(path, compaction_entries=compaction_entries) as cluster:
        leader = await cluster.leader()
        lagging, paused = rng.sample([node for node in cluster.nodes if node is not leader], 2)
        load = Load(cluster)
        load.start(2 * WORKERS, [leader], deadline_ms=2_000)
        await until(lambda: len(load.acknowledged) > ENOUGH_WRITES, 20, "writes")
        lagging.signal(signal.SIGSTOP)
        await asyncio.sleep(rng.uniform(0.1, 0.6))  # all pauses here are the fault's own timing
        paused.signal(signal.SIGSTOP)
        lagging.signal(signal.SIGCONT)
        await asyncio.sleep(rng.uniform(0.0, 0.3))
        if rng.random() < 0.5:
            paused.signal(signal.SIGCONT)  # both read on while the leader dies
        await asyncio.sleep(rng.uniform(0.0, 0.1))
        await leader.kill()
        await asyncio.sleep(rng.uniform(0.0, 0.5))
        paused.signal(signal.SIGCONT)
        await load.stop()
        survivors = [lagging, paused]
        rng.shuffle(survivors)
        found = await load.check(survivors)
        if not found.good:
            return found
        await leader.start()
        return await load.check(cluster.nodes)


async def leader_kill_s(path: Path, rng: random.Random) -> float:
    """From kill -9 of the leader to the first new commit, asked of a survivor."""
    async with raft_cluster(path) as cluster:
        leader = await cluster.leader()
        survivor = rng.choice([node for node in cluster.nodes if node is not leader])
        await cluster.fill(survivor, 50)
        await asyncio.sleep(rng.uniform(0, 0.2))  # anywhere between two heartbeats
        begun = time.monotonic()
        await leader.kill()
        outcome = await survivor.propose(storage("after"), deadline_ms=30_000)
        assert outcome["reason"] is None
        return time.monotonic() - begun


async def restart_s(path: Path, entries: int) -> tuple[float, int]:
    """(from the restart of a whole cluster that was killed to its first commit, log entries found)."""
    async with raft_cluster(path, start=False, compaction_entries=10 * entries) as cluster:
        for node in cluster.nodes:
            node.program = PROGRAM
        await cluster.start()
        await cluster.form(levels.FIRST)  # an entry for each command
        leader = await cluster.leader()
        await leader.call("fill", count=entries, outstanding=512, patience_s=600)
        await _all_have(cluster.nodes, entries)
        await _killed_all(cluster)
        begun = time.monotonic()
        await cluster.start()
        outcome = await cluster.nodes[0].propose(storage("after"), deadline_ms=120_000)
        took_s = time.monotonic() - begun
        assert outcome["reason"] is None
        return took_s, (await cluster.nodes[0].status())["log_entries"]


async def _all_have(nodes: list[NodeProcess], entries: int) -> None:
    async def equal() -> bool:
        return all([(await node.status())["raft_applied"] >= entries for node in nodes])

    await until(equal, 60, f"{entries} entries applied everywhere")
