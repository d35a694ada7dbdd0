"""What the manager says, put into effect: maps and holds one after another, leases and Quit at once.

May live here: the queue between the thread that reads the feed and the one that installs, and when a lease
counts. An install may have to wait for a request that runs for long, and a lease must not wait with it.

A lease may overtake older maps for this reason. It is this manager's right to serve as owner, not the
right to serve by a certain map; maps carry epochs, which stores check at every request. Who takes a volume
over first waits until this process has installed that (it has not, so nothing was taken over) or until the
lease in the tables ran out. So *extending* a lease that has never lapsed here changes nothing that a queued
map says. A lease that has lapsed is another matter: meanwhile another owner may have begun, and the map that
says so may be on its way. Therefore it is revived only when every map that came before it is installed, and
at least one of this conversation. A shorter lease, or none, counts at once and cancels one that still waits.
"""

import contextlib
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from vimraft.data import feed
from vimraft.data.errors import OlderMap
from vimraft.data.feed import (
    CopiesStatus,
    Decided,
    FromPlane,
    Hold,
    HoldTimes,
    IoCounters,
    Leases,
    Loads,
    MapUpdate,
    MoveOwnerTo,
    Problem,
    Role,
    Unhold,
    VerifyCopies,
    Welcome,
)

MAX_QUEUED = 256
"""Messages that wait for the installer; a manager that sends more is hung up on, and the whole map it then
sends replaces them."""
SEND_TIMEOUT_S = 5
"""A manager that reads nothing for so long is disconnected (and dialled again)."""


class LeaseDeadline(Protocol):
    until_ns: int

    def valid(self) -> bool: ...


class FedEngine(Protocol):
    """What the feed drives."""

    role: Role
    manager: str
    instance: str
    boot_id: str
    installed_index: int

    @property
    def lease(self) -> LeaseDeadline: ...

    def install(self, update: MapUpdate) -> int: ...
    def hold(self, token: int, names: tuple[str, ...]) -> None: ...
    def release(self, token: int) -> None: ...
    def meet_manager(self, incarnation: str) -> None: ...
    def set_lease(self, boottime_ns: int) -> None: ...
    def lose_manager(self) -> None: ...
    def note_leases(self, leases: Leases) -> None: ...
    def note_loads(self, loads: Loads) -> None: ...
    def note_decided(self, decided: Decided) -> None: ...
    def move_owner(self, wanted: MoveOwnerTo) -> None: ...
    def verify_copies(self, wanted: VerifyCopies) -> None: ...
    def reopen_missing(self) -> None: ...
    def problems(self) -> list[Problem]: ...
    def untold(self) -> list[FromPlane]: ...
    def copies_status(self) -> dict[str, CopiesStatus]: ...
    def hold_times(self) -> dict[str, HoldTimes]: ...
    def stats(self) -> tuple[dict[str, IoCounters], dict[str, IoCounters], int]: ...


class Conversation:
    """One connection to a manager."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.installed = False
        """A map of this conversation is installed."""
        self.behind_since = 0.0
        """time.monotonic() when the manager sent tables older than those installed; 0: it did not."""
        self._lock = threading.Lock()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_TIMEOUT_S, 0))

    def send(self, message: FromPlane, fds: tuple[int, ...] = ()) -> bool:
        frame = feed.encode_frame(message)
        with self._lock:
            try:
                sent = socket.send_fds(self.sock, [frame], fds) if fds else 0
                self.sock.sendall(frame[sent:])
                return True
            except OSError:
                self.hang_up()  # a torn frame cannot be mended: the dialler starts another conversation
                return False

    def hang_up(self) -> None:
        """The reader sees the end."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)


Ordered = Welcome | MapUpdate | Leases | Loads | Decided | MoveOwnerTo | VerifyCopies | Hold | Unhold


