"""Every failure ends in one exit code, an error and a remedy on stderr, and no traceback."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli_case import invoke
from tests.fake_site import TOKEN, FakeService, closed_port, serving
from vimraft.api.errors import DeviceProblem, ManagerUnreachable, Refused
from vimraft.core.reasons import Exists, InUse, Invalid, NotFormed, NotFound, Unsupported
from vimraft.metadata.port import Unavailable, UnknownOutcome

VIMRAFT = (sys.executable, "-c", "from vimraft.cli.main import main; main()")


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[FakeService, str]]:
    service = FakeService()
    with serving(service) as url:
        yield service, url


@pytest.fixture
def token(tmp_path: Path) -> str:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    return str(path)


FAULTS = [
    (Refused(NotFound("virtual volume", "x", ("y",))), 4, "no virtual volume 'x'"),
    (Refused(Exists("virtual volume", "x")), 3, "exists already"),
    (Refused(InUse("real volume", "t1:0", ("db",))), 3, "in use by db"),
    (Refused(Invalid("name", "x y", "may hold only letters")), 2, "may hold only letters"),
    (Refused(Unsupported("2 copies")), 3, "2 copies"),
    (Refused(NotFormed()), 5, "not been formed"),
    (Unavailable("no leader"), 5, "no leader"),
    (UnknownOutcome("deadline"), 6, "may or may not"),
    (ManagerUnreachable("osaka", "refused"), 5, "osaka"),
    (DeviceProblem("t1:0", "foreign label"), 7, "foreign label"),
]


@pytest.mark.parametrize(("fault", "code", "words"), FAULTS, ids=lambda v: type(v).__name__)
def test_a_fault_at_the_manager_has_its_exit_code(
    served: tuple[FakeService, str], token: str, fault: Exception, code: int, words: str
) -> None:
    service, url = served
    service.fault = fault
    command = ("--api", url, "--token-file", token, "vol", "create", "x", "--size", "64M", "--class", "ssd")
    result = invoke(*command)
    assert result.code == code
    assert result.out == ""
    first, second = result.err.splitlines()[:2]
    assert first.startswith("error: ")
    assert words in first
    assert second.startswith("help: ")
    assert "Traceback" not in result.err
    as_json = invoke(*command, "-o", "json")
    assert as_json.code == code
    assert words in as_json._replace(out=as_json.err).json()["message"]
    assert as_json.out == ""


def test_a_defect_at_the_manager_is_one_and_asks_for_a_report(
    served: tuple[FakeService, str], token: str
) -> None:
    service, url = served
    service.fault = ZeroDivisionError("oops")
    result = invoke("--api", url, "--token-file", token, "status")
    assert result.code == 1
    assert "ZeroDivisionError" in result.err
    assert "report" in result.err


@pytest.mark.parametrize("size", ["0", "-1", "junk", "10MB", "1000", "9E"])
def test_wrong_sizes_are_refused_before_anybody_is_asked(size: str, token: str) -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    result = invoke(
        "--api", url, "--token-file", token, "vol", "create", "x", f"--size={size}", "--class", "ssd"
    )
    assert result.code == 2
    assert f"size '{size}'" in result.err
    assert "64M, 1.5G, 1TiB" in result.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("vol", "lss"), "No such command 'lss'"),
        (("vol", "create", "x"), "Missing option"),
        (("vol", "ls", "--colour"), "--colour"),
        (("vol", "ls", "-o", "xml"), "xml"),
        (("--api", "ftp://h", "vol", "ls"), "API URL 'ftp://h'"),
        (("--token-file", "/nonexistent/t", "vol", "ls"), "token file /nonexistent/t: No such file"),
        (("--context", "/nonexistent/c", "vol", "ls"), "context file /nonexistent/c: No such file"),
        (("real", "exclude", "t1"), "real volume 't1'"),
        (("real", "exclude", "t1:70000"), "LUN from 0 to 65535"),
        (("storage", "add", "a b", "--site", "x"), "storage address 'a b'"),
        (("vol", "create", "x", "--size", "1M", "--class", "c", "--site", "a,,b"), "--site 'a,,b'"),
        (("top",), "terminal"),
        (("attach", "x", "--device", "/dev/sda"), "--device '/dev/sda'"),
        (("attach", "x", "--block-size", "1000"), "--block-size '1000'"),
        (("site", "run", "--config", "/nonexistent/site.toml"), "/nonexistent/site.toml"),
    ],
)
def test_wrong_usage_is_two_with_a_remedy(arguments: tuple[str, ...], words: str) -> None:
    result = invoke(*arguments)
    assert result.code == 2
    assert result.err.startswith("error: ")
    assert words in result.err
    assert "help: " in result.err


def test_an_unreachable_cluster_is_five(token: str) -> None:
    result = invoke("--api", f"http://127.0.0.1:{closed_port()}", "--token-file", token, "status")
    assert result.code == 5
    assert "connection refused" in result.err


def test_no_context_names_the_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIMRAFT_CONTEXT", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.prefix", str(tmp_path / ".venv"))
    result = invoke("status")
    assert result.code == 2
    assert str(tmp_path / ".vimraft/context.toml") in result.err


def spawn(url: str, token: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*VIMRAFT, "--api", url, "--token-file", token, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # Not by inheritance: readline, once loaded, puts COLUMNS into the environment behind Python's back.
        env=dict(os.environ),
    )  # fmt: skip


def test_an_interrupt_ends_quietly_with_130(served: tuple[FakeService, str], token: str) -> None:
    service, url = served
    service.fault = None
    with spawn(url, token, "events", "-f") as process:
        assert process.stdout is not None
        assert "v1" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err == ""
    assert "Traceback" not in out


def test_a_reader_that_leaves_ends_it_quietly(served: tuple[FakeService, str], token: str) -> None:
    service, url = served
    service.fault = None
    with spawn(url, token, "status", "-o", "json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        err = process.stderr.read()
        process.wait(timeout=20)
    assert process.returncode == 141
    assert err == ""


def test_following_events_shows_each_once_also_over_an_outage(
    served: tuple[FakeService, str], token: str
) -> None:
    from tests.fake_site import event

    service, url = served
    service.fault = None
    with spawn(url, token, "events", "-f", "-n", "1") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "v5" in process.stdout.readline()
        service.fault = Unavailable("no quorum")
        assert "no quorum" in process.stderr.readline()
        service.log.append(event(6))
        service.fault = None
        assert "connected again" in process.stderr.readline()
        assert "v6" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    assert out == ""


def test_colours_only_for_terminals_that_want_them(served: tuple[FakeService, str], token: str) -> None:
    service, url = served
    service.fault = None
    done = subprocess.run(
        [*VIMRAFT, "--api", url, "--token-file", token, "status"],
        capture_output=True, text=True, check=True, timeout=30, env={**os.environ, "TERM": "xterm-256color"},
    )  # fmt: skip
    assert "\x1b" not in done.stdout
    assert "db-main" in done.stdout


def test_completion_offers_the_names_of_the_cluster(served: tuple[FakeService, str], token: str) -> None:
    service, url = served
    service.fault = None
    line = f"vimraft --api {url} --token-file {token} vol show d"
    env = {**os.environ, "_VIMRAFT_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": "7"}
    done = subprocess.run(VIMRAFT, capture_output=True, text=True, check=False, timeout=30, env=env)
    assert done.stdout.split() == ["db-main"]
    nobody = line.replace(url, f"http://127.0.0.1:{closed_port()}")
    done = subprocess.run(
        VIMRAFT, capture_output=True, text=True, check=False, timeout=30, env={**env, "COMP_WORDS": nobody}
    )
    assert (done.stdout.strip(), done.stderr) == ("", "")
