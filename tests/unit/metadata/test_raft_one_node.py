"""The Raft log with a single node in this process: the port's promises and the guards."""

import asyncio
import itertools
from pathlib import Path

import pytest

from tests.raft_cases import FORMING, free_addresses, real, storage, until
from vimraft.core.apply import apply
from vimraft.core.commands import Applied, Rejected, SetSetting, SetStorage
from vimraft.core.reasons import Invalid
from vimraft.core.tables import State, Storage
from vimraft.metadata.port import Unavailable, UnknownOutcome
from vimraft.metadata.pysyncobj import PySyncObjConfig, open_log
from vimraft.metadata.pysyncobj.applying import EXIT_BUG
from vimraft.metadata.requests import PROPOSAL_LANES, Lanes


def config(path: Path, **options: object) -> PySyncObjConfig:
    address = free_addresses(1)[0]
    return PySyncObjConfig(
        self_address=address, members=(address,), data_dir=path, allow_plaintext=True, **options
    )


def one_of_three(path: Path) -> tuple[PySyncObjConfig, str, str]:
    """(its configuration, the addresses of two that do not run)"""
    here, absent, gone = free_addresses(3)
    given = PySyncObjConfig(
        self_address=here, members=(here, absent, gone), data_dir=path, allow_plaintext=True
    )
    return given, absent, gone


async def test_alone_it_commits_reports_and_restarts_with_everything(tmp_path: Path) -> None:
    given = config(tmp_path, compaction_entries=50)
    log = await open_log(given)
    for command in FORMING:
        assert isinstance(await log.propose(command, who="t", deadline_ms=5_000), Applied)
    await asyncio.gather(*(log.propose(storage(f"s{i}"), who="t", deadline_ms=5_000) for i in range(100)))
    status = log.status()
    assert status.is_leader
    assert status.has_quorum
    assert status.leader_address == given.self_address
    assert not status.peers
    assert status.role == "voter"
    before = await log.barrier(deadline_ms=5_000)
    await log.close()
    await log.close()
    assert not log.status().has_quorum
    with pytest.raises(Unavailable):
        await log.barrier(deadline_ms=1_000)
    again = await open_log(given)
    after = await again.barrier(deadline_ms=5_000)
    assert after.storages == before.storages
    assert len(after.storages) == 101
    await again.close()


async def test_after_a_restart_no_older_tables_are_seen_however_long_the_log(tmp_path: Path) -> None:
    given = config(tmp_path)
    log = await open_log(given)
    for command in FORMING:
        await log.propose(command, who="t", deadline_ms=5_000)
    for start in range(0, 3_000, 500):
        values = range(start, start + 500)
        await asyncio.gather(
            *(log.propose(SetSetting("io_timeout_ms", 2_000 + i), who="t", deadline_ms=9_000) for i in values)
        )
    await log.persist(deadline_ms=5_000)
    before, applied = log.state, log.status().raft_applied
    await log.close()
    log = await open_log(given)
    assert log.state.index >= before.index
    assert log.state.settings == before.settings
    assert log.status().raft_applied >= applied
    seen: list[State] = []
    log.subscribe(lambda previous, current: seen.extend((previous, current)))
    await log.barrier(deadline_ms=5_000)
    await until(lambda: seen, 5, "the newer tables are told")
    assert all(state.index >= before.index for state in seen)
    await log.close()


async def test_a_repeated_request_id_gets_the_first_outcome(tmp_path: Path) -> None:
    log = await open_log(config(tmp_path))
    for command in FORMING:
        await log.propose(command, who="t", deadline_ms=5_000)
    first = await log.propose(real(1), who="t", deadline_ms=5_000, request_id="r1")
    again = await asyncio.gather(
        *(log.propose(real(1), who="t", deadline_ms=5_000, request_id="r1") for _ in range(5))
    )
    assert all(outcome == first for outcome in again)
    assert isinstance(await log.propose(real(1), who="t", deadline_ms=5_000, request_id="r2"), Rejected)
    await log.close()


