"""Where client and servers run while a cell is measured.

At depth 1 client and server wait for each other all the time. When they sit on different processors, each
hand-over wakes one that sleeps; under a hypervisor that costs several times what the request does, and where
the scheduler puts them is chance. So cells of depth 1 and one connection are measured twice: with client and
servers confined to one processor (repeatable: what the software costs; targets are held against this), and
unconfined, as a cell of its own without a target.
"""

from collections.abc import Iterator
from typing import NamedTuple

from bench.fio import Area, Workload
from bench.results import Sample
from bench.stage import Stage

UNCONFINED = "-unconfined"


class Measured(NamedTuple):
    suffix: str
    """What follows the cell's name."""
    workload: str
    samples: dict[str, list[Sample]]
    judged: bool


def placements(stage: Stage, workload: Workload, areas: dict[str, Area]) -> Iterator[Measured]:
    """The workload in each placement that it is measured in."""
    if workload.depth > 1 or workload.connections > 1 or not workload.pattern.startswith("rand"):
        yield Measured("", str(workload), stage.take_turns(workload, areas), True)
        return
    with stage.one_processor() as processor:
        confined = stage.take_turns(workload, areas, processor)
    yield Measured("", f"{workload}, client and servers on one processor", confined, True)
    yield Measured(UNCONFINED, f"{workload}, unconfined", stage.take_turns(workload, areas), False)
