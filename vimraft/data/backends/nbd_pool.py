"""The sessions of one NBD real volume: how many, when a new one, and what a lost one means.

May live here: the pool, retries until the deadline, generations and the count of losses. Wire and
draining: nbd_session.py. The Backend methods: nbd.py.

All sessions are of one *generation*: when one is lost, all are given up, since the server may have
been restarted behind them, and a new one is opened only after every old one has been drained. So within
this process an old copy of a write never overtakes a newer one (as far as nbd_session's proof goes).
Answers of an older generation are discarded and asked for again.

INV-3, two rules. A lost generation with writes acknowledged since its last flush makes `losses` one
larger before anything is answered by a later generation. And a flush travels only on a *covering*
session: one that was connected when nothing acknowledged was unflushed. Its answer proves that the
server which took those writes has lived through all of them; a younger session may have reached a
restarted server before anybody noticed. The first session of a generation always covers.

INV-5: a server that comes back with another size or another first block (a label lives there) is not
used: a memory disk that was restarted would show zeros where data were.
"""

import errno
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from vimraft.data.backends.base import BackendError
from vimraft.data.backends.nbd_session import LOGICAL_BLOCK_BYTES, Session, SessionLost

CONNECT_TIMEOUT_S = 10.0
BACKOFF_FIRST_S = 0.02
BACKOFF_LAST_S = 2.0
DRAIN_SLICE_S = 1.0
HEAD_BYTES = 4_096
"""The first block, remembered to recognize the volume after a reconnect."""
UNDRAINED = "the server still holds an older connection with requests in flight"

T = TypeVar("T")


class NoAnswer(OSError):
    """EIO without a word from the server: the outcome is unknown."""


