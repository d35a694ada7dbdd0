"""Members that were away while others came and went, and nodes that join."""

import asyncio
import shutil
from pathlib import Path

import pytest

from tests.raft_cases import (
    CallFailed,
    NodeProcess,
    RaftCluster,
    free_addresses,
    raft_cluster,
    storage,
    until,
)

pytestmark = pytest.mark.cluster


async def remove(asked: NodeProcess, gone: NodeProcess) -> None:
    async def removed() -> bool:
        try:
            await asked.call("remove_member", address=gone.address, deadline_ms=10_000)
        except CallFailed:
            return False
        return True

    await until(removed, 20, "removed")
    await gone.kill()


async def joined(cluster: RaftCluster, address: str, via: list[NodeProcess]) -> NodeProcess:
    node = cluster.make(address, [one.address for one in via])
    await node.start()
    await (await cluster.leader(via)).add(node, deadline_ms=20_000)
    return node


@pytest.mark.parametrize("compaction_entries", [20_000, 20])
async def test_a_member_comes_back_to_members_it_has_never_heard_of(
    tmp_path: Path, compaction_entries: int
) -> None:
    async with raft_cluster(tmp_path, compaction_entries=compaction_entries) as cluster:
        first, second, away = cluster.nodes
        await cluster.same_digest(cluster.nodes)
        await away.kill()
        new = [await joined(cluster, address, [first, second]) for address in free_addresses(2)]
        await remove(new[0], first)
        await remove(new[0], second)
        leader = await cluster.leader(new)
        await leader.propose(storage("meanwhile"))
        await cluster.fill(leader, 40)
        await away.start()
        await cluster.same_digest([*new, away])

        async def knows_them() -> bool:
            status = await away.status()
            named = {peer["address"] for peer in status["peers"] if peer["node_id"]}
            return named == {node.address for node in new} and not status["problem"]

        await until(knows_them, 10, "the newcomers as its peers")
        # and it counts again
        await new[0].kill()
        await (await cluster.leader([new[1], away])).propose(storage("with-it"), deadline_ms=20_000)


async def test_a_removed_member_is_told_and_lets_nobody_in(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path) as cluster:
        first, second, gone = cluster.nodes
        await gone.kill()
        asked = await cluster.leader([first, second])
        await remove(asked, gone)
        await gone.start()

        async def told() -> bool:
            return "not-a-member" in (await gone.status())["problem"]

        await until(told, 15, "told")
        term = (await asked.status())["term"]
        await asked.propose(storage("after"))
        assert (await asked.status())["term"] == term


async def test_a_joiner_leads_nothing_and_knows_nobody_before_the_log_names_it(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        (address,) = free_addresses(1)
        joiner = cluster.make(address, [leader.address])
        await joiner.start()
        for node in cluster.nodes[:3]:
            await node.kill()
        status = await joiner.status()
        assert (status["role"], status["peers"], status["is_leader"]) == ("joining", [], False)
        await asyncio.gather(*(node.start() for node in cluster.nodes[:3]))
        await (await cluster.leader(cluster.nodes[:3])).add(joiner, deadline_ms=20_000)
        await cluster.same_digest(cluster.nodes)

        async def votes() -> bool:
            return (await joiner.status())["role"] == "voter"

        await until(votes, 10, "a vote for the joiner")


async def test_a_joiner_comes_into_the_cluster_that_it_was_told_and_no_other(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path, 1) as cluster:
        (only,) = cluster.nodes
        right = (await only.status())["cluster"]
        joiner = cluster.make(free_addresses(1)[0], [only.address])
        joiner.config |= {"cluster": "another", "generation": 1}
        await joiner.start()
        with pytest.raises(CallFailed):
            await only.add(joiner, deadline_ms=3_000)
        assert (await joiner.status())["cluster"] == "another"
        await joiner.kill()
        shutil.rmtree(joiner.raft_dir)
        await only.call("remove_member", address=joiner.address, deadline_ms=10_000)
        joiner.config |= {"cluster": right}
        await joiner.start()
        assert (await joiner.status())["cluster"] == right
        await only.add(joiner, deadline_ms=20_000)
        await cluster.same_digest(cluster.nodes)


async def test_whose_disk_is_wiped_is_refused_also_by_members_that_never_met_it(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path) as cluster:
        first, second, wiped = cluster.nodes
        await cluster.same_digest(cluster.nodes)
        await wiped.kill()
        late = await joined(cluster, free_addresses(1)[0], [first, second])
        shutil.rmtree(wiped.raft_dir)
        await wiped.start()

        async def refused() -> bool:
            peers = (await late.status())["peers"]
            return any(p["address"] == wiped.address and "changed-identity" in p["refused"] for p in peers)

        await until(refused, 15, "refused by the late one")
        assert not (await wiped.tables())["index"]
