"""Faults in numbers: `python -m tests.fault.trials NAME --trials N`; see docs/testing.md.

May live here: arguments, running trials side by side, progress and the verdict. Each trial has a cluster
of its own. Exit codes: 0 nothing found; 1 something lost, diverged or not judged; 2 usage.
"""

import argparse
import asyncio
import multiprocessing
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from bench.results import percentile
from tests.fault import copies_report, kills
from tests.fault.load import Finding

TRIAL_LIMIT_S = 180.0
"""A trial that takes longer hangs, which is a finding too."""
SAFETY: dict[str, Callable[[Path, random.Random], Coroutine[Any, Any, Finding]]] = {
    "kill-all-during-compaction": kills.kill_all_during_compaction,
    "lagging-follower": kills.lagging_follower,
}
SHOW_EVERY_S = 10.0


def _rng(seed: int, number: int) -> random.Random:
    return random.Random(f"{seed}:{number}")


def _one(name: str, seed: int, number: int) -> Finding | str:
    """In a process of its own. A trial that could not be judged gives its traceback."""

    async def limited(path: Path) -> Finding:
        async with asyncio.timeout(TRIAL_LIMIT_S):
            return await SAFETY[name](path, _rng(seed, number))

    with tempfile.TemporaryDirectory(prefix="vimraft-trial-", ignore_cleanup_errors=True) as directory:
        try:
            return asyncio.run(limited(Path(directory)))
        except Exception:  # noqa: BLE001 - shown and counted; the other trials go on
            logs = [path.read_text()[-1500:] for path in sorted(Path(directory).glob("*/stderr"))]
            return "\n".join([traceback.format_exc(), *logs])


class _Progress:
    """On a terminal one line is rewritten; otherwise a line now and then."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._begun = time.monotonic()
        self._shown = self._begun

    def show(self, done: int, writes: int, bad: int) -> None:
        now = time.monotonic()
        left_s = (now - self._begun) / done * (self._total - done)
        text = f"{done}/{self._total} trials, {writes} writes, {bad} bad, {left_s:.0f} s left"
        if sys.stdout.isatty():
            print(f"\r{text} ", end="\n" if done == self._total else "", flush=True)
        elif now - self._shown >= SHOW_EVERY_S or done == self._total:
            self._shown = now
            print(text, flush=True)


def _safety(options: argparse.Namespace) -> int:
    numbers = range(options.trials) if options.only is None else [options.only]
    progress = _Progress(len(numbers))
    lost = diverged = unjudged = untouched = writes = 0
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(_one, options.name, options.seed, number): number for number in numbers}
        for done, future in enumerate(as_completed(running), start=1):
            found = future.result()
            if isinstance(found, str):
                unjudged += 1
                print(f"\ntrial {running[future]}: not judged:\n{found}", flush=True)
            else:
                writes += found.acknowledged
                untouched += found.note.startswith("nobody")
                lost += found.lost
                diverged += found.diverged or bool(found.repeated)
                if not found.good:
                    print(f"\ntrial {running[future]}: {found}", flush=True)
            progress.show(done, writes, lost + diverged + unjudged)
    if untouched:
        print(f"{untouched} trials in which all were killed from outside, at any time")
    print(f"{writes} acknowledged writes checked; {unjudged} trials not judged; seed {options.seed}")
    print(f"{len(numbers)} trials, lost {lost}, diverged {diverged}")
    return 1 if lost or diverged or unjudged else 0


def _leader_kill(options: argparse.Namespace) -> int:
    took_s = []
    for number in range(options.trials):
        with tempfile.TemporaryDirectory(prefix="vimraft-trial-", ignore_cleanup_errors=True) as directory:
            took_s.append(asyncio.run(kills.leader_kill_s(Path(directory), _rng(options.seed, number))))
        print(f"trial {number + 1}/{options.trials}: {took_s[-1]:.3f} s", flush=True)
    print(
        f"{options.trials} trials, first new commit after p50 {percentile(took_s, 50):.3f} s, "
        f"p95 {percentile(took_s, 95):.3f} s, max {max(took_s):.3f} s"
    )
    return 0


def _restart(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="vimraft-trial-", ignore_cleanup_errors=True) as directory:
        took_s, entries = asyncio.run(kills.restart_s(Path(directory), options.entries))
    print(f"{entries} log entries, first commit {took_s:.2f} s after the restart of all three")
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fault.trials", description=__doc__)
    names = parser.add_subparsers(dest="name", required=True)
    for name in (*SAFETY, "leader-kill", "restart"):
        one = names.add_parser(name)
        one.add_argument("--seed", type=int, default=random.randrange(1 << 32))
        if name == "restart":
            one.add_argument("--entries", type=_positive, default=100_000)
        else:
            one.add_argument("--trials", type=_positive, default=20)
        if name in SAFETY:
            one.add_argument("--jobs", type=_positive, default=2, help="trials side by side (%(default)s)")
            one.add_argument("--only", type=int, metavar="NUMBER", help="this trial of the seed alone")
    copies_report.add_parsers(names, _positive)
    options = parser.parse_args(argv)
    print(f"seed {options.seed}", flush=True)
    if "run" in options:
        return int(options.run(options))
    if options.name == "leader-kill":
        return _leader_kill(options)
    return _restart(options) if options.name == "restart" else _safety(options)


if __name__ == "__main__":
    sys.exit(main())
