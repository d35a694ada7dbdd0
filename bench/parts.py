"""A benchmark that consists of named parts: runs them in order, shows and writes what they say.

May live here: what such commands, and that of the cells (`bench/run`), share. A part that fails is reported,
and the next one is measured all the same. Exit codes: 0 measured; 1 a part could not be measured, or with
--check a target was missed; 2 usage.
"""

import argparse
import contextlib
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from rich.console import Console

from bench.progress import Progress, rows_table, verdicts_table
from bench.results import Result, Row, Verdict

DEFAULT_SECONDS = 4.0
DEFAULT_ROUNDS = 3
WIDTH_WITHOUT_TERMINAL = 150
Say = Callable[[str], None]
Ground = TypeVar("Ground")
"""What all parts of a command get: options, a directory for files, whom to tell what they are doing."""


class Measured(NamedTuple):
    rows: list[Row]
    verdicts: list[Verdict]
    failed: bool


def console() -> Console:
    found = Console()
    return found if found.is_terminal else Console(width=WIDTH_WITHOUT_TERMINAL)


def measure_each(progress: Progress, chosen: Iterable[tuple[str, Callable[[], Result]]]) -> Measured:
    rows: list[Row] = []
    verdicts: list[Verdict] = []
    failed = False
    for name, measure in chosen:
        progress.cell(name)
        try:
            result = measure()
        except Exception as error:  # noqa: BLE001 - shown, counted, and it must not cost the other parts
            progress.failed(f"{type(error).__name__}: {error}")
            failed = True
            continue
        rows += result.rows
        verdicts += result.verdicts
        progress.done(result.verdicts)
    return Measured(rows, verdicts, failed)


def conclude(shown_on: Console, measured: Measured, *, check: bool) -> int:
    """Shows the tables. The exit code."""
    if measured.rows:
        shown_on.print(rows_table(measured.rows))
    if measured.verdicts:
        shown_on.print(verdicts_table(measured.verdicts))
    missed = any(verdict.met is False for verdict in measured.verdicts)
    return 1 if measured.failed or (check and missed) else 0


def add_arguments(parser: argparse.ArgumentParser, names: Sequence[str], *, rounds: int) -> None:
    parser.epilog = "parts: " + " ".join(names)
    parser.add_argument("--only", metavar="PART,…", type=lambda text: text.split(","), default=list(names))
    parser.add_argument("--json", metavar="FILE", type=Path, help="where rows and verdicts are written")
    parser.add_argument("--directory", type=Path, help="for all files of all systems (a temporary one)")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    parser.add_argument(
        "--seconds", type=float, default=DEFAULT_SECONDS, help="of each system in a round (%(default)s)"
    )
    parser.add_argument("--repeat", type=int, default=rounds, help="rounds (%(default)s); medians are shown")


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, names: Sequence[str]
) -> argparse.Namespace:
    options = parser.parse_args(argv)
    unknown = sorted(set(options.only) - set(names))
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; there are: {' '.join(names)}")
    if any(type(value) in (int, float) and value <= 0 for value in vars(options).values()):
        parser.error("numbers must be above 0")
    return options


def run(
    parts: Mapping[str, Callable[[Ground], Result]],
    ground: Callable[[argparse.Namespace, Path, Say], Ground],
    options: argparse.Namespace,
) -> int:
    """The exit code."""
    shown_on = console()
    progress = Progress(shown_on, len(options.only))
    with contextlib.ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(
            prefix="vimraft-bench-", dir=options.directory, ignore_cleanup_errors=True
        )
        made = Path(stack.enter_context(temporary))
        stack.enter_context(progress)
        where = ground(options, made, progress.say)
        measured = measure_each(progress, [(name, partial(parts[name], where)) for name in options.only])
    if options.json is not None:
        written = {
            "rows": [row.as_json() for row in measured.rows],
            "verdicts": [verdict._asdict() for verdict in measured.verdicts],
        }
        options.json.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    return conclude(shown_on, measured, check=options.check)
