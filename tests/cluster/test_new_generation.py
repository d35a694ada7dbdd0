"""The majority is lost for good, or everything is: real managers, a survivor, a backup, a new generation."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster_fixture import Cluster, Site, running_cluster, wait_for
from vimraft.api.schema import BuildRequest
from vimraft.core.rebirth import GENERATION_STEP

pytestmark = pytest.mark.cluster
MIB = 1 << 20


def vimraft(*arguments: str) -> subprocess.CompletedProcess:
    program = str(Path(sys.executable).with_name("vimraft"))
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)


def build(site: Site, name: str, size_mib: int = 4):
    with site.client() as client:
        return client.build_volume(
            BuildRequest(name=name, size_bytes=size_mib * MIB, volume_class="ssd", sites=(site.name,))
        )


def ready_alone(site: Site) -> None:
    def leads() -> bool:
        status = site.status()
        return status.leader == site.name and status.as_of.quorum

    wait_for(leads, 30, f"{site.name} leads alone: {site.tail()}")


def released(site: Site) -> None:
    """The space of its pool has been zeroed and is free again."""
    wait_for(
        lambda: all(r.releasing_bytes == 0 for r in site.status().reals if r.site == site.name),
        30,
        f"pool of {site.name} is clean: {site.tail()}",
    )


def test_a_survivor_goes_on_and_the_others_come_back_only_empty(tmp_path):
    with running_cluster(tmp_path) as cluster:
        cluster.add_pools()
        tokyo, osaka, nagoya = (cluster[name] for name in ("tokyo", "osaka", "nagoya"))
        build(tokyo, "kept")
        build(osaka, "theirs")
        for site in (osaka, nagoya, tokyo):
            site.kill()
        refused = vimraft("meta", "recover", "--config", str(tokyo.config_path))
        assert refused.returncode == 2, refused
        assert "--yes-i-accept-data-loss" in refused.stderr
        assert not list(tokyo.data_dir.glob("raft.*"))

        done = vimraft(
            "meta", "recover", "--config", str(tokyo.config_path), "--yes-i-accept-data-loss", "-o", "json"
        )
        assert done.returncode == 0, done
        assert json.loads(done.stdout)["generation"] == 2
        assert "osaka" in done.stderr
        assert (tokyo.data_dir / "raft.before-generation-2").is_dir()

        tokyo.start()
        ready_alone(tokyo)
        status = tokyo.status()
        assert status.as_of.index >= GENERATION_STEP
        assert {v.name for v in status.volumes} == {"kept", "theirs"}
        released(tokyo)
        build(tokyo, "after")

        osaka.start()  # as it was: of the old generation
        wait_for(lambda: "generation" in problem_of(osaka), 30, f"osaka refused: {osaka.tail()}")
        assert len(voters(tokyo)) == 1
        osaka.stop_manager()
        osaka.kill_planes()
        come_back(cluster, osaka, tokyo)
        wait_for(lambda: len(voters(tokyo)) == 2, 40, f"osaka votes again: {osaka.tail()}")
        wait_for(lambda: "after" in {v.name for v in osaka.status().volumes}, 20, "osaka has the tables")
        released(osaka)
        build(osaka, "at-osaka")


def problem_of(site: Site) -> str:
    return next(s.problem for s in site.status().sites if s.name == site.name)


def voters(site: Site) -> list[str]:
    with site.client() as client:
        return [m.name for m in client.members().membership.members if m.role in ("voter", "leader")]


def come_back(cluster: Cluster, site: Site, via: Site) -> None:
    arguments = ("--config", str(site.config_path), "--via", via.url, "--token-file", str(cluster.token_path))
    said = []

    def joined() -> bool:  # refused until nothing has been heard of its former life for some seconds
        said.append(vimraft("site", "join", *arguments, "--replace", site.name, "--yes"))
        return said[-1].returncode == 0

    wait_for(joined, 30, f"{site.name} is let in: {said}")
    site.start()


def test_a_cluster_begins_again_from_a_backup(tmp_path):
    file = tmp_path / "tables.vimraft-backup"
    with running_cluster(tmp_path / "a", ("tokyo",)) as cluster:
        tokyo = cluster["tokyo"]
        cluster.add_pools()
        build(tokyo, "kept")
        api = ("--api", tokyo.url, "--token-file", str(cluster.token_path))
        taken = vimraft(*api, "meta", "backup", str(file), "-o", "json")
        assert taken.returncode == 0, taken
        index = json.loads(taken.stdout)["index"]
        assert file.stat().st_mode & 0o777 == 0o600
        verified = vimraft("meta", "verify", str(file))
        assert verified.returncode == 0, verified
        assert f"index {index}" in verified.stdout
        build(tokyo, "lost")
        wait_for(
            lambda: [b.kind for b in tokyo.client().backups().backups] == ["daily"], 20, "a daily backup"
        )
        tokyo.stop_manager()

        occupied = vimraft("meta", "restore", str(file), "--config", str(tokyo.config_path))
        assert occupied.returncode == 7, occupied
        assert "--replace" in occupied.stderr
        accept = ("--yes-i-accept-losing-changes-after", str(index))
        done = vimraft("meta", "restore", str(file), "--config", str(tokyo.config_path), "--replace", *accept)
        assert done.returncode == 0, done
        tokyo.start()
        ready_alone(tokyo)
        assert [v.name for v in tokyo.status().volumes] == ["kept"]
        released(tokyo)
        build(tokyo, "lost")
