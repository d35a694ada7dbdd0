"""Tables with 100,000 segments: snapshot, restart and join each in less than 10 s, below 500 MB."""

import asyncio
import time
from pathlib import Path

import pytest
from immutables import Map

from tests.core_cases import Tables, three_sites
from tests.raft_cases import NodeProcess, free_addresses, raft_cluster, storage, until
from vimraft.core.tables import RealVolume, Replica, Segment, State, Volume
from vimraft.metadata.pysyncobj.disk import OsDisk
from vimraft.metadata.pysyncobj.identity import make
from vimraft.metadata.pysyncobj.members import Member
from vimraft.metadata.pysyncobj.recovery import rewrite
from vimraft.metadata.pysyncobj.snapshot_file import Snapshot

pytestmark = pytest.mark.cluster

SEGMENTS = 100_000
VOLUMES = 10
UNIT_SECTORS = 2048


def fragmented() -> State:
    """Ten volumes of 10,000 segments each, every second unit of a real volume per volume."""
    tables: Tables = three_sites()
    state = tables.state
    reals: Map = Map()
    volumes: Map = Map()
    each = SEGMENTS // VOLUMES
    template = next(iter(state.reals.values()))
    for number in range(VOLUMES):
        address = f"big{number}"
        real = RealVolume(
            storage=template.storage, lun=number, site=template.site, volume_class="ssd", uri=f"file:///{address}",
            label_id=address, capacity_units=2 * each, free=tuple((2 * i + 2, 1) for i in range(each)),
        )  # fmt: skip
        segments = tuple(
            Segment(i * UNIT_SECTORS, UNIT_SECTORS, real.storage, number, (2 * i + 1) * UNIT_SECTORS)
            for i in range(each)
        )
        reals = reals.set(real.id, real)
        volumes = volumes.set(
            address,
            Volume(
                name=address, size_sectors=each * UNIT_SECTORS, volume_class="ssd", owner="m-tokyo", epoch=1,
                replicas=(Replica(f"A{number}", "in_sync", segments),), sites=(template.site,), created_ms=1,
                created_by="m-tokyo",
            ),
        )  # fmt: skip
    return state._replace(reals=reals, volumes=volumes)


def seed(node: NodeProcess, state: State) -> None:
    members = node.config["members"]
    node.raft_dir.mkdir(parents=True)
    identity = make(members)
    no_op = b"\x01"
    snapshot = Snapshot(
        tuple(Member(address) for address in members),
        (no_op, state.index, 1),
        (no_op, state.index + 1, 1),
        state,
        identity.cluster,
        identity.generation,
    )
    rewrite(OsDisk(node.raft_dir), snapshot, identity)


async def test_hundred_thousand_segments(tmp_path: Path) -> None:
    state = fragmented()
    async with raft_cluster(tmp_path, start=False, compaction_entries=100) as cluster:
        for node in cluster.nodes:
            seed(node, state)
        begun = time.monotonic()
        await cluster.start()
        await cluster.nodes[0].call("barrier", deadline_ms=10_000)
        restart_s = time.monotonic() - begun
        leader = await cluster.leader()
        term = (await leader.status())["term"]

        # Compaction under load: commits wait for it, elections must not happen because of it.
        slowest_s = 0.0
        for i in range(250):
            begun = time.monotonic()
            outcome = await leader.propose(storage(f"n{i}"))
            slowest_s = max(slowest_s, time.monotonic() - begun)
            assert outcome["reason"] is None or "Exists" not in outcome["reason"]

        async def compacted() -> bool:
            return all([(await node.status())["log_entries"] < 200 for node in cluster.nodes])

        await until(compacted, 20, "compaction")
        assert (await leader.status())["term"] == term

        present = [node.address for node in cluster.nodes]
        joining = cluster.make(free_addresses(1)[0], present)
        await joining.start()
        begun = time.monotonic()
        await leader.add(joining)
        tables = await cluster.same_digest(cluster.nodes)
        join_s = time.monotonic() - begun

        await asyncio.gather(*(node.kill() for node in cluster.nodes))
        begun = time.monotonic()
        await cluster.start()
        await joining.call("barrier", deadline_ms=10_000)
        cold_restart_s = time.monotonic() - begun
        rss_mb = max([(await node.tables())["rss_mb"] for node in cluster.nodes])
        print(
            f"state {tables['state_bytes'] >> 10} KiB, first start {restart_s:.2f} s, slowest commit with "
            f"snapshot {slowest_s:.3f} s, join {join_s:.2f} s, cold restart {cold_restart_s:.2f} s, "
            f"RSS {rss_mb:.0f} MB"
        )
        assert max(restart_s, slowest_s, join_s, cold_restart_s) < 10
        assert rss_mb < 500
