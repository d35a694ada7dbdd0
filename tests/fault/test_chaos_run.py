"""deploy/chaos on a real loopback cluster: one good round, and one in which data is damaged on purpose."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from drills.clusters import Cluster as DrilledCluster
from drills.layout import VOLUME_MIB
from drills.record import Records

from tests.cluster_fixture import MIB, Cluster, wait_for
from tests.fault.drill_cases import (
    BLOCK_BYTES,
    COMMAND_S,
    DEPLOY,
    attach,
    deploy,
    drilled_cluster,
    environment,
    fault,
    needs_root,
)

pytestmark = [pytest.mark.cluster, needs_root]

DAMAGED_BLOCKS = 256


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with drilled_cluster(tmp_path_factory.mktemp("chaos")) as started:
        yield started


def test_a_round_without_violation_reports_and_leaves_nothing(cluster: Cluster, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = deploy("chaos", "--minutes", "0", "--seed", "4", "--report", report, "--dir", cluster.directory)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert found["violations"] == []
    assert found["seed"] == 4
    assert found["acknowledged_writes"] > 0
    assert found["acknowledged_flushes"] > 0
    assert found["acknowledged_changes"] > 0
    assert found["verified_reads"] > 0
    assert found["bytes_compared"] > 0
    assert {len(copies) for copies in found["volumes"].values()} == {1, 2}
    (one,) = found["rounds"]
    assert one["blocks_checked"] > 0
    assert all(each["injected_s"] < each["healed_s"] for each in one["faults"])
    assert {pause["who"] for pause in one["pauses"]} >= {"changes"}
    timeline = (tmp_path / "report.json.txt").read_text()
    assert "round 1" in timeline
    assert "inject " in timeline
    assert Records(cluster.directory).all() == []
    assert cluster["tokyo"].status().volumes == ()  # those of a good run are removed


def test_damage_is_found_and_named(cluster: Cluster, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    words = ["--minutes", "0", "--seed", "4", "--report", str(report), "--dir", str(cluster.directory)]
    with subprocess.Popen(
        [str(DEPLOY / "chaos"), *words], stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        volume = wait_for(lambda: _built(cluster), 20, "a volume of chaos")
        handle = attach(cluster.uri(volume, "tokyo"))
        first = VOLUME_MIB * MIB // BLOCK_BYTES - DAMAGED_BLOCKS
        wait_for(lambda: any(handle.pread(BLOCK_BYTES, first * BLOCK_BYTES)), 20, "a block written")
        handle.pwrite(b"\xee" * (DAMAGED_BLOCKS * BLOCK_BYTES), first * BLOCK_BYTES)
        handle.shutdown()
        said, _ = process.communicate(timeout=COMMAND_S)
    assert process.returncode == 1
    assert "bytes that were never written there" in said
    assert "VIOLATION" in (tmp_path / "report.json.txt").read_text()
    names = {each.name for each in cluster["tokyo"].status().volumes}
    assert volume in names  # to be looked at
    with cluster.client() as client:
        for name in names:
            client.delete_volume(name)


def test_chaos_does_not_begin_while_a_fault_is_in_force(cluster: Cluster, tmp_path: Path) -> None:
    fault(cluster.directory, "pause-store", "inject", "--site", "osaka")
    words = ("--minutes", "0", "--report", tmp_path / "r.json", "--dir", cluster.directory)
    done = deploy("chaos", *words)
    assert done.returncode == 2
    assert "pause-store at osaka is in force" in done.stderr
    assert "--heal-all" in done.stderr
    records = Records(DrilledCluster(cluster.directory).directory)
    assert [record.title for record in records.all()] == ["pause-store at osaka"]  # not its own: left alone
    fault(cluster.directory, "pause-store", "heal")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--minutes", "-1"], "--minutes"),
        (["--report", "/nowhere/at/all.json"], "there is no such directory"),
        (["--dir", "/nowhere"], "no cluster there"),
    ],
)
def test_bad_use_is_refused_with_words(words: list[str], complaint: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(DEPLOY / "chaos"), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_S,
        env=environment(),
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def _built(cluster: Cluster) -> str:
    """The volume at tokyo whose end is written."""
    names = (each.name for each in cluster["osaka"].status().volumes)
    return next((name for name in names if name.startswith("chaos-1") and name.endswith("-one")), "")
