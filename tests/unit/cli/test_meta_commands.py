"""`vimraft meta …`: what it prints, what it refuses, and that a backup is whole or not there."""

import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.backup_cases import busy_tables, header_of
from tests.cli_case import Result, invoke
from tests.fake_site import TOKEN, FakeService, serving
from vimraft.cli.main import run
from vimraft.core.rebirth import GENERATION_STEP
from vimraft.core.tables import State
from vimraft.metadata.backup import decode_backup, encode_backup
from vimraft.metadata.pysyncobj import offline


@pytest.fixture(scope="module")
def state() -> State:
    return busy_tables().state


@pytest.fixture
def service(state: State) -> FakeService:
    service = FakeService()
    service.backup_file = encode_backup(header_of(state), state)
    return service


@pytest.fixture
def cluster(service: FakeService, tmp_path: Path) -> Iterator[tuple[str, ...]]:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    with serving(service) as url:
        yield ("--api", url, "--token-file", str(token))


@pytest.fixture
def file(state: State, tmp_path: Path) -> Path:
    path = tmp_path / "b.vimraft-backup"
    path.write_bytes(encode_backup(header_of(state), state))
    return path


def test_status_says_who_keeps_the_level_low(cluster):
    found = invoke(*cluster, "meta", "status")
    assert found.code == 0
    assert "1 (tokyo reads up to 2)" in found.out
    assert "level 2 waits for nagoya, osaka" in found.out
    assert invoke(*cluster, "meta", "status", "-o", "json").json()["level"] == 1


def test_upgrade_plans_and_does(cluster, service):
    assert "possible: level 1 → 2" in invoke(*cluster, "meta", "upgrade", "--plan").out
    assert "now at level 2" in invoke(*cluster, "meta", "upgrade").out
    assert [body.plan for what, body, _ in service.calls if what == "upgrade"] == [True, False]


def test_a_backup_is_written_for_its_owner_and_never_over_a_file(cluster, tmp_path, state):
    target = tmp_path / "out"
    found = invoke(*cluster, "meta", "backup", str(target))
    assert found.code == 0, found
    assert f"as of index {state.index}" in found.out
    assert decode_backup(target.read_bytes(), "b").state == state
    assert target.stat().st_mode & 0o777 == 0o600
    again = invoke(*cluster, "meta", "backup", str(target))
    assert again.code == 2
    assert "--force" in again.err
    assert invoke(*cluster, "meta", "backup", str(target), "--force").code == 0


def test_without_a_name_time_and_index_are_the_name(cluster, tmp_path, monkeypatch, state):
    monkeypatch.chdir(tmp_path)
    name = invoke(*cluster, "meta", "backup", "-o", "json").json()["name"]
    assert f"-i{state.index}-manual" in name
    assert (tmp_path / name).exists()


def test_a_damaged_answer_leaves_no_file(cluster, tmp_path, service):
    service.backup_file = service.backup_file[:-1]
    target = tmp_path / "out"
    found = invoke(*cluster, "meta", "backup", str(target))
    assert found.code == 1
    assert "damaged" in found.err
    assert "out" not in os.listdir(tmp_path)


def test_a_backup_goes_down_a_pipe_as_it_is(cluster, service):
    pipe = io.TextIOWrapper(io.BytesIO())
    with contextlib.redirect_stdout(pipe):
        assert run([*cluster, "meta", "backup", "-"]) == 0
    assert pipe.buffer.getvalue() == service.backup_file


def test_backups_are_listed(cluster):
    found = invoke(*cluster, "meta", "backups")
    assert "20260921T160000Z-g1-i1200-daily.vimraft-backup" in found.out
    assert "/var/lib/vimraft/backups" in found.out


def test_verify_tells_what_is_inside(file, state):
    found = invoke("meta", "verify", str(file))
    assert found.code == 0
    assert f"index {state.index}, confirmed by a quorum" in found.out
    assert "checksum and guarantees hold" in found.out
    assert invoke("meta", "verify", str(file), "-o", "json").json()["problems"] == []


def test_verify_refuses_what_is_damaged_and_what_is_no_backup(file, tmp_path):
    data = bytearray(file.read_bytes())
    data[-40] ^= 1
    file.write_bytes(data)
    found = invoke("meta", "verify", str(file))
    assert found.code == 7
    assert "checksum does not match" in found.err
    (tmp_path / "x").write_text("hello")
    assert "is no vimraft backup" in invoke("meta", "verify", str(tmp_path / "x")).err
    assert invoke("meta", "verify", str(tmp_path / "missing")).code == 7


def test_verify_finds_tables_that_break_their_guarantees(tmp_path, state):
    volume = next(iter(state.volumes.values()))
    broken = state._replace(reals=state.reals.delete(volume.replicas[0].segments[0].real_id))
    path = tmp_path / "broken"
    path.write_bytes(encode_backup(header_of(broken), broken))
    found = invoke("meta", "verify", str(path))
    assert found.code == 7
    assert "INV-6" in found.out
    assert "break their own guarantees" in found.err


