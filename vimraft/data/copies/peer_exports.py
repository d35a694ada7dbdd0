"""What peers' owners attach to in the store process: the exports `.copy/…` and `.copyctl/…` (see `wire`).

May live here: handles as nbdkit's callbacks use them, each of which makes store requests of NBD requests and
waits for the answer. Keeps: the epoch and session of a data export are those in its name, whatever is sent
down it; the session of a control export is the connection's, whatever the message says. Every wait is
bounded, and what had no answer by then is told as unknown, never as failed.
"""

import errno
import itertools
import threading
from collections.abc import Container

from msgspec.structs import replace

from vimraft.core.ids import MAX_VOLUME_BYTES, LocalName, VolumeName
from vimraft.data.copies import wire
from vimraft.data.copies.store_turns import StoreTurns, VolumeStore
from vimraft.data.errors import IoError, OpenError
from vimraft.protocol.asks import AskKind
from vimraft.protocol.messages import Done, NewerEpoch, Session, StoreAnswer, Unknown, for_owner
from vimraft.protocol.owner_effects import StoreRequest

ANSWER_S = 15.0
"""A machine answers everything that a backend answers in less; an owner stops waiting earlier."""
TURN_S = 3.0
"""How long a request waits until this process has the volume's record."""
MAP_S = 1.0
"""How long an owner that knows newer tables than this process waits to be let in."""
MAX_CONNECTIONS = 8_192
_DATA = Done
_numbers = itertools.count(1 << 40)
"""Of requests, unlike any that an owner gives."""


class _Waiting:
    __slots__ = ("answer", "lock")

    def __init__(self) -> None:
        self.answer: StoreAnswer | None = None
        self.lock: threading.Lock | None = None

    def done(self, answer: StoreAnswer) -> None:
        self.answer = answer
        lock = self.lock
        if lock is not None and lock.locked():
            lock.release()

    def wait(self) -> StoreAnswer | None:
        lock = threading.Lock()
        lock.acquire()
        self.lock = lock  # before looking again: whoever answers looks for it after answering
        if self.answer is None:
            lock.acquire(timeout=ANSWER_S)
        return self.answer


def _ask(store: VolumeStore, session: Session, request: StoreRequest) -> StoreAnswer:
    """Blocks until the answer is there."""
    if store.side is None and not store.wait_open(TURN_S):
        return StoreAnswer(request.number, store.boot, 0, NewerEpoch(0))
    waiting = _Waiting()
    store.ask(session, request, waiting.done)
    answer = waiting.answer or waiting.wait()
    return answer or StoreAnswer(request.number, store.boot, 0, Unknown())


class StoreHandle:
    """What both kinds have in common; the attributes are those that callbacks and engine look at."""

    __slots__ = ("export", "pin", "session", "size_bytes", "store", "ticket", "writable")

    def __init__(self, store: VolumeStore, export: wire.CopyExport, size_bytes: int) -> None:
        self.store = store
        self.export = export
        self.session = export.session
        self.size_bytes = size_bytes
        self.writable = True
        self.ticket = ""
        self.pin: int | None = None

    def describe(self) -> str:
        return wire.describe_boot(self.store.boot)

    def close(self) -> None:
        """What it asked for goes on, or waits its time out: a newer session of its owner drains it first."""

    def read(self, buf: memoryview, offset: int) -> None:
        raise NotImplementedError

    def write(self, buf: memoryview, offset: int, fua: int) -> None:
        raise NotImplementedError

    def extents(self, offset: int, length: int) -> list[tuple[int, int, int]]:
        return [(offset, length, 0)]

    def zero(self, _offset: int, _length: int, /, **_how: bool) -> None:
        raise _not_data()

    def trim(self, _offset: int, _length: int, /, **_how: int) -> None:
        raise _not_data()

    def flush(self) -> None:
        raise _not_data()


def _not_data() -> IoError:
    return IoError(errno.EPERM, "this export takes messages only")


