"""The commands of deploy/faults on a real loopback cluster: what they do, undo and refuse."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import nbd
import pytest
from drills.clusters import Cluster as DrilledCluster
from drills.faults import FAULTS
from drills.processes import is_stopped
from drills.record import Records

from tests.cluster_fixture import Cluster, wait_for
from tests.fault.drill_cases import (
    BLOCK_BYTES,
    DEPLOY,
    attach,
    content,
    deploy,
    differing,
    drilled_cluster,
    environment,
    fault,
    needs_root,
    write,
)

pytestmark = pytest.mark.cluster

VOLUME = "drilled"
BLOCKS = range(32)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """With a volume at osaka that has content."""
    with drilled_cluster(tmp_path_factory.mktemp("drill")) as started:
        started.build(VOLUME, 2, sites=("osaka",))
        write(started.uri(VOLUME, "tokyo"), BLOCKS)
        yield started


def in_force(cluster: Cluster) -> list[str]:
    return [record.title for record in Records(cluster.directory).all()]


def assert_whole(cluster: Cluster) -> None:
    """Healed: healthy, nothing in force, the content as it was, through every site."""
    cluster.wait_healthy(tuple(cluster.sites))
    assert in_force(cluster) == []
    for site in cluster.sites:
        assert differing(cluster.uri(VOLUME, site), BLOCKS) == []


@contextlib.contextmanager
def held(cluster: Cluster, name: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """`deploy/faults/NAME inject --hold`, in force."""
    command = [str(DEPLOY / "faults" / name), "inject", "--hold", "--dir", str(cluster.directory), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("holding ")
        yield process
        process.kill()


def test_the_list_is_complete() -> None:
    commands = {path.name for path in (DEPLOY / "faults").iterdir()}
    assert commands == {*FAULTS, "list"}
    assert all(os.access(DEPLOY / "faults" / name, os.X_OK) for name in commands)
    listed = [line.split()[0] for line in deploy("faults/list").stdout.splitlines() if line]
    assert set(FAULTS) <= set(listed)


@needs_root
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("kill-leader", []),
        ("kill-site", ["--site", "osaka"]),
        ("pause-store", ["--site", "osaka"]),
        ("clock-jump", ["--site", "osaka", "--by", "-86400"]),
        ("partition", ["--site", "osaka", "--peer", "tokyo", "--one-way"]),
        ("slow-link", ["--site", "osaka", "--delay-ms", "50"]),
        ("lost-real-volume", ["--site", "osaka"]),
    ],
)
def test_a_fault_is_injected_shown_and_healed(cluster: Cluster, name: str, words: list[str]) -> None:
    injected = fault(cluster.directory, name, "inject", *words)
    title = injected.removeprefix("injected ").split(":")[0]
    assert in_force(cluster) == [title]
    assert title in fault(cluster.directory, name, "status")
    assert title in deploy("faults/list", "--injected", "--dir", cluster.directory).stdout
    assert f"healed {title}" in fault(cluster.directory, name, "heal")
    assert "not in force" in fault(cluster.directory, name, "heal")
    assert_whole(cluster)


@needs_root
def test_io_waits_while_an_export_stands_still_and_goes_on(cluster: Cluster) -> None:
    handle = attach(cluster.uri(VOLUME, "tokyo"))
    began_s = time.monotonic()
    with held(cluster, "pause-export", "--site", "osaka", "--seconds", "1.5") as process:
        assert bytes(handle.pread(BLOCK_BYTES, 0)) == content(0)
        assert time.monotonic() - began_s > 1.0
        assert process.wait(20) == 0
    handle.shutdown()
    assert_whole(cluster)


@needs_root
def test_a_site_that_is_cut_off_goes_on_serving_its_own_volume(cluster: Cluster) -> None:
    fault(cluster.directory, "partition", "inject", "--site", "osaka")
    cluster.build("while-cut-off", 1, sites=("tokyo",))
    assert "while-cut-off" not in {volume.name for volume in cluster["osaka"].status().volumes}
    assert differing(cluster.uri(VOLUME, "osaka"), BLOCKS) == []
    assert cluster["tokyo"].status().leader in ("tokyo", "nagoya")
    fault(cluster.directory, "partition", "heal", "--site", "osaka")
    assert_whole(cluster)


@needs_root
def test_a_failing_disk_is_reported_to_clients_and_used_again_when_healed(cluster: Cluster) -> None:
    handle = attach(cluster.uri(VOLUME, "osaka"))
    fault(cluster.directory, "disk-error", "inject", "--site", "osaka", "--real", "osaka-a:1")
    with pytest.raises(nbd.Error, match="EIO"):
        handle.pread(BLOCK_BYTES, 0)
    fault(cluster.directory, "disk-error", "heal")
    assert_whole(cluster)


@needs_root
def test_a_slow_disk_makes_requests_take_longer(cluster: Cluster) -> None:
    handle = attach(cluster.uri(VOLUME, "osaka"))
    slow = ("--site", "osaka", "--real", "osaka-a:1", "--delay-ms", "400")
    fault(cluster.directory, "slow-disk", "inject", *slow)
    began_s = time.monotonic()
    handle.pread(BLOCK_BYTES, 0)
    assert time.monotonic() - began_s >= 0.4
    fault(cluster.directory, "slow-disk", "heal")
    handle.shutdown()
    assert_whole(cluster)


@needs_root
def test_a_manager_that_may_not_write_its_log_comes_back_when_it_may(cluster: Cluster) -> None:
    fault(cluster.directory, "disk-full", "inject", "--site", "osaka")
    for number in range(8):
        cluster.build(f"more-{number}", 1, sites=("tokyo",))  # the others go on
    fault(cluster.directory, "disk-full", "heal")
    assert_whole(cluster)
    wait_for(
        lambda: {f"more-{n}" for n in range(8)} <= {v.name for v in cluster["osaka"].status().volumes},
        20,
        "osaka has what was built meanwhile",
    )


@needs_root
def test_a_fault_whose_holder_was_killed_is_healed_from_another_process(cluster: Cluster) -> None:
    with held(cluster, "pause-manager", "--site", "nagoya") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    manager = DrilledCluster(cluster.directory)["nagoya"].expect("manager")
    assert is_stopped(manager)
    assert "is stopped" in fault(cluster.directory, "pause-manager", "status")
    assert "healed pause-manager at nagoya" in fault(cluster.directory, "pause-manager", "heal")
    assert not is_stopped(manager)
    assert_whole(cluster)


@needs_root
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_held_fault_is_healed_on_exit(cluster: Cluster, number: signal.Signals) -> None:
    with held(cluster, "partition", "--site", "nagoya") as process:
        assert in_force(cluster) == ["partition at nagoya"]
        process.send_signal(number)
        assert process.wait(20) == 0
    assert_whole(cluster)


@needs_root
def test_list_heals_everything(cluster: Cluster) -> None:
    fault(cluster.directory, "kill-manager", "inject", "--site", "tokyo")
    fault(cluster.directory, "pause-export", "inject", "--site", "osaka")
    done = deploy("faults/list", "--heal-all", "--dir", cluster.directory)
    assert done.returncode == 0, done.stderr
    assert "healed kill-manager at tokyo" in done.stdout
    assert_whole(cluster)


@needs_root
def test_the_same_fault_is_not_injected_twice(cluster: Cluster) -> None:
    fault(cluster.directory, "pause-manager", "inject", "--site", "nagoya")
    done = deploy("faults/pause-manager", "inject", "--site", "nagoya", "--dir", cluster.directory)
    assert done.returncode == 1
    assert "heal" in done.stderr
    fault(cluster.directory, "pause-manager", "heal")
    assert_whole(cluster)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["kill-manager", "inject"], "--site is missing: which of"),
        (["kill-manager", "inject", "--site", "kyoto"], "there is no site 'kyoto'"),
        (["kill-manager", "heal", "--site", "kyoto"], "there is no site 'kyoto'"),
        (["partition", "inject", "--site", "osaka", "--peer", "osaka"], "no link to itself"),
        (["slow-link", "inject", "--site", "osaka", "--delay-ms", "99999"], "--delay-ms 99999: 1 to"),
        (["slow-disk", "inject", "--site", "osaka", "--real", "x:9"], "--real x:9: osaka has osaka-a:1"),
        (["clock-jump", "inject", "--site", "osaka", "--by", "9999999999"], "at most"),
    ],
)
def test_what_cannot_be_done_is_refused_with_words(
    cluster: Cluster, words: list[str], complaint: str
) -> None:
    done = deploy(f"faults/{words[0]}", *words[1:], "--dir", cluster.directory)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert in_force(cluster) == []


def test_a_directory_without_a_cluster_is_refused_with_words(tmp_path: Path) -> None:
    done = deploy("faults/kill-manager", "inject", "--site", "osaka", "--dir", tmp_path)
    assert done.returncode == 1
    assert "no cluster there" in done.stderr
    assert "deploy/quickstart" in done.stderr


def test_options_of_other_faults_are_refused(tmp_path: Path) -> None:
    done = deploy("faults/kill-manager", "inject", "--site", "osaka", "--one-way", "--dir", tmp_path)
    assert done.returncode == 2
    assert "--one-way" in done.stderr
