"""Leader changes, isolation and retries, with real processes."""

import asyncio
import pickle
import signal
import struct
import time
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.raft_cases import CallFailed, NodeProcess, raft_cluster, real, storage, until

pytestmark = pytest.mark.cluster


async def test_changes_go_on_within_three_seconds_of_the_leaders_death(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        rest = [node for node in cluster.nodes if node is not leader]
        begun = time.monotonic()
        await leader.kill()
        outcomes = await asyncio.gather(*(node.propose(storage(f"after-{i}")) for i, node in enumerate(rest)))
        assert time.monotonic() - begun < 3
        assert all(outcome["reason"] is None for outcome in outcomes)


async def test_every_proposal_under_way_during_leader_changes_applies_exactly_once(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path) as cluster:
        luns = range(600)
        acknowledged: list[int] = []

        async def work(mine: range) -> None:
            for lun in mine:
                for turn in range(lun, lun + 100):
                    node = cluster.nodes[turn % 3]
                    try:
                        outcome = await node.propose(real(lun), deadline_ms=5_000, request_id=f"add-{lun}")
                    except CallFailed:  # this node was killed: the same request at another one
                        await asyncio.sleep(0.01)
                        continue
                    assert outcome["reason"] is None  # a second application would be refused: Exists
                    acknowledged.append(lun)
                    break

        async def disturb() -> None:
            for share in (100, 300):
                await until(lambda share=share: len(acknowledged) >= share, 30, "progress")
                leader = await cluster.leader()
                await leader.kill()
                await leader.start()
                await leader.call("barrier", deadline_ms=10_000)

        await asyncio.gather(disturb(), *(work(luns[i::12]) for i in range(12)))
        tables = await cluster.same_digest(cluster.nodes)
        assert tables["reals"] == sorted(acknowledged) == list(luns)
        assert tables["reals_added"] == len(luns)


async def test_an_isolated_leader_acknowledges_nothing_and_says_so(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        rest = [node for node in cluster.nodes if node is not leader]
        for node in rest:
            node.signal(signal.SIGSTOP)
        begun = time.monotonic()
        proposed = asyncio.create_task(leader.propose(storage("lost"), deadline_ms=2_500))

        async def without_quorum() -> bool:
            status = await leader.status()
            return not status["has_quorum"] and not status["is_leader"]

        await until(without_quorum, 3, "the leader notices")
        assert time.monotonic() - begun < 2 * 0.9 + 0.5  # fallback time, and a little
        with pytest.raises(CallFailed) as failure:
            await proposed
        assert failure.value.kind == "UnknownOutcome"  # it was in the leader's log
        assert time.monotonic() - begun < 3.5
        with pytest.raises(CallFailed) as failure:
            await leader.propose(storage("refused"), deadline_ms=300)
        assert failure.value.kind == "Unavailable"  # no leader: certainly not applied
        for node in rest:
            node.signal(signal.SIGCONT)
        await leader.propose(storage("after"))
        tables = await cluster.same_digest(cluster.nodes)
        assert "after" in tables["storages"]
        assert "refused" not in tables["storages"]


async def test_a_follower_that_loses_the_leader_reports_no_quorum(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        follower, other = (node for node in cluster.nodes if node is not leader)

        async def follows() -> bool:
            status = await follower.status()
            return status["has_quorum"] and status["leader_address"] == leader.address

        await until(follows, 5, "the follower hears the leader")
        leader.signal(signal.SIGSTOP)
        other.signal(signal.SIGSTOP)

        async def alone() -> bool:
            return not (await follower.status())["has_quorum"]

        await until(alone, 3, "the follower notices")
        for node in (leader, other):
            node.signal(signal.SIGCONT)
        await until(follows_any(follower), 5, "contact again")


def follows_any(node: NodeProcess) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return bool((await node.status())["has_quorum"])

    return check


async def test_a_follower_that_was_paused_does_not_depose_the_leader(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        follower = next(node for node in cluster.nodes if node is not leader)
        term = (await leader.status())["term"]
        follower.signal(signal.SIGSTOP)
        await cluster.fill(leader, 300)
        await asyncio.sleep(1.2)  # longer than any election timeout: this is the fault, not a wait
        follower.signal(signal.SIGCONT)
        await cluster.same_digest(cluster.nodes)
        assert (await leader.status())["term"] == term


async def test_a_leader_that_stops_in_order_hands_over_without_an_election_timeout(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path, election_min_ms=1_500, election_max_ms=2_000) as cluster:
        leader = await cluster.leader()
        rest = [node for node in cluster.nodes if node is not leader]
        assert await leader.close() == 0
        begun = time.monotonic()
        await rest[0].propose(storage("after"))
        assert time.monotonic() - begun < 1.2


async def test_strangers_are_cut_off_and_harm_nothing(tmp_path: Path) -> None:
    async with raft_cluster(tmp_path) as cluster:
        host, port = cluster.nodes[0].address.split(":")
        for first_message in (["status"], ["add", "127.0.0.1:9"], "readonly", {"type": "append_entries"}):
            reader, writer = await asyncio.open_connection(host, int(port))
            data = zlib.compress(pickle.dumps(first_message, 2))
            writer.write(struct.pack("i", len(data)) + data)
            assert await asyncio.wait_for(reader.read(), 5) == b""  # closed without an answer
            writer.close()
        await cluster.nodes[0].propose(storage("after"))
        assert "raft.round_failed" not in cluster.nodes[0].stderr
        assert len((await cluster.nodes[0].status())["peers"]) == 2
