"""A leader hands its office over while commands pour in."""

import asyncio
from pathlib import Path

import pytest

from tests.raft_cases import CallFailed, NodeProcess, raft_cluster
from vimraft.core.commands import SetSetting

pytestmark = pytest.mark.cluster

LOADERS = 24


async def test_a_leader_under_full_load_is_removed_within_its_deadline(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path, 3) as cluster:
        leader = await cluster.leader()
        others = [node for node in cluster.nodes if node is not leader]
        committed = 0
        over = asyncio.Event()

        async def load(node: NodeProcess, first: int) -> None:
            nonlocal committed
            value = first
            while not over.is_set():
                value += LOADERS
                await node.propose(SetSetting("io_timeout_ms", 2_000 + value % 5_000))
                committed += 1

        loads = [asyncio.create_task(load(others[i % 2], i)) for i in range(LOADERS)]
        loads += [asyncio.create_task(load(leader, i)) for i in range(LOADERS)]
        while committed < 200:
            await asyncio.sleep(0.01)
        await others[0].call("remove_member", address=leader.address, deadline_ms=8_000)
        at_removal = committed
        while committed < at_removal + 100:
            await asyncio.sleep(0.01)
        over.set()
        await leader.kill()  # it is no member any more: what it was asked for ends
        ends = await asyncio.gather(*loads, return_exceptions=True)
        assert [end for end in ends[:LOADERS] if end is not None] == []
        assert all(end is None or isinstance(end, CallFailed) for end in ends)
        await cluster.same_digest(others)