class Installer:
    def __init__(self, engine: FedEngine, log: Callable[..., None]) -> None:
        self._engine = engine
        self._log = log
        self._changed = threading.Condition()
        self._queue: deque[tuple[Conversation, int, Ordered]] = deque()
        self._received = 0
        """Number of the last message that was queued."""
        self._done = 0
        """Number of the last message that was put into effect."""
        self._waiting_lease: tuple[Conversation, int, int] | None = None
        """Its conversation, its end, and the number of the message that must have been put into effect."""

    def start(self) -> None:
        threading.Thread(target=self._run, name="installer", daemon=True).start()

    # --- the reader's side ------------------------------------------------------------------------
    def take(self, conversation: Conversation, message: Ordered) -> bool:
        """False: there is no room."""
        with self._changed:
            if len(self._queue) >= MAX_QUEUED:
                return False
            self._received += 1
            self._queue.append((conversation, self._received, message))
            self._changed.notify()
            return True

    def forget(self, conversation: Conversation) -> None:
        """It has ended. What its manager no longer holds is released all the same."""
        with self._changed:
            kept = [
                item for item in self._queue if item[0] is not conversation or isinstance(item[2], Unhold)
            ]
            self._queue = deque(kept)
            waiting = self._waiting_lease
            if waiting is not None and waiting[0] is conversation:
                self._waiting_lease = None

    def lease(self, conversation: Conversation, until_ns: int) -> None:
        engine = self._engine
        with self._changed:
            shorter = until_ns <= engine.lease.until_ns
            if shorter or engine.lease.valid() or self._current(conversation, self._received):
                self._waiting_lease = None
                engine.set_lease(until_ns)
            else:
                waiting = self._waiting_lease
                unbroken = waiting is not None and waiting[0] is conversation and _boottime_ns() < waiting[1]
                after = waiting[2] if waiting is not None and unbroken else self._received
                self._waiting_lease = (conversation, until_ns, after)

    def _current(self, conversation: Conversation, number: int) -> bool:
        return conversation.installed and self._done >= number

    # --- the installer's side ---------------------------------------------------------------------
    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue)
                conversation, number, message = self._queue.popleft()
            try:
                reply = self._put_into_effect(conversation, message)
            except OlderMap as error:
                # it stays connected for a while (Quit is heard), then a whole map is asked for by dialling
                conversation.behind_since = conversation.behind_since or time.monotonic()
                self._log("feed.older_map", error=str(error))
                reply = None
            except Exception as error:  # noqa: BLE001 - a map that trips us must not end the feed for good
                self._log("feed.bug", error=repr(error))
                conversation.hang_up()
                reply = None
            with self._changed:
                self._done = number
                self._revive_lease()
            if reply is not None:
                conversation.send(reply)

    def _revive_lease(self) -> None:
        if self._waiting_lease is not None:
            conversation, until_ns, after = self._waiting_lease
            if self._current(conversation, after):
                self._waiting_lease = None
                self._engine.set_lease(until_ns)

    def _put_into_effect(self, conversation: Conversation, message: Ordered) -> FromPlane | None:
        engine = self._engine
        match message:
            case MapUpdate() if conversation.behind_since and not message.full:
                if message.index >= engine.installed_index:
                    conversation.hang_up()  # it has caught up; what it sends now is only a difference
            case MapUpdate():
                hold_us = engine.install(message)
                conversation.installed, conversation.behind_since = True, 0.0
                self._log("map.installed", index=message.index, full=message.full, hold_us=hold_us)
                return feed.Installed(message.index, hold_us)
            case Hold():
                engine.hold(message.token, message.volumes)
                return feed.Held(message.token)
            case Unhold():
                engine.release(message.token)
            case Leases():
                engine.note_leases(message)
            case Loads():
                engine.note_loads(message)
            case Decided():
                engine.note_decided(message)
            case MoveOwnerTo():
                engine.move_owner(message)
            case VerifyCopies():
                engine.verify_copies(message)
            case Welcome():
                self._log("feed.welcome", manager=message.manager, incarnation=message.incarnation)
                engine.meet_manager(message.incarnation)
        return None


def _boottime_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
