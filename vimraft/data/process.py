"""The life of one data-plane process inside nbdkit: lock, threads, signals, its end.

May live here: what export and store have in common and is not about one request. Threads start after nbdkit
has forked, and are daemons (another kind hangs the exit).
"""

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vimraft.data.engine import Plane
from vimraft.data.feed import Role
from vimraft.data.feed_client import FeedClient, log_line

FIRST_LISTEN_FD = 3
QUIT_DRAIN_S = 5.0
"""How long a clean shutdown waits for running requests."""
_PR_SET_PDEATHSIG = 1
_KEYS = ("feed", "lock", "manager", "model", "listen")
_OPTIONAL_KEYS = ("copies",)
"""`copies`: the directory of what is kept about volumes with copies; else one beside the lock."""


class StartError(Exception):
    """The process cannot start: names the parameter or file and the remedy."""


class DataProcess:
    """`shutdown` asks nbdkit to end (nbdkit.shutdown)."""

    def __init__(self, role: Role, shutdown: Callable[[], None]) -> None:
        self.role = role
        self._shutdown = shutdown
        self._params: dict[str, str] = {}
        self._lock_fd = -1
        self._plane: Plane | None = None
        self._ending = threading.Lock()

    @property
    def plane(self) -> Plane:
        assert self._plane is not None
        return self._plane

    @property
    def parallel(self) -> bool:
        return self._params.get("model") == "parallel"

    def configure(self, key: str, value: str) -> None:
        if key not in _KEYS + _OPTIONAL_KEYS:
            raise StartError(f"unknown parameter {key}=; known are {', '.join(_KEYS + _OPTIONAL_KEYS)}")
        self._params[key] = value

    def check(self) -> None:
        for key in _KEYS:
            if not self._params.get(key):
                raise StartError(f"parameter {key}= is missing")

    def take_lock(self) -> None:
        """Held for life; whoever can take it knows that this process is dead (INV-2)."""
        path = self._params["lock"]
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise StartError(
                f"{path} is locked: another {self.role} of this manager is still running"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._lock_fd = fd

    def start(self) -> None:
        """After the fork, in the main thread."""
        _outlive_parent()
        copies_dir = Path(self._params.get("copies") or f"{self._params['lock']}.copies")
        copies_dir.mkdir(parents=True, exist_ok=True)
        plane = Plane(
            self.role, self._params["manager"], parallel=self.parallel, copies_dir=copies_dir, log=log
        )
        client = FeedClient(plane, self._params["feed"], self._listen_fds(), self.quit, log)
        plane.report, plane.tell = client.report, client.tell
        self._plane = plane
        self._catch_signals()
        plane.links.start()
        plane.copies.shell.links.start()
        client.start()
        log(
            "process.started",
            role=self.role,
            pid=os.getpid(),
            model=self._params["model"],
            instance=plane.instance,
        )

    def _catch_signals(self) -> None:
        """nbdkit waits for running requests before it exits, and a held one would wait for long. The main
        thread runs no Python, so a handler would never run: the C part writes to a pipe instead."""
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(write_fd, False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, lambda _number, _frame: None)
        signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)

        def wait() -> None:
            number = os.read(read_fd, 1)
            log("process.signal", signal=number[0] if number else 0)
            self.end()

        threading.Thread(target=wait, name="signals", daemon=True).start()

    def quit(self) -> None:
        """Clean shutdown on the manager's word: what runs finishes, then all is flushed."""
        threading.Thread(target=self._quit, name="quit", daemon=True).start()

    def _quit(self) -> None:
        self.plane.pause_all(QUIT_DRAIN_S)
        self.plane.flush_all()
        self.end()

    def end(self) -> None:
        """Clients are cut off before anything that waits is turned away: to a client that can reconnect, an
        error reply is final, a lost connection is not."""
        with self._ending:
            self.plane.stopping = True
            for fd in self._listen_fds():
                cut_off_clients(fd)
            self.plane.shut_down()
            self._shutdown()

    def _listen_fds(self) -> range:
        return range(FIRST_LISTEN_FD, FIRST_LISTEN_FD + int(self._params["listen"]))

    def clean_up(self) -> None:
        """nbdkit is about to exit and no request runs."""
        if self._plane is not None:
            self._plane.flush_all()
            log("process.ended", role=self.role)


def _outlive_parent() -> None:
    """Started on passed sockets, nbdkit asks the kernel for SIGTERM at its parent's death. This process
    serves on without its manager, and the next manager adopts it."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, 0) != 0:
        raise StartError(f"prctl: {os.strerror(ctypes.get_errno())}")


def cut_off_clients(listen_fd: int) -> int:
    """Shut every connection that was accepted on this listening socket (nbdkit keeps their descriptors to
    itself); returns how many. They are told by their local address, which is the listener's."""
    cut = 0
    with socket.socket(fileno=os.dup(listen_fd)) as listener:
        address = _port_or_path(listener)
    for name in os.listdir("/proc/self/fd"):
        if not _is_socket(int(name)):
            continue
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as sock:
            listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if not listening and _port_or_path(sock) == address:
                sock.shutdown(socket.SHUT_RDWR)
                cut += 1
    return cut


def _is_socket(fd: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False  # closed since it was listed


def _port_or_path(sock: socket.socket) -> object:
    """Not the host: a listener on all addresses accepts on each."""
    address = sock.getsockname()
    return (sock.type, address[1]) if isinstance(address, tuple) else address


def log(event: str, **fields: Any) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(log_line(event, **fields))
        sys.stderr.flush()
