"""deploy/chaos: a random schedule of faults under verified I/O and metadata changes.

    chaos --minutes N --seed S --report FILE [--dir DIR]

May live here: the schedule, the rounds, the command line. Clients are `workload` and `changes`, what must
hold is `checks` and `promises`. On clusters of the same layout a seed gives the same schedule of faults; what
real processes do between them cannot be replayed.
Exit code: 0 no invariant was violated, 1 some was, 2 it could not be run.
Keeps: everything is healed at the end, however the run ends; the volumes of a run that found something stay,
to be looked at.
"""

import argparse
import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from drills import checks, layout
from drills.blocks import BLOCK_BYTES
from drills.changes import Changer
from drills.clients import Client, Valve
from drills.clusters import CHECKOUT, ApiProblem, Cluster
from drills.copies import copies_equal
from drills.fault import Asked
from drills.faults import FAULTS, Undone, heal, inject
from drills.movers import Mover
from drills.namespaces import NAMES, down, up
from drills.processes import DrillError
from drills.promises import may_lose, patience
from drills.record import Records
from drills.report import FaultRun, Pause, Report, Round
from drills.workload import Attached, Reader, Writer

OWN_DIRECTORY = CHECKOUT / ".vimraft-chaos"
OWN_SITES = 3
PREFIX = "chaos-"
VOLUME_CLASS = "slow-hdd"
CHANGES_CLASS = "ssd"
BLOCKS_PER_WRITER = 256
CALM_S = (0.5, 2.0)
HOLD_S = (2.0, 8.0)
LONG_HOLD_S = (14.0, 20.0)
LONG_SHARE = 0.2
"""So often a fault lasts longer than a takeover, and than an owner waits for a store: I/O is to go on."""
TWO_FAULTS_SHARE = 0.4
QUIET_S = 90.0
"""Requests in flight end within the cluster's io_timeout (30 s), a connection attempt after it."""
REAL_SHARES = 0.75
"""How often a fault of a disk hits one on which a volume of the run lies."""


