"""Managers without processes, to test trash, drains, migrations and saves with: a log in memory, exports that
copy at once, stores that confirm at once, and volumes whose data are bytes in memory."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.core_cases import UNIT, manager
from vimraft.api.errors import Refused
from vimraft.api.schema import Heartbeat, IoRates, Pids
from vimraft.core import levels
from vimraft.core.commands import (
    AddRealVolume,
    Applied,
    BeginResync,
    BuildVolume,
    Command,
    ConfirmRelease,
    FormCluster,
    MoveOwner,
    MoveSegments,
    Promote,
    Rejected,
    Rejoin,
    RenewLease,
    SetHandingOver,
    SetManager,
    SetSite,
    SetStorage,
)
from vimraft.core.copies import is_copied
from vimraft.core.tables import Manager, Settings, Site, State, Storage, Volume
from vimraft.metadata.memory_log import MemoryCluster, MemoryLog
from vimraft.site.changes import ChangeOperations
from vimraft.site.copies_board import CopiesBoard
from vimraft.site.health import Health
from vimraft.site.job_records import JobRecords
from vimraft.site.jobs import Jobs
from vimraft.site.moves import MovesOperations, MovesPart
from vimraft.site.record_jobs import RecordJobs

WHO = "test"
SITES = ("tokyo", "osaka", "nagoya")
UNITS = 20
DEADLINE_S = 10.0


async def until(condition: Callable[[], object], what: str) -> None:
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {DEADLINE_S} s: {what}") from None


class MemoryDisk:
    """A volume's bytes; `lose` and `spoil` count down writes until something goes wrong."""

    def __init__(self, data: bytearray) -> None:
        self.data = data
        self.losses = 0
        self.flushes = 0
        self.written: list[tuple[int, int]] = []
        self.zeroed: list[tuple[int, int]] = []
        self.lose = -1
        self.spoil = -1

    def read_into(self, buffer: memoryview, offset: int) -> None:
        buffer[:] = self.data[offset : offset + len(buffer)]

    def write(self, data: memoryview, offset: int, *, fua: bool) -> None:
        self.data[offset : offset + len(data)] = data
        self.written.append((offset, len(data)))
        if self.lose == len(self.written):
            self.losses += 1
        if self.spoil == len(self.written):
            self.data[offset + 7] ^= 1

    def zero(self, offset: int, length: int, *, may_trim: bool, fua: bool, fast: bool) -> None:
        self.data[offset : offset + length] = bytes(length)
        self.zeroed.append((offset, length))

    def flush(self) -> None:
        self.flushes += 1

    def close(self) -> None:
        pass


class Feeder:
    async def wait_installed(self, index: int, timeout_s: float) -> bool:
        return True


class Context(SimpleNamespace):
    """What these operations need of a SiteContext."""

    log: MemoryLog

    @property
    def state(self) -> State:
        return self.log.state

    async def fresh_state(self) -> State:
        return self.log.state

    def as_of(self) -> Any:
        return None

    def installed_index(self) -> int:
        return self.state.index

    def my_sites(self) -> tuple[str, ...]:
        return tuple(s.name for s in self.state.sites.values() if s.manager == self.me)

    def manager_of_site(self, site: str) -> Manager | None:
        return self.state.managers.get(self.state.sites[site].manager)

    async def record(self, *_event: str) -> None:
        pass


class Node(ChangeOperations, MovesOperations):
    """One life of a manager."""

    def __init__(self, world: "World", name: str) -> None:
        self.name = name
        self.world = world
        self.site = Context(  # type: ignore[assignment]
            log=world.log(name), me=name, jobs=Jobs(name), copies=CopiesBoard(), feeders={"export": Feeder()},
            moving_owner=set(),
        )  # fmt: skip
        self.health = Health(
            name, token="t", state=lambda: self.site.state, make_beat=lambda: None, changed=lambda *_: None
        )
        self.records = RecordJobs(self.site.jobs, JobRecords(world.directory / name))
        self.open_export = world.open_export  # type: ignore[method-assign]
        self.part = MovesPart(self)
        self._tasks: list[asyncio.Task[None]] = []
        world.directory.joinpath(name).mkdir(exist_ok=True)
        for other in SITES:
            self.hear(f"m-{other}")

    def start(self) -> "Node":
        self.site.log.subscribe(self.part.tables_changed)
        self._tasks = [asyncio.create_task(work) for work in self.part.works()]
        return self

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.site.jobs.stop()

    def hear(self, name: str, *, sent_ms: int | None = None, **attached: int) -> None:
        """A heartbeat; `attached`: connections by volume."""
        volumes = {volume: IoRates(connections=n) for volume, n in attached.items()}
        sent = self.world.now_ms if sent_ms is None else sent_ms
        self.health.hear(
            Heartbeat(name, "inc", 0, Pids(1, 2, 3), "", sent, installed_index=10**9, volumes=volumes)
        )

    def job(self, job_id: str) -> Any:
        return self.site.jobs.get(job_id)

    async def ended(self, job_id: str) -> Any:
        await until(lambda: self.job(job_id).state != "running", f"job {self.job(job_id)} ended")
        return self.job(job_id)


