"""Connections to peers through libnbd: a pool of session slots, links, and the watchdog that bounds them.

May live here: everything that touches `nbd.NBD`. A `Link` carries one request (or one batch) at a time.
Every request has a deadline; the watchdog shuts the socket of an overdue one, so no peer can block a
thread for longer. A broken link is opened again under the same session with a newer generation: the peer
drains the older one first, so a late copy of a resent write never overtakes a newer write. A slot whose
last write has an unknown outcome and whose client was told EIO is *unfenced*: nothing more is sent to that
peer's volume before the slot was opened again (which fences the old connection).
"""

import contextlib
import errno
import itertools
import socket
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, NoReturn

import nbd

from vimraft.data.errors import IoError, PeerLost, wire_errno
from vimraft.protocol.losses import NO_LOSS, LossMark

MAX_LINKS = 1024
"""Connections to peers of one process; beyond that the one that was idle for longest is closed."""
IDLE_LINK_S = 60.0
"""A connection that nobody used for so long is closed, and made again when it is needed."""
CONNECT_S = 3.0
"""Longest wait for a TCP connection; the handshake after it is bounded by the request's deadline."""
WATCHDOG_PERIOD_S = 0.1
USER_TIMEOUT_MS = 5_000
"""A peer's host that acknowledges nothing for so long is gone."""
KEEPALIVE_S = 2
"""So often the kernel asks a silent peer: one that took a request and vanished (power, a firewall that
forgot) is noticed as well."""
FLAG_FUA = nbd.CMD_FLAG_FUA


COPIES = "copies"
"""The boot of an owner of several copies: what it had in its own memory says nothing about them. Its losses
are the mark of the last one, the same at every owner."""


class Vitals(NamedTuple):
    """Changes when the peer may have lost acknowledged, unflushed writes (INV-3)."""

    boot: str
    losses: str

    @property
    def owed(self) -> LossMark:
        """Of an owner of several copies; of others nothing."""
        return LossMark.parse(self.losses) if self.boot == COPIES else NO_LOSS


def describe(boot: str, instance: str, losses: int | str) -> str:
    return f"boot={boot} instance={instance} losses={losses}"


def parse_description(text: str) -> Vitals | None:
    """None: the peer could not tell (it has not reached its own peers yet)."""
    fields = dict(word.split("=", 1) for word in text.split() if "=" in word)
    if fields.get("boot", "?") == "?" or "losses" not in fields:
        return None
    return Vitals(fields["boot"], fields["losses"])


def describe_ticket(ticket: str) -> str:
    """To a life of a peer that is not the present one (see sessions)."""
    return f"ticket={ticket}"


def parse_ticket(text: str) -> str:
    return text.removeprefix("ticket=") if text.startswith("ticket=") else ""


def connect_to_peer(peer: str, host: str, port: int, left_s: float) -> socket.socket:
    """Raises PeerLost."""
    try:
        sock = socket.create_connection((host, port), timeout=min(left_s, CONNECT_S))
    except OSError as error:
        raise PeerLost(f"{peer} at {host}:{port}: {error}") from None
    sock.settimeout(None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_S)
    return sock


class LinkKey(NamedTuple):
    kind: str
    """`.forward` (the owner's export) or `.segments` (a peer's store)."""
    peer: str
    volume: str


