"""The process's end of the feed: dials the manager, hears what it says, tells what happens here.

May live here: the connection and its threads. The manager may be dead for long: the data plane keeps serving
with the installed maps (the lease deadline ends what it must end) and goes on dialling. The thread that reads
never waits for a volume: what may take long goes to the installer, in order.
"""

import contextlib
import os
import queue
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from vimraft.data import feed
from vimraft.data.feed import FrameError, FromPlane, LeaseUntil, Problem, Quit, ToPlane
from vimraft.data.installer import Conversation, FedEngine, Installer

DIAL_FIRST_S = 0.05
DIAL_LAST_S = 1.0
STATS_PERIOD_S = 1.0
MAX_PROBLEMS = 256
"""Problems kept for a manager that is away."""
MAX_TOLD = 4_096
"""Messages that wait for the thread that sends them."""
OLDER_MAP_PATIENCE_S = 1.0
"""How long a manager with older tables is listened to before it is dialled again for newer ones."""


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
        self._listen_fds = tuple(listen_fds)
        self._on_quit = on_quit
        self._log = log
        self._installer = Installer(engine, log)
        self._conversation: Conversation | None = None
        self._problems: deque[Problem] = deque(maxlen=MAX_PROBLEMS)
        self._told: queue.Queue[FromPlane] = queue.Queue(MAX_TOLD)

    def start(self) -> None:
        self._installer.start()
        threading.Thread(target=self._dial_forever, name="feed", daemon=True).start()
        threading.Thread(target=self._tick_forever, name="stats", daemon=True).start()
        threading.Thread(target=self._tell_forever, name="tell", daemon=True).start()

    def report(self, problem: Problem) -> None:
        """From any thread; sent with the next figures."""
        self._problems.append(problem)

    def tell(self, message: FromPlane) -> None:
        """From any thread, without waiting. What is told while no manager listens is dropped: the engine says
        again what a manager must know (`engine.untold`) when one has connected."""
        with contextlib.suppress(queue.Full):
            self._told.put_nowait(message)

    def _tell_forever(self) -> None:
        while True:
            message = self._told.get()
            conversation = self._conversation
            if conversation is not None:
                conversation.send(message)

    # --- receiving ------------------------------------------------------------------------------
    def _dial_forever(self) -> None:
        pause_s = DIAL_FIRST_S
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            conversation = Conversation(sock)
            try:
                self._converse(conversation)
            except (OSError, FrameError, msgspec.MsgspecError) as error:
                self._log("feed.disconnected", path=self._path, error=str(error))
            except Exception as error:  # noqa: BLE001 - nothing that is sent may end the feed for good
                self._log("feed.bug", path=self._path, error=repr(error))
            finally:
                if self._conversation is not None:
                    self._engine.lose_manager()
                self._conversation = None
                self._installer.forget(conversation)
                sock.close()
            if conversation.behind_since:
                continue  # it has been listened to for long enough, and Quit may come at any time
            if conversation.installed:
                pause_s = DIAL_FIRST_S
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, DIAL_LAST_S)

    def _converse(self, conversation: Conversation) -> None:
        engine, sock = self._engine, conversation.sock
        sock.connect(self._path)
        hello = feed.Hello(
            engine.role,
            os.getpid(),
            engine.instance,
            engine.boot_id,
            engine.manager,
            engine.installed_index,
        )
        if not conversation.send(hello, self._listen_fds):
            return
        self._conversation = conversation
        self._log("feed.connected", path=self._path)
        for message in (*engine.problems(), *engine.untold()):
            conversation.send(message)
        reader = sock.makefile("rb")
        with contextlib.closing(reader):
            while header := reader.read(feed.HEADER.size):
                if len(header) < feed.HEADER.size:
                    return
                length = feed.frame_length(header)
                body = reader.read(length)
                if len(body) < length:
                    return
                self._hear(conversation, feed.to_plane.decode(body))

    def _hear(self, conversation: Conversation, message: ToPlane) -> None:
        match message:
            case LeaseUntil():
                self._installer.lease(conversation, message.boottime_ns)
            case Quit():
                self._log("feed.quit")
                self._on_quit()
            case _:
                if not self._installer.take(conversation, message):
                    raise FrameError("more messages than can be queued while a change is under way")

    # --- sending --------------------------------------------------------------------------------
    def _tick_forever(self) -> None:
        while True:
            time.sleep(STATS_PERIOD_S)
            try:
                self._tick()
            except Exception as error:  # noqa: BLE001 - figures must go on
                self._log("stats.bug", error=repr(error))

    def _tick(self) -> None:
        self._engine.reopen_missing()
        conversation = self._conversation
        if conversation is None:
            return
        if conversation.behind_since and time.monotonic() - conversation.behind_since >= OLDER_MAP_PATIENCE_S:
            conversation.hang_up()
            return
        while self._problems and conversation.send(self._problems[0]):
            self._problems.popleft()
        engine = self._engine
        conversation.send(feed.Stats(*engine.stats(), engine.copies_status(), engine.hold_times()))


def log_line(event: str, **fields: Any) -> str:
    """One structured line: stable event name, then fields."""
    return (
        msgspec.json.encode({"event": event, "at_ms": time.time_ns() // 1_000_000, **fields}).decode() + "\n"
    )
