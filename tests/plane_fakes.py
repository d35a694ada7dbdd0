"""In-memory real volumes and an engine over them, for tests of the data plane without processes."""

import errno
import os
import threading
from collections.abc import Callable

from tests.plane import CLUSTER_ID, MIB, volume
from vimraft.core.ids import LABEL_BYTES
from vimraft.data.backends.base import HOLE, ZERO, BackendError, Counters
from vimraft.data.engine import Plane
from vimraft.data.feed import BackendSpec, MapUpdate, PlaneSegment, Problem, VolumeMap

SECTOR = 512


class FakeBackend:
    """Bytes in a memory file. `use_fd`: offers its descriptor, as files and devices do."""

    def __init__(self, uri: str, size_bytes: int, *, use_fd: bool) -> None:
        self.uri = uri
        self.size_bytes = size_bytes
        self.counters = Counters()
        self.losses = 0
        self.broken = ""
        self.failing = 0
        """An errno: everything fails with it."""
        self.entered: Callable[[], None] = lambda: None
        """Called inside each write."""
        self._memory = os.memfd_create("real")
        os.ftruncate(self._memory, size_bytes)
        self.fd = self._memory if use_fd else -1
        self.closed = False
        self.flushes = 0

    def _check(self) -> None:
        assert not self.closed, "used after it was closed"
        if self.failing:
            raise OSError(self.failing, os.strerror(self.failing))

    def read_into(self, buffer: memoryview, offset: int) -> None:
        self._check()
        if os.preadv(self._memory, (buffer,), offset) != len(buffer):
            raise OSError(errno.EIO, "short")

    def write(self, data: memoryview, offset: int, *, fua: bool) -> None:
        self.entered()
        self._check()
        if self.broken:
            raise OSError(errno.EIO, self.broken)
        os.pwritev(self._memory, (data,), offset)

    def zero(self, offset: int, length: int, *, may_trim: bool, fua: bool, fast: bool) -> None:
        self._check()
        os.pwrite(self._memory, bytes(length), offset)

    def trim(self, offset: int, length: int, *, fua: bool) -> None:
        self.zero(offset, length, may_trim=True, fua=fua, fast=False)

    def flush(self) -> None:
        self._check()
        if self.broken:
            raise OSError(errno.EIO, self.broken)
        self.flushes += 1

    def extents(self, offset: int, length: int) -> list[tuple[int, int]]:
        self._check()
        half = length // 2
        return [(half, 0), (length - half, HOLE | ZERO)] if half else [(length, 0)]

    def close(self) -> None:
        self.closed = True
        os.close(self._memory)


class FakeSite:
    """One engine (role export) with `reals` of 1 MiB each: s:0 …; even ones offer a descriptor."""

    def __init__(self, reals: int = 3, *, io_timeout_ms: int = 2_000, parallel: bool = False) -> None:
        self.backends: dict[str, FakeBackend] = {}
        self.missing: set[str] = set()
        self.silent: dict[str, threading.Event] = {}
        """Real volumes that take until then to open."""
        self.problems: list[Problem] = []
        self.specs = tuple(
            BackendSpec(f"s:{n}", f"fake:{n}", f"{n:032x}", CLUSTER_ID, MIB, "") for n in range(reals)
        )
        self.io_timeout_ms = io_timeout_ms
        self.plane = Plane("export", "a", opener=self._open, parallel=parallel, report=self.problems.append)
        self.index = 0

    def _open(self, spec: BackendSpec) -> FakeBackend:
        if spec.real in self.silent:
            assert self.silent[spec.real].wait(20)
        if spec.real in self.missing:
            raise BackendError("missing", f"{spec.uri}: not there")
        old = self.backends.get(spec.real)
        number = int(spec.real.split(":")[1])
        fresh = FakeBackend(spec.uri, MIB + LABEL_BYTES, use_fd=number % 2 == 0)
        if old is not None and not old.closed:
            os.pwrite(fresh._memory, os.pread(old._memory, old.size_bytes, 0), 0)
        self.backends[spec.real] = fresh
        return fresh

    def close(self) -> None:
        for backend in self.backends.values():
            if not backend.closed:
                backend.close()

    def install(self, *volumes: VolumeMap, full: bool = True, **fields: object) -> int:
        self.index += 1
        values = {"volumes": volumes, "backends": self.specs} | fields
        return self.plane.install(MapUpdate(self.index, full, self.io_timeout_ms, **values))


def simple_volume(sectors: int = 2048, **changes: object) -> VolumeMap:
    """All of it on s:0."""
    length = sectors * SECTOR
    one = PlaneSegment(0, length, "s:0", LABEL_BYTES, "")
    return volume("v", 1, one, **{"size_bytes": length, **changes})


def in_thread(action: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Starts it; the list gets its result or its exception."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(action())
        except Exception as error:  # noqa: BLE001 - handed to the test
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, outcome
