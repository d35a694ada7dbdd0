"""A cluster whose tables hold 100,000 segments: snapshot, restart, join, memory.

May live here: the cell on big tables. Three real managers, and a fourth that joins.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from bench import machine
from bench.big_tables import VOLUME_CLASS, last_tables, plant, real_mib, scattered
from bench.cell import Cell
from bench.results import Result, Row, judge_absolute, latencies
from bench.stage import Stage
from tests.cluster_fixture import MIB, Cluster, Site, free_ports, running_cluster, wait_for
from vimraft.api.schema import BuildRequest

SEGMENTS = 100_000
LIMIT_S = 10.0
LIMIT_MB = 500.0
COMPACTION_ENTRIES = 200
"""So that a few hundred changes are enough for a snapshot."""
CHANGES = 300
START_S = 60.0
NEWCOMER = "kyoto"


class _Step(NamedTuple):
    workload: str
    taken_s: list[float]
    note: str = ""


def _stop(cluster: Cluster) -> None:
    for site in cluster.sites.values():
        site.stop_manager(signal.SIGTERM)


def _compact_soon(site: Site) -> None:
    text = site.config_path.read_text(encoding="utf-8")
    site.config_path.write_text(
        text.replace("[raft]\n", f"[raft]\ncompaction_entries = {COMPACTION_ENTRIES}\n"), encoding="utf-8"
    )


def _grown(cluster: Cluster, stage: Stage) -> float:
    """The running cluster restarted with big tables; how long it took until all managers had them."""
    stage.progress.say("making the tables")
    for site in cluster.sites.values():
        cluster.add_real(site.name, 1, VOLUME_CLASS, real_mib(SEGMENTS, len(cluster.sites)))
    wait_for(lambda: len(_saved_reals(cluster)) == len(cluster.sites), 20, "tables in the catalogue")
    _stop(cluster)
    state = scattered(last_tables(cluster[cluster.first]), SEGMENTS)
    plant(cluster, state)
    began = time.monotonic()
    for site in cluster.sites.values():
        _compact_soon(site)
        site.start()
    cluster.wait_healthy(tuple(cluster.sites), START_S)
    return time.monotonic() - began


def _saved_reals(cluster: Cluster) -> list[str]:
    return [str(real) for real in last_tables(cluster[cluster.first]).reals]


def _index(site: Site) -> int:
    return site.status().as_of.index


def _caught_up(site: Site, index: int) -> bool:
    """Healthy in its own eyes, data plane included, with at least these tables."""
    status = site.status()
    mine = next(one for one in status.sites if one.name == site.name)
    return mine.healthy and status.as_of.quorum and status.as_of.index >= index


def _snapshots(cluster: Cluster) -> dict[str, int]:
    """When each manager wrote its snapshot."""
    return {
        name: (site.data_dir / "raft" / "snapshot").stat().st_mtime_ns for name, site in cluster.sites.items()
    }


def _snapshot(cluster: Cluster) -> _Step:
    """Builds in a row until every manager has written a snapshot: the slowest one waited for it."""
    before = _snapshots(cluster)
    took_s = []

    def all_new() -> bool:
        now = _snapshots(cluster)
        return all(now[name] > before[name] for name in before)

    leader = cluster.leader()
    with leader.client() as client:
        for number in range(CHANGES):
            began = time.perf_counter()
            client.build_volume(
                BuildRequest(
                    name=f"small{number}", size_bytes=MIB, volume_class=VOLUME_CLASS, sites=(leader.name,)
                )
            )
            took_s.append(time.perf_counter() - began)
            if all_new():
                break
    wait_for(all_new, 30, "a snapshot of every manager")
    size = (leader.data_dir / "raft" / "snapshot").stat().st_size / 1e6
    usual_ms = sorted(took_s)[len(took_s) // 2] * 1e3
    return _Step(
        "snapshot: slowest of the builds beside it",
        [max(took_s)],
        f"{size:.1f} MB; median build {usual_ms:.0f} ms",
    )


def _restart(cluster: Cluster, victim: Site) -> float:
    """kill -9 of a manager until it is healthy with the tables that the others have by then."""
    others = [site for site in cluster.sites.values() if site is not victim]
    victim.stop_manager(signal.SIGKILL)
    index = _index(others[0])
    began = time.monotonic()
    victim.start()
    wait_for(lambda: _caught_up(victim, index), START_S, f"{victim.name} is back")
    return time.monotonic() - began


def _join(cluster: Cluster) -> float:
    """From `site join` until the fourth manager is healthy with the tables of the others."""
    site = Site(cluster, NEWCOMER, free_ports(4))
    site.configure([], [])
    first = cluster[cluster.first]
    began = time.monotonic()
    subprocess.run(
        [
            str(Path(sys.executable).with_name("vimraft")), "site", "join", "--config", str(site.config_path),
            "--via", first.url, "--token-file", str(cluster.token_path),
        ],
        check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    index = _index(first)
    site.start()
    cluster.sites[NEWCOMER] = site
    wait_for(lambda: _caught_up(site, index), START_S, "the fourth manager has the tables")
    return time.monotonic() - began


def _same_rows(cluster: Cluster) -> int:
    """Compares the sectors table of the newcomer with the first manager's, row by row; how many there are.
    A volume has one page of rows, so nothing changes between pages."""
    count = 0
    with cluster[cluster.first].client(60) as old, cluster[NEWCOMER].client(60) as new:
        for volume in old.status().volumes:
            pages = [client.table("virtual-sectors", name=volume.name).rows for client in (old, new)]
            if pages[0] != pages[1]:
                raise RuntimeError(
                    f"the manager that joined shows another map of {volume.name} than the first"
                )
            count += len(pages[0])
    return count


def _memory(cluster: Cluster) -> list[machine.Memory]:
    return [machine.memory(site.process.pid) for site in cluster.sites.values() if site.process is not None]


def tables(stage: Stage) -> Result:
    stage.release()
    note = stage.quiet()
    with running_cluster(stage.directory / "tables") as cluster:
        started_s = _grown(cluster, stage)
        stage.progress.say("snapshot")
        steps = [_snapshot(cluster)]
        stage.progress.say("restart")
        follower = next(site for site in cluster.sites.values() if site is not cluster.leader())
        steps.append(
            _Step(
                "restart of a manager after kill -9",
                [_restart(cluster, follower) for _ in range(stage.rounds)],
            )
        )
        stage.progress.say("join")
        joined_s = _join(cluster)
        rows_shown = _same_rows(cluster)
        steps.append(_Step("join of a fourth manager", [joined_s], f"{rows_shown:,} equal rows"))
        steps.append(_Step("start of three managers at once", [started_s]))
        memory = _memory(cluster)
        steps[-1] = steps[-1]._replace(note=_memory_note(memory))
    rows = tuple(
        Row(
            "tables-100k",
            step.workload,
            "vimraft",
            latencies(step.taken_s),
            "; ".join(filter(None, (step.note, note))),
        )
        for step in steps
    )
    limits = [
        judge_absolute("tables-100k", step.workload.partition(":")[0], max(step.taken_s), LIMIT_S, "s")
        for step in steps
    ]
    peak_mb = max(one.peak_mb for one in memory)
    limits.append(judge_absolute("tables-100k", "manager, highest memory", peak_mb, LIMIT_MB, "MB"))
    return Result(rows, tuple(limits))


def _memory_note(memory: list[machine.Memory]) -> str:
    rss = max(one.rss_mb for one in memory)
    peak = max(one.peak_mb for one in memory)
    return f"RSS of the largest manager {rss:.0f} MB, at its highest {peak:.0f} MB"


CELLS = (Cell("tables-100k", tables),)
