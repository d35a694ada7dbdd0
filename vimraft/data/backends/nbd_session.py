"""One connection to an NBD server: connect, run requests against a deadline, and end without a trace.

May live here: libnbd, its errors, and the way a connection is proven to be over. Policy (pool, retries,
losses) is nbd.py's. One thread at a time uses a session; `half_close` may come from any thread.

Each request is a libnbd asynchronous command followed by polls until it is done: as cheap as the
blocking call, reads go straight into the caller's buffer, and a server that stops answering costs the
caller its deadline and no more.

Draining: a request that was sent on a connection may still be executed by the server after we gave up
on it. So the old connection is half-closed (the server sees end of file after our last request) and
then read until the *server* closes it, which nbdkit and nbd-server do only after all requests of that
connection have finished, and a killed server's kernel after its last system call. What this cannot
prove: a server that closes a connection before its requests have finished (qemu-nbd does when a
request hangs in its disk), and a peer that TCP itself has given up on.
"""

import contextlib
import errno
import os
import select
import socket
import time
from collections.abc import Callable

import nbd

from vimraft.data.backends.base import HOLE, ZERO

MAX_REQUEST_BYTES = 32 << 20
"""What every server takes, if it does not say less."""
MAX_ZERO_BYTES = 128 << 20
MAX_STATUS_BYTES = 1 << 30
MAX_EXTENTS = 8_192
DRAIN_READ_BYTES = 1 << 16
LOGICAL_BLOCK_BYTES = 512


class SessionLost(Exception):
    """The connection is dead or too slow. What it was asked may or may not have been done."""


def _milliseconds_until(deadline: float) -> int:
    return int(max(0.0, deadline - time.monotonic()) * 1000) + 1


