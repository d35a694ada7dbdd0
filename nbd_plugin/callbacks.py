"""nbdkit's callbacks, shared by export and store. Thin: each hands its arguments to the data plane.

A connection's callbacks run on one thread under SERIALIZE_REQUESTS, so `open` keeps that thread's Python
state alive until `close`: making one per request costs more than the request. What leaves a callback as an
exception is prepared and its traceback given back (see nbd_plugin.failures), because nbdkit keeps it.
"""

import ctypes
import errno
from collections.abc import Callable

import nbdkit

from nbd_plugin.failures import Failures, OpenFailures, ParallelFailures, RequestFailed
from vimraft.data.copies.peer_exports import StoreHandle
from vimraft.data.engine import Plane
from vimraft.data.errors import IoError, OpenError
from vimraft.data.feed import Role
from vimraft.data.handle import Handle
from vimraft.data.process import DataProcess, log
from vimraft.data.sessions import PeerExport
from vimraft.data.slow_path import BLOCK_MAX_BYTES, BLOCK_MIN_BYTES, BLOCK_PREFERRED_BYTES

_ensure = ctypes.pythonapi.PyGILState_Ensure
_ensure.restype, _ensure.argtypes = ctypes.c_int, ()
_release = ctypes.pythonapi.PyGILState_Release
_release.restype, _release.argtypes = None, (ctypes.c_int,)
_FUA = nbdkit.FLAG_FUA

_process: DataProcess
_plane: Plane
"""Set by `after_fork`: a module global is the cheapest look-up of the hot path."""
_open_failures = OpenFailures()


class Opened:
    """What nbdkit keeps for a connection."""

    __slots__ = ("failures", "handle", "peer", "pin")

    def __init__(self, handle: Handle | StoreHandle, peer: PeerExport | None) -> None:
        self.handle = handle
        self.peer = peer
        self.failures = ParallelFailures() if _process.parallel else Failures()
        self.pin: int | None = None


def use_role(role: Role) -> None:
    global _process  # noqa: PLW0603
    _process = DataProcess(role, nbdkit.shutdown)


def _prepare(h: Opened, error: BaseException) -> RequestFailed:
    if isinstance(error, IoError):
        nbdkit.set_error(error.number)
    else:
        nbdkit.set_error(errno.EIO)
        log("request.bug", error=repr(error))
    return h.failures.prepare()


# --- the process --------------------------------------------------------------------------------
def config(key: str, value: str) -> None:
    _process.configure(key, value)


def config_complete() -> None:
    _process.check()


def thread_model() -> int:
    return nbdkit.THREAD_MODEL_PARALLEL if _process.parallel else nbdkit.THREAD_MODEL_SERIALIZE_REQUESTS


def get_ready() -> None:
    _process.take_lock()


def after_fork() -> None:
    global _plane  # noqa: PLW0603
    _process.start()
    _plane = _process.plane


def cleanup() -> None:
    _process.clean_up()


# --- a connection -------------------------------------------------------------------------------
def list_exports(_readonly: bool, _is_tls: bool) -> list[tuple[str, str]]:
    return _plane.list_exports()


def default_export(_readonly: bool, _is_tls: bool) -> str:
    return ""


def open(_readonly: bool) -> Opened:
    try:
        opened = Opened(*_plane.open(nbdkit.export_name()))
        if opened.handle.ticket:
            log("session.not_present_life", export=nbdkit.export_name()[:200])
        if not _process.parallel:
            opened.pin = _ensure()
        return opened
    except OpenError as error:
        log("export.refused", error=str(error))
        nbdkit.set_error(errno.ESHUTDOWN if _plane.stopping else errno.ENOENT)
    failure = _open_failures.prepare()
    try:
        raise failure
    except RequestFailed:
        _open_failures.raised(failure)
        failure = None  # type: ignore[assignment]
        raise


def close(h: Opened) -> None:
    _plane.close(h.handle, h.peer)
    h.failures.close()
    if h.pin is not None:
        _release(h.pin)


def export_description(h: Opened) -> str:
    try:
        return _plane.describe(h.handle, h.peer)
    except Exception as error:  # noqa: BLE001 - a description must not end a connection
        log("describe.failed", error=repr(error))
        return ""


def get_size(h: Opened) -> int:
    return h.handle.size_bytes


def block_size(_h: Opened) -> tuple[int, int, int]:
    return BLOCK_MIN_BYTES, BLOCK_PREFERRED_BYTES, BLOCK_MAX_BYTES


def is_rotational(_h: Opened) -> bool:
    return False


def can_write(h: Opened) -> bool:
    return h.handle.writable


def can_flush(_h: Opened) -> bool:
    return True


def can_trim(_h: Opened) -> bool:
    return True


def can_zero(_h: Opened) -> bool:
    return True


def can_fast_zero(_h: Opened) -> bool:
    return True


def can_extents(_h: Opened) -> bool:
    return True


def can_multi_conn(_h: Opened) -> bool:
    return True


def can_fua(_h: Opened) -> int:
    return nbdkit.FUA_NATIVE


# --- requests -----------------------------------------------------------------------------------
def pread(h: Opened, buf: memoryview, offset: int, _flags: int) -> None:
    try:
        h.handle.read(buf, offset)
        return
    except BaseException as error:  # noqa: BLE001 - whatever it is, the client gets an errno
        failure = _prepare(h, error)
    try:
        raise failure
    except RequestFailed:
        h.failures.raised(failure)
        h = buf = failure = None  # type: ignore[assignment]
        raise


def pwrite(h: Opened, buf: memoryview, offset: int, flags: int) -> None:
    try:
        h.handle.write(buf, offset, flags & _FUA)
        return
    except BaseException as error:  # noqa: BLE001
        failure = _prepare(h, error)
    try:
        raise failure
    except RequestFailed:
        h.failures.raised(failure)
        h = buf = failure = None  # type: ignore[assignment]
        raise


def _callback(operation: Callable[..., object]) -> Callable[..., object]:
    """The same for a request whose speed matters less. The frame that raises must be the outermost."""

    def callback(h: Opened, *args: int) -> object:
        try:
            return operation(h.handle, *args)
        except BaseException as error:  # noqa: BLE001
            failure = _prepare(h, error)
        try:
            raise failure
        except RequestFailed:
            h.failures.raised(failure)
            h = failure = None  # type: ignore[assignment]
            raise

    return callback


def _flush(handle: Handle | StoreHandle, _flags: int) -> None:
    handle.flush()


def _trim(handle: Handle | StoreHandle, count: int, offset: int, flags: int) -> None:
    handle.trim(offset, count, fua=bool(flags & _FUA))


def _zero(handle: Handle | StoreHandle, count: int, offset: int, flags: int) -> None:
    may_trim, fast = bool(flags & nbdkit.FLAG_MAY_TRIM), bool(flags & nbdkit.FLAG_FAST_ZERO)
    handle.zero(offset, count, may_trim=may_trim, fua=bool(flags & _FUA), fast=fast)


def _extents(
    handle: Handle | StoreHandle, count: int, offset: int, _flags: int
) -> list[tuple[int, int, int]]:
    return handle.extents(offset, count)


flush = _callback(_flush)
trim = _callback(_trim)
zero = _callback(_zero)
extents = _callback(_extents)
