"""What a request to a volume with two copies costs in processor time, role by role; see docs/benchmarks.md.

    python -m bench.copies_cost                 # from the virtual environment

May live here: a fixed number of requests, and the processor time (user and system) that the owner's export
and the other copy's store took for them, read from /proc. It says more than requests per second do on a
machine that has other work: what others take is not counted.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from bench import fio
from bench.copies_cells import KIB, two_copies
from bench.fio import Area, Workload
from tests.cluster_fixture import Cluster, running_cluster

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
RUN_LIMIT_S = 120.0
WORKLOADS = (
    Workload("randwrite", 4 * KIB, 4, 8),
    Workload("randread", 4 * KIB, 4, 8),
    Workload("randwrite", 4 * KIB, 1),
    Workload("randread", 4 * KIB, 1),
)
ROLES = (("owner's export", "tokyo", "export"), ("other store", "osaka", "store"))


class Cost(NamedTuple):
    """Processor time of one request at each role, in µs; and how many were done a second meanwhile."""

    roles: tuple[float, ...]
    per_s: float


def processor_s(pid: int) -> float:
    """User and system time of all threads of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def measure(workload: Workload, area: Area, pids: Sequence[int], requests: int, scratch: Path) -> Cost:
    """Raises FioError."""
    output = scratch / "fio.json"
    argv = [
        word
        for word in fio.arguments(workload, area, 0, output)
        if not word.startswith(("--time_based", "--runtime"))
    ]
    each = max(1, requests // workload.connections)
    before = [processor_s(pid) for pid in pids]
    sample = fio.parse(fio.call([*argv, f"--number_ios={each}"], output, RUN_LIMIT_S))
    after = [processor_s(pid) for pid in pids]
    done = each * workload.connections
    return Cost(tuple((b - a) * 1e6 / done for a, b in zip(before, after, strict=True)), sample.iops)


def _pids(cluster: Cluster) -> list[int]:
    pids = [cluster[site].plane_pid(role) for _, site, role in ROLES]
    assert None not in pids, "a process of the data plane is not there"
    return [pid for pid in pids if pid is not None]


def _table(costs: Sequence[tuple[Workload, Sequence[Cost]]]) -> Table:
    table = Table("request", *(f"{role}, µs" for role, _, _ in ROLES), "together, µs", "requests/s")
    for workload, rounds in costs:
        roles = [statistics.median(cost.roles[at] for cost in rounds) for at in range(len(ROLES))]
        per_s = statistics.median(cost.per_s for cost in rounds)
        figures = [*roles, sum(roles)]
        table.add_row(str(workload), *(f"{figure:,.0f}" for figure in figures), f"{per_s:,.0f}")
    return table


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.copies_cost", description=__doc__)
    parser.add_argument("--requests", type=int, default=8_000, help="of each workload (%(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="rounds (%(default)s); medians are shown")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="vimraft-bench-") as made, running_cluster(Path(made)) as cluster:
        area = two_copies(cluster)
        pids = _pids(cluster)
        costs = [
            (
                workload,
                [measure(workload, area, pids, options.requests, Path(made)) for _ in range(options.repeat)],
            )
            for workload in WORKLOADS
        ]
    Console(width=150).print(_table(costs), f"load average {os.getloadavg()[0]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
