"""Links to peer stores: a real NBD server with the store's machine over byte arrays behind it."""

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.copies_memory import MIB, copies_map
from tests.copies_owner import Plane, eventually
from vimraft.core import commands
from vimraft.core.ids import ManagerName
from vimraft.data import feed
from vimraft.data.copies.links import PeerStores, Place
from vimraft.data.copies.owner_side import Client
from vimraft.data.errors import PeerLost
from vimraft.data.launch import NBDKIT, site_packages
from vimraft.data.request import READ, WRITE, Op
from vimraft.protocol.messages import Session
from vimraft.protocol.owner_effects import StoreRequest

PLUGIN = Path(__file__).with_name("copies_store_plugin.py")
ROOT = Path(__file__).resolve().parents[3]
B = ManagerName("b")
MAP = copies_map(("A", "in_sync", "a"), ("B", "in_sync", "b"))
SESSION = Session(ManagerName("a"), "life.1", 1)
BLOCK = 4096


class Server:
    """The store of manager b, in a process of its own."""

    def __init__(self, directory: Path, busy_reads: int = 32) -> None:
        self.directory = directory
        self.busy_reads = busy_reads
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.start()

    def start(self) -> None:
        """It knows nothing of a former life."""
        with (self.directory / "store.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    NBDKIT, "-f", "-p", str(self.port), "-i", "127.0.0.1", "python", str(PLUGIN),
                    f"root={ROOT}", "manager=b", f"map={msgspec.msgpack.encode(MAP).hex()}",
                    f"busy={self.busy_reads}",
                ],
                env={"PATH": "/usr/sbin:/usr/bin", "VIMRAFT_SITE_PACKAGES": ":".join(site_packages())},
                stdout=log,
                stderr=log,
            )  # fmt: skip

        def listens() -> bool:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return True
            return False

        eventually(listens, f"it listens: {(self.directory / 'store.log').read_text()}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)
        tasks = Path(f"/proc/{self.process.pid}/task")

        def stopped() -> bool:
            texts = [(task / "stat").read_text() for task in tasks.iterdir()]
            return all(text.rpartition(")")[2].split()[0] == "T" for text in texts)

        eventually(stopped, "every thread has stopped")

    def close(self) -> None:
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGCONT)
            self.kill()

    def address_of(self, _store: ManagerName) -> tuple[str, int]:
        return "127.0.0.1", self.port


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.close()


@pytest.fixture
def links(server: Server) -> PeerStores:
    links = PeerStores(server.address_of)
    links.start()
    return links


def request(number: int, kind: str, first: int = 0, end: int = 0, **more: object) -> StoreRequest:
    values = {
        "number": number, "volume": "v", "copy": "" if kind == "seal" else "B", "kind": kind, "epoch": 1,
        "incarnation": "life.1", "session": 1, "first": first, "end": end, "data": b"", "fua": False,
        "must": False, "regions": (), "record": "", "since": 0,
    }  # fmt: skip
    return StoreRequest(**(values | more))  # type: ignore[arg-type]


def test_what_is_written_is_read(links: PeerStores) -> None:
    for number, data in enumerate((b"x" * BLOCK, b"y" * MIB), 1):
        end = BLOCK + len(data)
        assert (
            links.ask(B, SESSION, request(number, "write", BLOCK, end, data=data, fua=True), 5).how == "done"
        )
        answer = links.ask(B, SESSION, request(number, "read", BLOCK, end), 5)
        assert (answer.how, answer.boot) == ("done", "boot")
        assert answer.data == data
    assert links.ask(B, SESSION, request(9, "zero", BLOCK, 2 * BLOCK), 5).how == "done"
    assert not any(links.ask(B, SESSION, request(10, "read", BLOCK, 2 * BLOCK), 5).data)


def test_a_flush_goes_to_the_whole_copy(links: PeerStores) -> None:
    links.ask(B, SESSION, request(1, "write", 0, BLOCK, data=b"x" * BLOCK), 5)
    assert links.ask(B, SESSION, request(2, "clear", regions=(0,)), 5).how == "failed"
    assert links.ask(B, SESSION, request(3, "flush", 0, 8 * MIB), 5).how == "done"
    assert links.ask(B, SESSION, request(4, "clear", regions=(0,)), 5).how == "done"


def test_a_seal_brings_regions_of_any_number(links: PeerStores) -> None:
    for number in range(8):
        end = number * MIB + BLOCK
        links.ask(B, SESSION, request(number + 1, "write", number * MIB, end, data=b"x" * BLOCK), 5)
    answer = links.ask(B, SESSION, request(20, "seal"), 5)
    assert (answer.how, answer.regions) == ("done", tuple(range(8)))


def test_an_older_session_is_told_so(links: PeerStores) -> None:
    assert links.ask(B, SESSION, request(1, "read", 0, BLOCK), 5).how == "done"
    newer = Session(ManagerName("a"), "life.1", 2)
    assert links.ask(B, newer, request(2, "read", 0, BLOCK, session=2), 5).how == "done"
    assert links.ask(B, SESSION, request(3, "read", 0, BLOCK), 5).how == "older"


def test_a_connection_is_used_again(links: PeerStores) -> None:
    links.ask(B, SESSION, request(1, "read", 0, BLOCK), 5)
    link = links.idle(Place(B, "v", "B"), 1, SESSION)
    assert link is not None
    links.give(link)
    links.ask(B, SESSION, request(2, "read", 0, BLOCK), 5)
    assert links.idle(Place(B, "v", "B"), 1, SESSION) is link


