"""The space of a removed copy is given back only when nothing here can write there any more."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest

from tests.copies_cases import CopyTables, two_copies
from tests.unit.site.test_formation import until
from vimraft.core.commands import Command, Outcome, RemoveCopy
from vimraft.core.tables import State
from vimraft.site.releases import ReleaseWorker


class Site(SimpleNamespace):
    """The site osaka, where copy B lies."""

    tables: CopyTables
    installed: dict[str, int]

    @property
    def state(self) -> State:
        return self.tables.state

    @property
    def log(self) -> "Site":
        return self

    def installed_index(self) -> int:
        return min(self.installed.values())

    def my_sites(self) -> tuple[str, ...]:
        return ("osaka",)

    async def barrier(self, *, deadline_ms: int) -> State:
        return self.state

    async def persist(self, *, deadline_ms: int) -> None: ...

    async def propose(self, command: Command, *, who: str, deadline_ms: int) -> Outcome:
        return self.tables.do(command)


class Feeder:
    def __init__(self, site: Site, role: str) -> None:
        self._site, self._role = site, role

    async def wait_installed(self, index: int, timeout_s: float) -> bool:
        await asyncio.sleep(0)
        return self._site.installed[self._role] >= index


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    tables = two_copies()
    site = Site(tables=tables, me="m-osaka", installed={"export": 0, "store": 0}, zeroed=[])
    site.feeders = {role: Feeder(site, role) for role in ("export", "store")}
    monkeypatch.setattr("vimraft.site.releases.RETRY_S", 0.01)
    monkeypatch.setattr(
        "vimraft.site.releases.devices.zero_released", lambda _state, mine, _stop: site.zeroed.append(mine)
    )
    tables.applied(RemoveCopy("v", "B"))
    worker = ReleaseWorker(site)
    worker.start()
    yield site
    await worker.stop()


def waiting(site: Site) -> tuple[str, ...]:
    (release,) = site.state.releases.values()
    return release.waiting


async def test_it_waits_until_both_processes_serve_maps_without_it(site: Site) -> None:
    assert "v" in site.state.volumes, "the volume goes on"
    assert waiting(site) == ("m-osaka", "m-tokyo")
    for role in ("export", "store"):
        for _ in range(20):
            await asyncio.sleep(0)
        assert "m-osaka" in waiting(site)
        assert site.zeroed == []
        site.installed[role] = site.state.index
    await until(lambda: waiting(site) == ("m-tokyo",), "confirmed for osaka alone")
    (mine,) = site.zeroed
    assert {site.state.reals[s.real_id].site for s in mine.segments} == {"osaka"}
