"""A survivor goes on alone in a new generation while those it gave up are alive: they give way, for good."""

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
from vimraft.metadata.pysyncobj import PySyncObjConfig, offline

pytestmark = pytest.mark.cluster


def recover(node: NodeProcess) -> None:
    """As `vimraft meta recover` does."""
    config = PySyncObjConfig(
        self_address=node.address, members=(node.address,), data_dir=node.data_dir, allow_plaintext=True
    )
    found = offline.read_log(config)
    assert found is not None
    shutil.move(node.raft_dir, node.data_dir / "before")
    offline.write_generation(
        node.raft_dir,
        found.state,
        self_address=node.address,
        cluster=found.identity.cluster,
        generation=found.identity.generation + 1,
        after=found,
        birth=offline.new_birth(),
    )


async def superseded(node: NodeProcess) -> bool:
    status = await node.status()
    return "generation 2 of this cluster is in force" in status["problem"] and not status["has_quorum"]


async def ended(cluster: RaftCluster, nodes: list[NodeProcess]) -> None:
    async def one(node: NodeProcess) -> None:
        await until(lambda: superseded(node), 20, "superseded")
        with pytest.raises(CallFailed):
            await node.propose(storage("too-late"), deadline_ms=2_000)

    await asyncio.gather(*map(one, nodes))


async def test_a_majority_that_meets_a_later_generation_decides_nothing_any_more(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path) as cluster:
        survivor, *others = cluster.nodes
        await cluster.same_digest(cluster.nodes)
        await survivor.kill()
        recover(survivor)
        await (await cluster.leader(others)).propose(storage("of-the-old-life"), deadline_ms=20_000)
        await survivor.start()
        await cluster.leader([survivor])
        await survivor.propose(storage("of-the-new-life"))
        await ended(cluster, others)
        for node in others:
            await node.kill()
        await asyncio.gather(*(node.start() for node in others))
        await ended(cluster, others)
        assert "vimraft site join --replace NAME" in (await others[0].status())["problem"]
        assert not any([(await node.status())["is_leader"] for node in others])


async def test_two_survivors_that_both_go_on_never_mix(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path) as cluster:
        first, second, _ = cluster.nodes
        await cluster.same_digest(cluster.nodes)
        for node in cluster.nodes:
            await node.kill()
        for node in (first, second):
            recover(node)
            await node.start()
            await cluster.leader([node])
        births = {(await node.status())["birth"] for node in (first, second)}
        assert len(births) == 2
        with pytest.raises(CallFailed):
            await first.add(second, deadline_ms=4_000)
        await first.call("remove_member", address=second.address, deadline_ms=10_000)
        for node in (first, second):
            await node.propose(storage("alone"))
            assert not (await node.status())["problem"]


async def test_a_node_joins_one_that_was_restored_from_tables_alone(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path, 1) as cluster:
        (restored,) = cluster.nodes
        await restored.propose(storage("of-the-backup"))
        await restored.kill()
        config = PySyncObjConfig(
            self_address=restored.address, members=(restored.address,), data_dir=restored.data_dir
        )
        found = offline.read_log(config)
        assert found is not None
        shutil.rmtree(restored.raft_dir)
        offline.write_generation(
            restored.raft_dir,
            found.state,
            self_address=restored.address,
            cluster=found.identity.cluster,
            generation=2,
            after=None,
            birth=offline.new_birth(),
        )
        await restored.start()
        await cluster.leader([restored])
        joiner = cluster.make(free_addresses(1)[0], [restored.address])
        await joiner.start()
        await restored.add(joiner, deadline_ms=20_000)
        tables = await cluster.same_digest(cluster.nodes)
        assert "of-the-backup" in tables["storages"]