class Session:
    """Made by `Session.connect`. Raises SessionLost, or OSError with what the server answered."""

    def __init__(self, handle: nbd.NBD, generation: int) -> None:
        self._handle: nbd.NBD | None = handle
        self._socket = socket.socket(fileno=os.dup(handle.aio_get_fd()))
        self.generation = generation
        self.busy = False
        self.joined_at = 0
        """How many writes had been acknowledged when it joined the pool."""
        self.size_bytes = handle.get_size()
        self.read_only = handle.is_read_only()
        self.can_flush = handle.can_flush()
        self.can_fua = handle.can_fua()
        self.can_zero = handle.can_zero()
        self.can_fast_zero = handle.can_fast_zero()
        self.can_multi_conn = handle.can_multi_conn()
        self.can_extents = handle.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
        self.minimum_bytes = handle.get_block_size(nbd.SIZE_MINIMUM) or 1
        self.abilities = frozenset(
            name
            for name, there in (
                ("write", not self.read_only),
                ("flush", self.can_flush),
                ("fua", self.can_fua),
                ("zero", self.can_zero),
                ("fast zero", self.can_fast_zero),
                ("multi-conn", self.can_multi_conn),
                ("extents", self.can_extents),
            )
            if there
        )
        largest = handle.get_block_size(nbd.SIZE_MAXIMUM) or MAX_REQUEST_BYTES
        self.maximum_bytes = max(LOGICAL_BLOCK_BYTES, min(largest, MAX_REQUEST_BYTES))

    @classmethod
    def connect(cls, uri: str, generation: int, deadline: float) -> "Session":
        """Raises SessionLost with the cause."""
        handle = nbd.NBD()
        try:
            handle.set_uri_allow_local_file(True)  # a pre-shared key file named by the operator
            handle.set_pread_initialize(False)  # a failed read is never shown to anybody
            handle.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
            handle.aio_connect_uri(uri)
            while handle.aio_is_connecting():
                if time.monotonic() >= deadline:
                    raise SessionLost("the server does not answer")
                handle.poll(_milliseconds_until(deadline))
            if not handle.aio_is_ready():
                raise SessionLost("the server ended the connection during the handshake")
            return cls(handle, generation)
        except nbd.Error as error:
            raise SessionLost(_plain(error)) from None

    def _run(self, issue: Callable[[nbd.NBD], int], deadline: float) -> None:
        handle = self._handle
        if handle is None:
            raise SessionLost("the connection was given up")
        try:
            cookie = issue(handle)
            while not handle.aio_command_completed(cookie):
                if time.monotonic() >= deadline:
                    raise SessionLost("the server does not answer")
                handle.poll(_milliseconds_until(deadline))
        except nbd.Error as error:
            # ESHUTDOWN: the server is going away and did not do it; its successor will.
            if handle.aio_is_ready() and error.errnum != errno.ESHUTDOWN:
                raise OSError(error.errnum or errno.EIO, _plain(error)) from None
            raise SessionLost(_plain(error)) from None

    def abandon(self) -> None:
        """Let go of the caller's buffers; the connection stays until it is drained."""
        self._handle = None  # libnbd closes its descriptor; ours keeps the connection
        self.half_close()

    def read(self, buffer: memoryview, offset: int, deadline: float) -> None:
        self._run(lambda handle: handle.aio_pread(buffer, offset), deadline)

    def write(self, data: memoryview, offset: int, *, fua: bool, deadline: float) -> None:
        flags = nbd.CMD_FLAG_FUA if fua else 0
        self._run(lambda handle: handle.aio_pwrite(data, offset, flags=flags), deadline)

    def zero(self, offset: int, length: int, *, may_trim: bool, fast: bool, deadline: float) -> None:
        flags = (0 if may_trim else nbd.CMD_FLAG_NO_HOLE) | (nbd.CMD_FLAG_FAST_ZERO if fast else 0)
        self._run(lambda handle: handle.aio_zero(length, offset, flags=flags), deadline)

    def trim(self, offset: int, length: int, deadline: float) -> None:
        self._run(lambda handle: handle.aio_trim(length, offset), deadline)

    def flush(self, deadline: float) -> None:
        self._run(lambda handle: handle.aio_flush(), deadline)

    def extents(self, offset: int, length: int, deadline: float) -> list[tuple[int, int]]:
        """Runs from `offset` on, clipped to `length`, at least one; may cover less than asked for."""
        answers: list[int] = []

        def collect(context: str, _offset: int, entries: object, _error: object) -> int:
            if context == nbd.CONTEXT_BASE_ALLOCATION and isinstance(entries, list):
                answers.extend(entries[: 2 * MAX_EXTENTS])
            return 0

        count = min(length, MAX_STATUS_BYTES)
        self._run(lambda handle: handle.aio_block_status(count, offset, collect), deadline)
        runs: list[tuple[int, int]] = []
        left = count
        for run_bytes, flags in zip(answers[::2], answers[1::2], strict=False):
            run = min(run_bytes, left)
            if run > 0:
                runs.append((run, flags & (HOLE | ZERO)))
                left -= run
        return runs or [(count, 0)]

    def half_close(self) -> None:
        """Nothing more will be asked on this connection; requests in flight may still be answered."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def drain(self, deadline: float) -> bool:
        """True when the server has closed the connection, so nothing of it can still be executed."""
        self.abandon()
        poller = select.poll()
        try:
            poller.register(self._socket, select.POLLIN)
            while poller.poll(_milliseconds_until(deadline)):
                if not self._socket.recv(DRAIN_READ_BYTES, socket.MSG_DONTWAIT):
                    break
            else:
                return False
        except BlockingIOError:
            return False
        except OSError:
            pass  # reset by the peer, or given up by TCP: closed as well
        self._socket.close()
        return True

    def end(self) -> None:
        """Orderly disconnect of an idle session."""
        handle, self._handle = self._handle, None
        if handle is not None:
            with contextlib.suppress(nbd.Error):
                handle.aio_disconnect()
        self._socket.close()


def _plain(error: nbd.Error) -> str:
    """'nbd_aio_pread: read: command failed: Input/output error' without the function names."""
    text = error.string
    return text.split(": ", 1)[1] if text.startswith("nbd_") and ": " in text else text
