"""Clients of a volume that know what must be there: tagged blocks, written, read and flushed over NBD.

May live here: one connection's thread, what it was told, and how long it waited. Keeps: a block belongs to
one client, so that what a read may return is known exactly; an error leaves the outcome of a write unknown,
and then either is right until the next read has shown which.
"""

import random
import struct
import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import nbd

BLOCK_BYTES = 4096
READS, FLUSHES = 0.2, 0.05
"""Shares of the requests; the others are writes."""
RECONNECT_S = 0.1
MAX_KEPT = 20
"""Errors and violations, each."""
_TAG = struct.Struct(">QQ")


def content(block: int, number: int) -> bytes:
    """Number 0: never written."""
    return _TAG.pack(block, number) * (BLOCK_BYTES // _TAG.size) if number else bytes(BLOCK_BYTES)


class Waited(NamedTuple):
    seconds: float
    began_s: float
    """On time.time()."""


class Tagged(threading.Thread):
    """`uri()` is asked at each connect. `pace_s` between two requests; 0: none."""

    def __init__(self, uri: Callable[[], str], blocks: range, seed: str, pace_s: float) -> None:
        super().__init__(daemon=True)
        self._uri = uri
        self._blocks = blocks
        self._rng = random.Random(seed)
        self._pace_s = pace_s
        self._number = 0
        self._handle: nbd.NBD | None = None
        self._open = threading.Event()
        self._ended = False
        self.quiet = threading.Event()
        self.known: dict[int, int] = {}
        """Of each block the number that must be there."""
        self.unknown: dict[int, set[int]] = {}
        """Written without an answer: these may be there, too."""
        self.done = self.writes = 0
        self.touched: set[int] = set()
        """Blocks that it tried to write since somebody emptied this."""
        self.expects_loss = False
        """Its site is being killed: an end of the connection is no failed request."""
        self.errors: list[str] = []
        self.violations: list[str] = []
        self.longest = Waited(0.0, 0.0)
        self.took_s: list[float] = []
        """Of writes, while `sampling`."""
        self.sampling = False
        self.since_s = 0.0
        """When the request under way began, on time.monotonic(); 0: none."""

    # --- from outside -------------------------------------------------------------------------------------

    def go(self) -> None:
        self.quiet.clear()
        self._open.set()

    def rest(self) -> None:
        """Returns once nothing is in flight."""
        self._open.clear()
        if not self.quiet.wait(90.0):
            raise AssertionError("a request hangs")

    def come_home(self) -> None:
        """Connects anew; only while it rests."""
        self._handle = None

    def write_now(self, block: int) -> None:
        """Only while it rests. Raises nbd.Error."""
        self._write(self._connected(), block)

    def end(self) -> None:
        self._ended = True
        self._open.set()
        self.join(90.0)

    def new_trial(self) -> None:
        self.errors, self.longest = [], Waited(0.0, 0.0)

    def wrong(self, read: Callable[[int], bytes], where: str) -> list[str]:
        """Of all blocks that it wrote, those with something else. Only while it rests."""
        texts = (self._judge(block, read(block), where) for block in {*self.known, *self.unknown})
        return [text for text in texts if text]

    # --- its thread ---------------------------------------------------------------------------------------

    def run(self) -> None:
        while not self._ended:
            if not self._open.is_set():
                self.quiet.set()
                self._open.wait()
                continue
            began_s, wall_s = time.monotonic(), time.time()
            self.since_s = began_s
            while not self._one() and not self._ended:
                time.sleep(RECONNECT_S)
            took_s = time.monotonic() - began_s
            self.since_s = 0.0
            if took_s > self.longest.seconds:
                self.longest = Waited(took_s, wall_s)
            if self._pace_s:
                time.sleep(self._pace_s)

    def _one(self) -> bool:
        block = self._rng.choice(self._blocks)
        try:
            handle = self._connected()
            kind = self._rng.random()
            if kind < FLUSHES:
                handle.flush()
            elif kind < FLUSHES + READS:
                self._read(handle, block)
            else:
                self._write(handle, block)
        except nbd.Error as error:
            self._handle = None
            if not self.expects_loss:
                self.errors = [*self.errors, str(error)][-MAX_KEPT:]
            return False
        self.done += 1
        return True

    def _connected(self) -> nbd.NBD:
        if self._handle is None:
            handle = nbd.NBD()
            handle.connect_uri(self._uri())
            self._handle = handle
        return self._handle

    def _read(self, handle: nbd.NBD, block: int) -> None:
        found = bytes(handle.pread(BLOCK_BYTES, block * BLOCK_BYTES))
        text = self._judge(block, found, "read")
        if text:
            self.violations = [*self.violations, text][-MAX_KEPT:]
        elif block in self.unknown:  # what was seen stays
            number = _TAG.unpack_from(found)[1]
            self.known[block] = number
            del self.unknown[block]

    def _write(self, handle: nbd.NBD, block: int) -> None:
        self._number += 1
        number = self._number
        self.touched.add(block)
        began_s = time.perf_counter()
        try:
            handle.pwrite(content(block, number), block * BLOCK_BYTES)
        except nbd.Error:
            self.unknown.setdefault(block, set()).add(number)
            raise
        if self.sampling:
            self.took_s.append(time.perf_counter() - began_s)
        self.known[block] = number
        self.unknown.pop(block, None)
        self.writes += 1

    def _judge(self, block: int, found: bytes, where: str) -> str:
        allowed = {self.known.get(block, 0), *self.unknown.get(block, ())}
        if any(found == content(block, number) for number in allowed):
            return ""
        return f"{where}: block {block} holds {_TAG.unpack_from(found)}, not one of {sorted(allowed)}"


def rest_all(clients: Iterable[Tagged]) -> None:
    for client in clients:
        client.rest()
