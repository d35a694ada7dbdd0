"""The first election, and why there is never a second one: disks that are wiped, members that were away."""

import asyncio
import json
import pickle
import shutil
from pathlib import Path

import pytest
from pysyncobj.journal import FileJournal
from pysyncobj.node import TCPNode

from tests.raft_cases import FORMING, NodeProcess, raft_cluster, storage, until
from vimraft.metadata.requests import client_of_request, encode

pytestmark = pytest.mark.cluster

QUIET_S = 3.0
"""Several elections long: what has not happened by then does not happen."""


async def stays_without_leader(nodes: list[NodeProcess]) -> None:
    loop = asyncio.get_running_loop()
    until_s = loop.time() + QUIET_S
    while loop.time() < until_s:
        for node in nodes:
            assert not (await node.status())["is_leader"], node.address
        await asyncio.sleep(0.05)


async def test_a_majority_alone_forms_nothing_and_says_for_whom_it_waits(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path, start=False) as cluster:
        first, second, late = cluster.nodes
        await asyncio.gather(first.start(), second.start())
        await stays_without_leader([first, second])
        problem = (await first.status())["problem"]
        assert "forming: waits for the first contact with" in problem
        assert late.address in problem
        await late.start()
        leader = await cluster.leader()
        await leader.propose(FORMING[0])
        await until(lambda: _named(leader), 5, "all ids in the log")
        # from now on any majority will do
        await late.kill()
        await (await cluster.leader([first, second])).propose(storage("after"), deadline_ms=20_000)


async def _named(node: NodeProcess) -> bool:
    return all(peer["node_id"] for peer in (await node.status())["peers"])


async def test_two_wiped_of_three_never_form_a_cluster_of_their_own(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path) as cluster:
        intact, *wiped = cluster.nodes
        await intact.propose(storage("on-all"))
        await cluster.same_digest(cluster.nodes)
        for node in wiped:
            await node.kill()
            shutil.rmtree(node.raft_dir)
        await intact.kill()
        await asyncio.gather(*(node.start() for node in wiped))
        await stays_without_leader(wiped)
        await intact.start()
        await stays_without_leader(cluster.nodes)
        assert "on-all" in (await intact.tables())["storages"]
        for node in wiped:
            status = await node.status()
            assert intact.address in status["problem"]
            assert not (await node.tables())["index"]


def plant_first_release(node: NodeProcess, all_members: list[str], initial: list[str]) -> None:
    """What the first release left of a cluster that `all_members` joined one by one."""
    node.raft_dir.mkdir(parents=True)
    journal = FileJournal(str(node.raft_dir / "journal"))
    request = encode(client_of_request("forming"), 1, "test", FORMING[0], lambda: 1.0)
    commands = [b"\x01", b"\x01", b"\x00" + pickle.dumps((0, (request,)), 2)]
    commands += [b"\x02" + pickle.dumps(["add", address, TCPNode(address)], 2) for address in all_members[1:]]
    for index, command in enumerate(commands, start=1):
        journal.add(command, index, min(index - 1, 1))
    journal.setCurrentTerm(1, all_members[0])
    journal.setRaftCommitIndex(len(commands))
    journal.onOneSecondTimer()
    journal._destroy()
    members = {"initial": initial, "latest": all_members}
    (node.raft_dir / "members.json").write_text(json.dumps(members))
    node.config["members"] = initial


async def test_managers_that_joined_under_the_first_release_find_each_other(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path, start=False) as cluster:
        a, b, c = (node.address for node in cluster.nodes)
        for node, initial in zip(cluster.nodes, ([a], [a], [a, b]), strict=True):
            plant_first_release(node, [a, b, c], initial)
        await cluster.start()
        leader = await cluster.leader()
        for command in FORMING[1:]:
            await leader.propose(command)
        await cluster.same_digest(cluster.nodes)
        statuses = [await node.status() for node in cluster.nodes]
        assert {status["role"] for status in statuses} == {"voter"}
        assert len({status["cluster"] for status in statuses} - {""}) == 1
        await until(lambda: _named(leader), 10, "all ids in the log")
