"""Audit's test 5: bugs in apply and in callbacks, bytes that nobody or not everybody understands."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from tests.fault.links import PROGRAM
from tests.raft_cases import CallFailed, NodeProcess, RaftCluster, raft_cluster, storage
from vimraft.core.commands import SetLevel
from vimraft.core.levels import FIRST, LATEST

pytestmark = pytest.mark.cluster

EXIT_BUG = 70
NOT_OURS = (
    b"",
    b"\x00",
    b"\xff" * 40,
    b"\x01\x80\x04K\x01.",
    b"\x03" + b"newer level",
    b"\x01\x93\x01",
    b"{}",
)


async def _start(cluster: RaftCluster, faults: dict[str, object], nodes: list[NodeProcess]) -> None:
    for node in nodes:
        node.faults = dict(faults)
    await asyncio.gather(*(node.start() for node in nodes))


async def _restart(cluster: RaftCluster, nodes: list[NodeProcess], faults: dict[str, object]) -> None:
    await asyncio.gather(*(node.kill() for node in nodes))
    await _start(cluster, faults, nodes)


def _with_faults(cluster: RaftCluster) -> None:
    for node in cluster.nodes:
        node.program = PROGRAM


async def test_a_bug_in_apply_ends_every_process_with_words_and_a_mended_one_goes_on(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path, start=False) as cluster:
        _with_faults(cluster)
        await _start(cluster, {"poison": "bad"}, cluster.nodes)
        await cluster.form()
        await cluster.nodes[0].propose(storage("before"))
        with pytest.raises(CallFailed):
            await cluster.nodes[0].propose(storage("bad"), deadline_ms=3_000)
        # The leader meets it first; a follower only if it hears that the entry is committed.
        ended = await asyncio.gather(*(_ended_with_words(node, 4) for node in cluster.nodes))
        assert any(ended)
        await _restart(cluster, cluster.nodes, {})
        await cluster.nodes[0].call("barrier", deadline_ms=20_000)
        tables = await cluster.same_digest(cluster.nodes)
        assert {"before", "bad"} <= set(tables["storages"])


async def _ended_with_words(node: NodeProcess, timeout_s: float) -> bool:
    try:
        code = await node.exit_code(timeout_s)
    except TimeoutError:
        return False
    assert code == EXIT_BUG
    assert "raft.process_ends" in node.stderr
    assert "apply raised" in node.stderr
    return True


async def test_a_bug_that_one_node_has_alone_stops_that_node_alone(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path, start=False) as cluster:
        _with_faults(cluster)
        await cluster.start()
        await cluster.form()
        leader = await cluster.leader()
        sick = next(node for node in cluster.nodes if node is not leader)
        rest = [node for node in cluster.nodes if node is not sick]
        await _restart(cluster, [sick], {"poison": "bad"})
        await leader.propose(storage("bad"), deadline_ms=20_000)
        assert await _ended_with_words(sick, 20)
        await rest[0].propose(storage("after"), deadline_ms=20_000)
        # With the bug still in it, it meets the entry again and ends again; it never skips it.
        with contextlib.suppress(CallFailed):  # it may end before it says that it has started
            await _restart(cluster, [sick], {"poison": "bad"})
        assert await _ended_with_words(sick, 20)
        await _restart(cluster, [sick], {})
        tables = await cluster.same_digest(cluster.nodes)
        assert {"bad", "after"} <= set(tables["storages"])


async def test_a_subscriber_that_raises_changes_nothing_for_the_log(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path, start=False) as cluster:
        _with_faults(cluster)
        await _start(cluster, {"bad_subscriber": True}, cluster.nodes)
        await cluster.form()
        for number in range(10):
            outcome = await cluster.nodes[number % 3].propose(storage(f"s{number}"))
            assert outcome["reason"] is None
        tables = await cluster.same_digest(cluster.nodes)
        assert {f"s{number}" for number in range(10)} <= set(tables["storages"])
        assert tables["index"] >= 10


async def test_a_node_of_an_older_release_holds_the_same_tables_as_the_others(tmp_path: Path) -> None:
    """Also after the move to a level that it does not know has been asked for: refused everywhere."""
    async with raft_cluster(tmp_path, start=False, compaction_entries=30) as cluster:
        _with_faults(cluster)
        older, *newer = cluster.nodes
        await _start(cluster, {"level": FIRST}, [older])
        await _start(cluster, {}, newer)
        await cluster.form()
        for number, node in enumerate([*cluster.nodes] * 8):
            assert (await node.propose(storage(f"s{number}")))["reason"] is None
        for level in (LATEST, LATEST + 1):
            outcome = await newer[0].propose(SetLevel(level))
            assert outcome["reason"] is not None
        await older.propose(storage("from-the-older-one"))
        before = await cluster.same_digest(cluster.nodes)
        await _restart(cluster, [older], {"level": FIRST})
        await newer[1].propose(storage("after"), deadline_ms=20_000)
        after = await cluster.same_digest(cluster.nodes)
        assert set(after["storages"]) == {*before["storages"], "after"}


async def test_bytes_that_are_no_request_change_nothing_and_nobody_differs(tmp_path: Path) -> None:
    """Whether a node keeps such bytes out of the log or refuses them in apply: all do the same."""
    async with raft_cluster(tmp_path, start=False, compaction_entries=20) as cluster:
        _with_faults(cluster)
        await cluster.start()
        await cluster.form()
        before = await cluster.same_digest(cluster.nodes)
        for node in cluster.nodes:
            for data in NOT_OURS:
                await node.call("commit_bytes", data=data.hex(), deadline_ms=2_000)
        await cluster.nodes[0].propose(storage("after"), deadline_ms=20_000)
        after = await cluster.same_digest(cluster.nodes)
        assert set(after["storages"]) == {*before["storages"], "after"}
        await _restart(cluster, cluster.nodes, {})
        await cluster.nodes[0].call("barrier", deadline_ms=20_000)
        again = await cluster.same_digest(cluster.nodes)
        assert again["storages"] == after["storages"]
