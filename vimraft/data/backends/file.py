"""A real volume that is a regular file, sparse or preallocated.

May live here: positional I/O on one descriptor and what a file system can do with ranges; block.py
builds on it for devices. Keeps: a short file is an error, never silent zeros (INV-5); a failed sync
makes the volume `broken` for good, because Linux reports a writeback error once and drops the pages
(INV-3); every descriptor holds a shared flock, a preparation an exclusive one, so nobody can overwrite
a volume that somebody serves.

No method moves a file offset that another depends on: all I/O is positional, and `extents` uses only
what each lseek returns, so threads cannot disturb each other.
"""

import contextlib
import errno
import fcntl
import os
import stat
import time

from vimraft.data.backends.base import HOLE, ZERO, BackendError, Counters
from vimraft.data.backends.fallocate import KEEP_SIZE, PUNCH_HOLE, UNSUPPORTED, ZERO_RANGE, try_fallocate

ZERO_CHUNK_BYTES = 1 << 20
"""Zeros are written in pieces of this size when nothing better is there."""
MAX_EXTENTS = 8_192
"""More runs than this in one answer: the rest is called data, which is always true enough."""

_ZEROS = memoryview(bytes(ZERO_CHUNK_BYTES))
_DSYNC = getattr(os, "RWF_DSYNC", 0)


