"""What the Raft node takes from outside: disk, clock, randomness, transport, a thread for long work.

May live here: the record, and the operating system's side of it. The product uses that; the simulation
brings its own, so that the very same node runs on simulated time, network and disk.
"""

import random
import threading
from collections.abc import Callable
from typing import Final, Protocol

import structlog
from msgspec import Struct
from pysyncobj import SyncObj
from pysyncobj.monotonic import monotonic
from pysyncobj.node import Node

from vimraft.metadata.pysyncobj.disk import Disk, OsDisk
from vimraft.metadata.pysyncobj.gate import GatedTransport

log = structlog.get_logger(__name__)

CLOSE_WAIT_S: Final = 30.0
"""How long the end of a node waits for long work (a snapshot being written)."""

MakeTransport = Callable[[SyncObj, Node, set[Node]], GatedTransport]
Job = Callable[[], None]


class Background(Protocol):
    """Runs long work beside the node's rounds, one job after the other."""

    def __call__(self, job: Job) -> None:
        """Soon, maybe in another thread. What the job raises is lost: it must report for itself."""
        ...

    def close(self) -> None:
        """Waits for the job under way; later ones are dropped."""
        ...


class AtOnce:
    """Runs the job within the call: the simulation, and tests."""

    def __call__(self, job: Job) -> None:
        job()

    def close(self) -> None:
        pass


class WorkerThread:
    """A thread for the length of each job; the node has one under way at most."""

    def __init__(self, name: str = "vimraft-snapshot") -> None:
        self._name = name
        self._thread: threading.Thread | None = None
        self._closed = False

    def __call__(self, job: Job) -> None:
        if self._thread is not None:
            self._thread.join()
        if self._closed:
            return
        # A daemon: the process may end at any moment, and the files are safe at every one.
        self._thread = threading.Thread(target=job, name=self._name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed = True
        if self._thread is not None:
            self._thread.join(CLOSE_WAIT_S)
            if self._thread.is_alive():
                log.warning("raft.snapshot_left_unfinished", waited_s=CLOSE_WAIT_S)


class Environment(Struct, frozen=True):
    disk: Disk
    """The Raft directory."""
    clock: Callable[[], float]
    """Seconds; must be the clock that PySyncObj itself compares its deadlines with."""
    random: random.Random
    make_transport: MakeTransport
    background: Background


def operating_system(disk: OsDisk, make_transport: MakeTransport) -> Environment:
    # PySyncObj's deadlines are CLOCK_MONOTONIC_RAW; time.monotonic() is slewed by NTP and drifts from it.
    return Environment(disk, monotonic, random.Random(), make_transport, WorkerThread())