class Pool:
    def __init__(
        self,
        uri: str,
        *,
        read_only: bool,
        io_timeout_s: float,
        max_connections: int,
        on_loss: Callable[[], None],
    ) -> None:
        """Raises BackendError when the server cannot be reached or is of no use. `on_loss` is called
        under the pool's lock: it counts, and calls nothing back."""
        self.uri = uri
        self._on_loss = on_loss
        self.problem = ""
        """Why there is no session now."""
        self._read_only = read_only
        self._io_timeout_s = io_timeout_s
        self._changed = threading.Condition()
        self._closed = False
        self._opening = False
        self._flush_waiters = 0
        self._generation = 0
        self._proved = False
        """This generation has answered a request."""
        self._idle: list[Session] = []
        self._current: set[Session] = set()
        self._stale: set[Session] = set()
        self._retry_at = 0.0
        self._backoff_s = BACKOFF_FIRST_S
        self._acknowledged_writes = 0
        self._flushed_writes = 0
        self._head: bytes | None = None
        self.first = self._first_session(min(io_timeout_s, CONNECT_TIMEOUT_S))
        """What the server offered at first: sizes and abilities."""
        self._most = max_connections if self.first.can_multi_conn else 1
        self._current.add(self.first)
        self._idle.append(self.first)

    def _first_session(self, timeout_s: float) -> Session:
        deadline = time.monotonic() + timeout_s
        try:
            session = Session.connect(self.uri, 0, deadline)
            self._head = _read_head(session, deadline)
        except SessionLost as lost:
            message = f"{self.uri}: {lost}; start the NBD server, or correct the URI"
            raise BackendError("missing", message) from None
        except OSError as error:
            message = f"{self.uri}: its first block cannot be read: {error.strerror}; check the server's disk"
            raise BackendError("io", message) from None
        problem = ""
        if session.minimum_bytes > LOGICAL_BLOCK_BYTES:
            problem = (
                f"takes requests of {session.minimum_bytes} bytes and more only; "
                "serve it with 512-byte blocks (nbdkit: --filter=blocksize)"
            )
        elif not self._read_only and session.read_only:
            problem = "is exported read-only; export it writable"
        elif not self._read_only and not session.can_flush:
            problem = "has no flush, so no write could be made safe; serve it with flush"
        if problem:
            session.end()
            raise BackendError("missing", f"{self.uri}: {problem}")
        return session

    def forget_head(self) -> None:
        """The first block is about to be written: it no longer tells this volume from another."""
        with self._changed:
            self._head = None

    def request(
        self, ask: Callable[[Session, float], T], *, wrote: bool = False, covering: bool = False
    ) -> T:
        """Run `ask(session, deadline)` until a session answers. Raises OSError with the server's errno,
        or NoAnswer. `wrote`: what was acknowledged needs a flush. `covering`: see the module."""
        deadline = time.monotonic() + self._io_timeout_s
        while True:
            session = self._take(deadline, covering)
            try:
                answer = ask(session, deadline)
            except SessionLost as lost:
                self._lose(session, str(lost))
                continue
            except OSError:
                if self._give(session, wrote=wrote):  # part of it may have been written
                    raise
                continue
            except BaseException:
                self._lose(session, "a request was interrupted")
                raise
            if self._give(session, wrote=wrote):
                return answer

    def flush(self) -> None:
        def ask(session: Session, deadline: float) -> tuple[int, int]:
            with self._changed:
                mark = (session.generation, self._acknowledged_writes)
            session.flush(deadline)
            return mark

        generation, acknowledged = self.request(ask, covering=True)
        with self._changed:
            if generation == self._generation:
                self._flushed_writes = max(self._flushed_writes, acknowledged)

    def close(self) -> None:
        """Ends idle connections; whoever uses one gets an error."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            rest = (self._current | self._stale) - set(idle)
            self._current.clear()
            self._changed.notify_all()
        for session in idle:
            session.end()
        for session in rest:
            session.half_close()

    # Sessions

    def _take(self, deadline: float, covering: bool) -> Session:
        while True:
            with self._changed:
                if self._closed:
                    raise NoAnswer(errno.ESHUTDOWN, f"{self.uri}: is closed")
                session = self._pick(covering)
                if session is not None:
                    session.busy = True
                    return session
                now = time.monotonic()
                if now >= deadline:
                    raise NoAnswer(errno.EIO, f"{self.uri}: {self.problem or 'all connections are busy'}")
                if not self._may_open(now, covering):
                    until = min(deadline, self._retry_at) if self._retry_at > now else deadline
                    self._flush_waiters += covering
                    self._changed.wait(until - now)
                    self._flush_waiters -= covering
                    continue
                self._opening = True
            self._open_one(deadline)

    def _covers(self, session: Session) -> bool:
        return session.joined_at <= self._flushed_writes

    def _pick(self, covering: bool) -> Session | None:
        """The idle session that was used last; covering ones are left to flushes that wait."""
        for position in range(len(self._idle) - 1, -1, -1):
            session = self._idle[position]
            if self._covers(session) if covering else not (self._flush_waiters and self._covers(session)):
                return self._idle.pop(position)
        return None

    def _may_open(self, now: float, covering: bool) -> bool:
        return (
            not self._opening
            and (not self._current if covering else len(self._current) < self._most)
            and now >= self._retry_at
            and not any(session.busy for session in self._stale)
        )

    def _open_one(self, deadline: float) -> None:
        """Drain what is left of older generations, then connect. `_opening` is held by this thread."""
        session: Session | None = None
        problem = ""
        try:
            if self._drain(min(deadline, time.monotonic() + DRAIN_SLICE_S)):
                session = self._connect(min(deadline, time.monotonic() + CONNECT_TIMEOUT_S))
            else:
                problem = UNDRAINED
        except SessionLost as lost:
            problem = str(lost)
        except OSError as error:
            problem = f"the first block cannot be read: {error.strerror}"
        finally:
            with self._changed:
                self._opening = False
                self._admit(session, problem)
                self._changed.notify_all()

    def _admit(self, session: Session | None, problem: str) -> None:
        if session is None:
            self.problem = problem or self.problem
            if problem != UNDRAINED:  # waiting for that took a slice already
                self._back_off()
        elif session.generation == self._generation and not self._closed:
            self.problem = ""
            session.joined_at = self._acknowledged_writes
            self._current.add(session)
            self._idle.append(session)
        else:
            session.abandon()
            self._stale.add(session)

    def _back_off(self) -> None:
        self._retry_at = time.monotonic() + self._backoff_s
        self._backoff_s = min(2 * self._backoff_s, BACKOFF_LAST_S)

    def _drain(self, deadline: float) -> bool:
        with self._changed:
            stale = list(self._stale)
        for session in stale:
            if not session.drain(deadline):
                return False
            with self._changed:
                self._stale.discard(session)
        return True

    def _connect(self, deadline: float) -> Session:
        with self._changed:
            generation = self._generation
        session = Session.connect(self.uri, generation, deadline)
        try:
            self._check_same_volume(session, deadline)
        except BaseException:
            session.end()  # nothing was written on it, so nobody has to wait for its end
            raise
        return session

    def _check_same_volume(self, session: Session, deadline: float) -> None:
        first = self.first
        if session.size_bytes != first.size_bytes:
            raise SessionLost(f"the server now has {session.size_bytes} bytes instead of {first.size_bytes}")
        lacks = sorted(first.abilities - session.abilities)
        if lacks or session.maximum_bytes < first.maximum_bytes:
            raise SessionLost(f"the server came back without {', '.join(lacks) or 'large requests'}")
        with self._changed:
            expected = self._head
        if expected is not None and _read_head(session, deadline) != expected:
            with self._changed:
                unchanged = self._head is expected
            if unchanged:
                raise SessionLost("the server came back with another volume (its first block differs)")

    def _lose(self, session: Session, why: str) -> None:
        """Give the whole generation up, once, whichever of its sessions is found lost first."""
        session.abandon()
        with self._changed:
            session.busy = False
            self._stale.add(session)
            if session.generation == self._generation:
                self._generation += 1
                self.problem = why
                if self._acknowledged_writes != self._flushed_writes:
                    self._on_loss()
                    self._flushed_writes = self._acknowledged_writes
                for other in self._current:
                    other.half_close()
                self._stale |= self._current
                self._current.clear()
                self._idle.clear()
                if not self._proved:
                    self._back_off()
                self._proved = False
            self._changed.notify_all()

    def _give(self, session: Session, *, wrote: bool) -> bool:
        """False: its generation was given up meanwhile, so what it answered does not count."""
        with self._changed:
            session.busy = False
            self._changed.notify_all()
            if session.generation != self._generation:
                return False
            if wrote:
                self._acknowledged_writes += 1
            if not self._proved:
                self._proved = True
                self._backoff_s = BACKOFF_FIRST_S
            if self._closed:
                session.half_close()
            else:
                self._idle.append(session)
            return True


def _read_head(session: Session, deadline: float) -> bytes:
    head = bytearray(min(HEAD_BYTES, session.size_bytes))
    if head:
        session.read(memoryview(head), 0, deadline)
    return bytes(head)
