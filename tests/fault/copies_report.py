"""Trials of volumes with two copies in numbers: run one after the other, what was promised, and the verdict.

May live here: arguments, progress, the sums, JSON. `trials.py` has the command line that leads here.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import msgspec

from bench.results import percentile
from tests.fault import copies_trials, replica_away
from tests.fault.copies_trials import Stage, Trial, stage

MAX_SHOWN = 5
"""Errors of a trial."""


class Kind(NamedTuple):
    run: Callable[[Stage, random.Random], Trial]
    promised_ms: float


KINDS = {
    "owner-kill": Kind(copies_trials.owner_kill, 6_000.0),
    "move-owner": Kind(copies_trials.move_owner, 200.0),
}


def _show(number: int, total: int, trial: Trial, promised_ms: float) -> None:
    parts = ", ".join(f"{name} {took_ms:.0f}" for name, took_ms in trial.parts_ms.items())
    late = " LATE" if trial.pause_ms > promised_ms else ""
    note = f"; {trial.note}" if trial.note else ""
    print(
        f"{number}/{total}: {trial.pause_ms:.0f} ms{late} ({parts}{note}; load {trial.loads[0]:.1f})",
        flush=True,
    )
    for what, texts in (("failed", trial.failed), ("wrong", trial.wrong)):
        for text in texts[:MAX_SHOWN]:
            print(f"  {what}: {text}", flush=True)


def run(options: argparse.Namespace) -> int:
    """One cluster for all trials; a new one after a trial that could not be judged."""
    kind = KINDS[options.name]
    found: list[Trial] = []
    unjudged: list[str] = []
    while len(found) + len(unjudged) < options.trials:
        with tempfile.TemporaryDirectory(prefix="vimraft-trial-", ignore_cleanup_errors=True) as directory:
            try:
                with stage(Path(directory), f"{options.seed}:{len(unjudged)}") as on:
                    while len(found) + len(unjudged) < options.trials:
                        number = len(found) + len(unjudged) + 1
                        found.append(kind.run(on, random.Random(f"{options.seed}:{number}")))
                        _show(number, options.trials, found[-1], kind.promised_ms)
            except Exception:  # noqa: BLE001 - shown and counted; the other trials go on
                unjudged.append(traceback.format_exc())
                print(f"not judged:\n{unjudged[-1]}", flush=True)
    return _verdict(options, kind, found, unjudged)


def _verdict(options: argparse.Namespace, kind: Kind, found: Sequence[Trial], unjudged: list[str]) -> int:
    pauses_ms = [trial.pause_ms for trial in found] or [0.0]
    late = sum(pause_ms > kind.promised_ms for pause_ms in pauses_ms)
    failed = sum(len(trial.failed) for trial in found)
    wrong = sum(len(trial.wrong) for trial in found)
    summary: dict[str, Any] = {
        "name": options.name,
        "seed": options.seed,
        "trials": len(found),
        "not_judged": len(unjudged),
        "pause_ms": {
            "p50": percentile(pauses_ms, 50),
            "p95": percentile(pauses_ms, 95),
            "max": max(pauses_ms),
        },
        "promised_ms": kind.promised_ms,
        "late": late,
        "failed_requests": failed,
        "lost_or_wrong_blocks": wrong,
        "writes": found[-1].writes if found else 0,
        "load": median(trial.loads[0] for trial in found) if found else 0.0,
    }
    names = dict.fromkeys(name for trial in found for name in trial.parts_ms)
    for name in names:
        took_ms = [trial.parts_ms[name] for trial in found if name in trial.parts_ms]
        print(f"{name}: p50 {percentile(took_ms, 50):.0f} ms, max {max(took_ms):.0f} ms")
    print(f"{summary['writes']} writes; load average {summary['load']:.1f} on {os.cpu_count()} processors")
    print(
        f"{len(found)} trials, pause p50 {summary['pause_ms']['p50']:.0f} ms, "
        f"p95 {summary['pause_ms']['p95']:.0f} ms, max {summary['pause_ms']['max']:.0f} ms; "
        f"over {kind.promised_ms:.0f} ms: {late}; failed requests {failed}; lost or wrong blocks {wrong}; "
        f"not judged {len(unjudged)}"
    )
    _keep(options, summary | {"each": msgspec.to_builtins(found)})
    return 1 if late or failed or wrong or unjudged else 0


def _keep(options: argparse.Namespace, report: dict[str, Any]) -> None:
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def run_away(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="vimraft-trial-", ignore_cleanup_errors=True) as directory:
        try:
            found = replica_away.trial(
                Path(directory), options.seed, away_s=options.seconds, size_gib=options.gib, say=_say
            )
        except Exception:  # noqa: BLE001 - shown; not judged is not kept
            print(f"not judged:\n{traceback.format_exc()}", file=sys.stderr)
            return 1
    for line in found.lines():
        print(line)
    _keep(options, {"name": options.name, "seed": options.seed} | found.as_json())
    return 0 if found.kept else 1


def _say(text: str) -> None:
    print(text, flush=True)


def add_parsers(names: Any, positive: Callable[[str], int]) -> None:
    """To the command line of `trials.py`."""
    for name in (*KINDS, "replica-away"):
        one = names.add_parser(name)
        one.add_argument("--seed", type=int, default=random.randrange(1 << 32))
        one.add_argument("--json", metavar="FILE", default="", help="what was found, for programs")
        if name == "replica-away":
            one.add_argument("--seconds", type=positive, default=60, help="how long it is away (%(default)s)")
            one.add_argument("--gib", type=positive, default=10, help="size of the volume (%(default)s)")
            one.set_defaults(run=run_away)
        else:
            one.add_argument("--trials", type=positive, default=20)
            one.set_defaults(run=run)
