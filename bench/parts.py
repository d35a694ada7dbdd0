"""A benchmark that consists of named parts: runs them in order, shows and writes what they say.

May live here: what such commands share. A part that fails is reported, and the next one is measured all the
same. Exit codes: 0 measured; 1 a part could not be measured, or with --check a target was missed; 2 usage.
"""

import argparse
import contextlib
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console

from bench.progress import Progress, rows_table, verdicts_table
from bench.results import Result, Row, Verdict

WIDTH_WITHOUT_TERMINAL = 150
Say = Callable[[str], None]
Part = Callable[[Path, Say], Result]
"""Gets a directory for its files, and whom to tell what it is doing."""


def add_arguments(parser: argparse.ArgumentParser, names: list[str]) -> None:
    parser.epilog = "parts: " + " ".join(names)
    parser.add_argument("--only", metavar="PART,…", type=lambda text: text.split(","), default=names)
    parser.add_argument("--json", metavar="FILE", type=Path, help="where rows and verdicts are written")
    parser.add_argument("--directory", type=Path, help="for all files of all systems (a temporary one)")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")


def check_names(parser: argparse.ArgumentParser, options: argparse.Namespace, names: list[str]) -> None:
    unknown = sorted(set(options.only) - set(names))
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; there are: {' '.join(names)}")


def run(parts: Mapping[str, Part], options: argparse.Namespace) -> int:
    """The exit code."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH_WITHOUT_TERMINAL)
    rows: list[Row] = []
    verdicts: list[Verdict] = []
    failed = False
    progress = Progress(console, len(options.only))
    with contextlib.ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(
            prefix="vimraft-bench-", dir=options.directory, ignore_cleanup_errors=True
        )
        made = Path(stack.enter_context(temporary))
        stack.enter_context(progress)
        for name in options.only:
            progress.cell(name)
            try:
                result = parts[name](made, progress.say)
            except Exception as error:  # noqa: BLE001 - shown, counted, and it must not cost the other parts
                progress.failed(f"{type(error).__name__}: {error}")
                failed = True
                continue
            rows += result.rows
            verdicts += result.verdicts
            progress.done(result.verdicts)
    if options.json is not None:
        written = {
            "rows": [row.as_json() for row in rows],
            "verdicts": [verdict._asdict() for verdict in verdicts],
        }
        options.json.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    if rows:
        console.print(rows_table(rows))
    if verdicts:
        console.print(verdicts_table(verdicts))
    missed = any(verdict.met is False for verdict in verdicts)
    return 1 if failed or (options.check and missed) else 0
