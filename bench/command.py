"""`bench/run`: chooses cells, runs them in order, shows and writes what they say.

May live here: arguments, the order of cells, exit codes (0: measured; 1: a cell could not be measured, or
with --check a target was missed; 2: usage).
"""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench import cells_changes, cells_local, cells_remote, cells_resolve, cells_tables, parts
from bench.cell import Cell
from bench.progress import Progress
from bench.stage import Stage

MAX_ROUNDS = 100

CELLS: tuple[Cell, ...] = (
    *cells_local.CELLS,
    *cells_remote.CELLS,
    *cells_resolve.CELLS,
    *cells_changes.CELLS,
    *cells_tables.CELLS,
)
"""Those that bring a cluster of their own come last."""


def main(argv: Sequence[str] | None = None) -> int:
    options = _parse(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    chosen = [cell for cell in CELLS if not options.only or cell.name in options.only]
    console = parts.console()
    progress = Progress(console, len(chosen))
    with progress, Stage(progress, seconds=options.seconds, rounds=options.repeat) as stage:
        measured = parts.measure_each(
            progress, [(cell.name, partial(cell.measure, stage)) for cell in chosen]
        )
    rows = [row.as_json() for row in measured.rows]
    options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return parts.conclude(console, measured, check=options.check)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    names = [cell.name for cell in CELLS]
    parser = argparse.ArgumentParser(
        prog="bench/run",
        description="Measures vimraft against named peers in the same run. See docs/benchmarks.md.",
        epilog="cells: " + " ".join(names),
    )
    parser.add_argument(
        "--only", metavar="CELL,…", type=lambda text: text.split(","), help="these cells only"
    )
    parser.add_argument(
        "--seconds",
        metavar="N",
        type=_seconds,
        default=parts.DEFAULT_SECONDS,
        help="of each system in each round (%(default)s)",
    )
    parser.add_argument(
        "--repeat",
        metavar="R",
        type=_rounds,
        default=parts.DEFAULT_ROUNDS,
        help="rounds (%(default)s); medians are shown",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, required=True, help="where the rows are written")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    options = parser.parse_args(argv)
    unknown = sorted(set(options.only or ()) - set(names))
    if unknown:
        parser.error(f"no cell {', '.join(unknown)}; there are: {' '.join(names)}")
    if not options.json.parent.is_dir():
        parser.error(f"--json {options.json}: {options.json.parent} is no directory")
    return options


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.2 <= value <= 3600:
        raise argparse.ArgumentTypeError("from 0.2 to 3600")
    return value


def _rounds(text: str) -> int:
    value = int(text)
    if not 1 <= value <= MAX_ROUNDS:
        raise argparse.ArgumentTypeError(f"from 1 to {MAX_ROUNDS}")
    return value
