"""Keeps one data-plane process (nbdkit) of this site running.

The manager owns the listening sockets and hands them to every life of the process (LISTEN_FDS), so clients
that connect while it restarts wait in the backlog instead of being refused. A process that outlived an
earlier manager is adopted: it goes on serving, and its Hello brings the sockets. One that holds the lock
but does not say Hello is ended first, since two exports of one site must never run (flock is the proof).

May live here: sockets, start, watch (pidfd), restart with backoff, stop.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from vimraft.data.feed import Role
from vimraft.data.launch import LaunchError

log = structlog.get_logger(__name__)

ADOPT_TIMEOUT_S = 5.0
QUIT_TIMEOUT_S = 15.0
TERM_TIMEOUT_S = 5.0
STABLE_S = 30.0
"""A process that lived this long starts the backoff anew."""
LISTEN_BACKLOG = 512
POLL_S = 1.0

Spawn = Callable[[list[socket.socket]], "subprocess.Popen[bytes]"]


class AddressInUse(Exception):
    """Another program listens where this process should."""


class Supervisor:
    """`spawn` starts the process on the given sockets; `on_start(adopted)` and `on_exit` tell the manager."""

    def __init__(
        self,
        role: Role,
        *,
        address: tuple[str, int],
        lock_path: Path,
        spawn: Spawn,
        on_start: Callable[[Role, bool], None],
        on_exit: Callable[[Role, str], None],
        backoff_ms: int,
        backoff_max_ms: int,
    ) -> None:
        self.role: Role = role
        self.pid: int | None = None
        self.restarts = 0
        self._address = address
        self._lock_path = lock_path
        self._spawn = spawn
        self._on_start = on_start
        self._on_exit = on_exit
        self._backoff_s = backoff_ms / 1e3
        self._backoff_max_s = backoff_max_ms / 1e3
        self._sockets: list[socket.socket] = []
        self._adopted = False
        self._child: subprocess.Popen[bytes] | None = None
        self._said_hello = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()

    async def prepare(self) -> None:
        """Adopt a running process, or bind. Raises AddressInUse."""
        self._adopted = await self._adopt()
        if not self._sockets:
            self._sockets = [_listen(self._address)]

    def start(self) -> None:
        """After `prepare`: watch the adopted process, or start one, in the background."""
        self._task = asyncio.create_task(self._run(self._adopted))
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("plane.unwatched", role=self.role, exc_info=error)

    def hello(self, pid: int, passed: list[socket.socket]) -> None:
        """A process said Hello on the feed and brought its sockets."""
        wanted = [sock for sock in passed if not self._sockets and self._is_ours(sock)]
        for sock in passed:
            if sock not in wanted:
                sock.close()
        self._sockets = self._sockets or wanted
        if self._sockets and self.pid is None:
            self.pid = pid
        self._said_hello.set()

    def _is_ours(self, sock: socket.socket) -> bool:
        """It listens where the configuration says (which may have changed since)."""
        try:
            return bool(sock.getsockname()[:2] == self._address)
        except OSError:
            return False

    async def stop(self, quit_process: Callable[[], None]) -> None:
        """Clean shutdown: let it finish and flush, then insist."""
        self._stopping.set()
        pid = self.pid
        if pid is not None:
            quit_process()
            for send, timeout_s in (
                (None, QUIT_TIMEOUT_S),
                (signal.SIGTERM, TERM_TIMEOUT_S),
                (signal.SIGKILL, TERM_TIMEOUT_S),
            ):
                if send is not None:
                    log.warning("plane.slow_to_stop", role=self.role, pid=pid, signal=send.name)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, send)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._gone.wait(), timeout_s)
                    break
        await self._end()

    async def leave(self) -> None:
        """Stop watching but let the process serve on: the next manager adopts it."""
        self._stopping.set()
        await self._end()

    async def _end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for sock in self._sockets:
            sock.close()
        self._sockets = []

    async def _adopt(self) -> bool:
        pid = _holder(self._lock_path)
        if pid is None:
            return False
        log.info("plane.found", role=self.role, pid=pid)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._said_hello.wait(), ADOPT_TIMEOUT_S)
        if self._said_hello.is_set() and self._sockets:
            return True
        log.warning("plane.not_adoptable", role=self.role, pid=pid)
        self.pid = None
        await _end_holder(self._lock_path, pid)
        return False

    async def _run(self, adopted: bool) -> None:
        backoff_s = self._backoff_s
        while not self._stopping.is_set():
            started = time.monotonic()
            if not adopted:
                self._said_hello.clear()
                try:
                    self._child = self._spawn(self._sockets)
                except (LaunchError, OSError) as error:
                    self._on_exit(self.role, f"cannot be started: {error}")
                    backoff_s = await self._back_off(backoff_s, str(error))
                    continue
                self.pid = self._child.pid
            assert self.pid is not None
            self._gone.clear()
            self._on_start(self.role, adopted)
            log.info("plane.started", role=self.role, pid=self.pid, adopted=adopted)
            how = await self._wait_exit(self.pid)
            self.pid, adopted = None, False
            self._gone.set()
            if self._stopping.is_set():
                return
            self._on_exit(self.role, how)
            if time.monotonic() - started > STABLE_S:
                backoff_s = self._backoff_s
            backoff_s = await self._back_off(backoff_s, how)

    async def _back_off(self, backoff_s: float, how: str) -> float:
        """Waits; returns how long to wait the next time."""
        log.error("plane.exited", role=self.role, how=how, restart_in_s=backoff_s)
        self.restarts += 1
        await asyncio.sleep(backoff_s)
        return min(backoff_s * 2, self._backoff_max_s)

    async def _wait_exit(self, pid: int) -> str:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return "was gone"
        except OSError as error:  # no descriptors left: look at intervals instead
            log.error("plane.no_pidfd", role=self.role, cause=str(error))
            while _holder(self._lock_path) is not None:
                await asyncio.sleep(POLL_S)
            return "ended"
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(pidfd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(pidfd)
            os.close(pidfd)
        if self._child is not None and self._child.pid == pid:
            code = self._child.wait()
            return f"killed by signal {-code}" if code < 0 else f"exited with status {code}"
        return "ended"


def _listen(address: tuple[str, int]) -> socket.socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(LISTEN_BACKLOG)
    except OSError as error:
        sock.close()
        raise AddressInUse(f"{address[0]}:{address[1]}: {error.strerror}") from None
    return sock


def _holder(lock_path: Path) -> int | None:
    """The process that holds this lock now; None: nobody."""
    try:
        fd = os.open(lock_path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(fd, 32, 0).decode(errors="replace").strip()
        return int(text) if text.isdigit() else -1
    finally:
        os.close(fd)
    return None


async def _end_holder(lock_path: Path, pid: int) -> None:
    """SIGTERM, then SIGKILL, until the lock is free: the proof that the old process is dead."""
    for send, timeout_s in ((signal.SIGTERM, TERM_TIMEOUT_S), (signal.SIGKILL, TERM_TIMEOUT_S)):
        if pid > 0:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, send)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if _holder(lock_path) is None:
                return
            await asyncio.sleep(0.02)
    raise AddressInUse(f"process {pid} holds {lock_path} and does not end; stop it by hand")
