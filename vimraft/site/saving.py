"""Copying a volume's data to another volume through their exports, and comparing them.

May live here: blocking calls for `asyncio.to_thread`. Keeps: what is reported as copied is durable at the
target (flushed, and no backend session with unflushed writes was lost meanwhile).
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from vimraft.data.backends.nbd import NbdBackend

CHUNK_BYTES: Final = 4 << 20
PARALLEL: Final = 4
STRIDE_BYTES: Final = CHUNK_BYTES * PARALLEL * 4
"""So much is under way before the next report and the next look at whether to stop."""
DURABLE_BYTES: Final = 4 * STRIDE_BYTES
"""A flush, and a durable report, at least this often."""
_ZEROS: Final = bytes(CHUNK_BYTES)


class Stopped(Exception):
    """Somebody does not want it any more, or the manager stops."""


class Lost(OSError):
    """Writes since the last flush may be gone: copy from the last durable place on again."""


class Disk(Protocol):
    """What of a backend is needed; see vimraft.data.backends.base."""

    losses: int

    def read_into(self, buffer: memoryview, offset: int) -> None: ...

    def write(self, data: memoryview, offset: int, *, fua: bool) -> None: ...

    def zero(self, offset: int, length: int, *, may_trim: bool, fua: bool, fast: bool) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


def open_export(uri: str, *, read_only: bool) -> NbdBackend:
    """Raises BackendError, OSError."""
    return NbdBackend(uri, read_only=read_only, max_connections=PARALLEL)


def _chunks(start: int, end: int) -> list[tuple[int, int]]:
    return [(at, min(CHUNK_BYTES, end - at)) for at in range(start, end, CHUNK_BYTES)]


def copy(
    source: Disk,
    target: Disk,
    size_bytes: int,
    *,
    start: int,
    fresh: bool,
    copied: Callable[[int], None],
    durable: Callable[[int], None],
    stopped: Callable[[], bool],
) -> None:
    """Bytes `start` … `size_bytes`. `fresh`: the target reads as zeros where nothing was written.

    Raises OSError, Lost, Stopped; then what was last said to be durable is."""

    def one(chunk: tuple[int, int]) -> None:
        at, length = chunk
        buffer = bytearray(length)
        source.read_into(memoryview(buffer), at)
        if buffer != _ZEROS[:length]:
            target.write(memoryview(buffer), at, fua=False)
        elif not fresh:
            target.zero(at, length, may_trim=True, fua=False, fast=False)

    flushed, losses = start, target.losses
    with ThreadPoolExecutor(PARALLEL) as pool:
        for first in range(start, size_bytes, STRIDE_BYTES):
            if stopped():
                raise Stopped
            end = min(first + STRIDE_BYTES, size_bytes)
            list(pool.map(one, _chunks(first, end)))
            copied(end)
            if end - flushed >= DURABLE_BYTES or end == size_bytes:
                target.flush()
                if target.losses != losses:
                    raise Lost("a connection with unflushed writes was lost")
                flushed = end
                durable(end)


def first_difference(
    source: Disk,
    target: Disk,
    size_bytes: int,
    *,
    compared: Callable[[int], None],
    stopped: Callable[[], bool],
) -> int | None:
    """Byte where the two differ, within a chunk; None: they are equal. Raises OSError, Stopped."""

    def one(chunk: tuple[int, int]) -> int | None:
        at, length = chunk
        ours, theirs = bytearray(length), bytearray(length)
        source.read_into(memoryview(ours), at)
        target.read_into(memoryview(theirs), at)
        if ours == theirs:
            return None
        return at + next(n for n in range(length) if ours[n] != theirs[n])

    with ThreadPoolExecutor(PARALLEL) as pool:
        for first in range(0, size_bytes, STRIDE_BYTES):
            if stopped():
                raise Stopped
            end = min(first + STRIDE_BYTES, size_bytes)
            found = [at for at in pool.map(one, _chunks(first, end)) if at is not None]
            if found:
                return min(found)
            compared(end)
    return None
