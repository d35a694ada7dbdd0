"""What is read from fio's JSON, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench.fio import Area, FioError, Workload, arguments, call, longest_us, parse


def side(ios: int, *, iops: float = 0.0, bw_bytes: int = 0, longest_ns: int = 0) -> dict[str, Any]:
    """One direction of a job, as fio 3.33 writes it (the keys that are read)."""
    latency: dict[str, Any] = {"min": 10_000, "max": longest_ns, "mean": 1.0, "N": ios}
    if ios:
        latency["percentile"] = {"50.000000": 41_216, "99.000000": 120_320}
    return {"total_ios": ios, "iops": iops, "bw_bytes": bw_bytes, "lat_ns": latency}


def output(*jobs: dict[str, Any]) -> str:
    return json.dumps({"fio version": "fio-3.33", "jobs": list(jobs)})


def job(read: dict[str, Any], write: dict[str, Any], error: int = 0) -> dict[str, Any]:
    return {"jobname": "bench", "error": error, "read": read, "write": write, "trim": side(0)}


def test_a_read_gives_rate_megabytes_and_latencies_in_microseconds() -> None:
    sample = parse(output(job(side(40_000, iops=20_000.5, bw_bytes=81_920_000), side(0))))
    assert sample == (20_000.5, 81.92, 41.216, 120.32)


def test_the_direction_that_did_something_is_taken() -> None:
    assert parse(output(job(side(0), side(10, iops=5.0, bw_bytes=20_480)))).iops == 5.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fio: connected to NBD server\n",
        "{}",
        output(job(side(0), side(0))),
        output(job(side(1), side(1))),
        output(job(side(5), side(0), error=5)),
    ],
)
def test_output_that_is_not_one_good_measurement_is_refused(text: str) -> None:
    with pytest.raises(FioError):
        parse(text)


def test_the_longest_latency_is_sought_in_all_jobs_and_directions() -> None:
    text = output(
        job(side(5, longest_ns=2_000_000), side(5, longest_ns=9_000_000)),
        job(side(5, longest_ns=1_000), side(0)),
    )
    assert longest_us(text) == 9_000.0
    with pytest.raises(FioError):
        longest_us(output(job(side(0), side(0))))


def test_a_command_line_names_volume_pattern_depth_and_connections(tmp_path: Path) -> None:
    argv = arguments(
        Workload("randread", 4096, 1, connections=8), Area("nbd://h:1/v", 512, 1024), 0.5, tmp_path / "o"
    )
    assert {
        "--uri=nbd://h:1/v", "--rw=randread", "--bs=4096", "--iodepth=1", "--numjobs=8", "--offset=512",
        "--size=1024", "--runtime=500ms",
    } <= set(argv)  # fmt: skip
    assert not any(argument.startswith("--cpus_allowed") for argument in argv)
    assert "--cpus_allowed=1" in arguments(Workload("read", 512, 1), Area("u", 0, 1), 1, tmp_path / "o", 1)


@pytest.mark.parametrize(
    ("workload", "words"),
    [
        (Workload("read", 1 << 20, 1), "1 MiB sequential read, depth 1, one connection"),
        (Workload("randwrite", 4096, 32), "4 KiB random write, depth 32, one connection"),
        (Workload("randread", 4096, 1, 8), "4 KiB random read, depth 1, 8 connections"),
    ],
)
def test_a_workload_is_described_in_words(workload: Workload, words: str) -> None:
    assert str(workload) == words


def test_a_program_that_fails_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(FioError, match="exit status 3: no such volume"):
        call(["sh", "-c", "echo no such volume >&2; exit 3"], tmp_path / "o", 1)
    with pytest.raises(FioError, match="is not installed"):
        call(["/nonexistent/fio"], tmp_path / "o", 1)