class Link:
    """One connection of one session slot to one peer's volume. Used by one thread at a time."""

    __slots__ = (
        "deadline",
        "epoch",
        "generation",
        "guard",
        "handle",
        "home",
        "key",
        "pool",
        "slot",
        "unknown",
        "used_s",
        "vitals",
    )

    def __init__(self, pool: "LinkPool", key: LinkKey, slot: int) -> None:
        self.pool = pool
        self.key = key
        self.slot = slot
        self.generation = 0
        self.epoch = -1
        self.handle: nbd.NBD | None = None
        self.guard: socket.socket | None = None
        self.deadline = 0.0
        """time.monotonic() after which the watchdog shuts the socket; 0: nothing in flight."""
        self.unknown = False
        """A change was sent and no reply came."""
        self.vitals: Vitals | None = None
        self.home: list[Link] | None = None
        """Where it rests between requests, settled. Whoever takes it out of there owns it."""
        self.used_s = time.monotonic()

    def ready(self, epoch: int, deadline: float) -> nbd.NBD:
        """The connected handle, for I/O until `deadline`. Raises PeerLost."""
        if self.handle is None or self.epoch != epoch:
            self._connect(epoch, deadline)
        self.deadline = deadline
        assert self.handle is not None
        return self.handle

    def _connect(self, epoch: int, deadline: float) -> None:
        for _ in range(2):
            description = self._dial(epoch, deadline)
            ticket = parse_ticket(description)
            if not ticket:
                break
            # The peer knows a former life of this process as the present one, and this one is not let in yet.
            self.pool.tickets[(self.key.kind, self.key.peer)] = ticket
            self.drop()
        else:
            raise PeerLost(f"{self.key.peer} serves another life of this process")
        self.deadline = 0.0
        self.epoch = epoch
        self.unknown = False
        self.vitals = parse_description(description)
        if self.vitals is not None:
            self.pool.on_vitals(self.key, self.vitals)

    def _session(self) -> str:
        ticket = self.pool.tickets.get((self.key.kind, self.key.peer))
        return f"{self.pool.session_prefix}{self.slot}" + (f"~{ticket}" if ticket else "")

    def _dial(self, epoch: int, deadline: float) -> str:
        """Connect with a new generation; returns the description of the export."""
        self.drop()
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise PeerLost("no time left to connect")
        host, port = self.pool.address_of(self.key)
        self.generation = next(self.pool.generations)
        handle = nbd.NBD()
        handle.set_export_name(
            f"{self.key.kind}/{self.key.volume}/{epoch}/{self._session()}/{self.generation}"
        )
        handle.set_full_info(True)
        handle.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
        handle.set_pread_initialize(False)
        sock = connect_to_peer(self.key.peer, host, port, left_s)
        self.guard = sock.dup()
        self.deadline = deadline
        try:
            handle.connect_socket(sock.detach())
            description = handle.get_export_description()
        except nbd.Error as error:
            self.drop()
            raise PeerLost(f"{self.key.peer} refused {self.key.kind} of {self.key.volume}: {error}") from None
        self.handle = handle
        return description

    def drop(self) -> None:
        """Close the connection. `unknown` stays: only a newer generation settles it."""
        guard, self.guard, self.handle, self.deadline = self.guard, None, None, 0.0
        self.vitals = None
        if guard is not None:
            with contextlib.suppress(OSError):
                guard.shutdown(socket.SHUT_RDWR)
            guard.close()

    def overdue(self, now: float) -> bool:
        deadline = self.deadline
        return bool(deadline) and now >= deadline

    def abort(self) -> None:
        """From another thread: make the request in flight fail at once. An idle connection breaks as well,
        and is made anew when it is needed."""
        guard = self.guard
        if guard is not None:
            with contextlib.suppress(OSError):
                guard.shutdown(socket.SHUT_RDWR)

    def verdict(self, error: nbd.Error) -> IoError | PeerLost:
        """What `error` means: IoError for the peer's own answer; PeerLost (and the connection dropped) for
        everything else. Other commands may still be in flight: their deadline stays."""
        number = error.errnum
        handle = self.handle
        alive = handle is not None and (handle.aio_is_ready() or handle.aio_is_processing())
        if alive and number and wire_errno(number) != errno.ESHUTDOWN:
            return IoError(number, f"{self.key.peer} answered: {error}")
        self.drop()
        return PeerLost(f"{self.key.peer}: {error}")

    def fail(self, error: nbd.Error) -> NoReturn:
        """Raise the verdict on the only command in flight."""
        verdict = self.verdict(error)
        if isinstance(verdict, IoError):
            self.done()
        raise verdict from None

    def done(self) -> None:
        """Everything that was sent has been answered."""
        self.deadline = 0.0
        self.unknown = False

    def extents(self, epoch: int, offset: int, length: int, deadline: float) -> list[tuple[int, int]]:
        """(length, HOLE|ZERO bits) from `offset` on; may stop early. Raises IoError or PeerLost."""
        handle = self.ready(epoch, deadline)
        runs: list[tuple[int, int]] = []

        def collect(_context: str, _offset: int, entries: list[int], _error: object) -> int:
            runs.extend(zip(entries[0::2], entries[1::2], strict=True))
            return 0

        try:
            handle.block_status(length, offset, collect)
        except nbd.Error as error:
            self.fail(error)
        self.deadline = 0.0
        return clip(runs, length)


