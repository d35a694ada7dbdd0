"""Real export and store processes under a manager that a test plays: sockets, nbdkit, the feed.

`FakeManager` does what the site manager does to its processes and no more: it makes the listening sockets,
starts nbdkit by `plan_launch`, accepts the feed, sends what the test says and keeps what comes back.
`Site` is one of those for each role, with labelled files as real volumes.
"""

import contextlib
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nbd

from vimraft.core.ids import LABEL_BYTES
from vimraft.data import feed
from vimraft.data.backends.open import open_backend
from vimraft.data.feed import BackendSpec, MapUpdate, PeerSpec, PlaneSegment, Role, VolumeMap
from vimraft.data.label import Label, write_label
from vimraft.data.launch import plan_launch

CLUSTER_ID = "c" * 32
MIB = 1 << 20
PLUGINS = Path(__file__).resolve().parent.parent / "nbd_plugin"
DEADLINE_S = 15.0


def eventually(condition: Callable[[], object], what: str, timeout_s: float = DEADLINE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.01)


class FakeManager:
    """One role's process. `directory` must be short (socket paths)."""

    def __init__(self, role: Role, name: str, directory: Path, *, unix: bool = False) -> None:
        self.role: Role = role
        self.name = name
        self.directory = directory
        self.feed_path = directory / f"{name}-{role}.feed"
        self.log_path = directory / f"{name}-{role}.log"
        self.listener = self._listen_unix() if unix else self._listen_tcp()
        self.hellos: list[feed.Hello] = []
        self.messages: list[feed.FromPlane] = []
        self.passed: list[socket.socket] = []
        self.process: subprocess.Popen[bytes] | None = None
        self._replay: list[feed.ToPlane] = []
        self._conversation: socket.socket | None = None
        self._lock = threading.Lock()
        self._feed = socket.socket(socket.AF_UNIX)
        self._feed.bind(str(self.feed_path))
        self._feed.listen(4)
        threading.Thread(target=self._accept, daemon=True).start()

    def _listen_tcp(self) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        sock.listen(64)
        host, port = sock.getsockname()
        self.address = f"{host}:{port}"
        self.uri = f"nbd://{self.address}/"
        return sock

    def _listen_unix(self) -> socket.socket:
        path = self.directory / f"{self.name}-{self.role}.sock"
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(path))
        sock.listen(64)
        self.address = str(path)
        self.uri = f"nbd+unix:///{{}}?socket={path}"
        return sock

    def uri_of(self, export: str) -> str:
        return self.uri.format(export) if "{}" in self.uri else self.uri + export

    # --- the process ----------------------------------------------------------------------------
    def start(self, model: str = "") -> None:
        """`model`: overrides the thread model that is chosen for this nbdkit."""
        launch = plan_launch(
            self.role,
            script=PLUGINS / f"{self.role}.py",
            params={
                "feed": str(self.feed_path),
                "lock": str(self.directory / f"{self.name}-{self.role}.lock"),
                "manager": self.name,
            },
            listen_fds=[self.listener.fileno()],
        )
        if model:
            chosen = launch.argv.index(f"model={launch.thread_model}")
            launch.argv[chosen] = f"model={model}"
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                launch.argv,
                env=launch.env,
                pass_fds=launch.pass_fds,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait(10)
        elif number == signal.SIGSTOP:
            eventually(self._stopped, "every thread has stopped")

    def _stopped(self) -> bool:
        assert self.process is not None
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return all((task / "stat").read_text().rpartition(")")[2].split()[0] == "T" for task in tasks)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(10)
        for sock in (self._feed, self.listener, self._conversation, *self.passed):
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                sock.close()

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def rss_kib(self) -> int:
        assert self.process is not None
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1])
        raise AssertionError("no VmRSS")

    # --- the feed -------------------------------------------------------------------------------
    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._feed.accept()
            except OSError:
                return
            threading.Thread(target=self._converse, args=(sock,), daemon=True).start()

    def _converse(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            header, fds, _, _ = socket.recv_fds(sock, feed.HEADER.size, 8)
            self.passed += [socket.socket(fileno=fd) for fd in fds]
            reader = sock.makefile("rb")
            hello = feed.from_plane.decode(reader.read(feed.frame_length(header)))
            assert isinstance(hello, feed.Hello)
            with self._lock:
                self._conversation = sock
                for message in self._replay:
                    sock.sendall(feed.encode_frame(message))
                self.hellos.append(hello)
            while header := reader.read(feed.HEADER.size):
                self.messages.append(feed.from_plane.decode(reader.read(feed.frame_length(header))))

    def send(self, message: feed.ToPlane) -> None:
        with self._lock:
            assert self._conversation is not None
            self._conversation.sendall(feed.encode_frame(message))

    def send_raw(self, data: bytes) -> None:
        with self._lock:
            assert self._conversation is not None
            self._conversation.sendall(data)

    def hang_up(self) -> None:
        """As a manager that dies."""
        with self._lock:
            assert self._conversation is not None
            self._conversation.shutdown(socket.SHUT_RDWR)

    def always_send(self, *messages: feed.ToPlane) -> None:
        """What every life of the process gets right after its Hello."""
        with self._lock:
            self._replay = list(messages)

    def received(self, kind: type) -> list:
        return [message for message in self.messages if isinstance(message, kind)]

    def wait_hello(self, count: int = 1) -> None:
        eventually(lambda: len(self.hellos) >= count, f"{self.role} says hello ({self.log_path.name})")

    @property
    def waiting(self) -> int:
        """Requests in a hold, by the newest figures."""
        figures = self.received(feed.Stats)
        return figures[-1].held if figures else 0

    def install(self, update: MapUpdate) -> feed.Installed:
        self.send(update)
        return self.wait_installed(update.index)

    def wait_installed(self, index: int) -> feed.Installed:
        def found() -> list[feed.Installed]:
            return [m for m in self.received(feed.Installed) if m.index == index]

        eventually(found, f"{self.role} of {self.name} installs {index}")
        return found()[-1]


def make_real(path: Path, real: str, mib: int) -> BackendSpec:
    """A labelled, sparse file of `mib` usable MiB."""
    with path.open("wb") as file:
        file.truncate(mib * MIB + LABEL_BYTES)
    backend = open_backend(f"file://{path}")
    label_id = f"{abs(hash(real)):032x}"[:32]
    write_label(backend, Label(CLUSTER_ID, label_id, real, mib * MIB, 0))
    backend.close()
    return BackendSpec(real, f"file://{path}", label_id, CLUSTER_ID, mib * MIB, "")


class Site:
    """A manager's two processes and the peers that they know."""

    def __init__(self, name: str, directory: Path, *, unix: bool = False) -> None:
        self.name = name
        self.export = FakeManager("export", name, directory, unix=unix)
        self.store = FakeManager("store", name, directory)

    @property
    def spec(self) -> PeerSpec:
        return PeerSpec(self.name, self.export.address, self.store.address)

    def close(self) -> None:
        self.export.close()
        self.store.close()


def segment(
    offset_mib: float, length_mib: float, real: str, real_mib: float, manager: str = ""
) -> PlaneSegment:
    """`real_mib` counts from the first byte after the label."""
    return PlaneSegment(
        int(offset_mib * MIB), int(length_mib * MIB), real, int(real_mib * MIB) + LABEL_BYTES, manager
    )


def volume(name: str, mib: int, *segments: PlaneSegment, **changes: object) -> VolumeMap:
    values = {
        "name": name, "size_bytes": mib * MIB, "epoch": 1, "owner": "a", "owned": True, "needs_lease": False,
        "read_only": False, "local_name": "volume A", "segments": segments,
    }  # fmt: skip
    return VolumeMap(**(values | changes))


@contextlib.contextmanager
def connected(uri: str) -> Iterator[nbd.NBD]:
    handle = nbd.NBD()
    handle.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    handle.connect_uri(uri)
    try:
        yield handle
    finally:
        with contextlib.suppress(nbd.Error):
            handle.shutdown()


class Pair:
    """Sites a and b. Volume `v` belongs to a: its first half lies there, the second half at b."""

    def __init__(self, directory: Path, *, io_timeout_ms: int = 5_000, unix: bool = False) -> None:
        self.directory = directory
        self.a = Site("a", directory, unix=unix)
        self.b = Site("b", directory)
        self.real_a = make_real(directory / "a0.img", "sa:0", 128)
        self.real_b = make_real(directory / "b0.img", "sb:0", 128)
        self.io_timeout_ms = io_timeout_ms
        self.index = 0
        self.half_mib = 16
        self.changes: dict[str, object] = {}
        self.store_address = ""
        """Where a looks for b's store, if not where it is."""

    @property
    def processes(self) -> tuple[FakeManager, FakeManager, FakeManager]:
        return (self.a.export, self.b.export, self.b.store)

    @property
    def mib(self) -> int:
        return 2 * self.half_mib

    def updates(self) -> tuple[MapUpdate, MapUpdate, MapUpdate]:
        """The whole map for each of `processes`."""
        half = self.half_mib
        here, there = segment(0, half, "sa:0", 0), segment(half, half, "sb:0", 3, "b")
        owner = volume("v", self.mib, here, there, **self.changes)
        forwarder = volume("v", self.mib, **{**self.changes, "owned": False, "needs_lease": False})
        store = volume("v", self.mib, segment(half, half, "sb:0", 3), **{**self.changes, "owned": False})
        self.index += 1
        store_address = self.store_address or self.b.store.address
        peers = (self.a.spec, PeerSpec("b", self.b.export.address, store_address))
        return (
            MapUpdate(self.index, True, self.io_timeout_ms, (owner,), (), (self.real_a,), (), peers),
            MapUpdate(self.index, True, self.io_timeout_ms, (forwarder,), (), (), (), peers),
            MapUpdate(self.index, True, self.io_timeout_ms, (store,), (), (self.real_b,), (), peers),
        )

    def start(self, model: str = "") -> None:
        for process, update in zip(self.processes, self.updates(), strict=True):
            process.always_send(feed.Welcome(process.name, "life"), update)
            process.start(model)
        for process in self.processes:
            process.wait_installed(self.index)

    def change(self, half_mib: int | None = None, **changes: object) -> None:
        """Install a changed map everywhere, the owner first."""
        self.half_mib = half_mib or self.half_mib
        self.changes |= changes
        updates = self.updates()
        for process, update in zip(self.processes, updates, strict=True):
            process.always_send(feed.Welcome(process.name, "life"), update)
            process.send(update)
        for process in self.processes:
            process.wait_installed(self.index)

    def change_on_dial(self, process: FakeManager, **changes: object) -> None:
        """One process gets the changed map when it dials next."""
        self.changes |= changes
        update = dict(zip(self.processes, self.updates(), strict=True))[process]
        process.always_send(update)

    def close(self) -> None:
        self.a.close()
        self.b.close()


class DelayProxy:
    """In front of a store: passes bytes on, except that what the peer sends on a frozen connection is kept
    back until `thaw` (also when the peer has hung up since), like a packet that took the long way."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._servers: list[socket.socket] = []
        self._kept: dict[int, bytearray] = {}
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def connections(self) -> int:
        return len(self._servers)

    def freeze(self, number: int) -> None:
        with self._lock:
            self._kept[number] = bytearray()

    def thaw(self, number: int) -> int:
        """Returns how many bytes went out late."""
        with self._lock:
            kept = self._kept.pop(number)
            self._servers[number].sendall(kept)
            return len(kept)

    def close(self) -> None:
        self._listener.close()
        for sock in self._servers:
            sock.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                host, port = self._upstream.split(":")
                server = socket.create_connection((host, int(port)))
                with self._lock:
                    number = len(self._servers)
                    self._servers.append(server)
                threading.Thread(target=self._forth, args=(number, client, server), daemon=True).start()
                threading.Thread(target=self._back, args=(server, client), daemon=True).start()

    def _forth(self, number: int, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                with self._lock:
                    if number in self._kept:
                        self._kept[number] += data
                    else:
                        server.sendall(data)
            with self._lock:
                if number not in self._kept:
                    server.shutdown(socket.SHUT_WR)

    def _back(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                client.sendall(data)
