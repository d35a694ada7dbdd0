"""nbdkit's callbacks, shared by export and store. Thin: each hands its arguments to the data plane.

A connection's callbacks run on one thread under SERIALIZE_REQUESTS, so `open` keeps that thread's Python
state alive until `close`: making one per request costs more than the request. An exception that leaves a
callback leaks its frame inside nbdkit (1.32), hence one prepared exception and no locals on that path.
"""

import ctypes
import errno
from typing import NamedTuple

import nbdkit

from vimraft.data.engine import Plane
from vimraft.data.errors import IoError, OpenError
from vimraft.data.feed import Role
from vimraft.data.handle import BLOCK_MAX_BYTES, BLOCK_MIN_BYTES, BLOCK_PREFERRED_BYTES, Handle
from vimraft.data.process import DataProcess, log
from vimraft.data.sessions import PeerExport

_ensure = ctypes.pythonapi.PyGILState_Ensure
_ensure.restype, _ensure.argtypes = ctypes.c_int, ()
_release = ctypes.pythonapi.PyGILState_Release
_release.restype, _release.argtypes = None, (ctypes.c_int,)


class RequestFailed(Exception):
    """What nbdkit sees; the errno was set before."""


FAILED = RequestFailed("see the errno")
_process: DataProcess
_plane: Plane
"""Set by `after_fork`: a module global is the cheapest look-up of the hot path."""


class Opened(NamedTuple):
    handle: Handle
    peer: PeerExport | None


def use_role(role: Role) -> None:
    global _process  # noqa: PLW0603
    _process = DataProcess(role, nbdkit.shutdown)


def _set(error: BaseException) -> None:
    nbdkit.set_error(error.number if isinstance(error, IoError) else errno.EIO)
    if not isinstance(error, IoError):
        log("request.bug", error=repr(error))


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
    except OpenError as error:
        log("export.refused", error=str(error))
        nbdkit.set_error(errno.ESHUTDOWN if _plane.stopping else errno.ENOENT)
        raise FAILED.with_traceback(None) from None
    if not _process.parallel:
        opened.handle.pin = _ensure()
    return opened


def close(h: Opened) -> None:
    handle = h.handle
    _plane.close(handle, h.peer)
    if handle.pin is not None:
        _release(handle.pin)


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
    except BaseException as error:  # noqa: BLE001 - whatever it is, the client gets an errno
        _set(error)
        h = buf = None  # type: ignore[assignment]
    if h is None:
        raise FAILED.with_traceback(None)


def pwrite(h: Opened, buf: memoryview, offset: int, flags: int) -> None:
    try:
        h.handle.write(buf, offset, bool(flags & nbdkit.FLAG_FUA))
    except BaseException as error:  # noqa: BLE001 - whatever it is, the client gets an errno
        _set(error)
        h = buf = None  # type: ignore[assignment]
    if h is None:
        raise FAILED.with_traceback(None)


def flush(h: Opened, _flags: int) -> None:
    try:
        h.handle.flush()
    except BaseException as error:  # noqa: BLE001 - whatever it is, the client gets an errno
        _set(error)
        h = None  # type: ignore[assignment]
    if h is None:
        raise FAILED.with_traceback(None)


def trim(h: Opened, count: int, offset: int, flags: int) -> None:
    try:
        h.handle.trim(offset, count, fua=bool(flags & nbdkit.FLAG_FUA))
    except BaseException as error:  # noqa: BLE001 - whatever it is, the client gets an errno
        _set(error)
        h = None  # type: ignore[assignment]
    if h is None:
        raise FAILED.with_traceback(None)


def zero(h: Opened, count: int, offset: int, flags: int) -> None:
    try:
        h.handle.zero(
            offset,
            count,
            may_trim=bool(flags & nbdkit.FLAG_MAY_TRIM),
            fua=bool(flags & nbdkit.FLAG_FUA),
            fast=bool(flags & nbdkit.FLAG_FAST_ZERO),
        )
    except BaseException as error:  # noqa: BLE001 - whatever it is, the client gets an errno
        _set(error)
        h = None  # type: ignore[assignment]
    if h is None:
        raise FAILED.with_traceback(None)


def extents(h: Opened, count: int, offset: int, _flags: int) -> list[tuple[int, int, int]]:
    found = None
    try:
        found = h.handle.extents(offset, count)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the client gets an errno
        _set(error)
        h = None  # type: ignore[assignment]
    if found is None:
        raise FAILED.with_traceback(None)
    return found