class CopyHandle(StoreHandle):
    """One copy in one epoch and session. Offsets are the volume's; its size is the store's to judge."""

    __slots__ = ("_copy", "_epoch", "_incarnation", "_number", "_volume")

    def __init__(self, store: VolumeStore, export: wire.CopyExport) -> None:
        super().__init__(store, export, MAX_VOLUME_BYTES)
        self._volume = VolumeName(export.volume)
        self._copy = LocalName(export.copy)
        self._epoch = export.epoch
        self._incarnation = export.session.incarnation
        self._number = export.session.number

    def _do(self, kind: AskKind, first: int, end: int, data: bytes = b"", fua: bool = False) -> bytes:
        request = StoreRequest(
            next(_numbers), self._volume, self._copy, kind, self._epoch, self._incarnation, self._number,
            first, end, data, fua, False, (), "", 0,
        )  # fmt: skip
        answer = _ask(self.store, self.session, request)
        result = answer.result
        if type(result) is _DATA:
            return result.data
        how = for_owner(answer).how
        number = errno.EINVAL if how == "lost" else wire.ERRNO_OF[how]  # EOVERFLOW does not survive nbdkit
        raise IoError(number, f"{self._volume}, copy {self._copy}: {result}")

    def read(self, buf: memoryview, offset: int) -> None:
        buf[:] = self._do("read", offset, offset + len(buf))

    def write(self, buf: memoryview, offset: int, fua: int) -> None:
        """The data are copied: what waits longer than this call must not use nbdkit's buffer."""
        self._do("write", offset, offset + len(buf), bytes(buf), bool(fua))

    def zero(self, offset: int, length: int, /, **how: bool) -> None:
        """Whether the space may go is not asked: a copy keeps it."""
        if how.get("fast"):
            raise IoError(errno.EOPNOTSUPP, "nobody knows whether zeroing is fast")
        self._do("zero", offset, offset + length, fua=bool(how.get("fua")))

    def trim(self, offset: int, length: int, /, **how: int) -> None:
        self._do("trim", offset, offset + length, fua=bool(how.get("fua")))

    def flush(self) -> None:
        self._do("flush", 0, 0)


class ControlHandle(StoreHandle):
    """A request is written at offset 0, then its answer is read from there on."""

    __slots__ = ("_answer",)

    def __init__(self, store: VolumeStore, export: wire.CopyExport) -> None:
        super().__init__(store, export, wire.CONTROL_BYTES)
        self._answer = b""

    def write(self, buf: memoryview, offset: int, fua: int) -> None:  # noqa: ARG002
        if offset:
            raise IoError(errno.EPERM, "a message begins at offset 0")
        try:
            asked = wire.decode_request(buf)
            if asked.volume != self.export.volume:
                raise wire.WireError(f"is about {asked.volume}, this export about {self.export.volume}")
            request = replace(asked, number=next(_numbers))
            answer = _ask(self.store, self.session, request)
            self._answer = wire.encode_answer(replace(answer, number=asked.number))
        except wire.WireError as error:
            raise IoError(errno.EPERM, f"control message: {error}") from None

    def read(self, buf: memoryview, offset: int) -> None:
        part = self._answer[offset : offset + len(buf)]
        if not part:
            raise IoError(errno.EPERM, "no answer is there")
        buf[:] = part.ljust(len(buf), b"\0")


class StoreExports:
    """Lets owners in, and counts them."""

    def __init__(self, turns: StoreTurns) -> None:
        self._turns = turns
        self._lock = threading.Lock()
        self._open = 0

    @staticmethod
    def serves(name: str) -> bool:
        return name.startswith((wire.COPY + "/", wire.CONTROL + "/"))

    def open(self, name: str, managers: Container[str]) -> StoreHandle:
        """Raises OpenError."""
        try:
            export = wire.parse_copy_export(name)
        except wire.WireError as error:
            raise OpenError(str(error)) from None
        if export.session.manager not in managers:
            raise OpenError(f"the tables know no manager {export.session.manager[:200]!r}")
        store = self._turns.known(export.volume, MAP_S)
        if store is None:
            raise OpenError(f"no copy of a volume {export.volume[:200]!r} lies here")
        with self._lock:
            if self._open >= MAX_CONNECTIONS:
                raise OpenError(f"{MAX_CONNECTIONS} connections of owners are open")
            self._open += 1
        return CopyHandle(store, export) if export.copy else ControlHandle(store, export)

    def close(self, handle: StoreHandle) -> None:
        with self._lock:
            self._open -= 1
        handle.close()
