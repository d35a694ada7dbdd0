"""deploy/chaos: a random schedule of faults under verified I/O and metadata changes.

    chaos --minutes N --seed S --report FILE [--dir DIR]

May live here: the schedule, the rounds, the command line. Clients are `workload`, what must hold is `checks`.
A seed gives the same schedule of faults again; what real processes do between them cannot be replayed.
Exit code: 0 no invariant was violated, 1 some was, 2 it could not be run.
Keeps: everything is healed at the end, however the run ends.
"""

import argparse
import contextlib
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from drills import checks
from drills.clusters import CHECKOUT, ApiProblem, Cluster
from drills.fault import Asked
from drills.faults import FAULTS, heal, inject
from drills.namespaces import NAMES, down, up
from drills.processes import DrillError
from drills.report import FaultRun, Pause, Report, Round
from drills.workload import Changer, Valve, Writer

OWN_DIRECTORY = CHECKOUT / ".vimraft-chaos"
OWN_SITES = 3
VOLUME_MIB = 8
VOLUME_CLASS = "slow-hdd"
CHANGES_CLASS = "ssd"
BLOCKS_PER_WRITER = 256
CALM_S = (0.5, 2.0)
HOLD_S = (2.0, 8.0)
TWO_FAULTS_SHARE = 0.4
QUIET_S = 90.0
"""Requests in flight end within the cluster's io_timeout (30 s), a connection attempt after it."""
BUILD_S = 30.0


