"""The life of one data-plane process inside nbdkit: lock, threads, signals, its end.

May live here: what export and store have in common and is not about one request. Threads start after nbdkit
has forked, and are daemons (another kind hangs the exit).
"""

import contextlib
import ctypes
import fcntl
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from vimraft.data.engine import Plane
from vimraft.data.feed import Role
from vimraft.data.feed_client import FeedClient, log_line

FIRST_LISTEN_FD = 3
_PR_SET_PDEATHSIG = 1
_KEYS = ("feed", "lock", "manager", "model", "listen")


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
        if key not in _KEYS:
            raise StartError(f"unknown parameter {key}=; known are {', '.join(_KEYS)}")
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
        plane = Plane(self.role, self._params["manager"], parallel=self.parallel)
        fds = range(FIRST_LISTEN_FD, FIRST_LISTEN_FD + int(self._params["listen"]))
        client = FeedClient(plane, self._params["feed"], fds, self.quit, log)
        plane.report = client.report
        self._plane = plane
        self._catch_signals()
        plane.links.start()
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
        self.plane.flush_all()
        self.end()

    def end(self) -> None:
        with self._ending:
            self.plane.shut_down()
            self._shutdown()

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


def log(event: str, **fields: Any) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(log_line(event, **fields))
        sys.stderr.flush()
