"""One framed, non-blocking connection, plain or TLS, on PySyncObj's poller.

May live here: sockets and bytes. A frame is four bytes of length (big-endian) and as many bytes; what it
means is the caller's. PySyncObj's own connection (tcp_connection.py) is not used at all: besides pickles it
unpacks zlib streams of any size, copies its whole buffer for every packet, and grows without bound when the
peer does not read.

Keeps: nothing raises into the poller, since that would lose the events of other connections; what is sent
and not yet taken by the peer is bounded; a frame is bounded before any of it is stored.
"""

import contextlib
import errno
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import Final

import structlog
from pysyncobj.poller import POLL_EVENT_TYPE, Poller

from vimraft.metadata.pysyncobj.tls import TlsStream
from vimraft.metadata.pysyncobj.wire import WireError

log = structlog.get_logger(__name__)

MAX_BACKLOG_BYTES: Final = 64 << 20
"""A peer that leaves this much unread is disconnected. The leader starts afresh when it comes back."""
READ_BYTES: Final = 64 << 10
READS_PER_EVENT: Final = 16
"""Then others have their turn; the poller reports what is left at once."""
BUFFERS_PER_WRITE: Final = 64
KEEPALIVE_IDLE_S: Final = 2
KEEPALIVE_INTERVAL_S: Final = 2
KEEPALIVE_PROBES: Final = 3
UNACKNOWLEDGED_MS: Final = 10_000
"""What the peer's kernel has not acknowledged for this long ends the connection."""
_LENGTH_BYTES: Final = 4
_ALERT_TYPE: Final = 0x15
_HANDSHAKE_TYPE: Final = 0x16

Sockaddr = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
"""As `socket.getaddrinfo` gives it."""


