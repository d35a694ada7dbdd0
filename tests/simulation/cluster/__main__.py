"""The simulation's command line; see the package, and `tests.simulation.runs`."""

import argparse
import sys
import time
from functools import partial

import msgspec

from tests.simulation import runs
from tests.simulation.cluster.mutations import MUTATIONS
from tests.simulation.cluster.settings import FAULTS, NO_STAGE, Stage
from tests.simulation.cluster.simulation import report_of, run_seed


def stage_of(options: argparse.Namespace) -> Stage:
    stage = MUTATIONS[options.mutation] if options.mutation else NO_STAGE
    return msgspec.structs.replace(stage, faults=options.faults) if options.faults else stage


def run_all(options: argparse.Namespace) -> int:
    started = time.monotonic()
    run = partial(report_of, mutation=options.mutation, stage=stage_of(options))
    done = runs.run_seeds(run, options, stop_at_first=options.first)
    operations = sum(report.operations for report in done)
    acknowledged = sum(report.acknowledged for report in done)
    return runs.conclude(
        done,
        f"{operations} operations, {acknowledged} acknowledged; {sum(r.faults for r in done)} faults, "
        f"{sum(r.epochs for r in done)} epochs; {time.monotonic() - started:.0f} s",
    )


def replay(options: argparse.Namespace) -> int:
    report, simulation = run_seed(options.replay, options.mutation, stage_of(options))
    print(simulation.settings)
    print("\n".join(simulation.world.lines()))
    return runs.conclude_replay(report)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation.cluster",
        description="Copies kept in step, on simulated time, network, disks and clocks, from seeds.",
    )
    what = runs.add_arguments(parser, FAULTS)
    what.add_argument("--mutations", action="store_true", help="list the rules that can be taken away")
    parser.add_argument("--mutation", choices=MUTATIONS, metavar="NAME", help="take one rule away")
    parser.add_argument("--first", action="store_true", help="stop at the first failing seed")
    options = parser.parse_args(arguments)
    if options.mutations:
        print("\n".join(MUTATIONS))
        return 0
    return replay(options) if options.replay is not None else run_all(options)


if __name__ == "__main__":
    sys.exit(main())
