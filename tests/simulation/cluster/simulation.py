"""One run: builds a world from a seed, lets faults and clients loose, heals, waits, and checks.

May live here: assembly, the order of a run, and what is checked at its end.
"""

import time
from collections.abc import Iterator

from msgspec import Struct

from tests.simulation.cluster import losses
from tests.simulation.cluster.clients import Client, cold_sector, hot_sectors
from tests.simulation.cluster.export import Export
from tests.simulation.cluster.faults import Faults
from tests.simulation.cluster.host import Host
from tests.simulation.cluster.ledger import Ledger
from tests.simulation.cluster.record import SECTOR, Record, tags_in
from tests.simulation.cluster.settings import DISK_FAULTS, LOSSY, NO_STAGE, Stage, choose
from tests.simulation.cluster.store_process import StoreProcess, pieces_of
from tests.simulation.cluster.tables import first_boot, first_tables, manager_of
from tests.simulation.cluster.wire import Wire
from tests.simulation.world import Runaway, World
from vimraft.core.commands import PauseCopy
from vimraft.core.ids import ManagerName, VolumeName
from vimraft.core.tables import Volume
from vimraft.protocol.rules import Rules, without

SETTLE_S = 90.0
"""Within it everything has to go on when the faults have stopped."""
LOOK_S = 0.5
START_S = 4.0
"""Copies come into step before anything happens."""


class Violation(Struct, frozen=True):
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


class Report(Struct, frozen=True):
    seed: int
    violations: tuple[Violation, ...]
    operations: int
    acknowledged: int
    faults: int
    epochs: int
    virtual_s: float
    cpu_ms: float


