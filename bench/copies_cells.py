"""Volumes with two copies: what a write costs beside Ceph RBD with two copies.

May live here: the parts of `bench/copies`. Three sites on loopback, copies at two of them, the client
attached at the owner's. Ceph's client library sends to its OSDs itself, so no hop is spared here that it has.
"""

import argparse
import contextlib
import os
from pathlib import Path
from typing import NamedTuple

import nbd

from bench import fio, machine
from bench.ceph import ceph_cluster
from bench.fio import Area, RbdArea, Workload
from bench.parts import Say
from bench.results import Measure, Result, Row, Sample, Target, Verdict, judge, rows_of
from tests.cluster_fixture import MIB, Cluster, running_cluster

KIB = 1 << 10
VOLUME_MIB = 256
PIECE_BYTES = 64 << 10
"""Both systems are filled in pieces of this size before anything is measured."""
ROUND_WAIT_S = 3.0
CEPH = "ceph-rbd"


class CopiesCell(NamedTuple):
    name: str
    ours: Workload
    theirs: Workload
    targets: tuple[Target, ...]


CELLS = (
    CopiesCell(
        "copies-randwrite-4k",
        Workload("randwrite", 4 * KIB, 4, 8),
        Workload("randwrite", 4 * KIB, 32),
        (Target("iops", floor=2.0), Target("p99_us", ceiling=0.5)),
    ),
    CopiesCell(
        "copies-write-fsync-4k",
        Workload("randwrite", 4 * KIB, 1, fsync=True),
        Workload("randwrite", 4 * KIB, 1, fsync=True),
        (Target("iops", floor=1.5),),
    ),
    CopiesCell(
        "copies-randwrite-4k-qd1",
        Workload("randwrite", 4 * KIB, 1),
        Workload("randwrite", 4 * KIB, 1),
        (Target("iops"), Target("p99_us")),
    ),
    CopiesCell(
        "copies-randread-4k",
        Workload("randread", 4 * KIB, 4, 8),
        Workload("randread", 4 * KIB, 32),
        (Target("iops"),),
    ),
)


class Ground:
    """Where and how: options and the work directory."""

    def __init__(self, options: argparse.Namespace, directory: Path, say: Say) -> None:
        self.options = options
        self.directory = directory
        self.say = say


def two_copies(cluster: Cluster) -> Area:
    for site in ("tokyo", "osaka"):
        cluster.add_real(site, 1, "ssd", VOLUME_MIB + 64)
    cluster.build("twice", VOLUME_MIB, sites=("tokyo", "osaka"), copies=2)
    uri = cluster.uri("twice", "tokyo")
    data = os.urandom(PIECE_BYTES)
    handle = nbd.NBD()
    handle.connect_uri(uri)
    for offset in range(0, VOLUME_MIB * MIB, PIECE_BYTES):
        handle.pwrite(data, offset)
    handle.flush()
    handle.shutdown()
    return Area(uri, 0, VOLUME_MIB * MIB)


def _fill_image(area: RbdArea, ground: Ground) -> None:
    """Sequentially, once: no OSD allocates while it is measured."""
    output = ground.directory / "fill.json"
    argv = fio.arguments(Workload("write", MIB, 8), area, 0, output)
    untimed = [word for word in argv if not word.startswith(("--time_based", "--runtime"))]
    fio.call(untimed, output, 120.0)


def against_ceph(ground: Ground) -> Result:
    """Raises FioError and CephError."""
    rows: list[Row] = []
    verdicts: list[Verdict] = []
    with contextlib.ExitStack() as stack:
        ground.say("starting Ceph")
        (ground.directory / "ceph").mkdir()
        ceph = stack.enter_context(ceph_cluster(ground.options.ceph.resolve(), ground.directory / "ceph"))
        image = ceph.image("bench", VOLUME_MIB)
        _fill_image(image, ground)
        ground.say("starting three sites")
        volume = two_copies(stack.enter_context(running_cluster(ground.directory / "sites")))
        for cell in CELLS:
            samples = _rounds(cell, volume, image, ground)
            rows += rows_of(cell.name, str(cell.ours), {"vimraft": samples["vimraft"]})
            rows += rows_of(cell.name, str(cell.theirs), {CEPH: samples[CEPH]})
            verdicts += [
                judge(_titled(cell.name, target.measure), samples["vimraft"], samples[CEPH], CEPH, target)
                for target in cell.targets
            ]
    return Result(tuple(rows), tuple(verdicts))


def _titled(name: str, measure: Measure) -> str:
    return name if measure == "iops" else f"{name} {measure.removesuffix('_us')}"


def _rounds(cell: CopiesCell, volume: Area, image: RbdArea, ground: Ground) -> dict[str, list[Sample]]:
    """Each system once a round, beginning with the other one each time."""
    runs: list[tuple[str, Workload, Area | RbdArea]] = [
        ("vimraft", cell.ours, volume),
        (CEPH, cell.theirs, image),
    ]
    samples: dict[str, list[Sample]] = {"vimraft": [], CEPH: []}
    for number in range(ground.options.repeat):
        ground.say(f"{cell.name}, round {number + 1} of {ground.options.repeat}")
        machine.wait_quiet(max_wait_s=ROUND_WAIT_S)
        for name, workload, area in runs if number % 2 == 0 else runs[::-1]:
            samples[name].append(fio.run(workload, area, ground.options.seconds, ground.directory))
    return samples