class Chaos:
    def __init__(self, cluster: Cluster, seed: int, minutes: float, path: Path) -> None:
        self._cluster = cluster
        self._random = random.Random(seed)
        self._run_id = int(time.time())
        self._valve = Valve()
        self._path = path
        self._writers: list[Writer] = []
        self._changer = Changer(cluster, self._run_id, self._valve, CHANGES_CLASS)
        release = str(cluster.status()["version"])
        self.report = Report(seed, minutes, str(cluster.directory), list(cluster.sites), release, time.time())

    def run(self) -> None:
        deadline_s = time.monotonic() + self.report.minutes * 60
        self._cluster.wait_healthy()
        self._build()
        try:
            while not self.report.rounds or time.monotonic() < deadline_s:
                self._round()
        finally:
            self._valve.end()
            for writer in self._writers:
                writer.join(QUIET_S)
            self._sum_up()
            self.report.ended_s = time.time()
            self.report.save(self._path)

    def _build(self) -> None:
        """A volume at each site, and one that is written at two; every volume through two sites."""
        sites = list(self._cluster.sites)
        for number, home in enumerate(sites):
            name = f"chaos-{self._run_id}-{home}"
            body = {
                "name": name,
                "size_bytes": VOLUME_MIB << 20,
                "volume_class": VOLUME_CLASS,
                "sites": [home],
            }
            self._cluster.ask("POST", "/v1/volumes", body, limit_s=BUILD_S)
            for place, site in enumerate(dict.fromkeys((home, sites[(number + 1) % len(sites)]))):
                first = place * BLOCKS_PER_WRITER
                writer = Writer(
                    self._cluster, name, site, first, BLOCKS_PER_WRITER, self._run_id, self._valve
                )
                self._writers.append(writer)
        for thread in self._clients():
            thread.start()

    def _round(self) -> None:
        now = Round(len(self.report.rounds) + 1, time.time())
        self.report.rounds.append(now)
        clients = self._clients()
        writes_before = sum(client.seen.writes for client in clients)
        for client in clients:
            client.seen.longest_s = 0.0
        chosen = self._choose()
        calm_s, hold_s = self._random.uniform(*CALM_S), self._random.uniform(*HOLD_S)
        self._valve.open()
        time.sleep(calm_s)
        for fault in chosen:
            self._inject(fault)
        time.sleep(hold_s)
        self._heal(now, chosen)
        now.faults = chosen
        now.violations += checks.all_healed(self._cluster)
        time.sleep(calm_s)  # and go on being served
        self._valve.shut()
        self._await_quiet(now)
        self._check(now)
        now.pauses = [
            Pause(client.name, round(client.seen.longest_s, 3), client.seen.longest_at_s)
            for client in clients
        ]
        now.writes = sum(client.seen.writes for client in clients) - writes_before
        now.ended_s = time.time()
        self._sum_up()
        self.report.save(self._path)
        faults = ", ".join(f"{fault.fault} {fault.site}" for fault in chosen if fault.injected_s)
        verdict = f"{len(now.violations)} VIOLATIONS" if now.violations else "good"
        print(f"round {now.number}: {faults or 'nothing injected'}: {verdict}", flush=True)
        for violation in now.violations:
            print(f"  {violation}", flush=True)

    def _choose(self) -> list[FaultRun]:
        """One or two, at different sites."""
        count = 2 if self._random.random() < TWO_FAULTS_SHARE else 1
        sites = self._random.sample(list(self._cluster.sites), min(count, len(self._cluster.sites)))
        return [self._one(site) for site in sites]

    def _one(self, site: str) -> FaultRun:
        name = self._random.choice(sorted(FAULTS))
        options: dict[str, Any] = {}
        if name in ("partition", "slow-link") and self._cluster.by_address and self._random.random() < 0.5:
            options["peer"] = self._random.choice([s for s in self._cluster.sites if s != site])
        if name == "partition":
            options["one_way"] = self._random.random() < 0.4
        if name in ("slow-link", "slow-disk"):
            options["delay_ms"] = self._random.choice((20, 100, 400))
        if name == "disk-error":
            options["every"] = self._random.choice((0, 3, 20))
        if name == "clock-jump":
            options["by_s"] = self._random.choice((-86_400, -30, 30, 86_400))
        return FaultRun(name, "" if name == "kill-leader" else site, options)

    def _inject(self, fault: FaultRun) -> None:
        try:
            record = inject(self._cluster, fault.fault, Asked(site=fault.site, **fault.options))
        except (DrillError, ApiProblem) as error:
            fault.note = str(error)  # two at once may be in each other's way
            return
        fault.injected_s, fault.site = time.time(), record.site
        self._doubt(fault)

    def _heal(self, now: Round, chosen: list[FaultRun]) -> None:
        for fault in chosen:
            self._doubt(fault)
        for last in (False, True):  # one may wait for what another, healed later, had taken away
            try:
                heal(self._cluster)
                break
            except DrillError as error:
                if last:
                    now.violations.append(str(error))
        for fault in chosen:
            if fault.injected_s:
                fault.healed_s = time.time()

    def _doubt(self, fault: FaultRun) -> None:
        """A power loss may have taken what was not flushed. (Called again before healing: an answer may have
        been on its way when it was injected.)"""
        if (
            fault.fault != "power-loss"
            or not fault.injected_s
            or not self._cluster[fault.site].image.exists()
        ):
            return
        for writer in self._writers:
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
            now.violations += checks.rules_left(self._cluster)
            now.violations += checks.tables_agree(self._cluster)
            now.violations += checks.changes_kept(self._cluster, self._changer)
            through = [self._random.choice(list(self._cluster.sites)) for _ in self._writers]
            now.blocks_checked, wrong = checks.writes_kept(self._cluster, self._writers, through)
            now.violations += wrong
        except ApiProblem as problem:
            now.violations.append(f"no manager answers although all is healed: {problem}")
        for client in self._clients():
            now.violations += client.seen.violations
            client.seen.violations = []

    def _clients(self) -> list[Writer | Changer]:
        return [*self._writers, self._changer]

    def _sum_up(self) -> None:
        report, seen = self.report, [writer.seen for writer in self._writers]
        report.acknowledged_writes = sum(each.writes for each in seen)
        report.acknowledged_flushes = sum(each.flushes for each in seen)
        report.verified_reads = sum(each.reads for each in seen)
        report.acknowledged_changes = self._changer.seen.writes
        report.failed_requests = sum(each.errors for each in seen) + self._changer.seen.errors
        report.last_errors = {c.name: c.seen.last_errors for c in self._clients()}
        report.blocks_checked = sum(each.blocks_checked for each in report.rounds)
        report.violations = [
            f"round {each.number}: {text}" for each in report.rounds for text in each.violations
        ]


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
    options = parser.parse_args(arguments)
    if not 0 <= options.minutes <= 7 * 24 * 60:
        parser.error(f"--minutes {options.minutes}: 0 to {7 * 24 * 60}")
    if not options.report.absolute().parent.is_dir():
        parser.error(f"--report {options.report}: there is no such directory")
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    try:
        with _cluster(options.dir) as cluster:
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
def _cluster(directory: Path | None) -> Iterator[Cluster]:
    """With everything healed afterwards."""
    if directory is None:
        up(OWN_DIRECTORY, NAMES[:OWN_SITES])
    cluster = Cluster(directory or OWN_DIRECTORY)
    try:
        yield cluster
    finally:
        heal(cluster)
        if directory is None:
            down(OWN_DIRECTORY)