def clip(runs: list[tuple[int, int]], length: int) -> list[tuple[int, int]]:
    """The part of `runs` within `length` bytes."""
    kept = []
    for run, bits in runs:
        if length <= 0:
            break
        kept.append((min(run, length), bits & (nbd.STATE_HOLE | nbd.STATE_ZERO)))
        length -= run
    return kept


class LinkPool:
    """Session slots and links of one process (one life of it: `instance`)."""

    def __init__(
        self,
        manager: str,
        instance: str,
        address_of: Callable[[LinkKey], tuple[str, int]],
        on_vitals: Callable[[LinkKey, Vitals], None],
    ) -> None:
        self.session_prefix = f"{manager}~{instance}~"
        self.address_of = address_of
        self.on_vitals = on_vitals
        self.generations = itertools.count(1)
        self.tickets: dict[tuple[str, str], str] = {}
        """Per kind and peer: the last one told, for whoever is not the present life there (see sessions)."""
        self.links: set[Link] = set()
        self.unfenced: dict[LinkKey, list[Link]] = {}
        """Links whose client was told EIO after a change of unknown outcome."""
        self._free_slots: list[int] = []
        self._next_slot = 0
        self._lock = threading.Lock()
        self._fencing: dict[LinkKey, threading.Lock] = {}

    def start(self) -> None:
        threading.Thread(target=self._watch, name="link-watchdog", daemon=True).start()

    def new_link(self, key: LinkKey) -> Link:
        """Raises PeerLost when the bound on links is reached and all of them are in use."""
        while True:
            with self._lock:
                if len(self.links) < MAX_LINKS:
                    if self._free_slots:
                        slot = self._free_slots.pop()
                    else:
                        slot = self._next_slot
                        self._next_slot += 1
                    link = Link(self, key, slot)
                    self.links.add(link)
                    return link
            oldest_first = sorted(self.links, key=lambda link: link.used_s)
            if not any(self._reclaim(link) for link in oldest_first):
                raise PeerLost(f"{MAX_LINKS} connections to peers are in use")

    def _reclaim(self, link: Link) -> bool:
        """Close it if it rests. A settled link is at home, one in use or of unknown outcome never is."""
        if link.home is None:
            return False
        try:
            link.home.remove(link)  # one step for all threads: it succeeds for one of them
        except ValueError:
            return False
        self.retire(link)
        return True

    def retire(self, link: Link) -> None:
        """Its handle closes. An unsettled link is kept until it has been fenced."""
        unknown = link.unknown
        link.drop()
        if unknown:
            self.leave_unfenced(link)
            return
        with self._lock:
            self.links.discard(link)
            self._free_slots.append(link.slot)

    def leave_unfenced(self, link: Link) -> None:
        with self._lock:
            self.unfenced.setdefault(link.key, []).append(link)

    def forget(self, volume: str) -> None:
        """The volume is gone everywhere: nothing is left to settle."""
        with self._lock:
            for key in [key for key in self.unfenced if key.volume == volume]:
                for link in self.unfenced.pop(key):
                    self.links.discard(link)
            for key in [key for key in self._fencing if key.volume == volume]:
                del self._fencing[key]

    def fence(self, key: LinkKey, epoch: int, deadline: float) -> None:
        """Settle every unfenced link of `key` before anything newer is sent. Raises PeerLost."""
        if key not in self.unfenced:
            return
        with self._lock:
            fencing = self._fencing.setdefault(key, threading.Lock())
        if not fencing.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise PeerLost(f"{key.peer}: a write of unknown outcome is still being settled")
        try:
            while links := self.unfenced.get(key):
                link = links[-1]
                link.ready(epoch, deadline)
                link.done()
                with self._lock:
                    if link in links:
                        links.remove(link)
                self.retire(link)
            with self._lock:
                if not self.unfenced.get(key):
                    self.unfenced.pop(key, None)
        finally:
            fencing.release()

    def abort(self, volume: str | None = None) -> None:
        """Fail what is in flight to peers (for one volume, or all)."""
        for link in tuple(self.links):
            if volume is None or link.key.volume == volume:
                link.abort()

    def _watch(self) -> None:
        while True:
            time.sleep(WATCHDOG_PERIOD_S)
            now = time.monotonic()
            for link in tuple(self.links):
                if link.overdue(now):
                    link.abort()
                elif now - link.used_s > IDLE_LINK_S:
                    self._reclaim(link)
