"""Audit's test 8, first half: lost disks, two processes on one directory, overlapping membership changes."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.raft_cases import CallFailed, NodeProcess, free_addresses, raft_cluster, storage, until

pytestmark = pytest.mark.cluster

ATTEMPTS = 10


async def test_a_wiped_disk_gets_no_vote_under_its_old_address(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        wiped, other = (node for node in cluster.nodes if node is not leader)
        await other.kill()
        await leader.propose(storage("on-two-of-three"))
        await cluster.same_digest([leader, wiped])
        await leader.kill()
        await wiped.kill()
        shutil.rmtree(wiped.raft_dir)
        # With a vote from a node that remembers nothing, `other` would lead without the write.
        await wiped.start()
        await other.start()
        for node in (wiped, other):
            with pytest.raises(CallFailed):
                await node.call("barrier", deadline_ms=3_000)
        await leader.start()
        await other.call("barrier", deadline_ms=20_000)
        assert "on-two-of-three" in (await other.tables())["storages"]


async def test_a_wiped_node_is_refused_with_words_until_it_was_removed_and_added(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        wiped, other = (node for node in cluster.nodes if node is not leader)
        await wiped.kill()
        shutil.rmtree(wiped.raft_dir)
        await wiped.start()
        await leader.propose(storage("meanwhile"))
        with pytest.raises(CallFailed):
            await wiped.call("barrier", deadline_ms=2_000)
        assert "meanwhile" not in (await wiped.tables())["storages"]
        refusals = [peer["refused"] for peer in (await leader.status())["peers"]]
        assert any(refusals), "the leader says that, and why, it refuses the node"
        await wiped.kill()
        await other.call("remove_member", address=wiped.address, deadline_ms=20_000)
        shutil.rmtree(wiped.raft_dir)
        wiped.config["members"] = [leader.address, other.address]
        await wiped.start()
        await other.add(wiped, deadline_ms=30_000)
        tables = await cluster.same_digest(cluster.nodes)
        assert "meanwhile" in tables["storages"]
        await wiped.propose(storage("from-the-wiped-one"), deadline_ms=20_000)


async def test_a_second_process_on_a_data_directory_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path) as cluster:
        first = cluster.nodes[0]
        second = NodeProcess(free_addresses(1)[0], first.config["members"], first.data_dir)
        try:
            with pytest.raises(CallFailed) as failure:
                await second.start()
        finally:
            await second.kill()
        assert failure.value.kind == "DirectoryInUse"
        assert str(first.raft_dir) in str(failure.value)
        await first.propose(storage("after"))
        await first.kill()
        await first.start()
        await cluster.same_digest(cluster.nodes)


async def _settle(change: Callable[[], Awaitable[object]]) -> None:
    """Until it is done: a change that finds another one under way may be refused."""
    for attempt in range(ATTEMPTS):
        try:
            await change()
        except CallFailed:
            assert attempt < ATTEMPTS - 1
        else:
            return


async def test_overlapping_membership_changes_from_two_nodes_happen_one_by_one(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path) as cluster:
        first, second, _ = cluster.nodes
        present = [node.address for node in cluster.nodes]
        joining = [cluster.make(address, present) for address in free_addresses(2)]
        await asyncio.gather(*(node.start() for node in joining))

        await asyncio.gather(_settle(lambda: first.add(joining[0])), _settle(lambda: second.add(joining[1])))
        await asyncio.gather(
            _settle(lambda: first.call("remove_member", address=joining[0].address, deadline_ms=10_000)),
            _settle(lambda: second.add(joining[1])),
        )
        await first.propose(storage("after"), deadline_ms=20_000)
        remaining = [*cluster.nodes[:3], joining[1]]
        await cluster.same_digest(remaining)
        for node in remaining:
            expected = {other.address for other in remaining} - {node.address}

            async def agreed(node: NodeProcess = node, expected: set[str] = expected) -> bool:
                return {peer["address"] for peer in (await node.status())["peers"]} == expected

            await until(agreed, 5, "the members are those that were asked for")  # a status is some ms old
