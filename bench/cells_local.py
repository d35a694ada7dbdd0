"""A local volume through its owner's export, against servers of plain files.

May live here: the cells that need one connection and no other site.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from bench.cell import Cell
from bench.fio import Workload
from bench.peers import installed
from bench.placement import placements
from bench.results import Result, Row, Target, Verdict, judge, rows_of
from bench.stage import SMALL_BYTES, Stage, whole
from tests.cluster_fixture import MIB

KIB = 1 << 10
PEER = "nbdkit-file"
"""The one that targets are set against; the others are shown."""


class LocalCell(NamedTuple):
    name: str
    workload: Workload
    target: Target


LOCAL = (
    LocalCell("seq-read-1m", Workload("read", MIB, 1), Target("mbps", floor=0.9)),
    LocalCell("seq-write-1m", Workload("write", MIB, 1), Target("mbps", floor=0.9)),
    LocalCell("randread-4k-qd32", Workload("randread", 4 * KIB, 32), Target("iops", floor=0.75)),
    LocalCell("randwrite-4k-qd32", Workload("randwrite", 4 * KIB, 32), Target("iops", floor=0.75)),
    LocalCell("randread-4k-qd1", Workload("randread", 4 * KIB, 1), Target("iops", floor=0.8)),
    LocalCell("randwrite-4k-qd1", Workload("randwrite", 4 * KIB, 1), Target("iops", floor=0.8)),
)


def measure(cell: LocalCell, stage: Stage) -> Result:
    sequential = cell.workload.block_bytes >= MIB
    volume, fill_bytes = ("streamed", MIB) if sequential else ("local", SMALL_BYTES)
    stage.volume(volume, ("tokyo",), fill_bytes=fill_bytes)
    areas = {"vimraft": whole(stage.cluster().uri(volume, "tokyo"))}
    areas |= {name: whole(stage.peer(name, fill_bytes)) for name in installed()}
    note = stage.quiet()
    rows: list[Row] = []
    verdicts: list[Verdict] = []
    for suffix, workload, samples, judged in placements(stage, cell.workload, areas):
        name = cell.name + suffix
        rows += rows_of(name, workload, samples, note)
        verdicts += [
            judge(name, samples["vimraft"], samples[peer], peer, target)
            for peer, target in _targets(cell, list(samples), judged=judged)
        ]
    return Result(tuple(rows), tuple(verdicts))


def _targets(cell: LocalCell, systems: list[str], *, judged: bool) -> Iterator[tuple[str, Target]]:
    for name in systems:
        if name != "vimraft":
            yield name, cell.target if judged and name == PEER else Target(cell.target.measure)


CELLS = tuple(Cell(cell.name, partial(measure, cell)) for cell in LOCAL)
