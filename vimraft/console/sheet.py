"""The house table, which folds and never cuts off.

May live here: `Sheet`.
"""

from typing import Literal

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

HEAD = "bold"
Justify = Literal["left", "right"]


GAP = 2
"""Blanks between two columns: one of padding, one of the box."""
FLOOR = 6
"""No column is folded to less than this many characters."""


class Sheet:
    """The house table: header, one thin line, no frame; as wide as it must be.

    When the terminal is too narrow the column names fold first, then the columns named in `folding`, then
    the widest ones. Cells fold, they are never cut off (rich by itself would crop a crowded table).
    """

    def __init__(self, *columns: tuple[str, Justify], folding: frozenset[str] = frozenset()) -> None:
        self._columns = columns
        self._folding = [header in folding for header, _ in columns]
        self._rows: list[list[Text]] = []

    @property
    def row_count(self) -> int:
        return len(self._rows)

    def add(self, *cells: str | Text) -> None:
        """Names come from people and devices: they are never read as markup."""
        self._rows.append([Text(cell) if isinstance(cell, str) else cell for cell in cells])

    def _widths(self, available: int) -> list[int]:
        headers = [header for header, _ in self._columns]
        cells = [max((row[i].cell_len for row in self._rows), default=0) for i in range(len(headers))]
        room = available - GAP * (len(headers) - 1)
        widths = [max(cell, len(header)) for cell, header in zip(cells, headers, strict=True)]
        if sum(widths) <= room:
            return widths
        words = [max(len(word) for word in header.split()) for header in headers]
        widths = [max(cell, word) for cell, word in zip(cells, words, strict=True)]
        everywhere = [True] * len(widths)
        for candidates in (self._folding, everywhere):
            while sum(widths) > room:
                wide = [i for i, may in enumerate(candidates) if may and widths[i] > FLOOR]
                if not wide:
                    break
                widths[max(wide, key=lambda i: widths[i])] -= 1
        return widths

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(
            box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style=HEAD
        )
        for (header, justify), width in zip(self._columns, self._widths(options.max_width), strict=True):
            table.add_column(header, justify=justify, overflow="fold", width=width)
        for row in self._rows:
            table.add_row(*row)
        yield table
