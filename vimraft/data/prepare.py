"""Take a file, device or export into use as a real volume: create, check, zero, label.

May live here: the order of these steps. It is the safety of the whole thing: nothing is touched before
every check has passed; an old label goes first and the new one is written last, after all data read as
zeros and are flushed (INV-5). So an interruption at any point, power loss included, leaves a device
without a label, which nobody uses and which can be prepared again. A file that was made here and not
finished is removed. INV-9: refusals name the device, the cause and the flag or command that helps.
"""

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator

from msgspec import Struct

from vimraft.core.ids import LABEL_BYTES
from vimraft.data.backends.base import ZERO, Backend, BackendError
from vimraft.data.backends.fallocate import UNSUPPORTED
from vimraft.data.backends.open import IO_TIMEOUT_S, check_uri, file_path, open_backend
from vimraft.data.label import Label, destroy_label, write_label
from vimraft.data.probe import probe

CHUNK_BYTES = 64 << 20
"""Between two progress reports, and between two looks at `cancelled`."""
MIN_UNITS = 2
FILE_MODE = 0o600

Progress = Callable[[int, int], None]


class PrepareRequest(Struct, frozen=True):
    uri: str
    storage: str
    lun: int
    cluster_id: str
    label_id: str
    size_bytes: int | None = None
    """Of the whole file, label included; makes the file when it does not exist."""
    preallocate: bool = False
    force: bool = False
    """Overwrite whatever is there."""


class Prepared(Struct, frozen=True):
    capacity_units: int
    size_bytes: int
    """Of the whole device, label included."""


class Cancelled(Exception):
    """The caller asked to stop. The device carries no label."""


def prepare(
    request: PrepareRequest,
    unit_bytes: int,
    progress: Progress,
    cancelled: Callable[[], bool],
    *,
    io_timeout_s: float = IO_TIMEOUT_S,
) -> Prepared:
    """Raises BackendError (refused, or the device failed) or Cancelled. Blocks for as long as zeroing
    takes; `progress(done_bytes, total_bytes)` is called from the same thread."""
    if unit_bytes < LABEL_BYTES or unit_bytes % LABEL_BYTES != 0:
        raise ValueError(f"unit of {unit_bytes} bytes is not a multiple of the label's {LABEL_BYTES}")
    check_uri(request.uri)
    created = _create_if_missing(request, unit_bytes)
    # Not removed if this fails: whoever holds it now has found it, and it is blank.
    backend = open_backend(request.uri, exclusive=True, io_timeout_s=io_timeout_s)
    try:
        return _prepare_open(request, backend, unit_bytes, progress, cancelled)
    except BaseException as error:
        if created is not None:
            with contextlib.suppress(OSError):
                os.unlink(created)
        if isinstance(error, OSError):
            raise _as_backend_error(request.uri, error) from error
        raise
    finally:
        backend.close()


def _as_backend_error(uri: str, error: OSError) -> BackendError:
    remedies = {
        errno.ENOSPC: "free space there, or choose a smaller size",
        errno.EDQUOT: "raise the quota, or choose a smaller size",
        errno.EFBIG: "choose a smaller size (the file system or a limit does not allow it)",
    }
    remedy = remedies.get(error.errno or 0, "check the device and the kernel log")
    cause = os.strerror(error.errno) if error.errno else str(error)
    return BackendError("io", f"{uri}: preparing it failed: {cause}; {remedy}")


def _prepare_open(
    request: PrepareRequest,
    backend: Backend,
    unit_bytes: int,
    progress: Progress,
    cancelled: Callable[[], bool],
) -> Prepared:
    units = backend.size_bytes // unit_bytes - 1
    if units + 1 < MIN_UNITS:
        raise BackendError(
            "missing",
            f"{request.uri}: has {backend.size_bytes} bytes, at least {MIN_UNITS * unit_bytes} are needed "
            "(one unit for the label, one for data); take a larger one",
        )
    _refuse_used_by_loop(request.uri, backend)
    if not request.force:
        content = probe(backend)
        if content:
            raise BackendError(
                "label",
                f"{request.uri}: carries {content}; take another device, or add --force to overwrite it",
            )
    destroy_label(backend)
    total = backend.size_bytes
    if request.preallocate and backend.fd >= 0 and file_path(request.uri) is not None:
        _allocate(backend)
    _zero_unknown(
        backend, LABEL_BYTES, total - LABEL_BYTES, progress, cancelled, may_trim=not request.preallocate
    )
    label = Label(
        cluster_id=request.cluster_id,
        label_id=request.label_id,
        real=f"{request.storage}:{request.lun}",
        capacity_bytes=units * unit_bytes,
        created_ms=int(time.time() * 1000),
    )
    write_label(backend, label)
    return Prepared(capacity_units=units, size_bytes=total)


