"""A real volume that is a block device.

May live here: what differs from a file (size, exclusive use, zeroing, trim). Modern kernels offer
fallocate on block devices, which keeps the page cache coherent with the device, so no ioctl zeroes.
Trim is done only by devices that promise zeros afterwards: a plain discard leaves the content
undefined, and could show bytes that were never written there (INV-5).
"""

import fcntl
import os
import stat
import struct

from vimraft.data.backends.base import BackendError
from vimraft.data.backends.fallocate import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, try_fallocate
from vimraft.data.backends.file import FileBackend

BLKROGET = 0x125E
BLKSSZGET = 0x1268


class BlockBackend(FileBackend):
    kind = "block"

    def _open_flags(self, exclusive: bool) -> int:
        """O_EXCL without O_CREAT on a block device: EBUSY if it is mounted or part of another device."""
        return super()._open_flags(exclusive) | (os.O_EXCL if exclusive else 0)

    def _check_kind(self) -> None:
        if not stat.S_ISBLK(os.fstat(self.fd).st_mode):
            raise BackendError("missing", f"{self.uri}: is not a block device; use file:// for a file")
        if not self.read_only and self._ioctl_int(BLKROGET) != 0:
            message = f"{self.uri}: is write-protected; lift it with: blockdev --setrw {self.path}"
            raise BackendError("missing", message)
        self._block_bytes = self._ioctl_int(BLKSSZGET) or 512

    def _ioctl_int(self, request: int) -> int:
        try:
            answer = fcntl.ioctl(self.fd, request, bytes(4))
        except OSError as error:
            raise BackendError("io", f"{self.uri}: does not answer: {error.strerror}") from None
        (value,) = struct.unpack("i", answer)
        return int(value)

    def _size(self) -> int:
        return os.lseek(self.fd, 0, os.SEEK_END)

    def _zero_natively(self, offset: int, length: int, *, may_trim: bool, fast: bool) -> bool:
        first = -(-offset // self._block_bytes) * self._block_bytes
        last = (offset + length) // self._block_bytes * self._block_bytes
        if last <= first:
            return False
        zeroed = may_trim and try_fallocate(self.fd, PUNCH_HOLE | KEEP_SIZE, first, last - first)
        if not zeroed and fast and not self._zeroes_itself():
            return False
        if not zeroed and not try_fallocate(self.fd, ZERO_RANGE | KEEP_SIZE, first, last - first):
            return False
        self._write_zeros(offset, first - offset)
        self._write_zeros(last, offset + length - last)
        return True

    def _zeroes_itself(self) -> bool:
        """Without this the kernel carries ZERO_RANGE out by writing zeros."""
        device = os.fstat(self.fd).st_rdev
        name = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
        for queue in (f"{name}/queue", f"{name}/../queue"):
            try:
                with open(f"{queue}/write_zeroes_max_bytes", encoding="ascii") as limit:
                    return int(limit.read()) > 0
            except (OSError, ValueError):
                continue
        return False

    def _punch(self, offset: int, length: int) -> None:
        first = -(-offset // self._block_bytes) * self._block_bytes
        last = (offset + length) // self._block_bytes * self._block_bytes
        if last > first:
            try_fallocate(self.fd, PUNCH_HOLE | KEEP_SIZE, first, last - first)

    def extents(self, offset: int, length: int) -> list[tuple[int, int]]:  # noqa: ARG002
        """A device does not tell: all of it may be data."""
        return [(length, 0)] if length > 0 else []