class Connection:
    """`on_frame(connection, frame)` may raise WireError: the connection closes with it. Every call and
    callback is in the node's thread."""

    def __init__(
        self,
        sock: socket.socket,
        poller: Poller,
        clock: Callable[[], float],
        *,
        remote: str,
        tls: TlsStream | None,
        connecting: bool,
        max_frame_bytes: int,
        on_frame: "Callable[[Connection, bytes], None]",
        on_closed: "Callable[[Connection, str, bool], None]",
    ) -> None:
        """Takes over `sock`, unless it raises OSError. `on_closed(connection, why, offended)`: once, for
        every end but one by `close`. `offended`: the peer sent what no member sends."""
        self.remote = remote
        self.max_frame_bytes = max_frame_bytes
        self.opened_at = self.heard_at = clock()
        self.last_frame_at: float | None = None
        self.closed = False
        self._sock = sock
        self._descriptor = sock.fileno()
        self._poller = poller
        self._clock = clock
        self._tls = tls
        self._connecting = connecting
        self._on_frame = on_frame
        self._on_closed = on_closed
        self._received = bytearray()
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self._wants_write: bool | None = None
        self._heard_tls = False
        _tune(sock)
        self._subscribe(write=connecting)

    @property
    def tls(self) -> TlsStream | None:
        return self._tls

    @property
    def backlog_bytes(self) -> int:
        """Sent here, not yet taken by the kernel."""
        return self._unsent_bytes

    def send(self, payload: bytes) -> bool:
        """False: the connection is closed (now, if the peer has left too much unread)."""
        if self.closed:
            return False
        self._guarded(lambda: self._send(payload))
        return not self.closed

    def close(self) -> None:
        """Without `on_closed`. What was sent goes out as far as the kernel takes it. Idempotent."""
        if self.closed:
            return
        self.closed = True
        self._poller.unsubscribe(self._descriptor)
        self._sock.close()
        self._received = bytearray()
        self._unsent.clear()
        self._unsent_bytes = 0

    def quiet_since(self, now: float) -> float:
        """Seconds without a byte from the peer."""
        return now - self.heard_at

    # --- events -----------------------------------------------------------------------------------

    def _event(self, descriptor: int, mask: int) -> None:
        if self.closed or descriptor != self._descriptor:
            return  # of this round of polling, from before the connection closed
        self._guarded(lambda: self._handle(mask))

    def _handle(self, mask: int) -> None:
        if self._connecting:
            error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, errno.errorcode.get(error, str(error)))
            if not mask & (POLL_EVENT_TYPE.WRITE | POLL_EVENT_TYPE.READ):
                return
            self._connecting = False
            self.heard_at = self._clock()
            self._start_tls()
            self._flush()
            return
        if mask & POLL_EVENT_TYPE.WRITE:
            self._flush()
        # An error is read too: what the peer said before it comes first.
        if mask & (POLL_EVENT_TYPE.READ | POLL_EVENT_TYPE.ERROR):
            self._read()

    def _guarded(self, work: Callable[[], None]) -> None:
        """Whatever goes wrong with this connection closes this connection, and nothing else."""
        try:
            work()
        except WireError as error:
            self._end(str(error), offended=True)
        except ssl.SSLError as error:
            self._send_alert()
            self._end(_tls_reason(error), offended=True)
        except OSError as error:
            self._end(error.strerror or str(error), offended=False)
        except Exception:
            log.exception("raft.connection_failed", peer=self.remote)
            self._end("a defect of this manager", offended=False)

    def _end(self, why: str, *, offended: bool) -> None:
        if self.closed:
            return
        self.close()
        self._on_closed(self, why, offended)

    # --- receiving --------------------------------------------------------------------------------

    def _read(self) -> None:
        for _ in range(READS_PER_EVENT):
            try:
                data = self._sock.recv(READ_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            if not data:
                self._end("closed by it", offended=False)
                return
            self.heard_at = self._clock()
            if self._tls is not None:
                data = self._decrypt(self._tls, data)
            self._received += data
            self._dispatch()
            if self.closed:
                return
            if self._tls is not None and self._tls.ended:
                self._end("closed by it", offended=False)
                return

    def _decrypt(self, tls: TlsStream, data: bytes) -> bytes:
        if not self._heard_tls and data[0] not in (_HANDSHAKE_TYPE, _ALERT_TYPE):
            raise WireError("it speaks without TLS, here TLS is required: give it a [tls] section")
        self._heard_tls = True
        plain = tls.receive(data)
        self._queue_ciphertext()
        return plain

    def _dispatch(self) -> None:
        """Hands over the whole frames received so far."""
        buffer, start = self._received, 0
        try:
            while not self.closed and len(buffer) - start >= _LENGTH_BYTES:
                length = int.from_bytes(buffer[start : start + _LENGTH_BYTES], "big")
                if not 0 < length <= self.max_frame_bytes:
                    raise WireError(_bad_length(bytes(buffer[start : start + 5]), length))
                begin = start + _LENGTH_BYTES
                if len(buffer) - begin < length:
                    return
                start = begin + length
                self.last_frame_at = self.heard_at
                self._on_frame(self, bytes(memoryview(buffer)[begin:start]))
        finally:
            if start and not self.closed:
                del buffer[:start]

    # --- sending ----------------------------------------------------------------------------------

    def _send(self, payload: bytes) -> None:
        frame = len(payload).to_bytes(_LENGTH_BYTES, "big") + payload
        if self._tls is not None:
            self._tls.write(frame)
            self._queue_ciphertext()
        else:
            self._queue(frame)

    def _start_tls(self) -> None:
        if self._tls is not None:
            self._tls.start()
            self._queue_ciphertext()

    def _queue_ciphertext(self) -> None:
        if self._tls is not None and (data := self._tls.take()):
            self._queue(data)

    def _queue(self, data: bytes) -> None:
        if self._unsent_bytes + len(data) > MAX_BACKLOG_BYTES:
            self._end(f"it left {self._unsent_bytes >> 20} MiB unread", offended=False)
            return
        idle = not self._unsent
        self._unsent.append(memoryview(data))
        self._unsent_bytes += len(data)
        if idle and not self._connecting:
            self._flush()

    def _flush(self) -> None:
        while self._unsent:
            buffers = [self._unsent[i] for i in range(min(len(self._unsent), BUFFERS_PER_WRITE))]
            try:
                sent = self._sock.sendmsg(buffers)
            except (BlockingIOError, InterruptedError):
                break
            self._unsent_bytes -= sent
            while sent:
                first = self._unsent[0]
                if sent < len(first):
                    self._unsent[0] = first[sent:]
                    break
                sent -= len(first)
                self._unsent.popleft()
        self._subscribe(write=self._connecting or bool(self._unsent))

    def _send_alert(self) -> None:
        """Tell the peer why its TLS was refused, if the kernel takes it at once."""
        if self.closed or self._tls is None:
            return
        try:
            self._queue_ciphertext()
        except OSError:
            return  # it is gone already: nobody to tell

    def _subscribe(self, *, write: bool) -> None:
        if self.closed or write == self._wants_write:
            return
        self._wants_write = write
        mask = POLL_EVENT_TYPE.READ | POLL_EVENT_TYPE.ERROR | (POLL_EVENT_TYPE.WRITE if write else 0)
        self._poller.subscribe(self._descriptor, self._event, mask)


def dial(family: int, address: Sockaddr) -> socket.socket:
    """A socket whose connection is under way. Raises OSError."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _tune(sock: socket.socket) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)


def _bad_length(head: bytes, length: int) -> str:
    if head[0] == _HANDSHAKE_TYPE and head[1] == 3:
        return "it speaks TLS, here there is no [tls] section"
    if head[0] == _ALERT_TYPE and head[1] == 3:
        return "it answers with a TLS alert, here there is no [tls] section"
    return f"a frame of {length} bytes"


def _tls_reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    reason = (error.reason or str(error)).lower().replace("_", " ")
    if "alert" in reason:
        return f"it refuses this manager's certificate or TLS: {reason}"
    return f"TLS failed: {reason}"
