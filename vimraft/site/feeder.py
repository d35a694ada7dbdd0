"""The manager's end of the feed: one server per data-plane process (see vimraft.data.feed).

May live here: the Unix socket, frames, and which view the connected process has been sent and has
installed. The newest connection of a role wins; its Hello brings the process's listening sockets.
Everything that changes what may be served goes down this one channel in order (see `feed_queue`). When an
epoch of an owned volume with copies was skipped (too many waited, or they came in a snapshot), the listener
hears of it: only a new epoch, begun by this manager, makes sure that the owner and the tables agree.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog

from vimraft.core.ids import ManagerName
from vimraft.core.tables import State
from vimraft.data.feed import (
    HEADER,
    Asked,
    Boot,
    Decided,
    FrameError,
    FromPlane,
    Held,
    Hello,
    Installed,
    LeaseUntil,
    Loads,
    MoveDone,
    Problem,
    Proposal,
    Quit,
    Role,
    Stats,
    VerifyTold,
    Welcome,
    encode_frame,
    frame_length,
    from_plane,
)
from vimraft.site.feed_queue import FeedQueue, leases_of
from vimraft.site.plane_maps import PlaneView, update, view

log = structlog.get_logger(__name__)

MAX_PASSED_SOCKETS = 8
HELLO_TIMEOUT_S = 10.0
SILENT_S = 3.0
"""A process that has said nothing for so long stands still: its figures come every second."""
LEASES_EVERY_S = 0.25
"""Renewals of all managers that come closer together are told as one table: a process that installs for as
long as `io_timeout` takes no more messages than it can queue. Not so when managers say that they have
installed the newest epoch of a volume: I/O may wait for that."""

Said = Proposal | MoveDone | VerifyTold | Boot
"""What a process says about volumes with copies."""


class PlaneListener(Protocol):
    """What the manager hears of its processes, in the event loop."""

    def plane_connected(self, role: Role, hello: Hello, passed: list[socket.socket]) -> None: ...

    def plane_installed(self) -> None:
        """A process serves newer tables."""
        ...

    def plane_stats(self, role: Role, stats: Stats) -> None: ...

    def plane_problem(self, problem: Problem) -> None: ...

    def plane_said(self, hello: Hello, message: Said) -> None: ...

    def plane_skipped(self) -> None:
        """The export did not see every epoch of the volumes with copies that it owns."""
        ...


class Feeder:
    """Serves the feed of one role."""

    def __init__(
        self, role: Role, path: Path, manager: str, incarnation: str, listener: PlaneListener
    ) -> None:
        self.role: Role = role
        self.path = path
        self.installed_index = -1
        self.longest_hold_us = 0
        self._awaited = -1
        self.hello: Hello | None = None
        self._heard_s = 0.0
        self._manager = manager
        self._incarnation = incarnation
        self._listener = listener
        self._queue = FeedQueue()
        self._sent_leases: object = None
        self._loads: Loads | None = None
        """To be sent."""
        self._leases_sent_s = 0.0
        self._told_installed: frozenset[tuple[int, ManagerName]] = frozenset()
        self._epochs: tuple[str, dict[str, int]] = ("", {})
        """Of the owned volumes with copies as the process knows them, and which life of it."""
        self._sent: tuple[State, PlaneView] | None = None
        self._lease_until_ns, self._lease_index = 0, -1
        self._wake = asyncio.Event()
        self._quit = False
        self._server: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._progress = asyncio.Condition()

    async def start(self) -> None:
        self.path.unlink(missing_ok=True)
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        server.setblocking(False)
        server.bind(str(self.path))
        self.path.chmod(0o600)
        server.listen(4)
        self._server = server
        self._spawn(self._accept(server))

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            self._server.close()
            self.path.unlink(missing_ok=True)

    def publish(self, state: State) -> None:
        """Bring the process to this state's view (soon if connected, else when it connects)."""
        self._queue.publish(state)
        self._wake.set()

    def decided(self, message: Decided, index: int) -> None:
        """Sent after the tables of `index`, which brought it."""
        self._queue.decided(message, index)
        self._wake.set()

    def ask(self, message: Asked) -> None:
        self._queue.ask(message)
        self._wake.set()

    def tell_loads(self, loads: Loads) -> None:
        """The newest only."""
        self._loads = loads
        self._wake.set()

    def grant_lease(self, boottime_ns: int, index: int = -1) -> None:
        """0: none. Sent after the tables of `index`: with the lease back, a process that goes by older ones
        would serve what another owner has had since."""
        self._lease_until_ns, self._lease_index = boottime_ns, index
        self._wake.set()

    def quit(self) -> None:
        self._quit = True
        self._wake.set()

    async def _send_all(self, writer: asyncio.StreamWriter) -> None:
        """Sends what is newest whenever the process has taken what came before: a process that reads
        nothing costs one message of memory, not a queue. Maps go before leases."""
        lease_sent_ns = 0
        while True:
            await self._wake.wait()
            self._wake.clear()
            while (state := self._queue.next_state()) is not None:
                await self._send_map(writer, state)
            if self._sent is not None:
                for message in self._queue.after(self._sent[0].index):
                    writer.write(encode_frame(message))
                self._send_leases(writer, self._sent[0])
                self._send_loads(writer)
            known = -1 if self._sent is None else self._sent[0].index
            if self._lease_until_ns != lease_sent_ns and known >= self._lease_index:
                lease_sent_ns = self._lease_until_ns
                writer.write(encode_frame(LeaseUntil(boottime_ns=lease_sent_ns)))
            if self._quit:
                writer.write(encode_frame(Quit()))
            await writer.drain()

    def _send_leases(self, writer: asyncio.StreamWriter, state: State) -> None:
        first = self._sent_leases is None
        if self.role != "export" or self._sent_leases is state.leases or (first and not state.leases):
            return
        loop = asyncio.get_running_loop()
        early_s = self._leases_sent_s + LEASES_EVERY_S - loop.time()
        installed = self._installed_newest(state)
        if early_s > 0 and not first and installed <= self._told_installed:
            loop.call_later(early_s, self._wake.set)
            return
        self._sent_leases, self._leases_sent_s = state.leases, loop.time()
        self._told_installed = installed
        writer.write(encode_frame(leases_of(state)))

    def _installed_newest(self, state: State) -> frozenset[tuple[int, ManagerName]]:
        newest = self._queue.epoch_index
        rows = state.leases.items()
        return frozenset((newest, name) for name, lease in rows if lease.installed_index >= newest)

    def _send_loads(self, writer: asyncio.StreamWriter) -> None:
        loads, self._loads = self._loads, None
        if loads is not None:
            writer.write(encode_frame(loads))

    def _note_epochs(self, new: PlaneView) -> None:
        """Of the export's volumes: one epoch after the other, else somebody must begin another."""
        if self.role != "export" or self.hello is None:
            return
        epochs = {name: v.epoch for name, v in new.volumes.items() if v.copies is not None}
        instance, known = self._epochs
        self._epochs = (self.hello.instance, epochs)
        if instance != self.hello.instance:
            return
        skipped = sorted(name for name, epoch in epochs.items() if epoch > known.get(name, epoch) + 1)
        if skipped:
            log.warning("feed.epochs_skipped", volumes=skipped[:10])
            self._listener.plane_skipped()

    async def _send_map(self, writer: asyncio.StreamWriter, state: State) -> None:
        before = self._sent
        if before is not None and _same_tables(before[0], state):
            self._sent = (state, before[1])
        else:
            new = view(state, self._manager, self.role, before)
            timeout_ms = state.settings.io_timeout_ms
            base = before[1] if before and before[0].settings.io_timeout_ms == timeout_ms else None
            message = update(base, new, index=state.index, io_timeout_ms=timeout_ms)
            if message is not None:
                writer.write(encode_frame(message))
                self._awaited = message.index
            self._sent = (state, new)
            self._note_epochs(new)
            await writer.drain()
        if self._awaited <= self.installed_index:
            self._note_installed(state.index)

    async def wait_installed(self, index: int, timeout_s: float) -> bool:
        """Until the process serves maps of at least this index; False when that takes too long."""
        try:
            async with asyncio.timeout(timeout_s), self._progress:
                await self._progress.wait_for(lambda: self.installed_index >= index)
        except TimeoutError:
            return False
        return True

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, server: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        current: asyncio.Task[None] | None = None
        while True:
            connection, _ = await loop.sock_accept(server)
            if current is not None and not current.done():
                current.cancel()
                await asyncio.gather(current, return_exceptions=True)
            current = loop.create_task(self._serve(connection))
            self._tasks.add(current)
            current.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                hello, passed = await _receive_hello(connection)
            if hello.role != self.role or hello.manager != self._manager:
                raise FrameError(f"process {hello.pid} is {hello.role} of {hello.manager}")
            reader, writer = await asyncio.open_unix_connection(sock=connection)
        except (TimeoutError, FrameError, msgspec.MsgspecError, OSError) as error:
            log.warning("feed.refused", role=self.role, cause=str(error) or type(error).__name__)
            connection.close()
            return
        sending: asyncio.Task[None] | None = None
        try:
            self.hello, self._sent, self.installed_index, self._awaited = hello, None, -1, -1
            self._heard_s = time.monotonic()
            self._queue.restart()
            self._sent_leases = None
            log.info("feed.connected", role=self.role, pid=hello.pid, instance=hello.instance)
            writer.write(encode_frame(Welcome(manager=self._manager, incarnation=self._incarnation)))
            self._listener.plane_connected(self.role, hello, passed)
            self._wake.set()
            sending = asyncio.create_task(self._send_all(writer))
            sending.add_done_callback(lambda task: _close_on_error(task, writer))
            while True:
                header = await reader.readexactly(HEADER.size)
                self._handle(from_plane.decode(await reader.readexactly(frame_length(header))))
        except (OSError, EOFError, FrameError, msgspec.MsgspecError) as error:
            log.warning("feed.lost", role=self.role, pid=hello.pid, cause=str(error) or type(error).__name__)
        finally:
            if sending is not None:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
            self.hello, self.installed_index = None, -1
            writer.close()

    @property
    def hears(self) -> bool:
        """The process is there, and goes on: its figures come every second."""
        return self.hello is not None and time.monotonic() - self._heard_s < SILENT_S

    @property
    def stands_still(self) -> bool:
        """The process is there, but does not go on."""
        return self.hello is not None and not self.hears

    def _handle(self, message: FromPlane) -> None:
        self._heard_s = time.monotonic()
        match message:
            case Installed(index=index, hold_us=hold_us):
                self.longest_hold_us = max(self.longest_hold_us, hold_us)
                newest = self._sent[0].index if self._sent and index >= self._awaited else index
                self._note_installed(max(index, newest))
            case Stats():
                self._listener.plane_stats(self.role, message)
            case Problem():
                self._listener.plane_problem(message)
            case Proposal() | MoveDone() | VerifyTold() | Boot():
                if self.hello is not None:
                    self._listener.plane_said(self.hello, message)
            case Held() | Hello():
                pass

    def _note_installed(self, index: int) -> None:
        if index <= self.installed_index:
            return
        self.installed_index = index
        self._listener.plane_installed()
        self._spawn(self._notify())

    async def _notify(self) -> None:
        async with self._progress:
            self._progress.notify_all()


