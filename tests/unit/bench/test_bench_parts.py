"""Arguments, readings of the machine, and the tables of many segments."""

import json
import os
import threading
from pathlib import Path

import pytest

from bench import command, machine
from bench.big_tables import VOLUMES, scattered
from tests.cluster_fixture import wait_for
from tests.core_cases import three_sites
from vimraft.core.invariants import check


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--json", "/nonexistent/x.json"],
        ["--json", "x.json", "--only", "no-such-cell"],
        ["--json", "x.json", "--seconds", "0"],
        ["--json", "x.json", "--repeat", "0"],
    ],
)
def test_wrong_arguments_are_usage_errors(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(argv)
    assert caught.value.code == 2
    assert "bench/run" in capsys.readouterr().err


def test_cells_have_distinct_names() -> None:
    names = [cell.name for cell in command.CELLS]
    assert len(names) == len(set(names))


def test_a_cell_that_needs_no_cluster_is_measured_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "wait_quiet", lambda: 0.0)
    path = tmp_path / "rows.json"
    assert command.main(["--only", "resolve-100k", "--repeat", "1", "--json", str(path)]) == 0
    (row,) = json.loads(path.read_text())
    assert (row["cell"], row["system"]) == ("resolve-100k", "vimraft")
    assert 0 < row["p50_us"] <= row["p99_us"]
    assert "resolve-100k" in capsys.readouterr().out


def test_a_cell_that_fails_is_named_and_makes_the_exit_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> float:
        raise OSError("no /proc here")

    monkeypatch.setattr(machine, "wait_quiet", broken)
    path = tmp_path / "rows.json"
    assert command.main(["--only", "resolve-100k", "--json", str(path)]) == 1
    assert json.loads(path.read_text()) == []
    assert "no /proc here" in capsys.readouterr().out


def test_stolen_time_is_not_idle() -> None:
    before = machine.parse_ticks("cpu  100 0 50 800 50 0 0 0 7 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    after = machine.parse_ticks("cpu  100 0 50 850 50 0 0 50 7 0\n")
    assert (after.idle - before.idle, after.total - before.total) == (50, 100)


def test_waiting_for_a_quiet_machine_ends_at_the_first_quiet_moment_or_at_the_deadline() -> None:
    readings = iter([0.9, 0.5, 0.1, 0.0])
    assert machine.wait_quiet(lambda: next(readings), lambda: 0.0) == 0.1
    now = iter([0.0, 1.0, 2.0, 3.0])
    assert machine.wait_quiet(lambda: 0.8, lambda: next(now), max_wait_s=2.0) == 0.8


def test_a_confined_process_and_its_threads_use_one_processor_and_are_free_again() -> None:
    usual = os.sched_getaffinity(0)
    go, done = threading.Event(), threading.Event()
    seen: list[set[int]] = []

    def look() -> None:
        go.wait(10)
        seen.append(os.sched_getaffinity(0))
        done.wait(10)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        with machine.confined([os.getpid()], machine.one_processor()):
            go.set()
            wait_for(lambda: seen, 10, "the thread's processors")
            assert os.sched_getaffinity(0) == seen[0] == {max(usual)}
        assert os.sched_getaffinity(0) == os.sched_getaffinity(thread.native_id or 0) == usual
    finally:
        done.set()
        thread.join()


def test_the_memory_of_a_process() -> None:
    memory = machine.memory(os.getpid())
    assert 1 < memory.rss_mb <= memory.peak_mb


@pytest.mark.parametrize("segments", [10, 100, 1_000])
def test_scattered_tables_keep_every_invariant(segments: int) -> None:
    state = scattered(three_sites(units=2 * segments).state, segments)
    assert check(state) == []
    assert len(state.volumes) == VOLUMES
    assert sum(len(volume.replicas[0].segments) for volume in state.volumes.values()) == segments
