"""Forming the cluster and keeping its tables true to the configurations, on an in-process log."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.core_cases import build, real
from vimraft.core.commands import DeleteVolume, SetSite, SetStorage
from vimraft.core.tables import Site, State, Storage
from vimraft.metadata.memory_log import MemoryCluster
from vimraft.site.config import Config, NetworkConfig, RaftConfig, SiteConfig
from vimraft.site.formation import keep_registered, next_step
from vimraft.site.releases import ReleaseWorker


def config(name: str, number: int, priority: tuple[str, ...], members: tuple[str, ...] = ("x:1",)) -> Config:
    ports = [f"127.0.0.1:{number * 100 + n}" for n in range(4)]
    return Config(
        manager=f"m-{name}",
        data_dir=Path("/nowhere"),
        network=NetworkConfig(*ports),
        sites=(SiteConfig(name, priority),),
        raft=RaftConfig(members=members),
    )


def context(log: object, site_config: Config) -> SimpleNamespace:
    """What formation and releases need of a SiteContext."""

    class Context(SimpleNamespace):
        @property
        def state(self) -> State:
            return self.log.state

    return Context(log=log, config=site_config, me=site_config.manager)


async def until(condition, what: str) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.02)


async def test_three_managers_form_one_cluster_with_their_sites_and_orders() -> None:
    cluster = MemoryCluster()
    names = ("tokyo", "osaka", "nagoya")
    sites = [
        context(cluster.log(name), config(name, n + 1, tuple(o for o in names if o != name)))
        for n, name in enumerate(names)
    ]
    tasks = [asyncio.create_task(keep_registered(site)) for site in sites]
    await until(lambda: all(next_step(site) is None for site in sites), "all registered")
    state = sites[0].state
    assert state.cluster_id
    assert set(state.managers) == {"m-tokyo", "m-osaka", "m-nagoya"}
    assert state.sites["tokyo"].priority == ("osaka", "nagoya")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_manager_that_joins_never_forms_a_cluster_of_its_own() -> None:
    site = context(MemoryCluster().log("sendai"), config("sendai", 4, (), members=()))
    assert next_step(site) is None


async def test_an_order_that_an_operator_changed_is_left_alone() -> None:
    cluster = MemoryCluster()
    site = context(cluster.log("tokyo"), config("tokyo", 1, ("osaka",)))
    other = context(cluster.log("osaka"), config("osaka", 2, ()))
    tasks = [asyncio.create_task(keep_registered(s)) for s in (site, other)]
    await until(lambda: "osaka" in site.state.sites and site.state.sites["tokyo"].priority, "registered")
    changed = Site("tokyo", "m-tokyo", ("tokyo", "osaka"))
    await site.log.propose(SetSite(changed), who="x", deadline_ms=1000)
    assert next_step(site) is None
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_space_is_not_given_back_before_the_data_plane_has_drained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = MemoryCluster()
    site = context(cluster.log("tokyo"), config("tokyo", 1, ()))
    registered = asyncio.create_task(keep_registered(site))
    await until(lambda: "tokyo" in site.state.sites, "registered")
    for command in (SetStorage(Storage("a", "tokyo", "")), real("a"), None, DeleteVolume("old")):
        made = command or build("old", 3)
        await site.log.propose(made, who="x", deadline_ms=1000)
    zeroed: list[int] = []
    monkeypatch.setattr(
        "vimraft.site.releases.devices.zero_released",
        lambda state, release, cancelled: zeroed.append(release.release_id),
    )
    installed = {"index": -1}

    class Feeder:
        async def wait_installed(self, index: int, timeout_s: float) -> bool:
            return installed["index"] >= index

    site.feeders = {"export": Feeder(), "store": Feeder()}
    site.installed_index = lambda: installed["index"]
    site.my_sites = lambda: ("tokyo",)
    worker = ReleaseWorker(site)
    worker.start()
    await asyncio.sleep(0)
    for _ in range(20):
        worker.look()
        await asyncio.sleep(0.005)
    assert len(site.state.releases) == 1
    assert zeroed == []
    installed["index"] = 10**9
    worker.look()
    await until(lambda: not site.state.releases, "released")
    assert len(zeroed) == 1
    await worker.stop()
    registered.cancel()
    await asyncio.gather(registered, return_exceptions=True)
