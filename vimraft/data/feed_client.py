"""The process's end of the feed: dials the manager, installs what it sends, tells what happens here.

May live here: the connection and its threads. The manager may be dead for long: the data plane keeps serving
with the installed maps (the lease deadline ends what it must end) and goes on dialling. Messages are handled
strictly in order, because leases and maps share this channel for that purpose.
"""

import contextlib
import os
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from vimraft.data import feed
from vimraft.data.errors import OlderMap
from vimraft.data.feed import FrameError, FromPlane, IoCounters, MapUpdate, Problem, Role, ToPlane

DIAL_FIRST_S = 0.05
DIAL_LAST_S = 1.0
SEND_TIMEOUT_S = 5
"""A manager that reads nothing for so long is disconnected (and dialled again)."""
STATS_PERIOD_S = 1.0
MAX_PROBLEMS = 256
"""Problems kept for a manager that is away."""


class FedEngine(Protocol):
    """What the feed drives."""

    role: Role
    manager: str
    instance: str
    boot_id: str
    installed_index: int

    def install(self, update: MapUpdate) -> int: ...
    def hold(self, token: int, names: tuple[str, ...]) -> None: ...
    def release(self, token: int) -> None: ...
    def set_lease(self, boottime_ns: int) -> None: ...
    def reopen_missing(self) -> None: ...
    def problems(self) -> list[Problem]: ...
    def stats(self) -> tuple[dict[str, IoCounters], dict[str, IoCounters], int]: ...


class FeedClient:
    def __init__(
        self,
        engine: FedEngine,
        path: str,
        listen_fds: Sequence[int],
        on_quit: Callable[[], None],
        log: Callable[..., None],
    ) -> None:
        self._engine = engine
        self._path = path
        self._listen_fds = list(listen_fds)
        self._on_quit = on_quit
        self._log = log
        self._sock: socket.socket | None = None
        self._send_lock = threading.Lock()
        self._problems: deque[Problem] = deque(maxlen=MAX_PROBLEMS)

    def start(self) -> None:
        threading.Thread(target=self._dial_forever, name="feed", daemon=True).start()
        threading.Thread(target=self._tick_forever, name="stats", daemon=True).start()

    def report(self, problem: Problem) -> None:
        """From any thread; sent with the next figures."""
        self._problems.append(problem)

    # --- receiving ------------------------------------------------------------------------------
    def _dial_forever(self) -> None:
        pause_s = DIAL_FIRST_S
        while True:
            try:
                self._converse()
                pause_s = DIAL_FIRST_S
            except (OSError, FrameError, msgspec.MsgspecError) as error:
                self._log("feed.disconnected", path=self._path, error=str(error))
            except OlderMap as error:
                # dial again until the manager has caught up; a later change would not mend an older start
                self._log("feed.older_map", path=self._path, error=str(error))
            except Exception as error:  # noqa: BLE001 - a map that trips us must not end the feed for good
                self._log("feed.bug", path=self._path, error=repr(error))
            finally:
                self._hang_up()
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, DIAL_LAST_S)

    def _converse(self) -> None:
        engine = self._engine
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(self._path)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_TIMEOUT_S, 0))
            hello = feed.Hello(
                engine.role,
                os.getpid(),
                engine.instance,
                engine.boot_id,
                engine.manager,
                engine.installed_index,
            )
            with self._send_lock:
                frame = feed.encode_frame(hello)
                sent = socket.send_fds(sock, [frame], self._listen_fds)
                sock.sendall(frame[sent:])
                self._sock = sock
            self._log("feed.connected", path=self._path)
            for problem in engine.problems():
                self._send(problem)
            reader = sock.makefile("rb")
            while header := reader.read(feed.HEADER.size):
                if len(header) < feed.HEADER.size:
                    return
                length = feed.frame_length(header)
                body = reader.read(length)
                if len(body) < length:
                    return
                self._handle(feed.to_plane.decode(body))
        finally:
            sock.close()

    def _hang_up(self) -> None:
        with self._send_lock:
            sock, self._sock = self._sock, None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.close()

    def _handle(self, message: ToPlane) -> None:
        engine = self._engine
        match message:
            case feed.MapUpdate():
                hold_us = engine.install(message)
                self._log("map.installed", index=message.index, full=message.full, hold_us=hold_us)
                self._send(feed.Installed(message.index, hold_us))
            case feed.LeaseUntil():
                engine.set_lease(message.boottime_ns)
            case feed.Hold():
                engine.hold(message.token, message.volumes)
                self._send(feed.Held(message.token))
            case feed.Unhold():
                engine.release(message.token)
            case feed.Quit():
                self._log("feed.quit")
                self._on_quit()
            case feed.Welcome():
                self._log("feed.welcome", manager=message.manager, incarnation=message.incarnation)

    # --- sending --------------------------------------------------------------------------------
    def _send(self, message: FromPlane) -> bool:
        with self._send_lock:
            sock = self._sock
            if sock is None:
                return False
            try:
                sock.sendall(feed.encode_frame(message))
                return True
            except OSError:
                # a torn frame cannot be mended: end the conversation, the dialler starts another
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                self._sock = None
                return False

    def _tick_forever(self) -> None:
        while True:
            time.sleep(STATS_PERIOD_S)
            try:
                self._engine.reopen_missing()
            except Exception as error:  # noqa: BLE001 - figures must go on
                self._log("reopen.bug", error=repr(error))
            while self._problems and self._send(self._problems[0]):
                self._problems.popleft()
            self._send(feed.Stats(*self._engine.stats()))


def log_line(event: str, **fields: Any) -> str:
    """One structured line: stable event name, then fields."""
    return (
        msgspec.json.encode({"event": event, "at_ms": time.time_ns() // 1_000_000, **fields}).decode() + "\n"
    )
