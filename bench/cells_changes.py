"""Changes of the mapping on three sites: how long a build takes, and what the death of the leader costs.

May live here: cells that measure the control plane, and I/O beside it. All times are a caller's, with HTTP.
"""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench import fio
from bench.cell import Cell
from bench.results import Result, Row, Sample, Verdict, judge_absolute, latencies, percentile
from bench.stage import Stage
from tests.cluster_fixture import MIB, Cluster, running_cluster, wait_for
from vimraft.api.caller_errors import CallerError
from vimraft.api.client import Client
from vimraft.api.schema import BuildRequest

BUILDS = 100
BUILD_LIMIT_MS = 50.0
TRIALS = 5
FAILOVER_LIMIT_S = 3.0
PAUSE_LIMIT_MS = 500.0
"""Far below every timeout of the cluster: an I/O that waits for an election would take longer."""
IO_IOPS = 500
IO_BEFORE_S = 2.0
IO_RUN_S = 6.0
POOL_MIB = 64
VOLUME_MIB = 16


def _build(client: Client, name: str, site: str) -> float:
    began = time.perf_counter()
    client.build_volume(BuildRequest(name=name, size_bytes=MIB, volume_class="ssd", sites=(site,)))
    return time.perf_counter() - began


def create_volume(stage: Stage) -> Result:
    """One after the other, at the asked manager's own site; leader and follower take turns."""
    cluster = stage.cluster()
    leader = cluster.leader()
    follower = next(site for site in cluster.sites.values() if site is not leader)
    note = stage.quiet()
    took_s: dict[str, list[float]] = {"leader": [], "follower": []}
    with leader.client() as at_leader, follower.client() as at_follower:
        for number in range(BUILDS):
            stage.progress.say(f"build {number + 1} of {BUILDS}")
            took_s["leader"].append(_build(at_leader, f"made-l{number}", leader.name))
            took_s["follower"].append(_build(at_follower, f"made-f{number}", follower.name))
        for number in range(BUILDS):
            at_leader.delete_volume(f"made-l{number}", purge=True)
            at_leader.delete_volume(f"made-f{number}", purge=True)
    rows, verdicts = [], []
    for who, taken in took_s.items():
        sample = latencies(taken)
        rows.append(
            Row("create-volume", f"{BUILDS} builds of 1 MiB through the {who}", "vimraft", sample, note)
        )
        for label, value_us in (("p50", sample.p50_us), ("p99", sample.p99_us)):
            what = f"{who} {label}"
            verdicts.append(judge_absolute("create-volume", what, value_us / 1e3, BUILD_LIMIT_MS, "ms"))
    return Result(tuple(rows), tuple(verdicts))


class _Trial:
    """The leader's site dies while fio uses a volume of another site, there and through the third."""

    def __init__(self, cluster: Cluster, directory: Path, number: int) -> None:
        self.leader = cluster.leader()
        self.owner, self.third = (site for site in cluster.sites.values() if site is not self.leader)
        volume = f"at-{self.owner.name}"
        self._uris = [cluster.uri(volume, self.owner.name), cluster.uri(volume, self.third.name)]
        self._output = directory / "fio.json"
        self._name = f"after-{number}"

    @contextlib.contextmanager
    def io(self) -> Iterator["subprocess.Popen[bytes]"]:
        """fio at a fixed rate on both paths, under way and ended whatever happens."""
        argv = [
            fio.FIO, "--ioengine=nbd", "--rw=randrw", "--bs=4096", "--iodepth=1", f"--size={VOLUME_MIB}M",
            "--time_based", f"--runtime={IO_RUN_S:g}s", f"--rate_iops={IO_IOPS // 4}", "--output-format=json",
            f"--output={self._output}",
        ]  # fmt: skip
        for number, uri in enumerate(self._uris):
            argv += [f"--name=path{number}", f"--uri={uri}"]
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def longest_us(self, process: "subprocess.Popen[bytes]") -> float:
        """Raises FioError when any I/O failed."""
        status = process.wait(IO_RUN_S + fio.STARTUP_S)
        if status:
            raise fio.FioError(f"fio ended with status {status} while the leader was killed")
        return fio.longest_us(self._output.read_text(encoding="utf-8"))

    def first_change_s(self) -> float:
        """From the kill to the first acknowledged build, asked of the survivors."""
        with Client((self.owner.url, self.third.url), self.leader.cluster.token_path.read_text()) as client:
            began = time.monotonic()
            self.leader.kill()
            wait_for(lambda: self._built(client), 30, "a change after the leader's death")
            return time.monotonic() - began

    def _built(self, client: Client) -> bool:
        try:
            _build(client, self._name, self.owner.name)
        except CallerError:  # no leader yet; or an outcome that was unknown, and is known now
            return self._name in {volume.name for volume in client.status().volumes}
        return True


def _one_trial(cluster: Cluster, directory: Path, number: int) -> tuple[float, float, float]:
    """(seconds to the first change, longest I/O without a kill, longest I/O with it), the latter in µs."""
    trial = _Trial(cluster, directory, number)
    with trial.io() as process:
        usual_us = trial.longest_us(process)
    with trial.io() as process:
        time.sleep(IO_BEFORE_S)
        change_s = trial.first_change_s()
        longest_us = trial.longest_us(process)
    trial.leader.start()
    cluster.wait_healthy(tuple(cluster.sites))
    return change_s, usual_us, longest_us


def leader_kill(stage: Stage) -> Result:
    stage.release()
    changes_s, usual_us, killed_us = [], [], []
    with running_cluster(stage.directory / "failover") as cluster:
        for name in cluster.sites:
            cluster.add_real(name, 1, "ssd", POOL_MIB)
            cluster.build(f"at-{name}", VOLUME_MIB, sites=(name,))
        note = stage.quiet()
        for number in range(TRIALS):
            stage.progress.say(f"trial {number + 1} of {TRIALS}")
            change_s, usual, longest = _one_trial(cluster, stage.directory, number)
            changes_s.append(change_s)
            usual_us.append(usual)
            killed_us.append(longest)
    pause = f"longest of all I/O in {IO_RUN_S:g} s at {IO_IOPS}/s, volume owned elsewhere"
    rows = (
        Row(
            "leader-kill",
            "first change after kill -9 of the leader's site",
            "vimraft",
            latencies(changes_s),
            note,
        ),
        Row("leader-kill", pause, "vimraft", _pauses(killed_us), note),
        Row("leader-kill", pause, "vimraft-nothing-killed", _pauses(usual_us), note),
    )
    return Result(
        rows,
        (
            judge_absolute("leader-kill", "first change, slowest", max(changes_s), FAILOVER_LIMIT_S, "s"),
            _judge_pause(killed_us, usual_us),
        ),
    )


def _pauses(longest_us: list[float]) -> Sample:
    return Sample(
        float(IO_IOPS), IO_IOPS * 4096 / 1e6, percentile(longest_us, 50), percentile(longest_us, 99)
    )


def _judge_pause(killed_us: list[float], usual_us: list[float]) -> Verdict:
    verdict = judge_absolute("leader-kill", "longest I/O", max(killed_us) / 1e3, PAUSE_LIMIT_MS, "ms")
    return verdict._replace(
        peer=f"{max(usual_us) / 1e3:.0f} ms with nothing killed",
        ratio=f"{max(killed_us) / max(usual_us):.2f}",
    )


CELLS = (Cell("create-volume", create_volume), Cell("leader-kill", leader_kill))
