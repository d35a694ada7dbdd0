"""One small change at a time, or many outstanding: the same lean client for vimraft's log and for etcd.

May live here: framing and the loops that measure. etcd is asked through its own gRPC interface, one unary
`KV/Put` a change on one HTTP/2 connection, spoken here on the bare socket, so that neither a gateway nor a
slow library stands between (a header block that never changes, no compression, windows wide open). A voter
of vimraft (bench/voter.py) is asked through short frames on one connection. So both sides pay for a hop.
"""

import contextlib
import select
import socket
import struct
import time
from collections.abc import Iterator
from typing import NamedTuple

from bench.results import MICROSECONDS_PER_SECOND, Sample, latencies

KEYS = 256
VALUE_BYTES = 100
TIMEOUT_S = 60.0
RECEIVE_BYTES = 1 << 18
ASK_AGAIN_S = 0.02


class PutFailed(Exception):
    """The server refused, or the connection broke."""


def key_of(number: int) -> bytes:
    return b"key-%012d" % (number % KEYS)


class PutClient:
    """One connection. Subclasses: `_request` and `_answers`."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = bytearray()
        self._number = 0

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> "PutClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _request(self, number: int) -> bytes:
        raise NotImplementedError

    def _answers(self) -> Iterator[bool]:
        """Takes whole answers from `_received`; True: committed."""
        raise NotImplementedError

    def send(self, count: int) -> None:
        requests = [self._request(self._number + i) for i in range(count)]
        self._number += count
        self._socket.sendall(b"".join(requests))

    def receive(self) -> list[bool]:
        """Waits for at least some bytes. Raises PutFailed."""
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except OSError as error:
            raise PutFailed(str(error)) from error
        if not data:
            raise PutFailed("the server closed the connection")
        self._received += data
        return list(self._answers())

    def wait_one(self) -> bool:
        while True:
            answers = self.receive()
            if answers:
                return answers[0]

    def readable(self, timeout_s: float) -> bool:
        return bool(select.select([self._socket], [], [], timeout_s)[0])


_HEAD = struct.Struct("!BHBBI")
"""Of an HTTP/2 frame: length (24 bits), type, flags, stream."""
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
WIDE_WINDOW = (1 << 31) - 1
DEFAULT_WINDOW = 65_535


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return _HEAD.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


def _string(text: bytes) -> bytes:
    return bytes([len(text)]) + text


class EtcdPuts(PutClient):
    def __init__(self, address: str) -> None:
        super().__init__(address)
        self._answered: set[int] = set()
        self._header_block = (
            b"\x83\x86"  # :method POST, :scheme http
            + b"\x04" + _string(b"/etcdserverpb.KV/Put")
            + b"\x01" + _string(address.encode())
            + b"\x0f\x10" + _string(b"application/grpc")
            + b"\x00" + _string(b"te") + _string(b"trailers")
        )  # fmt: skip
        settings = struct.pack("!HI", 4, WIDE_WINDOW)  # INITIAL_WINDOW_SIZE
        self._socket.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(SETTINGS, 0, 0, settings)
            + _frame(8, 0, 0, struct.pack("!I", WIDE_WINDOW - DEFAULT_WINDOW))
        )

    def _request(self, number: int) -> bytes:
        message = b"\x0a" + _string(key_of(number)) + b"\x12" + _string(b"%0*d" % (VALUE_BYTES, number))
        stream = 2 * number + 1
        return _frame(HEADERS, END_HEADERS, stream, self._header_block) + _frame(
            DATA, END_STREAM, stream, struct.pack("!BI", 0, len(message)) + message
        )

    def _answers(self) -> Iterator[bool]:
        data = self._received
        at = 0
        while len(data) - at >= _HEAD.size:
            high, low, kind, flags, stream = _HEAD.unpack_from(data, at)
            end = at + _HEAD.size + (high << 16 | low)
            if end > len(data):
                break
            payload = bytes(data[at + _HEAD.size : end])
            at = end
            if kind == DATA and payload:
                self._answered.add(stream)
            elif kind == HEADERS and flags & END_STREAM:
                yield stream in self._answered  # an error has trailers only
                self._answered.discard(stream)
            elif kind == SETTINGS and not flags & ACK:
                self._socket.sendall(_frame(SETTINGS, ACK, 0))
            elif kind == PING and not flags & ACK:
                self._socket.sendall(_frame(PING, ACK, 0, payload))
            elif kind == RST_STREAM:
                yield False
            elif kind == GOAWAY:
                raise PutFailed(f"etcd says goodbye: {payload[8:]!r}")
        del data[:at]


VOTER_REQUEST = struct.Struct("!H")
"""Length of key and value together; the key has KEY_BYTES."""
KEY_BYTES = len(key_of(0))


class VoterPuts(PutClient):
    """Answers are single bytes: 1 committed, 0 not."""

    def _request(self, number: int) -> bytes:
        body = key_of(number) + b"%0*d" % (VALUE_BYTES, number)
        return VOTER_REQUEST.pack(len(body)) + body

    def _answers(self) -> Iterator[bool]:
        answers = bytes(self._received)
        self._received.clear()
        for answer in answers:
            yield answer == 1


class Run(NamedTuple):
    took_s: list[float]
    client_us: float
    """Processor time of this client for one put."""


def one_put(client: PutClient) -> float:
    """Seconds. Raises PutFailed."""
    began = time.monotonic()
    client.send(1)
    if not client.wait_one():
        raise PutFailed("refused")
    return time.monotonic() - began


def sequential(client: PutClient, seconds: float) -> Run:
    """One after the other. Raises PutFailed."""
    took_s: list[float] = []
    end = time.monotonic() + seconds
    processor = time.process_time()
    while time.monotonic() < end:
        took_s.append(one_put(client))
    used_us = (time.process_time() - processor) / len(took_s) * MICROSECONDS_PER_SECOND
    return Run(took_s, used_us)


def pipelined(client: PutClient, outstanding: int, *, seconds: float = 0, count: int = 0) -> Sample:
    """`outstanding` at any time, for `seconds` or until `count` are done; latency is not measured.
    Raises PutFailed."""
    done = 0
    began = time.monotonic()
    client.send(outstanding)
    while time.monotonic() - began < seconds or done < count:
        answers = client.receive()
        if not all(answers):
            raise PutFailed("refused")
        done += len(answers)
        if answers:
            client.send(len(answers))
    took_s = time.monotonic() - began
    left = outstanding
    while left > 0:
        left -= len(client.receive())
    return Sample(iops=done / took_s, mbps=0.0, p50_us=0.0, p99_us=0.0)


def first_success_s(make: type[PutClient], address: str, limit_s: float = TIMEOUT_S) -> float:
    """Until a put is answered as committed: one is sent every ASK_AGAIN_S, the first answer counts, since a
    server may sit on one that it sent to a dead leader. Connects again when refused. Raises PutFailed."""
    began = time.monotonic()
    while time.monotonic() - began < limit_s:
        with contextlib.suppress(OSError, PutFailed), make(address) as client:
            while time.monotonic() - began < limit_s:
                client.send(1)
                ask_again = time.monotonic() + ASK_AGAIN_S
                while (left_s := ask_again - time.monotonic()) > 0 and client.readable(left_s):
                    if any(client.receive()):
                        return time.monotonic() - began
        time.sleep(0.005)  # nobody listens yet: not a busy loop beside what is measured
    raise PutFailed(f"{address}: no commit within {limit_s} s")


def sample_of(run: Run) -> Sample:
    return latencies(run.took_s)
