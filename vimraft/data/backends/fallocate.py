"""fallocate(2) with its modes, which the os module does not offer.

May live here: the call and its flags. ctypes lets go of the interpreter lock during the call.
"""

import ctypes
import errno
import os

KEEP_SIZE = 0x01
PUNCH_HOLE = 0x02
ZERO_RANGE = 0x10

UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS)

_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = _libc.fallocate64 if hasattr(_libc, "fallocate64") else _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_fallocate.restype = ctypes.c_int


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Raises OSError; EOPNOTSUPP when the file system or device does not know `mode`."""
    while _fallocate(fd, mode, offset, length) != 0:
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))


def try_fallocate(fd: int, mode: int, offset: int, length: int) -> bool:
    """False when it is not supported here; raises OSError for everything else."""
    try:
        fallocate(fd, mode, offset, length)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return False
        raise
    return True
