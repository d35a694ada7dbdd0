"""A real volume that is an export of some NBD server, through libnbd.

May live here: the Backend methods in terms of NBD requests: splitting, what stands in for an ability
that the server lacks, and when a failure means a failed sync. Sessions, retries and losses: nbd_pool.py.

A request that finds its connection dead is sent again on a new one until `io_timeout_s` has passed;
then it fails with EIO and its outcome is unknown. INV-3: whoever flushes compares `losses` *after* its
flush returned.

Not guaranteed: when this process dies with writes in flight, its successor does not know of them, and
a server that is slow by more than the restart takes could execute them late. The vimraft store does
better than foreign servers: it fences by session.
"""

import errno
import time

from vimraft.data.backends.base import Counters
from vimraft.data.backends.nbd_pool import HEAD_BYTES, NoAnswer, Pool
from vimraft.data.backends.nbd_session import MAX_EXTENTS, MAX_ZERO_BYTES, Session

MAX_CONNECTIONS = 16
"""One per data-plane thread; opened only as callers come together. Without multi-conn it is one."""
ZERO_CHUNK_BYTES = 1 << 20

_ZEROS = memoryview(bytes(ZERO_CHUNK_BYTES))
_NOT_A_SYNC_FAILURE = (errno.EPERM, errno.EROFS, errno.EINVAL)


class NbdBackend:
    def __init__(
        self,
        uri: str,
        *,
        read_only: bool = False,
        io_timeout_s: float = 30.0,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self.uri = uri
        self.fd = -1
        self.counters = Counters()
        self.losses = 0
        self.broken = ""
        self.read_only = read_only
        self._pool = Pool(
            uri,
            read_only=read_only,
            io_timeout_s=io_timeout_s,
            max_connections=max_connections,
            on_loss=self._count_loss,
        )
        self._offers = self._pool.first
        self.size_bytes = self._offers.size_bytes

    def _count_loss(self) -> None:
        self.losses += 1

    @property
    def problem(self) -> str:
        """Why no session is there now ('' when one is, or none was needed)."""
        return self._pool.problem

    def read_into(self, buffer: memoryview, offset: int) -> None:
        started_ns = time.perf_counter_ns()
        step = self._offers.maximum_bytes
        for start in range(0, len(buffer), step):
            self._read_piece(buffer[start : start + step], offset + start)
        counters = self.counters
        counters.reads += 1
        counters.read_bytes += len(buffer)
        counters.read_ns += time.perf_counter_ns() - started_ns

    def _read_piece(self, buffer: memoryview, offset: int) -> None:
        try:
            self._pool.request(lambda session, deadline: session.read(buffer, offset, deadline))
        except OSError:
            self.counters.errors += 1
            raise

    def _check_writable(self) -> None:
        if self.read_only:
            raise OSError(errno.EROFS, f"{self.uri}: was opened read-only")
        if self.broken:
            raise OSError(errno.EIO, f"{self.uri}: {self.broken}")

    def write(self, data: memoryview, offset: int, *, fua: bool) -> None:
        self._check_writable()
        started_ns = time.perf_counter_ns()
        if offset < HEAD_BYTES:
            self._pool.forget_head()
        step = self._offers.maximum_bytes
        try:
            for start in range(0, len(data), step):
                self._write_piece(data[start : start + step], offset + start, fua and self._offers.can_fua)
            if fua and not self._offers.can_fua:
                self._sync()
        except OSError:
            self.counters.errors += 1
            raise
        counters = self.counters
        counters.writes += 1
        counters.write_bytes += len(data)
        counters.write_ns += time.perf_counter_ns() - started_ns

    def _write_piece(self, data: memoryview, offset: int, fua: bool) -> None:
        def ask(session: Session, deadline: float) -> None:
            session.write(data, offset, fua=fua, deadline=deadline)

        try:
            self._pool.request(ask, wrote=not fua)
        except NoAnswer:
            raise
        except OSError as error:
            if not fua or error.errno in _NOT_A_SYNC_FAILURE:
                raise
            # Which half failed? If the write alone works it was the sync, which may have swallowed
            # the only report about other writes.
            self._write_piece(data, offset, False)
            raise self._break("a synchronous write", error) from None

    def _break(self, what: str, error: OSError) -> OSError:
        self.broken = f"{what} failed ({error.strerror}): acknowledged data may be lost"
        return OSError(errno.EIO, f"{self.uri}: {self.broken}")

    def flush(self) -> None:
        if self.read_only:
            return
        self._check_writable()
        try:
            self._sync()
        except OSError:
            self.counters.errors += 1
            raise
        self.counters.flushes += 1

    def _sync(self) -> None:
        try:
            self._pool.flush()
        except NoAnswer:
            raise  # unknown; if the writes are gone, `losses` says so
        except OSError as error:
            raise self._break("a flush", error) from None

    def zero(self, offset: int, length: int, *, may_trim: bool, fua: bool, fast: bool) -> None:
        self._check_writable()
        if offset < HEAD_BYTES:
            self._pool.forget_head()
        position, end = offset, offset + length
        while position < end:
            count = min(MAX_ZERO_BYTES, end - position)
            if not self._zero_natively(position, count, may_trim=may_trim, fast=fast):
                if fast:
                    raise OSError(errno.EOPNOTSUPP, f"{self.uri}: cannot zero faster than by writing")
                self._write_zeros(position, count)
            position += count
        if fua and length > 0:
            self._sync()

    def _zero_natively(self, offset: int, length: int, *, may_trim: bool, fast: bool) -> bool:
        def ask(session: Session, deadline: float) -> None:
            session.zero(offset, length, may_trim=may_trim, fast=fast, deadline=deadline)

        if not self._offers.can_zero or (fast and not self._offers.can_fast_zero):
            return False
        try:
            self._pool.request(ask, wrote=True)
        except NoAnswer:
            raise
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
                return False
            raise
        return True

    def _write_zeros(self, offset: int, length: int) -> None:
        step = min(ZERO_CHUNK_BYTES, self._offers.maximum_bytes)
        for start in range(0, length, step):
            self._write_piece(_ZEROS[: min(step, length - start)], offset + start, False)

    def trim(self, offset: int, length: int, *, fua: bool) -> None:
        """A server's trim promises nothing about what is read afterwards, so zeros with leave to trim
        are asked for instead (INV-5), and only where that costs little."""
        try:
            self.zero(offset, length, may_trim=True, fua=False, fast=True)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
        if fua and length > 0:
            self._sync()

    def extents(self, offset: int, length: int) -> list[tuple[int, int]]:
        runs: list[tuple[int, int]] = []
        position, end = offset, offset + length
        while position < end and self._offers.can_extents and len(runs) < MAX_EXTENTS:
            answer = self._status(position, end - position)
            runs.extend(answer)
            position += sum(run_bytes for run_bytes, _ in answer)
        if position < end:
            runs.append((end - position, 0))
        return runs

    def _status(self, offset: int, length: int) -> list[tuple[int, int]]:
        return self._pool.request(lambda session, deadline: session.extents(offset, length, deadline))

    def close(self) -> None:
        self._pool.close()
