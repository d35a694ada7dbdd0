"""The lease counts from before its proposal, and belongs to one life of the export."""

import asyncio

from tests.core_cases import three_sites
from vimraft.core.commands import Applied, Command, Outcome, RenewLease
from vimraft.metadata.port import UnknownOutcome
from vimraft.site.lease import LOOK_EVERY_S, LeaseKeeper, boottime_ns


class SlowLog:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.told: list[int] = []
        """Installed indexes that renewals brought."""
        self.state = three_sites().state
        self.asked = asyncio.Event()
        self.answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    async def propose(self, command: Command, *, who: str, deadline_ms: int) -> Outcome:
        assert isinstance(command, RenewLease)
        self.told.append(command.installed_index)
        self.asked.set()
        return await self.answer


class Case:
    def __init__(self) -> None:
        self.log = SlowLog()
        self.life = 1
        self.installed = 1
        self.granted: list[tuple[int, int]] = []
        self.keeper = LeaseKeeper(
            self.log,
            "m-tokyo",
            "inc",
            life=lambda: self.life,
            installed_index=lambda: self.installed,
            granted=lambda deadline_ns, index: self.granted.append((deadline_ns, index)),
        )


async def test_the_lease_counts_from_before_the_proposal_not_from_its_answer() -> None:
    case = Case()
    before_ns = boottime_ns()
    case.keeper.start()
    await case.log.asked.wait()
    asked_ns = boottime_ns()
    case.log.answer.set_result(Applied(7))
    async with asyncio.timeout(5):
        while not case.granted:
            await asyncio.sleep(0)
    lease_ns = case.log.state.settings.lease_ms * 1_000_000
    assert before_ns + lease_ns <= case.granted[0][0] <= asked_ns + lease_ns
    assert case.granted[0][1] == 7, "tables that have it"
    await case.keeper.stop()


async def test_a_renewal_answered_after_the_export_began_anew_grants_nothing() -> None:
    case = Case()
    case.keeper.start()
    await case.log.asked.wait()
    case.life = 0
    case.log.answer.set_result(Applied(7))
    for _ in range(20):
        await asyncio.sleep(0)
    assert case.granted == []
    await case.keeper.stop()


async def test_an_unknown_outcome_grants_nothing() -> None:
    case = Case()
    case.keeper.start()
    await case.log.asked.wait()
    case.log.answer.set_exception(UnknownOutcome("late"))
    for _ in range(20):
        await asyncio.sleep(0)
    assert case.granted == []
    await case.keeper.stop()


async def test_before_its_volumes_are_reopened_nothing_is_asked_for() -> None:
    case = Case()
    case.life = 0
    case.keeper.start()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not case.log.asked.is_set()
    await case.keeper.stop()


async def test_that_a_new_epoch_is_installed_is_told_before_the_renewal_is_due() -> None:
    case = Case()
    case.log.answer.set_result(Applied(7))
    case.keeper.start()
    await case.log.asked.wait()
    case.keeper.epoch_begins(5)
    case.keeper.look()
    case.installed = 5
    case.keeper.look()
    async with asyncio.timeout(case.log.state.settings.lease_ms / 1e3 / 4):
        while case.log.told != [1, 5]:
            await asyncio.sleep(0.001)
    case.keeper.look()
    case.keeper.epoch_begins(6)
    assert not case.keeper._wake.is_set()
    assert case.log.told == [1, 5], "nothing new is installed"
    await case.keeper.stop()


async def test_an_export_that_says_nothing_is_renewed_no_more_and_soon_again_when_it_goes_on() -> None:
    case = Case()
    case.life = 0
    case.keeper.start()
    await asyncio.sleep(3 * LOOK_EVERY_S)
    assert not case.log.asked.is_set()
    case.life = 1
    async with asyncio.timeout(case.log.state.settings.lease_ms / 1e3 / 4):
        await case.log.asked.wait()
    await case.keeper.stop()
