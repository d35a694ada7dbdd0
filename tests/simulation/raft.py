"""The simulation's command line.

    python -m tests.simulation.raft --seeds 1:200              the hardened node; both ends included
    python -m tests.simulation.raft --seeds 1:200 --stock      PySyncObj as it is
    python -m tests.simulation.raft --replay 17 [--stock]      the history of one seed
    python -m tests.simulation.raft --seeds 1:50 --mutate NAME the hardened node with one rule taken away
    python -m tests.simulation.raft --seeds 1:50 --faults compaction-kill     only this fault, again and again

The last line is "N seeds, V violations"; a seed with violations counts once for each kind. Exit status 1 when
there is any; the failing seeds are named before it.
"""

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from tests.simulation import runs
from tests.simulation.hardened import Hardened
from tests.simulation.mutations import MUTATIONS
from tests.simulation.settings import HARDENED_FAULTS
from tests.simulation.simulation import Cluster, Report, run_seed
from tests.simulation.stock import Stock


class Choice(Struct, frozen=True):
    """What runs, and under which faults."""

    stock: bool
    mutation: str | None
    only: tuple[str, ...]

    def cluster(self) -> Cluster:
        return Stock(self.only) if self.stock else Hardened(self.mutation, self.only)


def report_of(seed: int, choice: Choice) -> Report:
    return run_seed(seed, choice.cluster())[0]


def choice_of(options: argparse.Namespace) -> Choice:
    return Choice(options.stock, options.mutate, options.faults)


def run_all(options: argparse.Namespace) -> int:
    started = time.monotonic()
    done = runs.run_seeds(partial(report_of, choice=choice_of(options)), options)
    summary = summarise(options, done, time.monotonic() - started)
    if options.json:
        options.json.write_text(json.dumps(summary, indent=2) + "\n")
    return runs.conclude(
        done,
        f"{summary['acknowledged']} writes acknowledged, {summary['elections']} elections, "
        f"{summary['seconds']:.0f} s",
    )


def summarise(options: argparse.Namespace, done: list[Report], seconds: float) -> dict[str, Any]:
    kinds = runs.kinds_of(done)
    return {
        "seeds": [options.seeds[0], options.seeds[-1]],
        "node": "stock" if options.stock else "hardened",
        "mutation": options.mutate,
        "only": options.faults,
        "violations": sum(kinds.values()),
        "kinds": kinds,
        "failing": [msgspec.to_builtins(report) for report in done if report.violations],
        "acknowledged": sum(report.acknowledged for report in done),
        "elections": sum(report.elections for report in done),
        "seconds": seconds,
        "cpu_ms_per_seed": runs.cpu_ms_per_seed(done),
    }


def replay(options: argparse.Namespace) -> int:
    report, world = run_seed(options.replay, choice_of(options).cluster())
    print("\n".join(world.lines()))
    return runs.conclude_replay(report, f"digest {report.digest}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation.raft",
        description="The Raft layer on simulated time, network and disks, from seeds.",
    )
    runs.add_arguments(parser, HARDENED_FAULTS)
    parser.add_argument("--stock", action="store_true", help="PySyncObj as it is")
    parser.add_argument(
        "--mutate", choices=MUTATIONS, metavar="NAME", help="take one rule away (see mutations.py)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    return replay(options) if options.replay is not None else run_all(options)


if __name__ == "__main__":
    sys.exit(main())
