"""The in-process log keeps the promises of the port."""

import asyncio
import itertools

import pytest

from tests.raft_cases import FORMING, real, storage
from vimraft.core.codec import state_digest
from vimraft.core.commands import Applied
from vimraft.core.tables import State
from vimraft.metadata.memory_log import MemoryCluster, MemoryLog
from vimraft.metadata.port import Unavailable, UnknownOutcome


async def formed(cluster: MemoryCluster) -> MemoryLog:
    log = cluster.log("a")
    for command in FORMING:
        assert isinstance(await log.propose(command, who="test", deadline_ms=1_000), Applied)
    return log


async def test_all_logs_hold_the_same_tables() -> None:
    cluster = MemoryCluster()
    first, second = await formed(cluster), cluster.log("b")
    await second.propose(storage("s1"), who="test", deadline_ms=1_000)
    assert state_digest(first.state) == state_digest(second.state)
    assert "s1" in first.state.storages
    assert cluster.log("a") is first


async def test_a_log_that_is_cut_off_neither_proposes_nor_applies_until_healed() -> None:
    cluster = MemoryCluster()
    first, second = await formed(cluster), cluster.log("b")
    cluster.cut_off("b")
    before = second.state
    await first.propose(storage("s1"), who="test", deadline_ms=1_000)
    with pytest.raises(Unavailable):
        await second.propose(storage("s2"), who="test", deadline_ms=1_000)
    with pytest.raises(Unavailable):
        await second.barrier(deadline_ms=1_000)
    assert second.state is before
    assert not second.status().has_quorum
    cluster.heal("b")
    assert second.status().has_quorum
    assert state_digest(first.state) == state_digest(second.state)
    assert "s2" not in first.state.storages


async def test_a_retry_under_the_same_request_id_applies_once() -> None:
    cluster = MemoryCluster()
    log = await formed(cluster)
    cluster.lose_replies("a")
    with pytest.raises(UnknownOutcome):
        await log.propose(real(1), who="test", deadline_ms=1_000, request_id="once")
    outcome = await log.propose(real(1), who="test", deadline_ms=1_000, request_id="once")
    assert isinstance(outcome, Applied)
    assert await log.propose(real(1), who="test", deadline_ms=1_000, request_id="once") == outcome


async def test_subscribers_see_a_chain_without_repeats() -> None:
    cluster = MemoryCluster()
    log = await formed(cluster)
    seen: list[tuple[State, State]] = []
    start = log.state
    stop = log.subscribe(lambda previous, current: seen.append((previous, current)))
    await asyncio.gather(*(log.propose(storage(f"s{i}"), who="t", deadline_ms=1_000) for i in range(10)))
    await asyncio.sleep(0)
    assert seen[0][0] is start
    assert seen[-1][1] is log.state
    assert all(a[1] is b[0] for a, b in itertools.pairwise(seen))
    assert all(previous is not current for previous, current in seen)
    count = len(seen)
    stop()
    await log.propose(storage("unseen"), who="t", deadline_ms=1_000)
    await asyncio.sleep(0)
    assert len(seen) == count


async def test_one_failing_subscriber_does_not_silence_the_others() -> None:
    cluster = MemoryCluster()
    log = await formed(cluster)
    seen: list[int] = []

    def failing(previous: State, current: State) -> None:
        raise RuntimeError("subscriber")

    log.subscribe(failing)
    log.subscribe(lambda previous, current: seen.append(current.index))
    await log.propose(storage("s1"), who="t", deadline_ms=1_000)
    await asyncio.sleep(0)
    assert seen == [log.state.index]


async def test_members_are_added_and_removed() -> None:
    cluster = MemoryCluster()
    log = await formed(cluster)
    await log.add_member("b", deadline_ms=1_000)
    await log.add_member("b", deadline_ms=1_000)
    assert [peer.address for peer in log.status().peers] == ["b"]
    await log.remove_member("b", deadline_ms=1_000)
    assert not log.status().peers
    await log.close()
    with pytest.raises(Unavailable):
        await log.barrier(deadline_ms=1_000)


async def test_an_observer_gets_all_tables_and_is_promoted_once_it_has_caught_up() -> None:
    cluster = MemoryCluster()
    log = await formed(cluster)
    new = cluster.fresh("b")
    assert new.status().role == "joining"
    assert new.state.index == 0
    await log.add_member("b", node_id=new.node_id, voter=False, deadline_ms=1_000)
    assert new.status().role == "observer"
    assert new.state == log.state
    cluster.cut_off("b")
    with pytest.raises(Unavailable, match="caught up"):
        await log.add_member("b", deadline_ms=1_000)
    cluster.heal("b")
    await log.add_member("b", deadline_ms=1_000)
    assert new.status().role == "voter"


async def test_a_wiped_node_is_a_stranger_until_the_one_before_it_is_removed() -> None:
    cluster = MemoryCluster()
    log = await formed(cluster)
    cluster.log("b")
    wiped = cluster.fresh("b")
    (peer,) = log.status().peers
    assert peer.refused
    assert not peer.connected
    with pytest.raises(Unavailable, match="another identity"):
        await log.add_member("b", node_id=wiped.node_id, voter=False, deadline_ms=1_000)
    await log.remove_member("b", deadline_ms=1_000)
    await log.add_member("b", node_id=wiped.node_id, voter=False, deadline_ms=1_000)
    assert wiped.state == log.state


@pytest.mark.parametrize("request_id", ["", "x" * 65, "line\nbreak"])
async def test_an_impossible_request_id_is_refused(request_id: str) -> None:
    log = await formed(MemoryCluster())
    with pytest.raises(ValueError, match="request id"):
        await log.propose(storage("s"), who="t", deadline_ms=1_000, request_id=request_id)
