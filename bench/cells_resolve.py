"""Resolving an offset in a volume of 100,000 segments, in this process.

May live here: cells without any other process.
"""

import random
import time

from bench.cell import Cell
from bench.results import Result, Row, Sample, judge_absolute, median, percentile
from bench.stage import Stage
from vimraft.core.ids import SECTOR_BYTES, StorageAddress
from vimraft.core.resolve import SegmentIndex
from vimraft.core.tables import Segment

SEGMENTS = 100_000
SEGMENT_SECTORS = 2_048
FINDS = 100_000
READ_BYTES = 4_096
LIMIT_US = 5.0


def resolve(stage: Stage) -> Result:
    """Rate from one loop over all finds; percentiles from finds that are timed one by one."""
    index = SegmentIndex(
        Segment(i * SEGMENT_SECTORS, SEGMENT_SECTORS, StorageAddress("tokyo-a"), 1, 2 * i * SEGMENT_SECTORS)
        for i in range(SEGMENTS)
    )
    note = stage.quiet()
    rounds = []
    for number in range(stage.rounds):
        stage.progress.say(f"round {number + 1} of {stage.rounds}")
        dice = random.Random(number)
        blocks = SEGMENTS * SEGMENT_SECTORS * SECTOR_BYTES // READ_BYTES
        offsets = [dice.randrange(blocks) * READ_BYTES for _ in range(FINDS)]
        rounds.append(_one_round(index, offsets))
    sample = median(rounds)
    row = Row("resolve-100k", f"4 KiB at random, {SEGMENTS:,} segments", "vimraft", sample, note)
    mean_us = 1e6 / sample.iops
    return Result((row,), (judge_absolute("resolve-100k", "mean", mean_us, LIMIT_US, "µs"),))


def _one_round(index: SegmentIndex[Segment], offsets: list[int]) -> Sample:
    find = index.find
    began = time.perf_counter()
    for offset in offsets:
        find(offset, READ_BYTES)
    whole_s = time.perf_counter() - began
    took_ns = []
    clock = time.perf_counter_ns
    for offset in offsets:
        began_ns = clock()
        find(offset, READ_BYTES)
        took_ns.append(clock() - began_ns)
    return Sample(len(offsets) / whole_s, 0.0, percentile(took_ns, 50) / 1e3, percentile(took_ns, 99) / 1e3)


CELLS = (Cell("resolve-100k", resolve),)
