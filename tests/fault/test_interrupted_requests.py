"""Audit's test 6: links break, leaders change and snapshots replace entries between request and answer."""

import asyncio
import random
import time
from pathlib import Path

import pytest

from tests.fault.links import Network, routed_cluster
from tests.raft_cases import CallFailed, real

pytestmark = pytest.mark.cluster

REQUESTS = 240
WORKERS = 12
FAULTS = ("break", "break all", "cut", "one way", "slow", "kill leader", "kill")


async def _request(network: Network, number: int, rng: random.Random) -> None:
    """The same request at one node after the other until it is answered: it must apply once."""
    while True:
        node = rng.choice(network.cluster.nodes)
        try:
            outcome = await node.propose(real(number), deadline_ms=2_000, request_id=f"add-{number}")
        except (CallFailed, AssertionError, ConnectionError):  # killed, cut off, or too late
            await asyncio.sleep(0.02)
            continue
        assert outcome["reason"] is None  # a second application would be refused: Exists
        return


async def _disturb(network: Network, rng: random.Random, fault: str) -> None:
    nodes = network.cluster.nodes
    one, other = rng.sample(nodes, 2)
    if fault == "break":
        network.link(one, other).break_connections()
    elif fault == "break all":
        for link in network.links():
            link.break_connections()
    elif fault in ("kill", "kill leader"):
        victim = one if fault == "kill" else await network.cluster.leader(timeout_s=20)
        await victim.kill()
        await victim.start()
    else:
        link = network.link(one, other)
        if fault == "slow":
            link.delay_s = 0.1
        else:
            link.cut(None if fault == "cut" else one.address)
        await asyncio.sleep(rng.uniform(0.1, 1.0))
        network.restore()


async def test_requests_apply_exactly_once_whatever_happens_before_the_answer(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    async with routed_cluster(tmp_path, compaction_entries=60) as network:
        numbers = iter(range(REQUESTS))

        async def work() -> None:
            for number in numbers:
                await _request(network, number, rng)
                await asyncio.sleep(rng.uniform(0, 0.3))  # so that the load outlasts some faults

        async with asyncio.timeout(120):
            workers = asyncio.gather(*(work() for _ in range(WORKERS)))
            began = time.monotonic()
            while not workers.done() and time.monotonic() - began < 60:
                await _disturb(network, rng, rng.choice(FAULTS))
                await asyncio.sleep(rng.uniform(0.05, 0.3))
            await workers
        network.restore()
        await network.cluster.nodes[0].call("barrier", deadline_ms=20_000)
        tables = await network.cluster.same_digest(network.cluster.nodes)
        assert tables["reals"] == list(range(REQUESTS))
        assert tables["reals_added"] == REQUESTS


async def test_a_request_whose_answer_is_cut_off_is_answered_within_its_deadline(tmp_path: Path) -> None:
    async with routed_cluster(tmp_path) as network:
        leader = await network.cluster.leader()
        asking = next(node for node in network.cluster.nodes if node is not leader)
        for link in network.links(asking):
            link.cut(leader.address)  # it can ask, and hears no answer
        began = time.monotonic()
        with pytest.raises(CallFailed) as failure:
            await asking.propose(real(1), deadline_ms=1_500, request_id="once")
        assert failure.value.kind in ("UnknownOutcome", "Unavailable")
        assert time.monotonic() - began < 8
        network.restore()
        outcome = await asking.propose(real(1), deadline_ms=20_000, request_id="once")
        assert outcome["reason"] is None
        again = await leader.propose(real(1), deadline_ms=20_000, request_id="once")
        assert again == outcome
