"""The simulation's command line; see the package.

The last line is "N seeds, V violations"; a seed with violations counts once for each kind. Exit status 1 when
there is any; the failing seeds are named before it.
"""

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial

from tests.simulation.cluster.mutations import MUTATIONS
from tests.simulation.cluster.settings import FAULTS
from tests.simulation.cluster.simulation import Report, report_of, run_seed
from tests.simulation.raft import seed_range

PROGRESS_S = 5.0
CHUNK = 8


def reports(seeds: Iterable[int], jobs: int, mutation: str | None, only: tuple[str, ...]) -> Iterator[Report]:
    task = partial(report_of, mutation=mutation, only=only)
    if jobs == 1:
        yield from map(task, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(task, seeds, chunksize=CHUNK)


def fault_names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = set(names) - set(FAULTS)
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not among {', '.join(FAULTS)}")
    return names


def run_all(options: argparse.Namespace) -> int:
    started = time.monotonic()
    done: list[Report] = []
    failing: list[Report] = []
    next_line = started + PROGRESS_S
    for report in reports(options.seeds, options.jobs, options.mutation, options.faults):
        done.append(report)
        if report.violations:
            failing.append(report)
            if len(failing) <= options.show:
                first = report.violations[0]
                print(f"seed {report.seed}: {first.kind}: {first.text}", flush=True)
            if options.first:
                break
        if time.monotonic() > next_line:
            next_line = time.monotonic() + PROGRESS_S
            left = len(options.seeds) - len(done)
            print(f"… {len(done)} seeds, {len(failing)} failing, {left} to go", file=sys.stderr, flush=True)
    kinds = Counter(kind for report in failing for kind in {found.kind for found in report.violations})
    if failing:
        print("by kind: " + ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())))
        print("failing seeds: " + " ".join(str(report.seed) for report in failing))
    operations = sum(report.operations for report in done)
    acknowledged = sum(report.acknowledged for report in done)
    print(
        f"{operations} operations, {acknowledged} acknowledged; {sum(r.faults for r in done)} faults, "
        f"{sum(r.epochs for r in done)} epochs; {time.monotonic() - started:.0f} s, "
        f"{sum(r.cpu_ms for r in done) / max(1, len(done)):.0f} ms of processor time a seed"
    )
    print(f"{len(done)} seeds, {sum(kinds.values())} violations")
    return 1 if failing else 0


def replay(options: argparse.Namespace) -> int:
    report, simulation = run_seed(options.replay, options.mutation, options.faults)
    print(simulation.settings)
    print("\n".join(simulation.world.lines()))
    for found in report.violations:
        print(f"{found.kind}: {found.text}")
    print(f"1 seeds, {len({found.kind for found in report.violations})} violations")
    return 1 if report.violations else 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation.cluster",
        description="Copies kept in step, on simulated time, network, disks and clocks, from seeds.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seeds", type=seed_range, metavar="FIRST:LAST", help="both included")
    what.add_argument("--replay", type=int, metavar="SEED", help="print the history of one seed")
    what.add_argument("--mutations", action="store_true", help="list the rules that can be taken away")
    parser.add_argument("--mutation", choices=MUTATIONS, metavar="NAME", help="take one rule away")
    parser.add_argument("--faults", type=fault_names, default=(), metavar="NAME,…", help="only these faults")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--show", type=int, default=10, help="failing seeds shown with their first violation")
    parser.add_argument("--first", action="store_true", help="stop at the first failing seed")
    options = parser.parse_args(arguments)
    if options.mutations:
        print("\n".join(MUTATIONS))
        return 0
    if options.mutation and not options.faults:
        options.faults = MUTATIONS[options.mutation]
    return replay(options) if options.replay is not None else run_all(options)


if __name__ == "__main__":
    sys.exit(main())
