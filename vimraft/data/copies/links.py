"""Connections of owners to the stores of peers, through libnbd (see `wire` for what goes over them).

May live here: dialling, pooling, carrying one request. A link belongs to one store, volume, copy, epoch and
session, and to one thread while it is out of the pool. Every wait is bounded: the watchdog shuts the socket
of whatever is overdue. A link that broke is gone; what was under way on it has an unknown outcome
(`PeerLost`), and the owner's machine begins a newer session, for which the next link is dialled. A store that
cannot be reached is not dialled again before a pause that doubles.
"""

import contextlib
import errno
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import nbd

from vimraft.core.ids import ManagerName
from vimraft.data.copies import wire
from vimraft.data.errors import PeerLost
from vimraft.data.remote import FLAG_FUA, connect_to_peer
from vimraft.protocol.asks import Answer, How
from vimraft.protocol.messages import Session, for_owner
from vimraft.protocol.owner_effects import StoreRequest

MAX_LINKS = 1_024
"""Of one process; when so many are in use, a store counts as lost until some are given back."""
IDLE_S = 60.0
WATCHDOG_S = 0.1
BACK_OFF_FIRST_S = 0.05
BACK_OFF_LAST_S = 1.0
POLL_MS = 1_000
DATA_KINDS = frozenset(("read", "write", "zero", "trim"))
YOUNG_KINDS = frozenset(("checksum",))
"""Stores of older releases refuse the message; that is no reason to take them for lost."""
_monotonic = time.monotonic
_DIRECTIONS = {1: select.POLLIN, 2: select.POLLOUT, 3: select.POLLIN | select.POLLOUT}


class Place(NamedTuple):
    store: ManagerName
    volume: str
    copy: str
    """"": a control link."""


class CopyLink:
    __slots__ = ("boot", "deadline", "epoch", "guard", "handle", "place", "session", "used_s")

    def __init__(self, place: Place, epoch: int, session: Session) -> None:
        self.place = place
        self.epoch = epoch
        self.session = session
        self.handle: nbd.NBD = nbd.NBD()
        self.guard: socket.socket | None = None
        self.boot = ""
        self.deadline = 0.0
        """time.monotonic() after which the watchdog shuts the socket; 0: nothing is under way."""
        self.used_s = _monotonic()

    def abort(self) -> None:
        """From any thread: what is under way fails at once."""
        guard = self.guard
        if guard is not None:
            with contextlib.suppress(OSError):
                guard.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.abort()
        guard, self.guard = self.guard, None
        if guard is not None:
            guard.close()

    @property
    def alive(self) -> bool:
        return self.handle.aio_is_ready() or self.handle.aio_is_processing()


class Flight:
    """A data request under way on a link of its own."""

    __slots__ = ("buffer", "cookie", "link", "request", "store")

    def __init__(self, link: CopyLink, request: StoreRequest) -> None:
        """Raises PeerLost."""
        self.link = link
        self.request = request
        self.store = link.place.store
        handle, first = link.handle, request.first
        flags = FLAG_FUA if request.fua else 0
        try:
            if request.kind == "write":
                self.buffer = nbd.Buffer.from_buffer(request.data)
                self.cookie = handle.aio_pwrite(self.buffer, first, flags=flags)
            elif request.kind == "read":
                self.buffer = nbd.Buffer(request.end - first)
                self.cookie = handle.aio_pread(self.buffer, first)
            elif request.kind == "zero":
                self.cookie = handle.aio_zero(request.end - first, first, flags=flags)
            else:
                self.cookie = handle.aio_trim(request.end - first, first, flags=flags)
        except nbd.Error as error:
            raise PeerLost(f"{self.store}: {error}") from None

    def answer(self) -> Answer | None:
        """None: it is under way. Raises PeerLost."""
        try:
            if not self.link.handle.aio_command_completed(self.cookie):
                return None
        except nbd.Error as error:
            how: How = wire.how_of(error.errnum) if self.link.alive else "lost"
            if how == "lost":
                raise PeerLost(f"{self.store}: {error}") from None
            return Answer(self.request.number, how, self.link.boot)
        data = self.buffer.to_bytearray() if self.request.kind == "read" else b""
        return Answer(self.request.number, "done", self.link.boot, data)  # type: ignore[arg-type]

    def wait(self) -> Answer:
        """Raises PeerLost."""
        try:
            while (answer := self.answer()) is None:
                self.link.handle.poll(POLL_MS)
        except nbd.Error as error:
            raise PeerLost(f"{self.store}: {error}") from None
        return answer


