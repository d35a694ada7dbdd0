"""What the data plane needs of a real volume. One module per kind beside this one.

May live here: the interface, its counters and its errors. Offsets and lengths are bytes from the start of
the LUN (its label included); callers keep inside the capacity.
"""

from typing import Literal, Protocol


class BackendError(Exception):
    """A real volume cannot be used. `kind` says what an operator should look at."""

    def __init__(self, kind: Literal["missing", "label", "io", "flush"], message: str) -> None:
        super().__init__(message)
        self.kind: Literal["missing", "label", "io", "flush"] = kind


class Counters:
    """Cumulative, written by the I/O threads without a lock (a lost update costs a statistic only)."""

    __slots__ = ("errors", "flushes", "read_bytes", "read_ns", "reads", "write_bytes", "write_ns", "writes")

    def __init__(self) -> None:
        self.reads = self.writes = self.flushes = self.errors = 0
        self.read_bytes = self.write_bytes = 0
        self.read_ns = self.write_ns = 0


HOLE = 1
ZERO = 2
"""NBD block status bits: allocated data is 0, a hole that reads as zeros is HOLE|ZERO."""


class Backend(Protocol):
    """All methods may be called from many threads at once; all raise OSError with a plain errno."""

    uri: str
    fd: int
    """A file descriptor for pread/pwrite directly (the fast path), or -1."""
    size_bytes: int
    """Of the whole LUN, label included."""
    counters: Counters
    losses: int
    """Goes up whenever acknowledged but unflushed writes may have been lost (a backend session that
    was lost with writes since its last flush): whoever saw a smaller number owes its client an error
    on the next flush (INV-3)."""
    broken: str
    """Not empty after a failed flush: what happened. Writes and flushes fail with EIO from then on
    (a failed fsync is never retried)."""

    def read_into(self, buffer: memoryview, offset: int) -> None: ...

    def write(self, data: memoryview, offset: int, *, fua: bool) -> None: ...

    def zero(self, offset: int, length: int, *, may_trim: bool, fua: bool, fast: bool) -> None:
        """`fast`: raise OSError(EOPNOTSUPP) rather than be slower than a write of zeros would be."""
        ...

    def trim(self, offset: int, length: int, *, fua: bool) -> None:
        """Advisory; a backend that cannot does nothing."""
        ...

    def flush(self) -> None: ...

    def extents(self, offset: int, length: int) -> list[tuple[int, int]]:
        """(length, HOLE|ZERO bits) runs that cover exactly the range asked for."""
        ...

    def close(self) -> None: ...