async def test_subscribers_are_called_in_the_loops_thread_as_a_chain(tmp_path: Path) -> None:
    log = await open_log(config(tmp_path))
    seen: list[tuple[State, State]] = []

    def subscriber(previous: State, current: State) -> None:
        asyncio.get_running_loop()  # raises in any other thread
        seen.append((previous, current))

    stop = log.subscribe(subscriber)
    await asyncio.gather(*(log.barrier(deadline_ms=5_000) for _ in range(200)))
    await until(lambda: seen and seen[-1][1] is log.state, 5, "the last state is told")
    assert all(a[1] is b[0] for a, b in itertools.pairwise(seen))
    assert all(a[0].index < a[1].index for a in seen)
    stop()
    await log.close()


async def test_a_proposal_without_a_majority_fails_at_its_deadline(tmp_path: Path) -> None:
    given, absent, gone = one_of_three(tmp_path)
    log = await open_log(given)
    begun = asyncio.get_running_loop().time()
    with pytest.raises(Unavailable, match="no leader"):
        await log.propose(storage("s"), who="t", deadline_ms=300)
    assert 0.25 < asyncio.get_running_loop().time() - begun < 2
    assert not log.status().has_quorum
    assert {peer.address: peer.connected for peer in log.status().peers} == {absent: False, gone: False}
    # More proposals than lanes: those without a lane are certainly not in the log either.
    failures = await asyncio.gather(
        *(log.barrier(deadline_ms=200) for _ in range(PROPOSAL_LANES + 10)), return_exceptions=True
    )
    assert all(isinstance(failure, Unavailable) for failure in failures)
    await log.close()


async def test_a_bug_in_apply_ends_the_process_before_the_entry_counts(tmp_path: Path) -> None:
    ended: list[tuple[int, str]] = []

    def broken(state: State, data: bytes) -> tuple[State, bytes]:
        if b"poison" in data:
            raise ZeroDivisionError("bug")
        return apply(state, data)

    log = await open_log(
        config(tmp_path), apply_command=broken, fatal=lambda code, why: ended.append((code, why))
    )
    for command in FORMING:
        await log.propose(command, who="t", deadline_ms=5_000)
    before = log.state
    with pytest.raises(UnknownOutcome):
        await log.propose(storage("poison"), who="t", deadline_ms=1_500)
    assert log.state is before
    assert [code for code, _ in ended] == [EXIT_BUG]
    assert "ZeroDivisionError" in ended[0][1]
    await log.close()


async def test_a_command_that_is_too_long_is_refused_before_the_log(tmp_path: Path) -> None:
    log = await open_log(config(tmp_path))
    long = SetStorage(Storage("021a00", "tokyo", "x" * 40_000))
    outcome = await log.propose(long, who="t", deadline_ms=5_000)
    assert isinstance(outcome, Rejected)
    assert isinstance(outcome.reason, Invalid)
    await log.close()


async def test_closing_ends_proposals_under_way(tmp_path: Path) -> None:
    log = await open_log(one_of_three(tmp_path)[0])
    waiting = asyncio.create_task(log.barrier(deadline_ms=60_000))
    await asyncio.sleep(0)
    await log.close()
    with pytest.raises((Unavailable, UnknownOutcome)):
        await asyncio.wait_for(waiting, 5)


def test_lanes_are_used_lowest_first_with_rising_sequences() -> None:
    lanes = Lanes("node", count=2)
    first, second = lanes.take(), lanes.take()
    assert lanes.free == 0
    assert first[1] != second[1]
    lanes.give(second[0])
    lanes.give(first[0])
    lane, client, sequence = lanes.take()
    assert (lane, client, sequence) == (first[0], first[1], first[2] + 1)
    assert Lanes("node").take()[1] != Lanes("node").take()[1]  # another incarnation
