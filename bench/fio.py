"""fio with its NBD engine: how it is called, and what its JSON says.

May live here: command lines and parsing. One connection per job; latencies are from submission to completion.
"""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bench.results import Sample

FIO = "fio"
STARTUP_S = 30.0
"""Longer than a run was told to last, this is how long fio may take before it counts as stuck."""
Pattern = Literal["read", "write", "randread", "randwrite", "randrw"]


class FioError(Exception):
    """fio is missing, failed, or said something unexpected: names the job and the cause."""


class Workload(NamedTuple):
    pattern: Pattern
    block_bytes: int
    depth: int
    """Of each connection."""
    connections: int = 1
    fsync: bool = False
    """A flush after each write; latencies are the writes' alone."""

    def __str__(self) -> str:
        kind = {"read": "sequential read", "write": "sequential write", "randread": "random read"}
        name = kind.get(
            self.pattern, {"randwrite": "random write"}.get(self.pattern, "random read and write")
        )
        size = (
            f"{self.block_bytes >> 20} MiB"
            if self.block_bytes >= 1 << 20
            else f"{self.block_bytes >> 10} KiB"
        )
        many = f"{self.connections} connections" if self.connections > 1 else "one connection"
        flushed = " and fsync" if self.fsync else ""
        return f"{size} {name}{flushed}, depth {self.depth}, {many}"


class Area(NamedTuple):
    """The part of a volume that is read or written."""

    uri: str
    first_byte: int
    length_bytes: int

    @property
    def engine(self) -> tuple[str, ...]:
        return ("--ioengine=nbd", f"--uri={self.uri}")


class RbdArea(NamedTuple):
    """The part of an image of a Ceph cluster that is read or written (fio finds it by CEPH_CONF)."""

    pool: str
    image: str
    first_byte: int
    length_bytes: int

    @property
    def engine(self) -> tuple[str, ...]:
        return ("--ioengine=rbd", f"--pool={self.pool}", f"--rbdname={self.image}", "--clientname=admin")


def arguments(
    workload: Workload, area: Area | RbdArea, seconds: float, output: Path, processor: int | None = None
) -> list[str]:
    """Output goes to a file: fio's NBD engine writes lines of its own to stdout."""
    return [
        FIO,
        "--name=bench",
        *area.engine,
        f"--rw={workload.pattern}",
        f"--bs={workload.block_bytes}",
        f"--iodepth={workload.depth}",
        f"--numjobs={workload.connections}",
        "--group_reporting",
        f"--offset={area.first_byte}",
        f"--size={area.length_bytes}",
        "--time_based",
        f"--runtime={max(1, round(seconds * 1000))}ms",
        *(["--fsync=1"] if workload.fsync else []),
        "--norandommap",
        "--randrepeat=1",
        "--lat_percentiles=1",
        "--clat_percentiles=0",
        "--percentile_list=50:99",
        "--output-format=json",
        f"--output={output}",
        *([] if processor is None else [f"--cpus_allowed={processor}"]),
    ]


def run(
    workload: Workload, area: Area | RbdArea, seconds: float, scratch: Path, processor: int | None = None
) -> Sample:
    """`processor`: the only one that fio uses. Raises FioError."""
    output = scratch / "fio.json"
    return parse(call(arguments(workload, area, seconds, output, processor), output, seconds))


def call(argv: Sequence[str], output: Path, seconds: float) -> str:
    """What fio wrote to `output`. Raises FioError."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + STARTUP_S, check=False)
    except FileNotFoundError:
        raise FioError(f"{argv[0]} is not installed: apt-get install fio") from None
    except subprocess.TimeoutExpired:
        raise FioError(f"{' '.join(argv)}: did not end within {seconds + STARTUP_S:.0f} s") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-500:]
        raise FioError(f"{' '.join(argv)}: exit status {done.returncode}: {said}")
    return output.read_text(encoding="utf-8")


def jobs(text: str) -> list[Mapping[str, Any]]:
    """The jobs of a run. Raises FioError when one of them had an error."""
    try:
        found = json.loads(text)["jobs"]
    except (ValueError, KeyError, TypeError) as error:
        raise FioError(f"fio's output is not its JSON: {error!r}: {text[:200]!r}") from None
    for job in found:
        if job.get("error"):
            raise FioError(f"fio job {job.get('jobname')}: error {job['error']}")
    return list(found)


def parse(text: str) -> Sample:
    """One job or group that read or wrote (the direction that did something). Raises FioError."""
    found = jobs(text)
    busy = [job[way] for job in found for way in ("read", "write") if job[way]["total_ios"]]
    if len(busy) != 1:
        raise FioError(f"expected one group and one direction with I/O, found {len(busy)}")
    (side,) = busy
    tail = side["lat_ns"].get("percentile")
    if tail is None:
        raise FioError("fio gave no percentiles of the latency")
    return Sample(
        iops=float(side["iops"]),
        mbps=side["bw_bytes"] / 1e6,
        p50_us=tail["50.000000"] / 1e3,
        p99_us=tail["99.000000"] / 1e3,
    )


def longest_us(text: str) -> float:
    """The longest latency of any request of any job. Raises FioError."""
    longest = [
        job[way]["lat_ns"]["max"] for job in jobs(text) for way in ("read", "write") if job[way]["total_ios"]
    ]
    if not longest:
        raise FioError("fio did no I/O")
    return float(max(longest)) / 1e3