class FileBackend:
    kind = "file"

    def __init__(self, path: str, uri: str, *, read_only: bool = False, exclusive: bool = False) -> None:
        """`exclusive`: for preparing it; fails while anybody else has it open."""
        self.uri = uri
        self.path = path
        self.counters = Counters()
        self.losses = 0
        self.broken = ""
        self.read_only = read_only
        self._dsync = bool(_DSYNC)
        self.fd = self._open(exclusive)
        try:
            self._check_kind()
            self._lock(exclusive)
            self.size_bytes = self._size()
        except BaseException:
            self.close()
            raise

    def _open_flags(self, exclusive: bool) -> int:  # noqa: ARG002 - block devices look at it
        return os.O_CLOEXEC | os.O_NONBLOCK | (os.O_RDONLY if self.read_only else os.O_RDWR)

    def _open(self, exclusive: bool) -> int:
        try:
            return os.open(self.path, self._open_flags(exclusive))
        except OSError as error:
            raise BackendError("missing", f"{self.uri}: {_open_problem(error, self.path)}") from None

    def _check_kind(self) -> None:
        mode = os.fstat(self.fd).st_mode
        if not stat.S_ISREG(mode):
            raise BackendError("missing", f"{self.uri}: is not a regular file; name a file or a block device")

    def _lock(self, exclusive: bool) -> None:
        try:
            fcntl.flock(self.fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = "is in use (a vimraft process serves or prepares it)"
            if not exclusive:
                holder = "is locked by another process (it is being prepared)"
            message = f"{self.uri}: {holder}; take another real volume, or stop that process first"
            raise BackendError("missing", message) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, *UNSUPPORTED):
                raise BackendError("io", f"{self.uri}: cannot be locked: {error.strerror}") from None

    def _size(self) -> int:
        return os.fstat(self.fd).st_size

    def _check_writable(self) -> None:
        if self.read_only:
            raise OSError(errno.EROFS, f"{self.uri}: was opened read-only")
        if self.broken:
            raise OSError(errno.EIO, f"{self.uri}: {self.broken}")

    def read_into(self, buffer: memoryview, offset: int) -> None:
        started_ns = time.perf_counter_ns()
        done, length = 0, len(buffer)
        try:
            while done < length:
                got = os.preadv(self.fd, (buffer[done:] if done else buffer,), offset + done)
                if got == 0:
                    at = offset + done
                    raise OSError(errno.EIO, f"{self.uri}: ends at byte {at}; it was {self.size_bytes} long")
                done += got
        except OSError:
            self.counters.errors += 1
            raise
        counters = self.counters
        counters.reads += 1
        counters.read_bytes += length
        counters.read_ns += time.perf_counter_ns() - started_ns

    def write(self, data: memoryview, offset: int, *, fua: bool) -> None:
        self._check_writable()
        started_ns = time.perf_counter_ns()
        try:
            if fua:
                self._write_through(data, offset)
            else:
                self._write_all(data, offset, 0)
        except OSError:
            self.counters.errors += 1
            raise
        counters = self.counters
        counters.writes += 1
        counters.write_bytes += len(data)
        counters.write_ns += time.perf_counter_ns() - started_ns

    def _write_all(self, data: memoryview, offset: int, flags: int) -> None:
        done, length = 0, len(data)
        while done < length:
            put = os.pwritev(self.fd, (data[done:] if done else data,), offset + done, flags)
            if put == 0:
                raise OSError(errno.EIO, f"{self.uri}: takes no more bytes at {offset + done}")
            done += put

    def _write_through(self, data: memoryview, offset: int) -> None:
        """A failure of the sync half must not be taken for one of the write half: the sync may have
        swallowed the only report about other pages. A second, plain write tells them apart."""
        if not self._dsync:
            self._write_all(data, offset, 0)
            self._sync()
            return
        try:
            self._write_all(data, offset, _DSYNC)
        except OSError as error:
            self._write_all(data, offset, 0)
            if error.errno in UNSUPPORTED:
                self._dsync = False
                self._sync()
                return
            raise self._break("a synchronous write", error) from None

    def _sync(self) -> None:
        try:
            os.fdatasync(self.fd)
        except OSError as error:
            raise self._break("a flush", error) from None

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

    def zero(self, offset: int, length: int, *, may_trim: bool, fua: bool, fast: bool) -> None:
        if length <= 0:
            return
        self._check_writable()
        if not self._zero_natively(offset, length, may_trim=may_trim, fast=fast):
            if fast:
                raise OSError(errno.EOPNOTSUPP, f"{self.uri}: cannot zero faster than by writing")
            self._write_zeros(offset, length)
        if fua:
            self.flush()

    def _zero_natively(self, offset: int, length: int, *, may_trim: bool, fast: bool) -> bool:  # noqa: ARG002
        """False: nothing done, write zeros instead. A file is as fast either way; a device is not."""
        if may_trim and try_fallocate(self.fd, PUNCH_HOLE | KEEP_SIZE, offset, length):
            return True
        if try_fallocate(self.fd, ZERO_RANGE | KEEP_SIZE, offset, length):
            return True
        if not try_fallocate(self.fd, PUNCH_HOLE | KEEP_SIZE, offset, length):
            return False
        return may_trim or try_fallocate(self.fd, KEEP_SIZE, offset, length)

    def _write_zeros(self, offset: int, length: int) -> None:
        end = offset + length
        while offset < end:
            count = min(ZERO_CHUNK_BYTES, end - offset)
            self._write_all(_ZEROS[:count], offset, 0)
            offset += count

    def trim(self, offset: int, length: int, *, fua: bool) -> None:
        """Punches a hole, which then reads as zeros; where that is not possible, does nothing."""
        if length <= 0:
            return
        self._check_writable()
        self._punch(offset, length)
        if fua:
            self.flush()

    def _punch(self, offset: int, length: int) -> None:
        try_fallocate(self.fd, PUNCH_HOLE | KEEP_SIZE, offset, length)

    def extents(self, offset: int, length: int) -> list[tuple[int, int]]:
        runs: list[tuple[int, int]] = []
        position, end = offset, offset + length
        while position < end and len(runs) < MAX_EXTENTS:
            data = self._seek(position, os.SEEK_DATA, end)
            if data > position:
                runs.append((data - position, HOLE | ZERO))
                position = data
            if position < end:
                hole = self._seek(position, os.SEEK_HOLE, end)
                if hole > position:
                    runs.append((hole - position, 0))
                    position = hole
        if position < end:
            runs.append((end - position, 0))
        return runs

    def _seek(self, position: int, whence: int, end: int) -> int:
        try:
            return min(os.lseek(self.fd, position, whence), end)
        except OSError as error:
            if error.errno == errno.ENXIO:
                # No data after `position`. Past the end of a shortened file this is a hole too, and
                # the read of it fails; extents answers only where data is.
                return end
            if error.errno == errno.EINVAL:
                return position if whence == os.SEEK_DATA else end
            raise

    def close(self) -> None:
        """Only after all requests have ended: the number of the descriptor is free afterwards."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)


def _open_problem(error: OSError, path: str) -> str:
    remedies = {
        errno.ENOENT: f"does not exist; check the path, or mount what holds {os.path.dirname(path)}",
        errno.EROFS: "lies on a read-only file system; mount it read-write",
        errno.EACCES: "may not be opened by this user; change its owner or mode",
        errno.EPERM: "may not be opened for writing (immutable or write-protected); lift the protection",
        errno.EBUSY: "is in use (mounted, or part of a RAID, LVM or device-mapper set); release it first",
        errno.EISDIR: "is a directory; name a file or a block device",
        errno.ENXIO: "has no device behind it; attach the device, or name another",
        errno.ENOMEDIUM: "has no medium; insert one, or name another device",
        errno.ELOOP: "goes through too many symbolic links; name the file itself",
    }
    remedy = remedies.get(error.errno or 0, "check the device and the kernel log")
    return f"cannot be opened: {error.strerror}: {remedy}"