class World:
    """Three managers m-SITE with a site each, LUNs 0 and 1 of class ssd and LUN 2 of class hdd."""

    def __init__(self, directory: Path, level: int = levels.COPIES) -> None:
        self.directory = directory
        self.level = level
        self.cluster = MemoryCluster()
        self.now_ms = 1_790_000_000_000
        self.data: dict[str, bytearray] = {}
        self.disks: dict[str, MemoryDisk] = {}
        self.exporting = True
        self.worst_in_sync: dict[str, int] = {}
        self.nodes: list[Node] = []
        self._tasks: list[asyncio.Task[None]] = []

    def log(self, name: str) -> MemoryLog:
        return self.cluster.log(name)

    @property
    def state(self) -> State:
        return self.log("m-tokyo").state

    async def do(self, command: Command) -> Applied:
        outcome = await self.log("m-tokyo").propose(command, who=WHO, deadline_ms=1_000)
        if isinstance(outcome, Rejected):
            raise Refused(outcome.reason)
        return outcome

    def meddle(self, command: Command) -> None:
        """From another thread."""
        asyncio.run_coroutine_threadsafe(self.do(command), self.loop).result(DEADLINE_S)

    async def form(self) -> "World":
        self.loop = asyncio.get_running_loop()
        for site in SITES:
            self.log(f"m-{site}")
        await self.do(FormCluster("c", Settings(), level=self.level))
        for number, site in enumerate(SITES, start=1):
            name = f"m-{site}"
            row = manager(name, number)
            await self.do(SetManager(Manager(*[getattr(row, f) for f in row.__struct_fields__[:5]], 3)))
            await self.do(SetSite(Site(site, name)))
            await self.do(SetStorage(Storage(site[0], site, "")))
            await self.do(RenewLease(name, "life", 1, 0))
            if self.level >= levels.COPIES:
                await self.do(Rejoin(name, "one"))
            for lun, kind in enumerate(("ssd", "ssd", "hdd")):
                label = f"label-{site}-{lun}"
                await self.do(AddRealVolume(site[0], lun, kind, f"file:///{site}/{lun}", label, UNITS))
        return self

    def node(self, name: str = "m-tokyo") -> Node:
        node = Node(self, name).start()
        self.nodes.append(node)
        return node

    def serve(self) -> None:
        self._tasks.append(asyncio.create_task(self._serve()))

    async def stop(self) -> None:
        for node in self.nodes:
            await node.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def build(self, name: str, units: int, *sites: str, copies: int = 1) -> Volume:
        manager_name = f"m-{sites[0]}"
        await self.do(BuildVolume(name, units * UNIT, "ssd", manager_name, sites, copies))
        volume = self.state.volumes[name]
        self.data[name] = bytearray(volume.size_bytes)
        return volume

    async def prefer(self, site: str, *further: str) -> None:
        await self.do(SetSite(Site(site, f"m-{site}", further)))

    async def hand_over(self, name: str, new_owner: str) -> None:
        volume = self.state.volumes[name]
        if not is_copied(volume):
            await self.do(SetHandingOver(volume.name, volume.epoch, volume.owner, True))
            volume = self.state.volumes[name]
        await self.do(MoveOwner(volume.name, volume.epoch, volume.owner, new_owner))

    def open_export(self, uri: str, *, read_only: bool) -> MemoryDisk:
        name = uri.rpartition("/")[2]
        volume = self.state.volumes[name]
        assert read_only or not volume.read_only
        data = self.data.setdefault(name, bytearray(volume.size_bytes))
        return self.disks.setdefault(name, MemoryDisk(data))

    def reals_of(self, name: str) -> set[str]:
        return {str(s.real_id) for r in self.state.volumes[name].replicas for s in r.segments}

    # exports and stores

    async def _serve(self) -> None:
        while True:
            state = self.state
            for volume in state.volumes.values():
                synced = sum(replica.state == "in_sync" for replica in volume.replicas)
                self.worst_in_sync[volume.name] = min(synced, self.worst_in_sync.get(volume.name, synced))
            for command in self._wanted(state) if self.exporting else []:
                await self.log("m-tokyo").propose(command, who="export", deadline_ms=1_000)
            await asyncio.sleep(0.002)

    def _wanted(self, state: State) -> list[Command]:
        boots = tuple(sorted(state.boots.items()))
        wanted: list[Command] = [
            ConfirmRelease(name, row.release_id) for row in state.releases.values() for name in row.waiting
        ]
        for volume in state.volumes.values():
            at = (volume.name, volume.epoch, volume.owner)
            for replica in volume.replicas:
                if replica.moving:
                    wanted.append(MoveSegments(*at, replica.local_name, boots))
                elif replica.state == "stale":
                    wanted.append(BeginResync(*at, replica.local_name))
                elif replica.state == "syncing":
                    wanted.append(Promote(*at, replica.local_name, boots))
                else:
                    continue
                break
        return wanted
