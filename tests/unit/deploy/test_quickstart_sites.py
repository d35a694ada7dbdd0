"""The quickstart's sites: configuration that the manager accepts, and signals that reach only its own."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import quickstart_sites as sites
from tests.cluster_fixture import wait_for
from vimraft.site.config import load_config

SLEEPER = "import sys; print('up', flush=True); sys.stdin.read()"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "state"
    monkeypatch.setattr(sites, "STATE", directory)
    monkeypatch.setattr(sites, "CONTEXT", directory / "context.toml")
    monkeypatch.setattr(sites, "TOKEN", directory / "token")
    return directory


@pytest.fixture
def sleeper(state: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that names the state directory on its command line, as a manager does."""
    with running(f"{state}/tokyo/site.toml") as process:
        yield process


def running(argument: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, argument], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    return process


def test_configuration_is_accepted_by_the_manager(state: Path) -> None:
    assert sites.configure()
    configs = [load_config(site.config) for site in sites.SITES]
    assert [config.manager for config in configs] == ["tokyo", "osaka", "nagoya"]
    assert {config.raft.members for config in configs} == {tuple(c.network.raft for c in configs)}
    assert all(config.token_file == state / "token" for config in configs)


def test_configuration_is_written_once(state: Path) -> None:
    assert sites.configure()
    before = {path: path.read_bytes() for path in state.rglob("*") if path.is_file()}
    assert not sites.configure()
    assert before == {path: path.read_bytes() for path in state.rglob("*") if path.is_file()}


def test_token_is_for_its_owner_alone(state: Path) -> None:
    sites.configure()
    assert (state / "token").stat().st_mode & 0o077 == 0


def test_range_with_a_taken_port_is_not_used(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind((sites.HOST, 0))
        taken.listen()
        first = taken.getsockname()[1] - 12  # osaka's NBD port of that range
        monkeypatch.setattr(sites, "PORT_BASES", range(first, first + 1))
        with pytest.raises(sites.QuickstartError, match="none of the port ranges"):
            sites.configure()
    assert not state.exists()


def test_site_that_is_killed_is_gone(state: Path, sleeper: subprocess.Popen[bytes]) -> None:
    sites.configure()
    sites.SITES[0].pid_file.write_text(f"{sleeper.pid}\n")
    assert sites.SITES[0].manager_pid() == sleeper.pid
    assert sites.kill_site(sites.SITES[0]) == 1
    assert sleeper.wait(10) == -signal.SIGKILL


def test_recorded_pid_that_now_belongs_to_another_program_is_left_alone(state: Path) -> None:
    sites.configure()
    with running("something else") as stranger:
        sites.SITES[0].pid_file.write_text(f"{stranger.pid}\n")
        assert sites.SITES[0].pids() == []
        assert sites.take_down() == 0
        assert stranger.poll() is None
        assert stranger.stdin is not None
        stranger.stdin.close()
    assert not state.exists()


def test_take_down_ends_the_sites_and_removes_their_state(
    state: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    sites.configure()
    sites.SITES[0].pid_file.write_text(f"{sleeper.pid}\n")
    assert sites.take_down() == 1
    wait_for(lambda: sleeper.poll() is not None, 10, "process ended")
    assert not state.exists()
