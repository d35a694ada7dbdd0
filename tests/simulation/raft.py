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
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from tests.simulation.hardened import Hardened
from tests.simulation.mutations import MUTATIONS
from tests.simulation.settings import HARDENED_FAULTS
from tests.simulation.simulation import Cluster, Report, run_seed
from tests.simulation.stock import Stock

PROGRESS_S = 5.0
CHUNK = 8


class Choice(Struct, frozen=True):
    """What runs, and under which faults."""

    stock: bool
    mutation: str | None
    only: tuple[str, ...]

    def cluster(self) -> Cluster:
        return Stock(self.only) if self.stock else Hardened(self.mutation, self.only)


def one(task: tuple[int, Choice]) -> Report:
    seed, choice = task
    return run_seed(seed, choice.cluster())[0]


def reports(seeds: Iterable[int], jobs: int, choice: Choice) -> Iterator[Report]:
    tasks = [(seed, choice) for seed in seeds]
    if jobs == 1:
        yield from map(one, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(one, tasks, chunksize=CHUNK)


def seed_range(text: str) -> range:
    """FIRST:LAST, both included; or one seed."""
    first, _, last = text.partition(":")
    try:
        found = range(int(first), int(last or first) + 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not FIRST:LAST") from None
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} holds no seed")
    return found


def fault_names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = set(names) - set(HARDENED_FAULTS)
    if unknown:
        raise argparse.ArgumentTypeError(
            f"{', '.join(sorted(unknown))}: not among {', '.join(HARDENED_FAULTS)}"
        )
    return names


def choice_of(options: argparse.Namespace) -> Choice:
    return Choice(options.stock, options.mutate, options.faults)


def run_all(options: argparse.Namespace) -> int:
    started = time.monotonic()
    done: list[Report] = []
    failing: list[Report] = []
    next_line = started + PROGRESS_S
    for report in reports(options.seeds, options.jobs, choice_of(options)):
        done.append(report)
        if report.violations:
            failing.append(report)
            if len(failing) <= options.show:
                first = report.violations[0]
                print(f"seed {report.seed}: {first.kind}: {first.text} (at {first.at_s} s)")
        if time.monotonic() > next_line:
            next_line = time.monotonic() + PROGRESS_S
            left = len(options.seeds) - len(done)
            print(f"… {len(done)} seeds, {len(failing)} failing, {left} to go", file=sys.stderr, flush=True)
    summary = summarise(options, done, time.monotonic() - started)
    if options.json:
        options.json.write_text(json.dumps(summary, indent=2) + "\n")
    if failing:
        print("by kind: " + ", ".join(f"{kind} {count}" for kind, count in summary["kinds"].items()))
        print("failing seeds: " + " ".join(str(report.seed) for report in failing))
    print(
        f"{summary['acknowledged']} writes acknowledged, {summary['elections']} elections, "
        f"{summary['seconds']:.0f} s, {summary['cpu_ms_per_seed']:.0f} ms of processor time a seed"
    )
    print(f"{len(done)} seeds, {summary['violations']} violations")
    return 1 if failing else 0


def summarise(options: argparse.Namespace, done: list[Report], seconds: float) -> dict[str, Any]:
    kinds = Counter(kind for report in done for kind in {found.kind for found in report.violations})
    return {
        "seeds": [options.seeds[0], options.seeds[-1]],
        "node": "stock" if options.stock else "hardened",
        "mutation": options.mutate,
        "only": options.faults,
        "violations": sum(kinds.values()),
        "kinds": dict(sorted(kinds.items())),
        "failing": [msgspec.to_builtins(report) for report in done if report.violations],
        "acknowledged": sum(report.acknowledged for report in done),
        "elections": sum(report.elections for report in done),
        "seconds": seconds,
        "cpu_ms_per_seed": sum(report.cpu_ms for report in done) / max(1, len(done)),
    }


def replay(options: argparse.Namespace) -> int:
    report, world = run_seed(options.replay, choice_of(options).cluster())
    print("\n".join(world.lines()))
    for found in report.violations:
        print(f"{found.kind}: {found.text} (at {found.at_s} s)")
    print(f"digest {report.digest}")
    print(f"1 seeds, {len({found.kind for found in report.violations})} violations")
    return 1 if report.violations else 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation.raft",
        description="The Raft layer on simulated time, network and disks, from seeds.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seeds", type=seed_range, metavar="FIRST:LAST", help="both included")
    what.add_argument("--replay", type=int, metavar="SEED", help="print the history of one seed")
    parser.add_argument("--stock", action="store_true", help="PySyncObj as it is")
    parser.add_argument(
        "--mutate", choices=MUTATIONS, metavar="NAME", help="take one rule away (see mutations.py)"
    )
    parser.add_argument("--faults", type=fault_names, default=(), metavar="NAME,…", help="only these faults")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--show", type=int, default=10, help="failing seeds shown with their first violation")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    return replay(options) if options.replay is not None else run_all(options)


if __name__ == "__main__":
    sys.exit(main())
