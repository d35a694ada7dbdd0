"""`bench/metadata`: vimraft's log against etcd, in the same run; see docs/benchmarks.md.

May live here: arguments, the order of parts, the closing tables. Exit codes: 0 measured; 1 a part could not
be measured, or with --check a target was missed; 2 usage.
"""

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from bench import metadata_cells
from bench.command import DEFAULT_SECONDS, WIDTH_WITHOUT_TERMINAL
from bench.metadata_cells import Ground
from bench.progress import Progress, rows_table, verdicts_table
from bench.results import Result, Row, Verdict

PARTS: dict[str, Callable[[Ground], Result]] = {
    "commits": metadata_cells.commits,
    "compaction": metadata_cells.compaction,
    "leader-kill": metadata_cells.leader_kill,
    "restart": metadata_cells.restart,
}


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/metadata", epilog="parts: " + " ".join(PARTS))
    parser.add_argument("--etcd", type=Path, required=True, help="etcd's binary (bench/metadata gives it)")
    parser.add_argument("--only", metavar="PART,…", type=lambda text: text.split(","), default=list(PARTS))
    parser.add_argument(
        "--seconds", type=float, default=DEFAULT_SECONDS, help="of each system in a round (%(default)s)"
    )
    parser.add_argument("--repeat", type=int, default=5, help="rounds (%(default)s); medians are shown")
    parser.add_argument("--outstanding", type=int, default=256, help="puts under way (%(default)s)")
    parser.add_argument("--trials", type=int, default=20, help="leader kills (%(default)s)")
    parser.add_argument("--entries", type=int, default=100_000, help="in the log at restart (%(default)s)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="where rows and verdicts are written")
    parser.add_argument("--directory", type=Path, help="for all files of all systems (a temporary one)")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    options = parser.parse_args(argv)
    unknown = sorted(set(options.only) - set(PARTS))
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; there are: {' '.join(PARTS)}")
    if min(options.seconds, options.repeat, options.outstanding, options.trials, options.entries) <= 0:
        parser.error("numbers must be above 0")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = _parse(argv)
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH_WITHOUT_TERMINAL)
    rows: list[Row] = []
    verdicts: list[Verdict] = []
    failed = False
    progress = Progress(console, len(options.only))
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(
            tempfile.TemporaryDirectory(
                prefix="vimraft-bench-", dir=options.directory, ignore_cleanup_errors=True
            )
        )
        stack.enter_context(progress)
        ground = Ground(options, Path(made), progress.say)
        for name in options.only:
            progress.cell(name)
            try:
                result = PARTS[name](ground)
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


if __name__ == "__main__":
    sys.exit(main())
