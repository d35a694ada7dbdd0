"""The listening socket of the Raft port.

May live here: binding and accepting. PySyncObj's own closes itself for good at the first error of accept
(no descriptor left is one), and holds five callers in its queue.
"""

import errno
import socket
from collections.abc import Callable
from typing import Final

import structlog
from pysyncobj.poller import POLL_EVENT_TYPE, Poller

from vimraft.metadata.pysyncobj.resolver import look_up

log = structlog.get_logger(__name__)

BACKLOG: Final = 128
ACCEPTS_PER_EVENT: Final = 16
PAUSE_S: Final = 1.0
"""Without descriptors or memory, accepting again at once would only burn the processor."""
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Listener:
    def __init__(
        self,
        address: str,
        poller: Poller,
        clock: Callable[[], float],
        accepted: Callable[[socket.socket, str], None],
    ) -> None:
        """`accepted(socket, remote)` owns the socket, and does not raise. Raises OSError, ValueError."""
        self._poller = poller
        self._clock = clock
        self._accepted = accepted
        self._resume_at: float | None = None
        family, sockaddr = look_up(address)[0]
        self._sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._sock.setblocking(False)
            self._sock.bind(sockaddr)
            self._sock.listen(BACKLOG)
        except BaseException:
            self._sock.close()
            raise
        self._descriptor = self._sock.fileno()
        self._closed = False
        self._subscribe()

    def _subscribe(self) -> None:
        self._poller.subscribe(self._descriptor, self._event, POLL_EVENT_TYPE.READ | POLL_EVENT_TYPE.ERROR)

    def _event(self, _descriptor: int, _mask: int) -> None:
        for _ in range(ACCEPTS_PER_EVENT):
            if self._closed:
                return
            try:
                sock, remote = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    log.error("raft.cannot_accept", problem=error.strerror)
                    self._poller.unsubscribe(self._descriptor)
                    self._resume_at = self._clock() + PAUSE_S
                    return
                continue  # the caller has gone again
            self._accepted(sock, f"{remote[0]}:{remote[1]}")

    def tick(self, now: float) -> None:
        if self._resume_at is not None and now >= self._resume_at and not self._closed:
            self._resume_at = None
            self._subscribe()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._poller.unsubscribe(self._descriptor)
            self._sock.close()
