"""`vimraft top` on a real pseudo-terminal, read back through a terminal emulator."""

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyte
import pytest

from tests.fake_site import TOKEN, FakeService, closed_port, serving

LIMIT_S = 30.0
# The child makes the terminal its own first, so that it gets SIGWINCH and Ctrl-C as in a shell.
PROGRAM = (
    "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from vimraft.cli.main import main; main()"
)


class Terminal:
    def __init__(self, *arguments: str, width: int = 80, height: int = 24) -> None:
        self.screen = pyte.Screen(width, height)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.master, self.slave = pty.openpty()
        self._set_size(width, height)
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            stdin=self.slave, stdout=self.slave, stderr=self.slave, start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color"},
        )  # fmt: skip

    def _set_size(self, width: int, height: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def resize(self, width: int, height: int) -> None:
        self.screen.resize(height, width)
        self._set_size(width, height)

    def send(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def _read(self) -> None:
        ready, _, _ = select.select([self.master], [], [], 0.05)
        if ready:
            data = os.read(self.master, 65536)
            self.raw += data
            self._stream.feed(data)

    def until(self, condition: Callable[[list[str]], bool]) -> list[str]:
        deadline_s = time.monotonic() + LIMIT_S
        while not condition(self.screen.display):
            if time.monotonic() > deadline_s:
                raise AssertionError("not on the screen:\n" + "\n".join(self.screen.display))
            self._read()
        return list(self.screen.display)

    def until_shown(self, words: str) -> list[str]:
        return self.until(lambda lines: any(words in line for line in lines))

    def exit_code(self) -> int:
        deadline_s = time.monotonic() + LIMIT_S
        while self.process.poll() is None and time.monotonic() < deadline_s:
            self._read()
        for _ in range(3):
            self._read()
        assert self.process.returncode is not None
        return self.process.returncode

    def is_restored(self) -> bool:
        cursor_and_screen = self.raw.rstrip().endswith((b"\x1b[?25h", b"\x1b[?1049l")) or (
            b"\x1b[?1049l" in self.raw[-400:] and b"\x1b[?25h" in self.raw[-400:]
        )
        return cursor_and_screen and termios.tcgetattr(self.slave) == self.before

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def token(tmp_path: Path) -> str:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    return str(path)


@contextlib.contextmanager
def top(url: str, token: str, **size: int) -> Iterator[Terminal]:
    terminal = Terminal("--api", url, "--token-file", token, "top", **size)
    try:
        yield terminal
    finally:
        terminal.close()


def volumes(lines: list[str]) -> list[str]:
    names = ("archive", "db-main", "scratch")
    return [line.split()[0] for line in lines if line.startswith(names)]


def test_keys_sort_filter_and_leave_and_the_terminal_comes_back(token: str) -> None:
    with serving(FakeService()) as url, top(url, token) as terminal:
        lines = terminal.until_shown("db-main")
        assert "leader osaka" in lines[0]
        assert lines[-1].startswith("q quit")
        assert volumes(lines) == ["archive", "db-main", "scratch"]
        terminal.send("s")
        terminal.until_shown("by io")
        assert volumes(terminal.until(lambda ls: volumes(ls)[-1:] == ["archive"])) == [
            "db-main", "scratch", "archive",
        ]  # fmt: skip
        terminal.send("r")
        terminal.until(lambda ls: volumes(ls)[:1] == ["archive"])
        terminal.send("/db")
        terminal.until(lambda ls: volumes(ls) == ["db-main"])
        terminal.send("\x1b")
        terminal.until(lambda ls: len(volumes(ls)) == 3)
        terminal.send("?")
        terminal.until_shown("another panel")
        terminal.send(" ")
        terminal.until_shown("db-main")
        terminal.send("q")
        assert terminal.exit_code() == 0
        assert terminal.is_restored()


def test_last_figures_stay_in_red_while_managers_are_away_and_it_reconnects(token: str) -> None:
    port = closed_port()
    with serving(FakeService(), port) as url:
        terminal_context = top(url, token)
        terminal = terminal_context.__enter__()
        terminal.until_shown("db-main")
    with contextlib.ExitStack() as stack:
        stack.push(terminal_context)
        lines = terminal.until_shown("s ago")
        assert "as of index 1234" in lines[0]
        column = lines[0].index("as of index")
        assert terminal.screen.buffer[0][column].fg == "red"
        assert volumes(lines) == ["archive", "db-main", "scratch"]
        with serving(FakeService(), port):
            terminal.until(lambda ls: "via tokyo" in ls[0])


def test_a_resized_terminal_is_filled_anew(token: str) -> None:
    with serving(FakeService()) as url, top(url, token) as terminal:
        terminal.until_shown("db-main")
        terminal.resize(120, 40)
        lines = terminal.until(
            lambda ls: ls[-1].startswith("q quit") and any("pid manager" in li for li in ls)
        )
        assert len(lines) == 40
        terminal.resize(60, 12)
        terminal.until(lambda ls: ls[-1].startswith("q quit"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_leave_with_the_terminal_restored(token: str, number: signal.Signals, code: int) -> None:
    with serving(FakeService()) as url, top(url, token) as terminal:
        terminal.until_shown("db-main")
        terminal.process.send_signal(number)
        assert terminal.exit_code() == code
        assert terminal.is_restored()
        assert b"Traceback" not in terminal.raw


def test_it_starts_without_any_manager_and_leaves_at_once(token: str) -> None:
    with top(f"http://127.0.0.1:{closed_port()}", token) as terminal:
        terminal.until_shown("connection refused")
        terminal.send("q")
        assert terminal.exit_code() == 0
        assert terminal.is_restored()