class _BackOff(NamedTuple):
    until: float
    pause_s: float
    why: str


class PeerStores:
    """`address_of` says where a manager's store listens, and raises PeerLost if nobody knows."""

    def __init__(self, address_of: Callable[[ManagerName], tuple[str, int]]) -> None:
        self._address_of = address_of
        self._lock = threading.Lock()
        self._links: set[CopyLink] = set()
        self._idle: dict[Place, list[CopyLink]] = {}
        self._back_off: dict[ManagerName, _BackOff] = {}

    def start(self) -> None:
        threading.Thread(target=self._watch, name="copy-links", daemon=True).start()

    # --- links ------------------------------------------------------------------------------------------

    def idle(self, place: Place, epoch: int, session: Session) -> CopyLink | None:
        """A connected link that nobody uses; those of older epochs and sessions are closed."""
        links = self._idle.get(place)
        while links:
            try:
                link = links.pop()
            except IndexError:
                return None
            if link.epoch == epoch and link.session == session:
                return link
            self.drop(link)
        return None

    def take(self, place: Place, epoch: int, session: Session, timeout_s: float) -> CopyLink:
        """May dial. Raises PeerLost."""
        return self.idle(place, epoch, session) or self._dial(place, epoch, session, timeout_s)

    def give(self, link: CopyLink) -> None:
        """Nothing is under way on it."""
        link.deadline = 0.0
        link.used_s = _monotonic()
        self._idle.setdefault(link.place, []).append(link)

    def drop(self, link: CopyLink) -> None:
        with self._lock:
            self._links.discard(link)
        link.deadline = 0.0
        link.close()

    def _dial(self, place: Place, epoch: int, session: Session, timeout_s: float) -> CopyLink:
        back_off = self._back_off.get(place.store)
        if back_off is not None and _monotonic() < back_off.until:
            raise PeerLost(f"{place.store} could not be reached just now: {back_off.why}")
        host, port = self._address_of(place.store)
        link = CopyLink(place, epoch, session)
        with self._lock:
            if len(self._links) >= MAX_LINKS:
                raise PeerLost(f"{MAX_LINKS} connections to stores are in use")
            self._links.add(link)
        try:
            self._connect(link, host, port, timeout_s)
        except PeerLost as lost:
            self.drop(link)
            pause_s = min(back_off.pause_s * 2 if back_off else BACK_OFF_FIRST_S, BACK_OFF_LAST_S)
            self._back_off[place.store] = _BackOff(_monotonic() + pause_s, pause_s, str(lost))
            raise
        self._back_off.pop(place.store, None)
        return link

    def _connect(self, link: CopyLink, host: str, port: int, timeout_s: float) -> None:
        place, handle = link.place, link.handle
        if place.copy:
            handle.set_export_name(wire.copy_export(place.volume, place.copy, link.epoch, link.session))
        else:
            handle.set_export_name(wire.control_export(place.volume, link.session))
        handle.set_full_info(True)
        handle.set_pread_initialize(False)
        sock = connect_to_peer(place.store, host, port, timeout_s)
        link.guard = sock.dup()
        link.deadline = _monotonic() + timeout_s
        try:
            handle.connect_socket(sock.detach())
            link.boot = wire.parse_boot(handle.get_export_description())
        except nbd.Error as error:
            raise PeerLost(f"{place.store} refused {place.copy} of {place.volume}: {error}") from None
        link.deadline = 0.0

    # --- requests -----------------------------------------------------------------------------------------

    def begin(self, link: CopyLink, request: StoreRequest, timeout_s: float) -> Flight:
        """Raises PeerLost; then the link is gone."""
        link.deadline = _monotonic() + timeout_s
        try:
            return Flight(link, request)
        except PeerLost:
            self.drop(link)
            raise

    def finish(self, flight: Flight) -> Answer:
        """Waits. Raises PeerLost."""
        try:
            answer = flight.wait()
        except PeerLost:
            self.drop(flight.link)
            raise
        self.give(flight.link)
        return answer

    def ask(self, store: ManagerName, session: Session, request: StoreRequest, timeout_s: float) -> Answer:
        """Any request, from its sending to its answer; waits. Raises PeerLost."""
        if request.kind in DATA_KINDS:
            place = Place(store, request.volume, request.copy)
            link = self.take(place, request.epoch, session, timeout_s)
            answer = self.finish(self.begin(link, request, timeout_s))
            if answer.how != "busy" or not request.must:
                return answer
        return self._control(store, session, request, timeout_s)

    def _control(
        self, store: ManagerName, session: Session, request: StoreRequest, timeout_s: float
    ) -> Answer:
        link = self.take(Place(store, request.volume, ""), 0, session, timeout_s)
        link.deadline = _monotonic() + timeout_s
        try:
            link.handle.pwrite(wire.encode_request(request), 0)
            head = link.handle.pread(wire.FIRST_READ_BYTES, 0)
            more = wire.framed_bytes(head) - len(head)
            if more > 0:
                head += link.handle.pread(more, len(head))
            answer = for_owner(wire.decode_answer(head))
        except (nbd.Error, wire.WireError) as error:
            if request.kind in YOUNG_KINDS and _refused(link, error):
                self.give(link)
                return Answer(request.number, "unsupported", link.boot)
            self.drop(link)
            raise PeerLost(f"{store}: {request.kind}: {error}") from None
        self.give(link)
        return answer

    # --- the rest -------------------------------------------------------------------------------------------

    def forget(self, volume: str) -> None:
        """Close what nobody uses of it; and what is in use fails."""
        for link in tuple(self._links):
            if link.place.volume == volume:
                link.abort()
        for place in [place for place in tuple(self._idle) if place.volume == volume]:
            for link in self._idle.pop(place, ()):
                self.drop(link)

    def abort(self) -> None:
        for link in tuple(self._links):
            link.abort()

    def _watch(self) -> None:
        while True:
            time.sleep(WATCHDOG_S)
            now = _monotonic()
            for link in tuple(self._links):
                if link.deadline and now >= link.deadline:
                    link.abort()
                elif now - link.used_s > IDLE_S and not link.deadline:
                    self._close_idle(link)

    def _close_idle(self, link: CopyLink) -> None:
        try:
            self._idle.get(link.place, []).remove(link)  # one step for all threads
        except ValueError:
            return  # in use
        self.drop(link)


def _refused(link: CopyLink, error: nbd.Error | wire.WireError) -> bool:
    """The store could not read the message; the connection lives."""
    return isinstance(error, nbd.Error) and error.errnum == errno.EPERM and link.alive


def poll_flights(flights: Sequence[Flight]) -> None:
    """Until something came for one of them, or a while."""
    if len(flights) == 1:
        with contextlib.suppress(nbd.Error):  # its answer says so
            flights[0].link.handle.poll(POLL_MS)
        return
    poller = select.poll()
    by_fd: dict[int, nbd.NBD] = {}
    for flight in flights:
        handle = flight.link.handle
        with contextlib.suppress(nbd.Error):
            fd = handle.aio_get_fd()
            by_fd[fd] = handle
            poller.register(fd, _DIRECTIONS.get(handle.aio_get_direction(), select.POLLIN))
    for fd, events in poller.poll(POLL_MS):
        with contextlib.suppress(nbd.Error):
            if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                by_fd[fd].aio_notify_read()
            elif events & select.POLLOUT:
                by_fd[fd].aio_notify_write()