class Simulation:
    def __init__(self, seed: int, mutation: str | None = None, stage: Stage = NO_STAGE) -> None:
        self.seed = seed
        self.world = world = World(seed)
        rules: Rules = without(*stage.lacks, *(() if mutation is None else (mutation,)))
        self.settings = settings = choose(world.fork_random("settings"), stage)
        self.record = Record()
        self.wire = Wire(world, world.fork_random("wire"), settings.delay_s, settings.jitter_s)
        names = [manager_of(number) for number in range(settings.sites)]
        self.ledger = Ledger(
            world,
            world.fork_random("ledger"),
            first_tables(settings),
            names,
            self._hears,
            settings.commit_s,
            settings.log_loss,
        )
        self.hosts = [
            Host(
                world,
                self.wire,
                self.ledger,
                settings,
                rules,
                name,
                first_boot(number),
                resend=not settings.shared,
            )
            for number, name in enumerate(names)
        ]
        self.by_name: dict[str, Host] = {host.name: host for host in self.hosts}
        for host in self.hosts:
            host.store = StoreProcess(host)
            host.export = Export(host)
            host.on_cut.append(self.record.cut)
            host.others = {ManagerName(other.name): other for other in self.hosts}
            for process in (host.store, host.export):
                self.wire.watch(process)
        self.ledger.on_change.append(self._changed)
        self.clients = list(self._clients())
        self.faults = Faults(self)

    def _clients(self) -> Iterator[Client]:
        settings, rng = self.settings, self.world.fork_random("clients")
        hot = {volume.name: hot_sectors(rng, volume, settings.hot_sectors) for volume in settings.volumes}
        users: dict[str, list[int]] = {volume.name: [] for volume in settings.volumes}
        chosen = [settings.volumes[number % len(settings.volumes)] for number in range(settings.clients)]
        for number, volume in enumerate(chosen):
            users[volume.name].append(number)
        for number, volume in enumerate(chosen):
            mine = users[volume.name]
            sectors = hot[volume.name]
            own = sectors[mine.index(number) :: len(mine)] or [cold_sector(sectors, number)]
            writes = sectors if settings.shared else own
            yield Client(
                self.world, self.record, settings, self.hosts, volume, f"c{number}", [*sectors, *own], writes
            )

    def _hears(self, a: str, b: str) -> bool:
        return self.by_name[a].manager.up and self.by_name[b].manager.up and self.wire.hears(a, b)

    def _changed(self, before: Volume, after: Volume) -> None:
        states = ",".join(f"{r.local_name}:{r.state}{'+' if r.moving else ''}" for r in after.replicas)
        self.world.note(after.name, "epoch", after.epoch, after.owner, states)
        if after.lossy_epoch > before.lossy_epoch:
            sites = {
                self.ledger.state.reals[segment.real_id].site
                for replica in after.replicas
                if replica.state == "in_sync"
                for segment in replica.segments
            }
            reported = self.ledger.state.history[-1].what == "lost-unflushed"
            self.record.lost(after.name, after.epoch, sorted(sites), told=not reported)

    def rows(self) -> list[Volume]:
        """Of the volumes, in an order that is the same in every process."""
        return [row for _, row in sorted(self.ledger.state.volumes.items())]

    # --- a run ----------------------------------------------------------------------------------------

    def run(self) -> Report:
        began = time.process_time()
        violations: list[Violation] = []
        try:
            self._run()
            violations = list(self._violations())
        except Runaway as error:
            violations.append(Violation("runaway", str(error)))
        except Exception as error:  # noqa: BLE001 - a machine that trips is a finding, with its seed
            violations.append(Violation("error", f"{type(error).__name__}: {error}"))
        acknowledged = sum(one.how == "done" for one in self.record.operations)
        return Report(
            self.seed,
            tuple(violations),
            len(self.record.operations),
            acknowledged,
            self.faults.count,
            sum(row.epoch for row in self.rows()),
            self.world.now,
            (time.process_time() - began) * 1000,
        )

    def _run(self) -> None:
        for host in self.hosts:
            host.start()
        self.world.run_until(START_S)
        for client in self.clients:
            client.start()
        self.faults.start()
        self.world.run_until(START_S + self.settings.duration_s)
        self.faults.stop()
        for client in self.clients:
            client.stopping = True
        self._settle()

    def _settle(self) -> None:
        """Until all is quiet. The copies are compared; then every sector is written and read once more."""
        deadline = self.world.now + SETTLE_S
        while self.world.now < deadline and not self._quiet():
            for command in self._resume():
                self.hosts[0].manager.propose(command, lambda _outcome: None)
            self.world.run_until(self.world.now + LOOK_S)
        self.unsettled = "" if self._quiet() else self._why()
        self.differences = [] if self.unsettled else list(self._differences())
        self.quiet_from = len(self.record.operations)
        for client in self.clients:
            for sector in sorted(set(client.writes)):
                client.begin("write", sector)
            self._wait_answered()  # all at once may need more time than a write has, where room is scarce
        for client in self.clients:
            for sector in sorted(set(client.reads)):
                client.begin("read", sector)
        self._wait_answered()

    def _wait_answered(self) -> None:
        deadline = self.world.now + 2 * self.settings.io_timeout_s + 1
        while self.world.now < deadline and any(client.open for client in self.clients):
            self.world.run_until(self.world.now + LOOK_S)

    def _resume(self) -> list[PauseCopy]:
        """Also of copies whose pause was decided only now."""
        return [
            PauseCopy(row.name, replica.local_name, False)
            for row in self.rows()
            for replica in row.replicas
            if replica.paused
        ]

    def _quiet(self) -> bool:
        return not self._why()

    def _why(self) -> str:
        for row in self.rows():
            served = self.by_name[row.owner].export.served.get(VolumeName(row.name))
            if served is None or not served.owner.serving or served.owner.desk.newest.epoch != row.epoch:
                return f"{row.name} is not served by {row.owner}"
            for replica in row.replicas:
                if replica.state != "in_sync" or replica.moving:
                    return f"copy {replica.local_name} of {row.name} is {replica.state}"
        for host in self.hosts:
            if not host.export.ready:
                return f"the export of {host.name} takes no requests"
        if self.wire.untold:
            return "a connection is broken, and an end of it does not know"
        for client in self.clients:
            if not client.attached:
                return f"client {client.name} is attached nowhere"
        waiting = [one for client in self.clients for one in client.open.values()]
        return f"{waiting[0].kind} #{waiting[0].number} is not answered" if waiting else ""

    # --- checks ---------------------------------------------------------------------------------------

    def _violations(self) -> Iterator[Violation]:
        for text in self.ledger.broken:
            yield Violation("tables", text)
        if self.unsettled:
            yield Violation("progress", f"{SETTLE_S:.0f} s after the last fault: {self.unsettled}")
        else:
            yield from self.differences
            yield from self._differences()
            for operation in self.record.operations[self.quiet_from :]:
                if operation.how in ("failed", "gone"):
                    text = f"{operation.kind} #{operation.number} {operation.how}, when all was well"
                    yield Violation("progress", text)
        for operation in self.record.operations:
            if operation.how == "open":
                yield Violation("progress", f"{operation.kind} #{operation.number} never ended")
        yield from self._early_errors()
        for text in losses.problems(self.record):
            yield Violation("consistency", text)

    def _early_errors(self) -> Iterator[Violation]:
        """Where no disk fails, an error comes only when the I/O timeout is over (by a fast clock)."""
        settings = self.settings
        if DISK_FAULTS & set(settings.faults):
            return
        patience_s = settings.io_timeout_s / (1 + settings.drift)
        for one in self.record.operations:
            lost = one.kind == "flush" and LOSSY & set(settings.faults)
            if one.how == "failed" and one.ended_s - one.began_s < patience_s and not lost:
                text = f"{one.kind} #{one.number} failed after {one.ended_s - one.began_s:.2f} s"
                yield Violation("early", text)

    def _differences(self) -> Iterator[Violation]:
        for row in self.rows():
            touched = {
                sector
                for one in self.record.operations
                if one.volume == row.name and one.writes
                for sector in range(one.first, one.first + one.sectors)
            }
            for sector in sorted(touched):
                found = {
                    replica.local_name: self._content(row, replica.local_name, sector)
                    for replica in row.replicas
                    if replica.state == "in_sync"
                }
                if len(set(found.values())) > 1:
                    shown = {name: tags_in(content)[0] for name, content in found.items()}
                    yield Violation("copies", f"{row.name} sector {sector}: copies in sync differ: {shown}")
                    break

    def _content(self, row: Volume, copy: str, sector: int) -> bytes:
        ((real, at, _count, _offset),) = pieces_of(row, copy, sector * SECTOR, (sector + 1) * SECTOR)  # type: ignore[arg-type]
        return self.by_name[self.ledger.state.reals[real].site].media.at((real, at))


def run_seed(seed: int, mutation: str | None = None, stage: Stage = NO_STAGE) -> tuple[Report, Simulation]:
    simulation = Simulation(seed, mutation, stage)
    return simulation.run(), simulation


def report_of(seed: int, mutation: str | None, stage: Stage) -> Report:
    """For processes of a pool, which find functions by the names of their modules."""
    return run_seed(seed, mutation, stage)[0]
