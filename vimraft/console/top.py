"""`vimraft top`: the live console. A terminal, a fetching thread and a clock around vimraft.console.top_view.

May live here: reading keys, the loop, and putting the terminal back as it was on every way out (leaving,
exceptions, SIGTERM). The fetching thread never touches the screen; the loop never waits for the network.
"""

import os
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, Protocol

from rich.console import Console
from rich.live import Live

from vimraft.api.schema import EventReply, EventsReply, StatusReply
from vimraft.console import render
from vimraft.console.top_view import TopData, View, handle_key, screen

REFRESH_S: Final = 1.0
MAX_EVENTS: Final = 200
MAX_RATES: Final = 120
STOP_WAIT_S: Final = 0.5
"""Leaving never waits for a manager that does not answer."""


class Source(Protocol):
    """What the console reads: vimraft.api.client.Client, or a fake."""

    @property
    def url(self) -> str: ...

    def status(self) -> StatusReply: ...

    def events(self, *, after: int = -1, limit: int = 100) -> EventsReply: ...


class Fetcher:
    """Asks once a second on its own thread and keeps the newest answer; a failure keeps the older one."""

    def __init__(self, source: Source, explain: Callable[[Exception], str], wake: Callable[[], None]) -> None:
        self._source = source
        self._explain = explain
        self._wake = wake
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._status: StatusReply | None = None
        self._received_s = 0.0
        self._problem = ""
        self._events: deque[EventReply] = deque(maxlen=MAX_EVENTS)
        self._events_of = ""
        self._rates: deque[float] = deque(maxlen=MAX_RATES)
        self._thread = threading.Thread(target=self._run, name="top-fetch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> bool:
        """False: the thread still waits for an answer (it is a daemon and ends with the process)."""
        self._stop.set()
        self._thread.join(STOP_WAIT_S)
        return not self._thread.is_alive()

    def data(self) -> TopData:
        with self._lock:
            return TopData(
                status=self._status,
                events=tuple(self._events),
                age_s=time.monotonic() - self._received_s if self._status is not None else 0.0,
                problem=self._problem,
                rates=tuple(self._rates),
                source=self._source.url,
            )

    def _run(self) -> None:
        while not self._stop.is_set():
            started_s = time.monotonic()
            self._fetch()
            self._wake()
            self._stop.wait(max(REFRESH_S - (time.monotonic() - started_s), 0.05))

    def _fetch(self) -> None:
        try:
            status = self._source.status()
            known = self._events_of == status.answered_by
            after = self._events[-1].id if known and self._events else -1
            fresh = self._source.events(after=after, limit=MAX_EVENTS).events
        except Exception as error:  # noqa: BLE001 - shown on the screen; the console outlives any failure
            with self._lock:
                self._problem = self._explain(error)
            return
        total = render.sum_rates(io for volume in status.volumes for io in volume.io.values())
        with self._lock:
            if not known:  # each manager numbers the events of its own catalogue
                self._events.clear()
                self._events_of = status.answered_by
            self._events.extend(fresh)
            self._status, self._received_s, self._problem = status, time.monotonic(), ""
            self._rates.append(total.read_iops + total.write_iops)


_ESCAPES: Final = {
    b"\x1b[A": "up", b"\x1b[B": "down", b"\x1bOA": "up", b"\x1bOB": "down", b"\x1b[5~": "pgup",
    b"\x1b[6~": "pgdn", b"\x1b[H": "home", b"\x1b[1~": "home", b"\x1bOH": "home", b"\x1b[Z": "shift-tab",
    b"\x1bOP": "f1",
}  # fmt: skip
_CONTROLS: Final = {9: "tab", 10: "enter", 13: "enter", 8: "backspace", 127: "backspace", 27: "esc"}


def parse_keys(data: bytes) -> Iterator[str]:
    """Names of the keys in what a terminal sent; sequences that are not known are dropped whole."""
    while data:
        known = next((seq for seq in _ESCAPES if data.startswith(seq)), None)
        if known is not None:
            yield _ESCAPES[known]
            data = data[len(known) :]
        elif data[0] == 27 and len(data) > 1 and data[1:2] in (b"[", b"O"):
            end = next((i for i in range(2, len(data)) if 0x40 <= data[i] <= 0x7E), len(data) - 1)
            data = data[end + 1 :]
        elif data[0] in _CONTROLS:
            yield _CONTROLS[data[0]]
            data = data[1:]
        else:
            plain = data.split(b"\x1b", 1)[0]
            stop = next((i for i, byte in enumerate(plain) if byte in _CONTROLS), len(plain))
            yield from (c for c in plain[:stop].decode("utf-8", "ignore") if c.isprintable())
            data = data[stop:]


@contextmanager
def _keys_unbuffered(fd: int) -> Iterator[None]:
    """Keys arrive one by one and unechoed; Ctrl-C still interrupts, Ctrl-Z must not (it would leave the
    shell on this screen)."""
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd)
        mode = termios.tcgetattr(fd)
        mode[6][termios.VSUSP] = b"\x00"
        termios.tcsetattr(fd, termios.TCSANOW, mode)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSAFLUSH, before)


@contextmanager
def _signals(wake_fd: int) -> Iterator[None]:
    """SIGWINCH only wakes the loop; SIGTERM leaves through the same `finally` as everything else."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    def resized(_number: int, _frame: FrameType | None) -> None:
        return None

    old_fd = signal.set_wakeup_fd(wake_fd, warn_on_full_buffer=False)
    old = {
        signal.SIGWINCH: signal.signal(signal.SIGWINCH, resized),
        signal.SIGTERM: signal.signal(signal.SIGTERM, leave),
    }
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(old_fd)


def run_top(source: Source, console: Console, explain: Callable[[Exception], str]) -> None:
    """Until `q` or Ctrl-C (KeyboardInterrupt). The caller has made sure that both ends are a terminal."""
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    os.set_blocking(write_fd, False)

    def wake() -> None:
        try:
            os.write(write_fd, b"w")
        except BlockingIOError:
            return  # the loop is being woken already

    fetcher = Fetcher(source, explain, wake)
    stopped = True
    try:
        with _signals(write_fd), _keys_unbuffered(sys.stdin.fileno()):
            fetcher.start()
            try:
                _loop(fetcher, console, sys.stdin.fileno(), read_fd)
            finally:
                stopped = fetcher.stop()
    finally:
        if stopped:  # else the thread may still write there, and the numbers must not be used again
            os.close(read_fd)
            os.close(write_fd)


def _loop(fetcher: Fetcher, console: Console, keys_fd: int, wake_fd: int) -> None:
    view = View()
    with Live(
        console=console,
        screen=True,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
        vertical_overflow="crop",
    ) as live:
        while not view.quit:
            width, height = console.size
            live.update(screen(fetcher.data(), view, width, height), refresh=True)
            ready, _, _ = select.select([keys_fd, wake_fd], [], [], REFRESH_S)
            if wake_fd in ready:
                os.read(wake_fd, 4096)
            if keys_fd in ready:
                typed = os.read(keys_fd, 1024)
                if not typed:
                    return  # the terminal is gone
                for key in parse_keys(typed):
                    view = handle_key(view, key)