def test_a_newer_epoch_gets_connections_of_its_own(links: PeerStores) -> None:
    links.ask(B, SESSION, request(1, "read", 0, BLOCK), 5)
    assert links.idle(Place(B, "v", "B"), 2, SESSION) is None


def test_a_server_that_dies_loses_what_is_under_way(server: Server, links: PeerStores) -> None:
    links.ask(B, SESSION, request(1, "read", 0, BLOCK), 5)
    link = links.idle(Place(B, "v", "B"), 1, SESSION)
    assert link is not None
    server.stop()
    flight = links.begin(link, request(2, "write", 0, BLOCK, data=b"x" * BLOCK), 5)
    server.kill()
    with pytest.raises(PeerLost):
        links.finish(flight)


@pytest.mark.parametrize("kind", ["read", "seal"])
def test_a_server_that_stands_still_is_waited_for_no_longer_than_allowed(
    server: Server, links: PeerStores, kind: str
) -> None:
    links.ask(B, SESSION, request(1, kind, 0, BLOCK), 5)
    server.stop()
    began = time.monotonic()
    with pytest.raises(PeerLost):
        links.ask(B, SESSION, request(2, kind, 0, BLOCK), 0.5)
    assert time.monotonic() - began < 2


def test_a_store_that_cannot_be_reached_is_not_dialled_at_once_again(
    server: Server, links: PeerStores
) -> None:
    server.kill()
    with pytest.raises(PeerLost, match="refused"):
        links.ask(B, SESSION, request(1, "read", 0, BLOCK), 5)
    with pytest.raises(PeerLost, match="just now"):
        links.ask(B, SESSION, request(2, "read", 0, BLOCK), 5)


class Remote(Plane):
    """An owner whose peer is the server."""

    def __init__(self, directory: Path, links: PeerStores) -> None:
        super().__init__(directory, MAP)
        self.shell.links = links
        self.lease()
        self.open()
        self.wait_serving()

    def write(self, offset: int, data: bytes) -> None:
        self.volume.run(Op(WRITE, offset, len(data), memoryview(data)), Client("c", 1))

    def read(self, offset: int) -> bytes:
        found = bytearray(BLOCK)
        self.volume.run(Op(READ, offset, BLOCK, memoryview(found)), Client("c", 1))
        return bytes(found)


def test_an_owner_writes_through_them_from_many_threads(links: PeerStores, tmp_path: Path) -> None:
    plane = Remote(tmp_path, links)

    def work(thread: int) -> None:
        for n in range(100):
            plane.write((thread * 100 + n) * BLOCK, bytes([thread + 1]) * BLOCK)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    newer = msgspec.structs.replace(SESSION, number=1 << 60)
    answer = links.ask(B, newer, request(1 << 40, "read", 0, 8 * MIB), 5)
    assert answer.data == plane.stores["a"].data["A"]
    assert answer.data[:BLOCK] == b"\1" * BLOCK


def test_a_store_killed_under_writes_is_retired_and_the_writes_go_on(
    server: Server, links: PeerStores, tmp_path: Path
) -> None:
    plane = Remote(tmp_path, links)
    written: list[int] = []
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            plane.write(len(written) % 2048 * BLOCK, b"x" * BLOCK)
            written.append(1)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    eventually(lambda: len(written) > 100, "it writes")
    server.kill()
    proposal = plane.wait_proposal(commands.Retire)
    before = len(written)
    plane.renew("b", installed=0, lease_ms=100)
    plane.change(copies_map(("A", "in_sync", "a"), ("B", "stale", "b"), epoch=2))
    plane.decide(proposal, applied=True)
    eventually(lambda: len(written) > before, "writes go on")
    stop.set()
    worker.join(5)
    assert not worker.is_alive()


def test_reads_come_from_the_peer_when_the_copy_here_fails(links: PeerStores, tmp_path: Path) -> None:
    plane = Remote(tmp_path, links)
    plane.write(0, b"x" * BLOCK)
    plane.stores["a"].failing.add("read")
    assert plane.read(0) == b"x" * BLOCK


def test_a_peer_that_is_busy_sends_reads_to_the_other_copy_unless_there_is_none(tmp_path: Path) -> None:
    server = Server(tmp_path, busy_reads=0)
    try:
        links = PeerStores(server.address_of)
        links.start()
        plane = Remote(tmp_path, links)
        plane.write(0, b"x" * BLOCK)
        rows = (feed.CopyLoad("v", "A", 50, 900_000), feed.CopyLoad("v", "B", 0, 100))
        assert plane.read(0) == b"x" * BLOCK
        plane.volumes.note_loads(feed.Loads(rows))
        assert plane.read(0) == b"x" * BLOCK
        a, b = plane.volumes.status()["v"].copies
        assert (b.reads_remote, b.reads_busy) == (1, 1), "it was asked, and said no"
        assert a.reads_local == 2
        plane.stores["a"].failing.add("read")
        assert plane.read(0) == b"x" * BLOCK
        a, b = plane.volumes.status()["v"].copies
        assert (b.reads_remote, a.reads_failed) == (3, 1), "it was asked again, with no other copy to use"
    finally:
        server.close()