class Chaos:
    def __init__(self, cluster: Cluster, seed: int, minutes: float, path: Path) -> None:
        """Raises DrillError when it is not healthy."""
        cluster.wait_healthy()
        status = cluster.status()
        self._cluster = cluster
        self._random = random.Random(seed)
        self._run_id = int(time.time())
        self._io_timeout_s = float(status["settings"]["io_timeout_ms"]) / 1e3
        self._valve = Valve()
        self._path = path
        self._volumes: dict[str, layout.Volume] = {}
        self._writers: list[Writer] = []
        self._readers: list[Reader] = []
        self._changer = Changer(cluster, self._run_id, self._valve, CHANGES_CLASS)
        self._mover = Mover(cluster, self._run_id, self._valve, (VOLUME_CLASS, CHANGES_CLASS))
        self._ballast: list[str] = []
        release, sites = str(status["version"]), list(cluster.sites)
        self.report = Report(seed, minutes, str(cluster.directory), sites, release, time.time())

    def run(self) -> None:
        deadline_s = time.monotonic() + self.report.minutes * 60
        self._build()
        try:
            while not self.report.rounds or time.monotonic() < deadline_s:
                self._round()
        finally:
            self._valve.end()
            with contextlib.suppress(DrillError):  # it is tried again, and told, at the end
                heal(self._cluster)  # of a run that is cut off: clients wait for it
            for client in self._clients():
                client.join(QUIET_S)
            self._sum_up()
            self.report.ended_s = time.time()
            self.report.save(self._path)
        if not self.report.violations:
            layout.remove(self._cluster, [*self._volumes, *self._ballast, *self._changer.names()])

    def _build(self) -> None:
        """Every volume is written through two sites and read through a third, if there are so many."""
        sites = list(self._cluster.sites)
        built = layout.build(self._cluster, f"{PREFIX}{self._run_id}-", VOLUME_CLASS)
        self._volumes = {volume.name: volume for volume in built.volumes}
        self._ballast, volumes = built.ballast, built.volumes
        self._mover.use(volumes)
        self.report.volumes = {v.name: [sorted(copy) for copy in v.copies] for v in volumes}
        for number, volume in enumerate(volumes):
            # Its end is what may lie at another site than its beginning.
            end = volume.size_bytes // BLOCK_BYTES
            at = [sites[(number + turn) % len(sites)] for turn in range(3)]
            for place, site in enumerate(dict.fromkeys(at[:2])):
                first = end - (place + 1) * BLOCKS_PER_WRITER
                blocks = range(first, first + BLOCKS_PER_WRITER)
                writer = Writer(self._cluster, volume, site, blocks, self._run_id, self._valve)
                self._writers.append(writer)
            self._readers.append(Reader(self._cluster, volume, at[2], self._writers[-1], self._valve))
        for thread in self._clients():
            thread.start()

    def _round(self) -> None:
        now = Round(len(self.report.rounds) + 1, time.time())
        self.report.rounds.append(now)
        clients = self._clients()
        writes_before = sum(client.seen.writes for client in clients)
        for client in clients:
            client.seen.new_round()
        chosen = self._choose()
        long = self._random.random() < LONG_SHARE
        calm_s, hold_s = (
            self._random.uniform(*CALM_S),
            self._random.uniform(*(LONG_HOLD_S if long else HOLD_S)),
        )
        self._valve.open()
        time.sleep(calm_s)
        now.faults = chosen
        for fault in chosen:
            self._inject(fault)
        self._doubt(chosen)
        time.sleep(hold_s)
        self._heal(now, chosen)
        now.violations += checks.all_healed(self._cluster)
        time.sleep(calm_s)  # and go on being served
        self._valve.shut()
        now.load = os.getloadavg()[0]
        self._await_quiet(now)
        self._check(now)
        now.pauses = [
            Pause(client.name, round(client.seen.longest_s, 3), client.seen.longest_at_s)
            for client in clients
        ]
        now.failures = sorted((f.at_s, f"{c.name}: {f.text}") for c in clients for f in c.seen.failures)
        now.writes = sum(client.seen.writes for client in clients) - writes_before
        now.ended_s = time.time()
        self._sum_up()
        self.report.save(self._path)
        _tell(now)

    def _choose(self) -> list[FaultRun]:
        """One or two, at different sites."""
        count = 2 if self._random.random() < TWO_FAULTS_SHARE else 1
        sites = self._random.sample(list(self._cluster.sites), min(count, len(self._cluster.sites)))
        return [self._one(site) for site in sites]

    def _one(self, site: str) -> FaultRun:
        name = self._random.choice(sorted(FAULTS))
        options: dict[str, Any] = {}
        if name in ("partition", "slow-link") and self._random.random() < 0.5:
            peer = self._random.choice([s for s in self._cluster.sites if s != site])
            if name == "partition" or self._cluster.by_address:
                options["peer"] = peer
        if name == "partition":
            options["one_way"] = self._random.random() < 0.4
        if name in ("slow-link", "slow-disk"):
            options["delay_ms"] = self._random.choice((20, 100, 400))
        if name in ("slow-disk", "disk-error", "lost-real-volume"):
            options["real"] = self._real(site)
        if name == "disk-error":
            options["every"] = self._random.choice((0, 3, 20))
        if name == "clock-jump":
            options["by_s"] = self._random.choice((-86_400, -30, 30, 86_400))
        return FaultRun(name, "" if name == "kill-leader" else site, options)

    def _real(self, site: str) -> str:
        """'' when this cannot be told: then the site's first."""
        ours = frozenset().union(*(volume.reals for volume in self._volumes.values()))
        with contextlib.suppress(ApiProblem):
            there = sorted(real["id"] for real in self._cluster.status()["reals"] if real["site"] == site)
            good = [real for real in there if real in ours]
            chosen = good if good and self._random.random() < REAL_SHARES else there
            return str(self._random.choice(chosen)) if chosen else ""
        return ""

    def _inject(self, fault: FaultRun) -> None:
        began_s = time.time()
        try:
            record = inject(self._cluster, fault.fault, Asked(site=fault.site, **fault.options))
        except (DrillError, ApiProblem) as error:
            fault.note = str(error)  # two at once may be in each other's way
            if isinstance(error, Undone):
                fault.injected_s = began_s
            return
        fault.injected_s, fault.site = time.time(), record.site
        if "real" in record.details:
            fault.options["real"] = record.details["real"]

    def _heal(self, now: Round, chosen: list[FaultRun]) -> None:
        self._doubt(chosen)  # again: an answer may have been on its way when it was injected
        for last in (False, True):  # one may wait for what another, healed later, had taken away
            try:
                heal(self._cluster)
                break
            except (DrillError, ApiProblem) as error:
                if last:
                    now.violations.append(str(error))
        for fault in chosen:
            if fault.injected_s:
                fault.healed_s = time.time()

    def _doubt(self, chosen: list[FaultRun]) -> None:
        """A power loss may have taken what was not flushed. On loopback no page cache is lost."""
        if not all(site.image.exists() for site in self._cluster.sites.values()):
            return
        for writer in self._writers:
            if may_lose(chosen, self._volumes[writer.volume]):
                with writer.lock:
                    writer.blocks.power_lost()

    def _await_quiet(self, now: Round) -> None:
        deadline_s = time.monotonic() + QUIET_S
        for client in self._clients():
            if not client.quiet.wait(max(0.0, deadline_s - time.monotonic())):
                now.violations.append(
                    f"{client.name} still waits for an answer {QUIET_S:.0f} s after healing"
                )

    def _check(self, now: Round) -> None:
        try:
            volumes = list(self._volumes.values())
            now.violations += checks.rules_left(self._cluster)
            now.violations += checks.tables_agree(self._cluster)
            now.violations += checks.space_adds_up(self._cluster)
            now.violations += checks.changes_kept(self._cluster, self._changer)
            now.violations += self._mover.compare()
            now.violations += checks.copies_in_sync(self._cluster, volumes)
            now.bytes_compared, differing = copies_equal(self._cluster, volumes)
            now.violations += differing
            through = [self._random.choice(list(self._cluster.sites)) for _ in self._writers]
            now.blocks_checked, wrong = checks.writes_kept(self._cluster, self._writers, through)
            now.violations += wrong
            slower = patience(now.load, os.cpu_count() or 1)
            now.violations += checks.promises_kept(
                len(self._cluster.sites),
                slower,
                self._attached(),
                self._volumes,
                now.faults,
                self._io_timeout_s,
            )
            self._volumes = {v.name: layout.look(self._cluster, v) for v in volumes}
        except ApiProblem as problem:
            now.violations.append(f"no manager answers although all is healed: {problem}")
        for client in self._clients():
            now.violations += client.seen.violations

    def _attached(self) -> list[Attached]:
        return [*self._writers, *self._readers]

    def _clients(self) -> list[Client]:
        return [*self._attached(), self._changer, self._mover]

    def _sum_up(self) -> None:
        report, seen = self.report, [client.seen for client in self._attached()]
        report.acknowledged_writes = sum(each.writes for each in seen)
        report.acknowledged_flushes = sum(each.flushes for each in seen)
        report.verified_reads = sum(each.reads for each in seen)
        report.acknowledged_changes = self._changer.seen.writes
        report.acknowledged_moves = self._mover.seen.writes
        report.failed_requests = sum(each.seen.errors for each in self._clients())
        report.last_errors = {c.name: c.seen.last_errors for c in self._clients()}
        report.blocks_checked = sum(each.blocks_checked for each in report.rounds)
        report.bytes_compared = sum(each.bytes_compared for each in report.rounds)
        report.violations = [
            f"round {each.number}: {text}" for each in report.rounds for text in each.violations
        ]


