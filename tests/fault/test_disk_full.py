"""Audit's test 8, second half: the disk is full in the middle of an append.

Disks are filled in three ways: by the test's own disk (any size, no rights needed), by RLIMIT_FSIZE (the
kernel itself refuses), and by a small file system where the test may mount one.
"""

import asyncio
import contextlib
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fault.links import PROGRAM
from tests.fault.load import Load
from tests.raft_cases import CallFailed, NodeProcess, RaftCluster, raft_cluster, storage, until

pytestmark = pytest.mark.cluster

SMALL_FS_BYTES = 512 << 10


async def _problem(node: NodeProcess) -> str:
    return str((await node.status())["problem"])


async def _says_that_the_disk_is_full(node: NodeProcess) -> None:
    async def says() -> bool:
        return bool(await _problem(node))

    await until(says, 20, "the node names the problem")
    assert "full" in await _problem(node)
    assert not (await node.status())["is_leader"]


async def _fill(cluster: RaftCluster, nodes: list[NodeProcess], enough: int) -> Load:
    load = Load(cluster)
    load.start(8, nodes, deadline_ms=4_000)
    await until(lambda: len(load.acknowledged) >= enough, 60, "writes that go on")
    await load.stop()
    return load


def _limited(cluster: RaftCluster, tmp_path: Path) -> None:
    for number, node in enumerate(cluster.nodes):
        node.program = PROGRAM
        node.faults = {"limit_file": str(tmp_path / f"limit{number}")}


def _set_limit(node: NodeProcess, extra_bytes: int) -> None:
    used = sum(path.stat().st_size for path in node.raft_dir.iterdir())
    Path(node.faults["limit_file"]).write_text(str(used + extra_bytes))


async def test_a_leader_whose_disk_is_full_steps_down_says_so_and_comes_back(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path, start=False) as cluster:
        _limited(cluster, tmp_path)
        await cluster.start()
        await cluster.form()
        sick = await cluster.leader()
        rest = [node for node in cluster.nodes if node is not sick]
        _set_limit(sick, 3_000)  # in the middle of some record
        load = await _fill(cluster, rest, 100)
        await _says_that_the_disk_is_full(sick)
        assert (await sick.status())["self_address"] == sick.address  # alive: no SIGBUS
        Path(sick.faults["limit_file"]).unlink()

        async def well() -> bool:
            return not await _problem(sick)

        await until(well, 30, "the node comes back when there is space")
        await sick.propose(storage("after"), deadline_ms=20_000)
        found = await load.check(cluster.nodes)
        assert found.good, found
        await sick.kill()  # what it wrote around the full disk has no gap
        await sick.start()
        found = await load.check([sick, *rest])
        assert found.good, found


async def test_with_all_disks_full_nothing_is_acknowledged_and_nothing_is_lost(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path, start=False) as cluster:
        _limited(cluster, tmp_path)
        await cluster.start()
        await cluster.form()
        for node in cluster.nodes:
            _set_limit(node, 2_000)
        load = Load(cluster)
        load.start(8, cluster.nodes, deadline_ms=2_000)

        async def no_majority_is_left() -> bool:
            # Any two: from then on the third is not sent another byte, and may not know that it is full.
            return sum([bool(await _problem(node)) for node in cluster.nodes]) >= 2

        await until(no_majority_is_left, 30, "two disks are full")
        await load.stop()
        answers = await asyncio.gather(
            *(node.propose(storage("refused"), deadline_ms=1_000) for node in cluster.nodes),
            return_exceptions=True,
        )
        assert all(isinstance(answer, CallFailed) for answer in answers), answers
        await asyncio.gather(*(node.kill() for node in cluster.nodes))
        for node in cluster.nodes:
            Path(node.faults["limit_file"]).unlink()
        await cluster.start()
        found = await load.check(cluster.nodes)
        assert found.good, found


async def test_a_file_size_limit_of_the_kernel_does_not_kill_the_node(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        sick = next(node for node in cluster.nodes if node is not leader)
        limit = max(path.stat().st_size for path in sick.raft_dir.iterdir()) + 3_000
        pid = int(sick.opened["pid"])
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, hard))
        load = await _fill(cluster, [leader], 150)
        await until(lambda: _problem(sick), 20, "the node names the problem")
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
        found = await load.check([leader, sick])
        assert found.good, found


@contextlib.contextmanager
def _small_file_system(path: Path) -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    path.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SMALL_FS_BYTES}", "vimraft-test", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


async def test_a_file_system_that_fills_up_costs_the_node_its_office_but_no_data(tmp_path: Path) -> None:
    with _small_file_system(tmp_path / "node0" / "raft"):
        async with raft_cluster(tmp_path) as cluster:
            sick, *rest = cluster.nodes
            ballast = sick.raft_dir / "ballast"
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            load = await _fill(cluster, rest, 150)
            await _says_that_the_disk_is_full(sick)
            ballast.unlink()
            found = await load.check([sick, *rest])
            assert found.good, found
