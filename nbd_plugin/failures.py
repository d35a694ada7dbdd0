"""Exceptions for nbdkit that leave nothing behind.

nbdkit 1.32's Python plugin fetches the exception of a failed callback and never gives its reference to the
traceback back: with it stay the frame and all its locals, some hundred bytes for every failed request,
for ever. So each connection has one prepared exception, keeps the traceback of its last failure, and gives
the reference back at the next one (nbdkit is certainly done with it then), only if the reference count
proves that it was kept. May live here: that, and nothing about requests.
"""

import ctypes
import sys
import time
from collections import deque
from types import TracebackType

_decref = ctypes.pythonapi.Py_DecRef
_decref.restype, _decref.argtypes = None, (ctypes.py_object,)
OPEN_FAILURE_AGE_S = 60.0
"""A refused open has no connection to tell when nbdkit is done with it; by then it is."""


class RequestFailed(Exception):
    """What nbdkit sees; the errno was set before."""

    def __init__(self) -> None:
        super().__init__("the client was told the errno")


_spare: list[RequestFailed] = []
"""nbdkit keeps the exceptions too, so they are used again: as many as connections at one time."""


def _give_back(traceback: TracebackType) -> None:
    """`traceback` must be held by its caller's one variable besides."""
    if sys.getrefcount(traceback) > 3:  # the caller's, ours, getrefcount's
        _decref(traceback)


class Failures:
    """Of one connection, whose requests fail one after another."""

    __slots__ = ("_failure", "_traceback")

    def __init__(self) -> None:
        self._failure: RequestFailed | None = None
        self._traceback: TracebackType | None = None

    def prepare(self) -> RequestFailed:
        """The exception to raise, without a traceback."""
        failure = self._failure
        if failure is None:
            failure = self._failure = _spare.pop() if _spare else RequestFailed()
        self._reclaim(failure)
        return failure

    def raised(self, failure: RequestFailed) -> None:
        self._traceback = failure.__traceback__

    def close(self) -> None:
        failure = self._failure
        if failure is not None:
            self._reclaim(failure)
            self._failure = None
            _spare.append(failure)

    def _reclaim(self, failure: RequestFailed) -> None:
        failure.__traceback__ = None
        traceback, self._traceback = self._traceback, None
        if traceback is not None:
            _give_back(traceback)


class ParallelFailures(Failures):
    """Requests of one connection overlap, so nobody knows when nbdkit is done: nothing is given back."""

    __slots__ = ()

    def prepare(self) -> RequestFailed:
        return RequestFailed()

    def raised(self, failure: RequestFailed) -> None:
        """Nothing is kept."""


class OpenFailures:
    """Of connections that were refused."""

    def __init__(self) -> None:
        self._old: deque[tuple[float, RequestFailed, Failures]] = deque()

    def prepare(self) -> RequestFailed:
        while self._old and time.monotonic() - self._old[0][0] > OPEN_FAILURE_AGE_S:
            self._old.popleft()[2].close()
        failures = Failures()
        failure = failures.prepare()
        self._old.append((time.monotonic(), failure, failures))
        return failure

    def raised(self, failure: RequestFailed) -> None:
        for _, known, failures in self._old:
            if known is failure:
                failures.raised(failure)