def _tell(now: Round) -> None:
    faults = ", ".join(f"{fault.fault} {fault.site}" for fault in now.faults if fault.injected_s)
    verdict = f"{len(now.violations)} VIOLATIONS" if now.violations else "good"
    print(f"round {now.number}: {faults or 'nothing injected'}: {verdict}", flush=True)
    for violation in now.violations:
        print(f"  {violation}", flush=True)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="chaos", description="Random faults under verified I/O and changes."
    )
    parser.add_argument(
        "--minutes", type=float, default=5.0, metavar="N", help="default 5; at least one round"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of the schedule; default 1")
    parser.add_argument("--report", type=Path, default=Path("chaos.json"), metavar="FILE", help="%(default)s")
    parser.add_argument(
        "--dir",
        type=Path,
        metavar="DIR",
        help="a running cluster; default: one of its own in namespaces (root)",
    )
    parser.add_argument("--discard", action="store_true", help="remove the volumes that an earlier run left")
    options = parser.parse_args(arguments)
    if not 0 <= options.minutes <= 7 * 24 * 60:
        parser.error(f"--minutes {options.minutes}: 0 to {7 * 24 * 60}")
    if not options.report.absolute().parent.is_dir():
        parser.error(f"--report {options.report}: there is no such directory")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    try:
        with _cluster(options.dir, discard=options.discard) as cluster:
            chaos = Chaos(cluster, options.seed, options.minutes, options.report.absolute())
            chaos.run()
    except (DrillError, ApiProblem) as error:
        sys.stderr.write(f"chaos: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    print(f"{chaos.report.summary()}\nreport: {options.report} and {options.report}.txt")
    return 1 if chaos.report.violations else 0


@contextlib.contextmanager
def _cluster(directory: Path | None, *, discard: bool) -> Iterator[Cluster]:
    """With everything healed afterwards."""
    if directory is None:
        up(OWN_DIRECTORY, NAMES[:OWN_SITES])
    cluster = Cluster(directory or OWN_DIRECTORY)
    if records := Records(cluster.directory).all():
        raise DrillError(
            f"{records[0].title} is in force in {cluster.directory}: heal it first, "
            f"with deploy/faults/list --dir {cluster.directory} --heal-all"
        )
    left = [volume["name"] for volume in cluster.status()["volumes"] if volume["name"].startswith(PREFIX)]
    if discard:
        layout.remove(cluster, left)
    elif left:
        raise DrillError(
            f"volumes of a run that found something, or was cut off, are there: {', '.join(left)}; look at "
            "them, then remove them (`vimraft vol rm`), or give --discard"
        )
    try:
        yield cluster
    finally:
        heal(cluster)
        if directory is None:
            down(OWN_DIRECTORY)
