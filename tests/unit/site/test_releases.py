"""Space is given back only after this site can never show again that it is still in use."""

import asyncio

import pytest

from tests.core_cases import build, real
from tests.unit.site.test_formation import config, context, until
from vimraft.core.commands import (
    Command,
    ConfirmRelease,
    DeleteVolume,
    FormCluster,
    Outcome,
    SetManager,
    SetSite,
    SetStorage,
)
from vimraft.core.tables import Manager, Settings, Site, State, Storage
from vimraft.metadata.memory_log import MemoryCluster, MemoryLog
from vimraft.metadata.port import Unavailable, UnknownOutcome
from vimraft.site.releases import ReleaseWorker


class DiskLog:
    """A log whose disk answers when the test says so."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self.asked_at: list[int] = []
        self.disk: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.confirmed_at: list[int] = []
        self.outcomes_to_lose = 0

    @property
    def state(self) -> State:
        return self._log.state

    async def barrier(self, *, deadline_ms: int) -> State:
        return await self._log.barrier(deadline_ms=deadline_ms)

    async def persist(self, *, deadline_ms: int) -> None:
        self.asked_at.append(self.state.index)
        await asyncio.shield(self.disk)

    async def propose(self, command: Command, *, who: str, deadline_ms: int) -> Outcome:
        if isinstance(command, ConfirmRelease):
            self.confirmed_at.append(len(self.asked_at))
            if self.outcomes_to_lose:
                self.outcomes_to_lose -= 1
                raise UnknownOutcome("nobody has answered")
        return await self._log.propose(command, who=who, deadline_ms=deadline_ms)


class Feeder:
    async def wait_installed(self, index: int, timeout_s: float) -> bool:
        return True


class Case:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log = DiskLog(MemoryCluster().log("tokyo"))
        self.site = context(self.log, config("tokyo", 1, ()))
        self.site.feeders = {"export": Feeder(), "store": Feeder()}
        self.site.installed_index = lambda: 10**9
        self.site.my_sites = lambda: ("tokyo",)
        self.zeroed: list[int] = []
        monkeypatch.setattr(
            "vimraft.site.releases.devices.zero_released",
            lambda _state, release, _cancelled: self.zeroed.append(release.release_id),
        )
        monkeypatch.setattr("vimraft.site.releases.RETRY_S", 0.02)
        self.worker = ReleaseWorker(self.site)

    async def delete_a_volume(self) -> None:
        rows = Manager("m-tokyo", "h:1", "http://h:2", "h:3", "h:4")
        for command in (
            FormCluster("c", Settings()),
            SetManager(rows),
            SetSite(Site("tokyo", "m-tokyo")),
            SetStorage(Storage("a", "tokyo", "")),
            real("a"),
            build("old", 3),
            DeleteVolume("old"),
        ):
            await self.log.propose(command, who="x", deadline_ms=1_000)
        assert self.log.state.releases


@pytest.fixture
async def case(monkeypatch: pytest.MonkeyPatch):
    case = Case(monkeypatch)
    await case.delete_a_volume()
    yield case
    await case.worker.stop()


async def test_a_release_is_confirmed_only_after_the_tables_without_the_volume_are_durable(
    case: Case,
) -> None:
    deleted_at = case.log.state.index
    case.worker.start()
    await until(lambda: case.log.asked_at, "the disk is asked")
    for _ in range(50):
        case.worker.look()
        await asyncio.sleep(0)
    assert case.log.confirmed_at == []
    assert case.log.state.releases
    assert case.log.asked_at[0] >= deleted_at
    case.log.disk.set_result(None)
    await until(lambda: not case.log.state.releases, "released")
    assert case.log.confirmed_at == [1]


async def test_a_disk_that_fails_holds_the_space_back_until_it_works_again(case: Case) -> None:
    case.log.disk.set_exception(Unavailable("the disk is full"))
    case.worker.start()
    await until(lambda: len(case.log.asked_at) > 2, "tried again")
    assert case.log.confirmed_at == []
    assert case.log.state.releases
    case.log.disk = asyncio.get_running_loop().create_future()
    case.log.disk.set_result(None)
    await until(lambda: not case.log.state.releases, "released")


async def test_what_was_zeroed_is_not_zeroed_again_when_the_outcome_is_unknown(case: Case) -> None:
    """The confirmation may be applied meanwhile, and the space be another volume's."""
    case.log.disk.set_result(None)
    case.log.outcomes_to_lose = 2
    case.worker.start()
    await until(lambda: not case.log.state.releases, "released")
    assert len(case.log.confirmed_at) == 3
    assert len(case.zeroed) == 1
