"""Verified I/O and metadata changes under chaos: clients in threads.

May live here: a writer with its connection, and one that builds and deletes volumes; what they saw. They go
on through every error. Keeps: a lost connection or an error leaves an outcome unknown, never failed; what was
answered is held against `blocks` at once.
"""

import random
import threading
import time
from dataclasses import dataclass, field

import nbd

from drills.blocks import BLOCK_BYTES, Blocks, decode, encode
from drills.clusters import ApiProblem, Cluster

FLUSH_EVERY = 16
READ_SHARE = 0.3
RECONNECT_S = 0.2
PACE_S = 0.002
"""Between two requests of one writer: the drill looks for faults, not for speed."""
CHANGE_PACE_S = 0.3
CHANGE_LIMIT_S = 20.0
MAX_SCRATCH = 4
MAX_KEPT_ERRORS = 20


class Valve:
    """Shut while a round is checked."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self.ended = threading.Event()

    def open(self) -> None:
        self._open.set()

    def shut(self) -> None:
        self._open.clear()

    def end(self) -> None:
        self.ended.set()
        self._open.set()

    def pass_through(self) -> bool:
        """Waits while it is shut; False at the end."""
        self._open.wait()
        return not self.ended.is_set()

    @property
    def is_shut(self) -> bool:
        return not self._open.is_set()


@dataclass
class Seen:
    """By one client. Counters grow; `longest_s` is of the present round."""

    reads: int = 0
    writes: int = 0
    flushes: int = 0
    errors: int = 0
    longest_s: float = 0.0
    """Without an answer, while it wanted one."""
    longest_at_s: float = 0.0
    last_errors: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def failed(self, error: Exception) -> None:
        self.errors += 1
        self.last_errors = [*self.last_errors, f"{type(error).__name__}: {error}"][-MAX_KEPT_ERRORS:]


class Writer(threading.Thread):
    """Writes, reads and flushes `count` blocks of one volume from `first` on, through one site."""

    def __init__(
        self, cluster: Cluster, volume: str, site: str, first: int, count: int, run: int, valve: Valve
    ) -> None:
        super().__init__(name=f"{volume}@{site}", daemon=True)
        self.volume = volume
        self.site = site
        self.first = first
        self.blocks = Blocks(count)
        self.lock = threading.Lock()
        """Over `blocks`, between this thread and the drill."""
        self.seen = Seen()
        self.quiet = threading.Event()
        """Set while it waits at the valve with nothing in flight."""
        self._uri = uri_of(cluster, volume, site)
        self._count = count
        self.run_id = run
        self._random = random.Random(f"{run} {volume} {site}")
        self._valve = valve
        self._handle: nbd.NBD | None = None

    def run(self) -> None:
        answered_s = time.monotonic()
        while True:
            if self._valve.is_shut:
                self.quiet.set()
                if not self._valve.pass_through():
                    break
                self.quiet.clear()
                answered_s = time.monotonic()
            if self._valve.ended.is_set():
                break
            if self._one():
                now_s = time.monotonic()
                if now_s - answered_s > self.seen.longest_s:
                    self.seen.longest_s, self.seen.longest_at_s = now_s - answered_s, time.time()
                answered_s = now_s
                time.sleep(PACE_S)
            else:
                time.sleep(RECONNECT_S)
        self.quiet.set()

    def _one(self) -> bool:
        """One request; False when there was no good answer."""
        try:
            if self._handle is None:
                self._handle = connect(self._uri)
            if self._random.random() < READ_SHARE:
                self._read(self._handle)
            else:
                self._write(self._handle)
            if self.seen.writes % FLUSH_EVERY == 0:
                self._flush(self._handle)
        except nbd.Error as error:
            self.seen.failed(error)
            self._handle = None
            return False
        return True

    def _read(self, handle: nbd.NBD) -> None:
        number = self._random.randrange(self._count)
        at = self.first + number
        data = bytes(handle.pread(BLOCK_BYTES, at * BLOCK_BYTES))
        with self.lock:
            wrong = self.blocks.read(number, decode(self.run_id, at, data))
        self.seen.reads += 1
        if wrong:
            self.seen.violations.append(f"{self.name} block {at}: read {wrong}")

    def _write(self, handle: nbd.NBD) -> None:
        number = self._random.randrange(self._count)
        at, tag = self.first + number, self.blocks.next_tag()
        with self.lock:
            self.blocks.unknown(number, tag)  # from now on it may show
        handle.pwrite(encode(self.run_id, at, tag), at * BLOCK_BYTES)
        with self.lock:
            self.blocks.written(number, tag)
        self.seen.writes += 1

    def _flush(self, handle: nbd.NBD) -> None:
        with self.lock:
            numbers = self.blocks.unflushed()
        handle.flush()
        with self.lock:
            self.blocks.flushed(numbers)
        self.seen.flushes += 1


class Changer(threading.Thread):
    """Builds and deletes small volumes; every answer is kept to be compared with the tables."""

    def __init__(self, cluster: Cluster, run: int, valve: Valve, volume_class: str) -> None:
        super().__init__(name="changes", daemon=True)
        self.seen = Seen()
        self.quiet = threading.Event()
        self.there: set[str] = set()
        self.gone: set[str] = set()
        self.unknown: set[str] = set()
        self.prefix = f"chaos-m{run}-"
        self._cluster = cluster
        self._class = volume_class
        self._valve = valve
        self._random = random.Random(f"{run} changes")
        self._number = 0

    def run(self) -> None:
        answered_s = time.monotonic()
        while True:
            if self._valve.is_shut:
                self.quiet.set()
                if not self._valve.pass_through():
                    break
                self.quiet.clear()
                answered_s = time.monotonic()
            if self._valve.ended.is_set():
                break
            if self._one():
                now_s = time.monotonic()
                if now_s - answered_s > self.seen.longest_s:
                    self.seen.longest_s, self.seen.longest_at_s = now_s - answered_s, time.time()
                answered_s = now_s
            self._valve.ended.wait(CHANGE_PACE_S)
        self.quiet.set()

    def _one(self) -> bool:
        delete = len(self.there) >= MAX_SCRATCH or (self.there and self._random.random() < 0.4)
        name = self._random.choice(sorted(self.there)) if delete else self._next_name()
        site = self._random.choice(list(self._cluster.sites))
        self.unknown.add(name)
        self.there.discard(name)
        body = {"name": name, "size_bytes": 1 << 20, "volume_class": self._class, "sites": [site]}
        try:
            if delete:
                self._cluster.ask("DELETE", f"/v1/volumes/{name}", limit_s=CHANGE_LIMIT_S)
            else:
                self._cluster.ask("POST", "/v1/volumes", body, limit_s=CHANGE_LIMIT_S)
        except ApiProblem as problem:
            self.seen.failed(problem)
            if problem.code not in ("unknown_outcome", "silent", "unavailable", "internal"):
                (self.there if delete else self.gone).add(name)  # refused: nothing changed
                self.unknown.discard(name)
            return False
        self.unknown.discard(name)
        (self.gone if delete else self.there).add(name)
        self.seen.writes += 1
        return True

    def _next_name(self) -> str:
        self._number += 1
        return f"{self.prefix}{self._number}"


def uri_of(cluster: Cluster, volume: str, site: str) -> str:
    return f"nbd://{cluster[site].network['nbd']}/{volume}"


def connect(uri: str) -> nbd.NBD:
    handle = nbd.NBD()
    handle.connect_uri(uri)
    return handle
