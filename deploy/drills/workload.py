"""Verified I/O under chaos: clients of volumes, in threads.

May live here: a writer with its connection, a reader of what it writes at another site.
Keeps: a block has one writer; what was answered is held against `blocks` at once.
"""

import random
import threading
from typing import Any

import nbd

from drills.blocks import BLOCK_BYTES, Blocks, decode, encode
from drills.clients import Client, Valve
from drills.clusters import Cluster
from drills.layout import Volume

FLUSH_EVERY = 16
READ_SHARE = 0.3
WRITER_PACE_S = 0.002
READER_PACE_S = 0.01
"""Between two requests of one client: the drill looks for faults, not for speed."""


class Attached(Client):
    """A client of a volume through one site, which connects again after every error."""

    def __init__(self, cluster: Cluster, volume: Volume, site: str, name: str, valve: Valve, pace_s: float):
        super().__init__(name, valve, pace_s)
        self.volume = volume.name
        self.site = site
        self.session = 0
        self._uri = uri_of(cluster, volume.name, site)
        self._handle: nbd.NBD | None = None

    def one(self) -> bool:
        return self._try(self.ask)

    def ask(self, handle: nbd.NBD) -> None:
        raise NotImplementedError

    def _try(self, ask: Any) -> bool:
        try:
            if self._handle is None:
                self._handle = connect(self._uri)
                self.session += 1
            ask(self._handle)
        except nbd.Error as error:
            self.seen.failed(error, answered=_is_answer(str(error)))
            self._handle = None
            return False
        return True


class Writer(Attached):
    """Writes, reads and flushes `count` blocks of one volume from `first` on."""

    def __init__(
        self, cluster: Cluster, volume: Volume, site: str, blocks: range, run: int, valve: Valve
    ) -> None:
        super().__init__(cluster, volume, site, f"{volume.name}@{site}", valve, WRITER_PACE_S)
        self.first = blocks.start
        self.count = len(blocks)
        self.run_id = run
        self.blocks = Blocks(self.count)
        self.lock = threading.Lock()
        """Over `blocks`, between this thread, readers and the drill."""
        self.written = 0
        self._random = random.Random(f"{run} {self.name} {self.first}")

    def ask(self, handle: nbd.NBD) -> None:
        if self._random.random() < READ_SHARE:
            check(self, self._random.randrange(self.count), handle, self)
            return
        self._write(handle)
        if self.seen.writes % FLUSH_EVERY == 0:
            self._flush(handle)

    def settle(self) -> None:
        """So that a session that is to be told of a loss is told in the round of that loss."""
        if self._handle is not None:
            self._try(self._flush)

    def _write(self, handle: nbd.NBD) -> None:
        number = self._random.randrange(self.count)
        at = self.first + number
        with self.lock:
            tag = self.blocks.next_tag()
            self.blocks.unknown(number, tag)  # from now on it may show
        handle.pwrite(encode(self.run_id, at, tag), at * BLOCK_BYTES)
        with self.lock:
            self.blocks.written(number, tag, self.session)
        self.seen.writes += 1

    def _flush(self, handle: nbd.NBD) -> None:
        with self.lock:
            numbers = self.blocks.unflushed()
        handle.flush()
        with self.lock:
            self.blocks.flushed(numbers, self.session)
        self.seen.flushes += 1


class Reader(Attached):
    """Reads what `writer` is writing, at another site, while it does."""

    def __init__(self, cluster: Cluster, volume: Volume, site: str, writer: Writer, valve: Valve) -> None:
        super().__init__(cluster, volume, site, f"reader of {writer.name} at {site}", valve, READER_PACE_S)
        self._writer = writer
        self._random = random.Random(self.name)

    def ask(self, handle: nbd.NBD) -> None:
        check(self._writer, self._random.randrange(self._writer.count), handle, self)


def check(writer: Writer, number: int, handle: nbd.NBD, client: Client) -> None:
    """Reads block `number` of `writer`; what is wrong becomes a violation seen by `client`."""
    at = writer.first + number
    with writer.lock:
        expected = writer.blocks.expect(number)
    data = bytes(handle.pread(BLOCK_BYTES, at * BLOCK_BYTES))
    with writer.lock:
        wrong = writer.blocks.read(number, decode(writer.run_id, at, data), expected)
    client.seen.reads += 1
    if wrong:
        client.seen.violations.append(f"{client.name} block {at}: read {wrong}")


def _is_answer(text: str) -> bool:
    """libnbd fails what was in flight on a connection that ended with ENOTCONN; no server says that."""
    return "command failed" in text and "(ENOTCONN)" not in text


def uri_of(cluster: Cluster, volume: str, site: str) -> str:
    return f"nbd://{cluster[site].network['nbd']}/{volume}"


def connect(uri: str) -> nbd.NBD:
    handle = nbd.NBD()
    handle.connect_uri(uri)
    return handle
