"""Clients: attach through any site, write tags, read, flush; what they see goes into the record.

May live here: what they do, and how they come back after the end of an export. A client reads any of the
volume's hot sectors; it writes to its own, or (`shared`) to any.
"""

import itertools
import random

from tests.simulation.cluster.forward import Task
from tests.simulation.cluster.host import Host
from tests.simulation.cluster.record import SECTOR, Kind, Operation, Record, bytes_of
from tests.simulation.cluster.settings import Settings, VolumeWanted
from tests.simulation.world import World
from vimraft.core.ids import VolumeName
from vimraft.protocol.losses import NO_LOSS, LossMark
from vimraft.protocol.maps import REGION_BYTES

LOCAL_S = 0.0002
ATTACH_AGAIN_S = 0.3
PATIENCE = 2.0
"""Times the I/O timeout: after that nobody waits for an answer any more."""
MAX_SECTORS = 3


def hot_sectors(rng: random.Random, volume: VolumeWanted, count: int) -> list[int]:
    """Spread over the regions, some of them beside each other, some on both sides of a boundary."""
    per_region = REGION_BYTES // SECTOR
    found: list[int] = []
    while len(found) < count:
        region = rng.randrange(volume.regions)
        at = rng.choice((0, 1, 2, per_region - 2, per_region - 1, rng.randrange(per_region)))
        found.append(region * per_region + at)
    return sorted(set(found))


def cold_sector(hot: list[int], number: int) -> int:
    """Another one for each `number`."""
    return next(
        itertools.islice((sector for sector in itertools.count(8) if sector not in hot), number, None)
    )


class Client:
    def __init__(
        self,
        world: World,
        record: Record,
        settings: Settings,
        hosts: list[Host],
        volume: VolumeWanted,
        name: str,
        reads: list[int],
        writes: list[int],
    ) -> None:
        self.world = world
        self.record = record
        self.settings = settings
        self.hosts = hosts
        self.volume = volume
        self.name = name
        self.random = world.fork_random(f"client {name}")
        self.reads = reads
        self.writes = writes
        self.stopping = False
        self.open: dict[int, Operation] = {}
        self._sessions = 0
        self._host = hosts[0]
        self._life = -1
        self._session = ""
        self._since = NO_LOSS
        self._last = volume.regions * (REGION_BYTES // SECTOR)

    def start(self) -> None:
        for host in self.hosts:
            host.export.on_end.append(self._export_ended)
        self._attach()
        for _ in range(self.settings.depth):
            self.world.after(self._think_s(), self._next)

    def _think_s(self) -> float:
        return self.settings.think_s * self.random.expovariate(1)

    # --- sessions -------------------------------------------------------------------------------------

    def _attach(self) -> None:
        up = [host for host in self.hosts if host.export.up and host.export.state is not None]
        if not up:
            self.world.after(ATTACH_AGAIN_S, self._attach)
            return
        self._host = self.random.choice(up)
        export = self._host.export
        self._life = export.life
        self._sessions += 1
        self._session = f"{self.name}.{self._sessions}"
        self._since = export.known_loss(VolumeName(self.volume.name))
        self.record.session(self._session, self.volume.name, self._since.epoch)

    @property
    def attached(self) -> bool:
        return self._life >= 0 and self._life == self._host.export.life

    def _export_ended(self, process: object) -> None:
        if process is not self._host.export or process.life != self._life:  # type: ignore[attr-defined]
            return
        self._life = -1
        for operation in list(self.open.values()):
            self._end(operation, "gone", b"")
        self.world.after(ATTACH_AGAIN_S * (0.5 + self.random.random()), self._attach)

    # --- operations -----------------------------------------------------------------------------------

    def _next(self) -> None:
        if self.stopping:
            return
        if not self.attached:
            self.world.after(ATTACH_AGAIN_S, self._next)
            return
        draw = self.random.random()
        settings = self.settings
        reads_to = settings.flushes + settings.reads
        kind: Kind = "flush" if draw < settings.flushes else "read" if draw < reads_to else "write"
        if kind == "write" and settings.zeros and self.random.random() < 0.2:
            kind = "zero" if self.random.random() < 0.5 else "trim"
        if kind not in ("read", "flush") and not self._free():
            kind = "read"
        self.begin(kind)

    def begin(self, kind: Kind, first: int = -1) -> None:
        """`first` -1: any."""
        sectors = 0
        if kind != "flush":
            sectors = self.random.randint(1, MAX_SECTORS) if first < 0 else 1
            if kind != "read" and not self.settings.shared:
                sectors = 1
            if first < 0:
                first = self.random.choice(self.reads if kind == "read" else self._free())
            sectors = min(sectors, self._last - first)
        fua = kind == "write" and self.random.random() < 0.1
        now = self.world.now
        operation = self.record.begin(
            self.name,
            self._session,
            self.volume.name,
            kind,
            now,
            first=max(first, 0),
            sectors=sectors,
            fua=fua,
        )
        self.open[operation.number] = operation
        data = bytes_of(operation.tags) if kind == "write" else b""
        at = operation.first * SECTOR

        def told(how: str, found: bytes, mark: LossMark) -> None:
            if operation.session == self._session:
                self._since = max(self._since, mark)
            self.world.after(LOCAL_S, self._end, operation, how, found)

        task = Task(
            VolumeName(self.volume.name),
            self._session,
            kind,
            at,
            at + sectors * SECTOR,
            data,
            fua,
            self._since,
            told,
        )
        export = self._host.export
        self.world.after(LOCAL_S, export.run, self._life, export.submit, task)
        self.world.after(self.settings.io_timeout_s * PATIENCE, self._end, operation, "gone", b"")

    def _free(self) -> list[int]:
        """Where writes are sent again it does not write what it is writing already, as a kernel's page cache
        never has two writes of one page under way."""
        if self.settings.shared:
            return self.writes
        busy = {one.first for one in self.open.values() if one.writes}
        return [sector for sector in self.writes if sector not in busy]

    def _end(self, operation: Operation, how: str, data: bytes) -> None:
        if self.open.pop(operation.number, None) is None:
            return
        self.record.end(operation, how, self.world.now, data)  # type: ignore[arg-type]
        self.world.after(self._think_s(), self._next)