def _close_on_error(task: asyncio.Task[None], writer: asyncio.StreamWriter) -> None:
    """What cannot be sent (tables beyond the bound of a frame) ends the connection, visibly."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("feed.not_sent", cause=str(error) or type(error).__name__)
        writer.close()


def _same_tables(a: State, b: State) -> bool:
    """Nothing that a view is made of differs (most commands are lease renewals)."""
    return (
        a.volumes is b.volumes
        and a.reals is b.reals
        and a.sites is b.sites
        and a.managers is b.managers
        and a.boots is b.boots
        and a.settings == b.settings
    )


async def _receive_hello(connection: socket.socket) -> tuple[Hello, list[socket.socket]]:
    """The first frame, with the sockets that came along with its first byte."""
    loop = asyncio.get_running_loop()
    connection.setblocking(False)
    readable = asyncio.Event()
    loop.add_reader(connection.fileno(), readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(connection.fileno())
    data, fds, _, _ = socket.recv_fds(connection, HEADER.size, MAX_PASSED_SOCKETS)
    passed = [socket.socket(fileno=fd) for fd in fds]
    try:
        while len(data) < HEADER.size:
            data += await _some(connection, HEADER.size - len(data))
        body, length = b"", frame_length(data)
        while len(body) < length:
            body += await _some(connection, length - len(body))
        message = from_plane.decode(body)
        if not isinstance(message, Hello):
            raise FrameError("the first message is not Hello")
    except BaseException:
        for sock in passed:
            with contextlib.suppress(OSError):
                sock.close()
        raise
    return message, passed


async def _some(connection: socket.socket, most: int) -> bytes:
    data = await asyncio.get_running_loop().sock_recv(connection, most)
    if not data:
        raise FrameError("connection closed before Hello")
    return data
