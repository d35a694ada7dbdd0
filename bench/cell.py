"""A cell: a name that `--only` takes, and what measures it."""

from collections.abc import Callable
from typing import NamedTuple

from bench.results import Result
from bench.stage import Stage


class Cell(NamedTuple):
    name: str
    measure: Callable[[Stage], Result]
