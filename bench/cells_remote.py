"""Volumes whose owner or data are at another site: what a hop between sites costs.

May live here: cells of reads that cross sites. All sites run on one machine, so a hop is the software's
cost alone. A proxy in C (nbdkit's nbd plugin) in front of nbdkit-file shows what a hop costs there.
"""

from functools import partial

from bench.cell import Cell
from bench.fio import Area, Workload
from bench.placement import placements
from bench.results import Result, Row, Target, Verdict, judge, rows_of
from bench.stage import VOLUME_MIB, Stage, whole
from tests.cluster_fixture import MIB

KIB = 1 << 10
ONE = Workload("randread", 4 * KIB, 1)
EIGHT = Workload("randread", 4 * KIB, 1, connections=8)


def forwarded(name: str, workload: Workload, target: Target, stage: Stage) -> Result:
    """vimraft: attached at another site than the owner's."""
    stage.volume("local", ("tokyo",))
    cluster = stage.cluster()
    areas = {
        "vimraft": whole(cluster.uri("local", "osaka")),
        "vimraft-at-owner": whole(cluster.uri("local", "tokyo")),
        "nbdkit-nbd": whole(stage.proxied_peer()),
        "nbdkit-file": whole(stage.peer("nbdkit-file")),
    }
    note = stage.quiet()
    rows: list[Row] = []
    verdicts: list[Verdict] = []
    for suffix, what, samples, judged in placements(stage, workload, areas):
        cell, shown = name + suffix, Target(target.measure)
        rows += rows_of(cell, what, samples, note)
        ours, proxy = samples["vimraft"], samples["nbdkit-nbd"]
        verdicts += [
            judge(cell, ours, samples["vimraft-at-owner"], "at the owner", target if judged else shown),
            judge(cell, ours, proxy, "nbdkit-nbd", shown),
            judge(f"{cell}: C proxy", proxy, samples["nbdkit-file"], "nbdkit-file", shown),
        ]
    return Result(tuple(rows), tuple(verdicts))


def spilled(stage: Stage) -> Result:
    """A volume that spills over two sites, at its owner: its remote half against its local half."""
    name = "spill-randread-4k-qd1"
    stage.volume("spilled", ("tokyo", "osaka"), "nvme")
    uri, half = stage.cluster().uri("spilled", "tokyo"), VOLUME_MIB * MIB // 2
    areas = {"vimraft": Area(uri, half, half), "vimraft-local-half": Area(uri, 0, half)}
    note = stage.quiet()
    rows: list[Row] = []
    verdicts: list[Verdict] = []
    for suffix, what, samples, _ in placements(stage, ONE, areas):
        rows += rows_of(name + suffix, what, samples, note)
        local, shown = samples["vimraft-local-half"], Target("p50_us")
        verdicts.append(judge(name + suffix, samples["vimraft"], local, "local half", shown))
    return Result(tuple(rows), tuple(verdicts))


_QD1, _EIGHT = "forwarded-randread-4k-qd1", "forwarded-randread-4k-8conn"
CELLS = (
    Cell(_QD1, partial(forwarded, _QD1, ONE, Target("p50_us", ceiling=3))),
    Cell(_EIGHT, partial(forwarded, _EIGHT, EIGHT, Target("iops", floor=0.35))),
    Cell("spill-randread-4k-qd1", spilled),
)
