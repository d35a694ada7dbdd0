"""Many seeds of a simulation in one command: what the command lines of the simulations share.

May live here: arguments, processes, progress, the last lines. A seed with violations counts once for each
kind; the failing seeds are named before the last line, which is "N seeds, V violations"; the exit status is 1
when there is any.
"""

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

PROGRESS_S = 5.0
CHUNK = 8


class Violation(Protocol):
    @property
    def kind(self) -> str: ...
    def __str__(self) -> str: ...


class Report(Protocol):
    @property
    def seed(self) -> int: ...
    @property
    def violations(self) -> Sequence[Violation]: ...
    @property
    def cpu_ms(self) -> float: ...


R = TypeVar("R", bound=Report)


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


def _names_among(known: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    def names(text: str) -> tuple[str, ...]:
        found = tuple(text.split(","))
        unknown = set(found) - set(known)
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not among {', '.join(known)}")
        return found

    return names


def add_arguments(parser: argparse.ArgumentParser, faults: Iterable[str]) -> argparse._MutuallyExclusiveGroup:
    """The group says what is done; one of it is required."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seeds", type=seed_range, metavar="FIRST:LAST", help="both included")
    what.add_argument("--replay", type=int, metavar="SEED", help="print the history of one seed")
    parser.add_argument(
        "--faults", type=_names_among(faults), default=(), metavar="NAME,…", help="only these faults"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--show", type=int, default=10, help="failing seeds shown with their first violation")
    return what


def _reports(run: Callable[[int], R], seeds: Iterable[int], jobs: int) -> Iterator[R]:
    if jobs == 1:
        yield from map(run, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(run, seeds, chunksize=CHUNK)


def run_seeds(
    run: Callable[[int], R], options: argparse.Namespace, *, stop_at_first: bool = False
) -> list[R]:
    """In the order of the seeds. `run` goes to other processes."""
    done: list[R] = []
    failing = 0
    next_line = time.monotonic() + PROGRESS_S
    for report in _reports(run, options.seeds, options.jobs):
        done.append(report)
        if report.violations:
            failing += 1
            if failing <= options.show:
                print(f"seed {report.seed}: {report.violations[0]}", flush=True)
            if stop_at_first:
                break
        if time.monotonic() > next_line:
            next_line = time.monotonic() + PROGRESS_S
            left = len(options.seeds) - len(done)
            print(f"… {len(done)} seeds, {failing} failing, {left} to go", file=sys.stderr, flush=True)
    return done


def kinds_of(done: Sequence[Report]) -> dict[str, int]:
    found = Counter(kind for report in done for kind in {one.kind for one in report.violations})
    return dict(sorted(found.items()))


def cpu_ms_per_seed(done: Sequence[Report]) -> float:
    return sum(report.cpu_ms for report in done) / max(1, len(done))


def conclude(done: Sequence[Report], figures: str) -> int:
    """The last lines. The exit status."""
    kinds = kinds_of(done)
    failing = [str(report.seed) for report in done if report.violations]
    if failing:
        print("by kind: " + ", ".join(f"{kind} {count}" for kind, count in kinds.items()))
        print("failing seeds: " + " ".join(failing))
    print(f"{figures}, {cpu_ms_per_seed(done):.0f} ms of processor time a seed")
    print(f"{len(done)} seeds, {sum(kinds.values())} violations")
    return 1 if failing else 0


def conclude_replay(report: Report, *figures: str) -> int:
    """The exit status."""
    for found in report.violations:
        print(found)
    for figure in figures:
        print(figure)
    print(f"1 seeds, {len(kinds_of([report]))} violations")
    return 1 if report.violations else 0