def zero_range(
    backend: Backend,
    offset: int,
    length: int,
    progress: Progress,
    cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """Make the range read as zeros, durably, touching only what does not yet. Raises OSError, Cancelled."""
    _zero_unknown(backend, offset, length, progress, cancelled, may_trim=True)


def _zero_unknown(
    backend: Backend,
    offset: int,
    length: int,
    progress: Progress,
    cancelled: Callable[[], bool],
    *,
    may_trim: bool,
) -> None:
    progress(0, length)
    for start, count in _chunks(offset, length):
        if cancelled():
            raise Cancelled(f"{backend.uri}: cancelled at byte {start}")
        position = start
        for run_bytes, bits in backend.extents(start, count):
            if not bits & ZERO:
                backend.zero(position, run_bytes, may_trim=may_trim, fua=False, fast=False)
            position += run_bytes
        progress(start + count - offset, length)
    backend.flush()


def _chunks(offset: int, length: int) -> Iterator[tuple[int, int]]:
    for start in range(offset, offset + length, CHUNK_BYTES):
        yield start, min(CHUNK_BYTES, offset + length - start)


def _create_if_missing(request: PrepareRequest, unit_bytes: int) -> str | None:
    """The path if a file was made."""
    path = file_path(request.uri)
    if path is None:
        if request.size_bytes is not None:
            message = f"{request.uri}: its size is the server's to say; leave --size out"
            raise BackendError("missing", message)
        return None
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return _create(request, path, unit_bytes)
    except OSError as error:
        message = f"{request.uri}: cannot be looked at: {error.strerror}; check the path"
        raise BackendError("missing", message) from None
    size_bytes = request.size_bytes
    if size_bytes is not None and stat.S_ISBLK(found.st_mode):
        raise BackendError("missing", f"{request.uri}: a device has the size it has; leave --size out")
    if size_bytes is not None and found.st_size != size_bytes:
        raise BackendError(
            "missing",
            f"{request.uri}: exists already, with {found.st_size} bytes instead of {size_bytes}; leave "
            "--size out to use it as it is, or remove it",
        )
    return None


def _create(request: PrepareRequest, path: str, unit_bytes: int) -> str:
    size_bytes, uri = request.size_bytes, request.uri
    if size_bytes is None or uri.startswith("block:"):
        remedy = "check the path" if uri.startswith("block:") else "check the path, or give --size to make it"
        raise BackendError("missing", f"{uri}: does not exist; {remedy}")
    if size_bytes < MIN_UNITS * unit_bytes:
        message = f"{uri}: {size_bytes} bytes are too small; at least {MIN_UNITS * unit_bytes} are needed"
        raise BackendError("missing", message)
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        message = f"{uri}: the directory {parent} does not exist; make it with: mkdir -p {parent}"
        raise BackendError("missing", message)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    except OSError as error:
        message = f"{uri}: cannot be made: {error.strerror}; check the permissions of {parent}"
        raise BackendError("missing", message) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, size_bytes)
        if request.preallocate:
            os.posix_fallocate(fd, 0, size_bytes)
        os.fsync(fd)
        _sync_directory(parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(path)
        if isinstance(error, OSError):
            raise _as_backend_error(uri, error) from error
        raise
    finally:
        os.close(fd)
    return path


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _allocate(backend: Backend) -> None:
    """Give an existing sparse file its blocks; what it holds stays. Devices have theirs."""
    try:
        os.posix_fallocate(backend.fd, 0, backend.size_bytes)
    except OSError as error:
        if error.errno not in (errno.ENODEV, errno.EINVAL, *UNSUPPORTED):
            raise


def _refuse_used_by_loop(uri: str, backend: Backend) -> None:
    """A file behind a loop device may be mounted there; the kernel does not guard it."""
    if backend.fd < 0:
        return
    path = os.path.realpath(f"/proc/self/fd/{backend.fd}")
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir("/sys/block"):
            try:
                with open(f"/sys/block/{name}/loop/backing_file", encoding="utf-8") as backing:
                    used = backing.read().rstrip("\n")
            except OSError:
                continue
            if used == path:
                message = f"{uri}: is in use as /dev/{name}; release it with: losetup -d /dev/{name}"
                raise BackendError("missing", message)
