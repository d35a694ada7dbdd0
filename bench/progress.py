"""What a person sees while the benchmark runs, and the tables at its end.

May live here: rich output. On a terminal one line is rewritten; otherwise there is a line per cell.
"""

from collections.abc import Sequence

from rich.console import Console
from rich.status import Status
from rich.table import Table

from bench.results import Row, Verdict


class Progress:
    """Use as a context manager."""

    def __init__(self, console: Console, cells: int) -> None:
        self._console = console
        self._cells = cells
        self._number = 0
        self._title = self._count = ""
        self._status = Status("", console=console)

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def cell(self, name: str) -> None:
        self._number += 1
        self._count = f"[{self._number}/{self._cells}]"
        self._title = f"{self._count} {name}"
        self.say("begins")

    def say(self, what: str) -> None:
        self._status.update(f"{self._title}: {what}")

    def done(self, verdicts: Sequence[Verdict]) -> None:
        for verdict in verdicts:
            against = f" against {verdict.peer}: {verdict.ratio}" if verdict.peer else ""
            self._console.print(
                f"{self._count} {verdict.cell}: {verdict.vimraft}{against} {mark(verdict)}", highlight=False
            )

    def failed(self, cause: str) -> None:
        self._console.print(f"{self._title}: [red]not measured[/]: {cause}", highlight=False)


def mark(verdict: Verdict) -> str:
    if verdict.met is None:
        return ""
    return "[green]met[/]" if verdict.met else "[red]missed[/]"


def rows_table(rows: Sequence[Row]) -> Table:
    table = Table(title="Medians of the rounds", title_justify="left")
    for name in ("cell", "workload", "system"):
        table.add_column(name, overflow="fold")
    for name in ("per second", "MB/s", "p50 µs", "p99 µs"):
        table.add_column(name, justify="right")
    table.add_column("note", overflow="fold")
    for row in rows:
        sample = row.sample
        rate = f"{sample.iops:,.0f}" if sample.iops >= 10 else f"{sample.iops:.2f}"
        mbps = f"{sample.mbps:,.0f}" if sample.mbps else ""
        tail = (f"{sample.p50_us:,.1f}", f"{sample.p99_us:,.1f}")
        table.add_row(row.cell, row.workload, row.system, rate, mbps, *tail, row.note)
    return table


def verdicts_table(verdicts: Sequence[Verdict]) -> Table:
    table = Table(title="Ratios (of the medians; lowest and highest round)", title_justify="left")
    for name in ("cell", "vimraft", "peer", "ratio", "target", "met"):
        table.add_column(name, overflow="fold")
    for verdict in verdicts:
        table.add_row(*verdict[:5], mark(verdict))
    return table