def test_export_is_json_of_all_tables(cluster, file, tmp_path, state):
    live = invoke(*cluster, "meta", "export").json()
    assert live["index"] == state.index
    assert [row["name"] for row in live["virtual_volumes"]] == sorted(state.volumes)
    first = live["virtual_volumes"][0]["replicas"][0]["segments"][0]
    assert (first["virtual_first"], first["real_first"], first["storage"]) == (0, 2048, "021a00")
    assert invoke("meta", "export", "--from", str(file)).json() == live
    assert yaml.safe_load(invoke("meta", "export", "--from", str(file), "-o", "yaml").out) == live
    target = tmp_path / "tables.json"
    assert invoke("meta", "export", str(target), "--from", str(file)).code == 0
    assert json.loads(target.read_text()) == live
    assert invoke("meta", "export", str(target), "--from", str(file)).code == 2


# Offline


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "site.toml"
    path.write_text(
        f'manager = "m-tokyo"\ndata_dir = "{tmp_path}/d"\n[[sites]]\nname = "tokyo"\n'
        '[network]\nraft = "127.0.0.1:1001"\napi = "127.0.0.1:1"\nnbd = "127.0.0.1:2"\npeer = "127.0.0.1:3"\n'
        'allow_plaintext = true\n[raft]\nmembers = ["127.0.0.1:1001"]\n'
    )
    return path


def restore(file: Path, config: Path, *more: str) -> Result:
    return invoke("meta", "restore", str(file), "--config", str(config), *more)


def tables(tmp_path: Path) -> offline.Found | None:
    from vimraft.site.config import load_config
    from vimraft.site.rebuild import read_log

    return read_log(load_config(tmp_path / "site.toml"))


def accept(state: State) -> tuple[str, str]:
    return "--yes-i-accept-losing-changes-after", str(state.index)


def test_restore_asks_for_its_index_and_says_what_is_lost(file, config, tmp_path, state):
    found = restore(file, config)
    assert found.code == 2
    assert f"every change after index {state.index}" in found.err
    assert "m-nagoya, m-osaka" in found.err
    assert " ".join(accept(state)) in found.err
    assert tables(tmp_path) is None
    assert restore(file, config, "--yes-i-accept-losing-changes-after", "7").code == 2
    assert tables(tmp_path) is None


def test_restore_makes_a_generation_of_one(file, config, tmp_path, state):
    found = restore(file, config, *accept(state), "-o", "json")
    assert found.code == 0, found
    assert found.json()["generation"] == 2
    log = tables(tmp_path)
    assert log is not None
    assert log.state.index // GENERATION_STEP == 1  # and a random offset: two restores never meet
    assert set(log.state.volumes) == set(state.volumes)
    assert log.voters == ("127.0.0.1:1001",)


def test_restore_over_a_log_needs_replace_and_keeps_it(file, config, tmp_path, state):
    assert restore(file, config, *accept(state)).code == 0
    again = restore(file, config, *accept(state))
    assert again.code == 7
    assert "--replace" in again.err
    assert restore(file, config, *accept(state), "--replace").code == 0
    log = tables(tmp_path)
    assert log is not None
    assert log.identity.generation == 3
    assert (tmp_path / "d" / "raft.before-generation-3").is_dir()


def test_a_plan_changes_nothing(file, config, tmp_path):
    found = restore(file, config, "--plan", "-o", "json")
    assert found.code == 0
    assert found.json()["generation"] == 2
    assert tables(tmp_path) is None


def test_a_damaged_backup_is_not_restored(file, config, tmp_path, state):
    file.write_bytes(file.read_bytes()[:-3])
    found = restore(file, config, *accept(state))
    assert found.code == 7
    assert "damaged" in found.err
    assert tables(tmp_path) is None


def test_nothing_is_done_under_a_manager_that_runs(file, config, state):
    from vimraft.site.config import load_config
    from vimraft.site.directory import locked

    with locked(load_config(config)):
        found = restore(file, config, *accept(state))
    assert found.code == 7
    assert "in use by site manager process" in found.err


def test_recover_needs_a_log_that_needs_others(file, config, tmp_path, state):
    found = invoke("meta", "recover", "--config", str(config), "--yes-i-accept-data-loss")
    assert found.code == 7
    assert "holds no tables" in found.err
    assert restore(file, config, *accept(state)).code == 0
    alone = invoke("meta", "recover", "--config", str(config), "--yes-i-accept-data-loss")
    assert alone.code == 7
    assert "only voter" in alone.err


def test_a_map_is_shown_as_it_was(cluster):
    found = invoke(*cluster, "map", "show", "db-main", "--at", "200")
    assert found.code == 0
    assert "as of index 200" in found.out
    early = invoke(*cluster, "map", "show", "db-main", "--at", "5")
    assert early.code == 4
    assert "known from index 100 to 1234" in early.err
    late = invoke(*cluster, "tables", "--at", "9999")
    assert late.code == 4
    assert "no index 9999 yet" in late.err
    assert "--at INDEX" in invoke(*cluster, "history").out
