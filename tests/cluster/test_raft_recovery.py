"""Restarts, catching up and membership, with real processes that are killed (kill -9)."""

import asyncio
import random
from pathlib import Path

import pytest

from tests.raft_cases import CallFailed, NodeProcess, free_addresses, raft_cluster, real, storage, until
from vimraft.metadata.pysyncobj import records

pytestmark = pytest.mark.cluster


async def test_everything_acknowledged_is_there_after_all_nodes_are_killed(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path) as cluster:
        acknowledged = []
        for round_number in range(3):
            for i in range(10):
                name = f"s{round_number}-{i}"
                await cluster.nodes[i % 3].propose(storage(name))
                acknowledged.append(name)
            await asyncio.gather(*(node.kill() for node in cluster.nodes))
            await cluster.start()
            await cluster.nodes[round_number].call("barrier", deadline_ms=10_000)
            tables = await cluster.nodes[round_number].tables()
            assert set(acknowledged) <= set(tables["storages"])
        await cluster.same_digest(cluster.nodes)


async def test_nothing_acknowledged_is_lost_when_all_are_killed_while_they_compact(tmp_path: Path) -> None:
    """Every node compacts after each 40 entries, so that kills fall into all steps of it."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    async with raft_cluster(tmp_path, compaction_entries=40) as cluster:
        acknowledged: set[int] = set()
        lun = 0
        for _ in range(6):
            enough = len(acknowledged) + rng.randrange(60, 140)
            first = lun

            async def work(worker: int, first: int = first, enough: int = enough) -> None:
                for number in range(first + worker, first + 2_000, 8):
                    if len(acknowledged) >= enough:
                        return
                    try:
                        await cluster.nodes[worker % 3].propose(real(number))
                    except CallFailed:
                        return
                    acknowledged.add(number)

            workers = [asyncio.create_task(work(i)) for i in range(8)]
            await until(lambda enough=enough: len(acknowledged) >= enough, 20, "progress")
            await asyncio.gather(*(node.kill() for node in cluster.nodes))
            await asyncio.gather(*workers)
            lun = first + 2_000
            await cluster.start()
            await cluster.nodes[0].call("barrier", deadline_ms=10_000)
            assert acknowledged <= set((await cluster.nodes[0].tables())["reals"])
        tables = await cluster.same_digest(cluster.nodes)
        assert tables["reals_added"] == len(tables["reals"])
        assert (await cluster.nodes[0].status())["log_entries"] < 200  # it did compact


@pytest.mark.parametrize(("entries", "snapshot"), [(100, False), (1_600, True)])
async def test_a_node_that_was_away_catches_up(tmp_path: Path, entries: int, snapshot: bool) -> None:
    async with raft_cluster(tmp_path, compaction_entries=500) as cluster:
        leader = await cluster.leader()
        away = next(node for node in cluster.nodes if node is not leader)
        await away.kill()
        await cluster.fill(leader, entries)
        await leader.propose(storage("new"))
        assert (leader.raft_dir / "snapshot").exists() == snapshot
        await away.start()
        tables = await cluster.same_digest(cluster.nodes)
        assert "new" in tables["storages"]
        assert (away.raft_dir / "snapshot").exists() == snapshot


async def test_a_fourth_node_joins_a_compacted_cluster_by_snapshot_and_stays(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path, compaction_entries=200) as cluster:
        present = [node.address for node in cluster.nodes]
        leader = await cluster.leader()
        term = (await leader.status())["term"]
        await cluster.fill(leader, 1_000)
        await leader.propose(storage("before"))
        joining = cluster.make(free_addresses(1)[0], present)
        await joining.start()
        await asyncio.sleep(1.5)  # more than its election timeout: it must not stand for election
        assert (await leader.status())["term"] == term
        inviting = next(node for node in cluster.nodes if node is not leader)
        await inviting.add(joining)
        await inviting.add(joining)  # idempotent
        await cluster.same_digest(cluster.nodes)
        assert (await leader.status())["term"] == term
        assert "before" in (await joining.tables())["storages"]
        outcome = await joining.propose(storage("from-the-new-one"))
        assert outcome["reason"] is None
        # All of them remember it: after a restart of everything the first three are no majority …
        await asyncio.gather(*(node.kill() for node in cluster.nodes))
        for node in cluster.nodes:
            node.config["members"] = []
        await cluster.nodes[0].start()
        await cluster.nodes[1].start()
        with pytest.raises(CallFailed) as failure:
            await cluster.nodes[0].call("barrier", deadline_ms=2_000)
        assert failure.value.kind == "Unavailable"
        # … and the new one counts for it.
        await joining.start()
        await joining.call("barrier", deadline_ms=10_000)
        await cluster.same_digest([cluster.nodes[0], cluster.nodes[1], joining])


async def test_members_are_removed_the_leader_too(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        rest = [node for node in cluster.nodes if node is not leader]
        await rest[0].call("remove_member", address=leader.address, deadline_ms=10_000)
        await rest[0].call("remove_member", address=leader.address, deadline_ms=10_000)
        await leader.kill()
        await rest[1].propose(storage("after"))
        await cluster.same_digest(rest)
        assert [peer["address"] for peer in (await rest[0].status())["peers"]] == [rest[1].address]
        with pytest.raises(CallFailed) as failure:
            await rest[0].call("remove_member", address=rest[0].address, deadline_ms=1_000)
        assert failure.value.kind == "Unavailable"


async def test_a_member_that_does_not_run_is_not_added(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path, size=1) as cluster:
        with pytest.raises(CallFailed) as failure:
            await cluster.nodes[0].call("add_member", address=free_addresses(1)[0], deadline_ms=5_000)
        assert failure.value.kind == "Unavailable"
        assert "does not answer" in str(failure.value)
        await cluster.nodes[0].propose(storage("still-alone"))


async def test_one_node_alone_grows_to_three_one_after_the_other(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path, size=1) as cluster:
        first = cluster.nodes[0]
        joining = [cluster.make(address, [first.address]) for address in free_addresses(2)]
        await asyncio.gather(*(node.start() for node in joining))
        # Both at once, asked for at different places: one change at a time all the same.
        await first.add(joining[0])
        await asyncio.gather(
            first.add(joining[1]),
            joining[0].add(joining[1]),
        )
        await joining[1].propose(storage("three"))
        await cluster.same_digest(cluster.nodes)
        await (await cluster.leader()).kill()
        rest = [node for node in cluster.nodes if node.opened and await alive(node)]
        await rest[0].propose(storage("after"))


async def alive(node: NodeProcess) -> bool:
    try:
        await node.status()
    except (CallFailed, AssertionError):
        return False
    return True


def _was_trimmed(node: NodeProcess) -> bool:
    """Its journal is not the first one."""
    journal = node.raft_dir / "journal"
    return records.read_header(journal.read_bytes(), str(journal)).serial > 1


@pytest.mark.parametrize("damage", ["flip", "truncate", "missing"])
async def test_a_damaged_snapshot_stops_the_start_and_nothing_is_lost_elsewhere(
    tmp_path: Path, damage: str
) -> None:
    async with raft_cluster(tmp_path, compaction_entries=100) as cluster:
        victim = cluster.nodes[0]
        await cluster.fill(victim, 400)
        await until(lambda: _was_trimmed(victim), 10, "the log goes on without its beginning")
        await victim.kill()
        path = victim.raft_dir / "snapshot"
        data = bytearray(path.read_bytes())
        if damage == "flip":
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        elif damage == "truncate":
            path.write_bytes(data[: len(data) // 2])
        else:
            path.unlink()
        with pytest.raises(CallFailed) as failure:
            await victim.start()
        assert failure.value.kind == "CorruptData"
        assert str(path) in str(failure.value)
        await cluster.nodes[1].propose(storage("still-here"))


async def test_two_processes_never_share_a_directory_or_an_address(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path, size=1) as cluster:
        running = cluster.nodes[0]
        elsewhere = cluster.make(free_addresses(1)[0], [running.address])
        elsewhere.config["data_dir"] = running.config["data_dir"]
        with pytest.raises(CallFailed) as failure:
            await elsewhere.start()
        assert failure.value.kind == "DirectoryInUse"
        same_address = cluster.make(running.address, [running.address])
        with pytest.raises(CallFailed) as failure:
            await same_address.start()
        assert failure.value.kind == "AddressInUse"
        await running.propose(storage("unharmed"))


async def test_a_node_that_comes_back_alone_has_everything_that_it_had_shown(tmp_path: Path) -> None:
    """Its data plane has acted on it: older tables could name space that was given away since."""
    async with raft_cluster(tmp_path) as cluster:
        node = cluster.nodes[0]
        for i in range(5):
            await node.propose(storage(f"seen-{i}"))
            await asyncio.gather(*(other.kill() for other in cluster.nodes))
            await node.start()
            assert f"seen-{i}" in (await node.tables())["storages"]
            await cluster.nodes[1].start()
            await cluster.nodes[2].start()
            await node.call("barrier", deadline_ms=10_000)
