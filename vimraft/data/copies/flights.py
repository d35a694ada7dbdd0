"""A data request on its way to a peer's store and back: NBD's transmission phase on a plain socket.

May live here: the two messages of a request (simple replies, as `links` negotiates), sent and received by the
thread that has the link: one system call each in the ordinary case, where libnbd makes five and two dozen
calls into it. Keeps: a connection on which anything unexpected came is not used again (`PeerLost`), and what
was under way on it has an unknown outcome.
"""

import errno
import select
import socket
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vimraft.data.copies import wire
from vimraft.data.errors import PeerLost
from vimraft.protocol.asks import Answer, AskKind
from vimraft.protocol.owner_effects import StoreRequest

if TYPE_CHECKING:
    from vimraft.data.copies.links import CopyLink

POLL_MS = 1_000
_REQUEST = struct.Struct(">IHHQQI")
_TIMEVAL = struct.Struct("@ll")
_REPLY = struct.Struct(">IIQ")
_REPLY_BYTES = _REPLY.size
_REQUEST_MAGIC = 0x25609513
_REPLY_MAGIC = 0x67446698
_FUA = 1
_COMMANDS: dict[AskKind, int] = {"read": 0, "write": 1, "flush": 3, "trim": 4, "zero": 6}
DATA_KINDS = frozenset(_COMMANDS)
_SEND = socket.MSG_NOSIGNAL
_AT_ONCE = socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT


def ready_socket(sock: socket.socket) -> None:
    """As `Flight` uses it: waits are bounded by the kernel, which costs no system call each time."""
    sock.setblocking(True)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(*divmod(POLL_MS * 1000, 1_000_000)))


class Flight:
    """One request on a link that has no other."""

    __slots__ = ("_buffer", "_have", "_socket", "_unsent", "link", "request", "store")

    def __init__(self, link: "CopyLink", request: StoreRequest) -> None:
        """Sends what can be sent without waiting. Raises PeerLost."""
        assert link.guard is not None, "a link in use is connected"
        self.link = link
        self.request = request
        self.store = link.place.store
        self._socket = link.guard
        first, length, data = request.first, request.end - request.first, request.data
        if request.kind == "flush":
            first = length = 0  # it is of the whole copy, and NBD wants it so
        self._buffer = bytearray(_REPLY_BYTES + length if request.kind == "read" else _REPLY_BYTES)
        """For the whole reply."""
        self._have = 0
        head = _REQUEST.pack(
            _REQUEST_MAGIC, _FUA if request.fua else 0, _COMMANDS[request.kind], request.number,
            first, length,
        )  # fmt: skip
        try:
            sent = self._socket.sendmsg((head, data), (), _AT_ONCE)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise PeerLost(f"{self.store}: {error}") from None
        whole = sent == len(head) + len(data)
        self._unsent: memoryview | None = None if whole else memoryview(head + data)[sent:]

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def waits_for(self) -> int:
        return select.POLLIN if self._unsent is None else select.POLLIN | select.POLLOUT

    def answer(self, *, wait: bool) -> Answer | None:
        """None: it is under way (`wait`: still, after POLL_MS). Raises PeerLost."""
        try:
            if self._unsent is not None:
                self._send(self._unsent, wait)
            while True:
                have = self._receive(wait)
                if have == len(self._buffer) or have == _REPLY_BYTES:
                    answer = self._read()
                    if answer is not None:
                        return answer
        except BlockingIOError:
            return None
        except OSError as error:
            raise PeerLost(f"{self.store}: {error}") from None

    def _send(self, unsent: memoryview, wait: bool) -> None:
        while unsent:
            self._unsent = unsent = unsent[self._socket.send(unsent, _SEND if wait else _AT_ONCE) :]
        self._unsent = None

    def _receive(self, wait: bool) -> int:
        """How much of the reply is there."""
        have = self._have
        space = memoryview(self._buffer)[have:] if have else self._buffer
        came = self._socket.recv_into(space, 0, 0 if wait else socket.MSG_DONTWAIT)
        if not came:
            raise PeerLost(f"{self.store} closed the connection")
        self._have = have = have + came
        return have

    def _read(self) -> Answer | None:
        """None: data are missing."""
        request, buffer = self.request, self._buffer
        magic, error, number = _REPLY.unpack_from(buffer)
        if magic != _REPLY_MAGIC or number != request.number:
            raise PeerLost(f"{self.store} sent what is no reply")
        if error:
            how = wire.how_of(error)
            if how == "lost" or self._have > _REPLY_BYTES:
                raise PeerLost(f"{self.store}: {errno.errorcode.get(error, error)}")
            return Answer(request.number, how, self.link.boot)
        if self._have < len(buffer):
            return None
        if request.kind != "read":
            return Answer(request.number, "done", self.link.boot)
        del buffer[:_REPLY_BYTES]  # moves no data
        return Answer(request.number, "done", self.link.boot, buffer)  # type: ignore[arg-type]


def poll_flights(flights: Sequence[Flight]) -> None:
    """Until something comes for one of them, or POLL_MS. One alone is waited for by `answer`."""
    if len(flights) > 1:
        poller = select.poll()
        for flight in flights:
            poller.register(flight, flight.waits_for)
        poller.poll(POLL_MS)
