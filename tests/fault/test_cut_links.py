"""Audit's test 7: leaders that are cut off or stopped and come back; links cut for a pair, or one way."""

import asyncio
import signal
from pathlib import Path

import pytest

from tests.fault.links import Network, routed_cluster
from tests.raft_cases import CallFailed, NodeProcess, storage, until

pytestmark = pytest.mark.cluster

LONGER_THAN_ELECTIONS_S = 2.5
"""How long a fault lasts that must not have consequences: this is the fault, not a wait."""


async def _leader_and_rest(network: Network) -> tuple[NodeProcess, list[NodeProcess]]:
    leader = await network.cluster.leader()
    return leader, [node for node in network.cluster.nodes if node is not leader]


async def _sees(node: NodeProcess, name: str) -> bool:
    return name in (await node.tables())["storages"]


async def _read_is_current_or_refused(node: NodeProcess, name: str) -> None:
    """A barrier read includes `name`, which was acknowledged before, or fails."""
    try:
        await node.call("barrier", deadline_ms=1_500)
    except CallFailed as failure:
        assert failure.kind in ("Unavailable", "UnknownOutcome")  # noqa: PT017
        return
    assert await _sees(node, name)


async def test_a_leader_that_is_cut_off_serves_no_stale_read_and_acknowledges_nothing(
    tmp_path: Path,
) -> None:
    async with routed_cluster(tmp_path) as network:
        old, rest = await _leader_and_rest(network)
        for link in network.links(old):
            link.cut()
        in_doubt = asyncio.create_task(old.propose(storage("cut-off"), deadline_ms=4_000))
        await rest[0].propose(storage("newer"), deadline_ms=20_000)
        await _read_is_current_or_refused(old, "newer")
        with pytest.raises(CallFailed):
            await in_doubt
        network.restore()
        await old.call("barrier", deadline_ms=20_000)
        assert await _sees(old, "newer")
        await network.cluster.same_digest(network.cluster.nodes)


async def test_a_stopped_leader_that_resumes_serves_no_stale_read(tmp_path: Path) -> None:
    async with routed_cluster(tmp_path) as network:
        old, rest = await _leader_and_rest(network)
        waiting = asyncio.create_task(old.propose(storage("while-stopped"), deadline_ms=20_000))
        old.signal(signal.SIGSTOP)
        await rest[0].propose(storage("newer"), deadline_ms=20_000)
        resumed = asyncio.create_task(_read_is_current_or_refused(old, "newer"))
        await asyncio.sleep(0)  # the request is in its pipe before it runs again
        old.signal(signal.SIGCONT)
        await resumed
        await asyncio.gather(waiting, return_exceptions=True)  # either outcome is the truth:
        done = not waiting.exception()
        tables = await network.cluster.same_digest(network.cluster.nodes)
        assert not done or "while-stopped" in tables["storages"]


async def test_a_follower_that_was_cut_off_does_not_depose_the_leader(tmp_path: Path) -> None:
    async with routed_cluster(tmp_path) as network:
        leader, rest = await _leader_and_rest(network)
        term = (await leader.status())["term"]
        for link in network.links(rest[0]):
            link.cut()
        await asyncio.sleep(LONGER_THAN_ELECTIONS_S)
        await leader.propose(storage("meanwhile"))
        network.restore()
        await network.cluster.same_digest(network.cluster.nodes)
        assert (await leader.status())["term"] == term
        assert (await leader.status())["is_leader"]


async def test_a_follower_that_hears_nothing_but_can_speak_does_not_depose_the_leader(tmp_path: Path) -> None:
    async with routed_cluster(tmp_path) as network:
        leader, rest = await _leader_and_rest(network)
        term = (await leader.status())["term"]
        for sender in (leader, rest[1]):
            network.link(sender, rest[0]).cut(sender.address)
        await asyncio.sleep(LONGER_THAN_ELECTIONS_S)
        await rest[1].propose(storage("meanwhile"))
        assert (await leader.status())["term"] == term
        network.restore()
        await network.cluster.same_digest(network.cluster.nodes)
        assert (await leader.status())["term"] == term


async def test_a_leader_that_speaks_but_hears_nothing_is_replaced(tmp_path: Path) -> None:
    async with routed_cluster(tmp_path) as network:
        old, rest = await _leader_and_rest(network)
        for node in rest:
            network.link(old, node).cut(node.address)

        async def another() -> NodeProcess | None:
            for node in rest:
                if (await node.status())["is_leader"]:
                    return node
            return None

        new = await until(another, 20, "another leader")
        await new.propose(storage("newer"), deadline_ms=20_000)
        await _read_is_current_or_refused(old, "newer")
        network.restore()
        await network.cluster.same_digest(network.cluster.nodes)


async def test_with_one_link_cut_changes_go_on_and_terms_stay(tmp_path: Path) -> None:
    async with routed_cluster(tmp_path) as network:
        leader, rest = await _leader_and_rest(network)
        term = (await leader.status())["term"]
        network.link(leader, rest[0]).cut()
        await asyncio.sleep(LONGER_THAN_ELECTIONS_S)
        for number in range(20):
            await leader.propose(storage(f"one-link-{number}"), deadline_ms=20_000)
        assert (await rest[1].status())["term"] == term
        network.restore()
        tables = await network.cluster.same_digest(network.cluster.nodes)
        assert "one-link-19" in tables["storages"]
        assert (await leader.status())["term"] == term
