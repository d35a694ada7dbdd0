"""Peers that die, stop, come back, speak of other epochs, or lose what was not flushed."""

import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import nbd
import pytest

from tests.plane import MIB, DelayProxy, FakeManager, Pair, connected, eventually
from vimraft.data import feed

pytestmark = pytest.mark.cluster


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path, io_timeout_ms=6_000)
    try:
        pair.start()
        yield pair
    finally:
        pair.close()


def segments(epoch: int, generation: int, session: str = "a~life~0", volume: str = "v") -> str:
    return f".segments/{volume}/{epoch}/{session}/{generation}"


def forward(epoch: int, generation: int, session: str = "b~life~0") -> str:
    return f".forward/v/{epoch}/{session}/{generation}"


def refused(process: FakeManager, export: str) -> bool:
    try:
        with connected(process.uri_of(export)):
            return False
    except nbd.Error:
        return True


class VerifiedClient:
    """Writes and reads back 8 KiB blocks at random places of a range until told to stop."""

    def __init__(self, uri: str, offset: int, length: int, seed: int = 5) -> None:
        self.error: BaseException | None = None
        self.rounds = 0
        self.longest_s = 0.0
        self._uri, self._offset, self._blocks = uri, offset, length // 8192
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        known: dict[int, bytes] = {}
        try:
            with connected(self._uri) as handle:
                while not self._stop.is_set():
                    start = time.monotonic()
                    block = self._random.randrange(self._blocks)
                    at = self._offset + block * 8192
                    if block in known:
                        assert handle.pread(8192, at) == known[block], (
                            f"block {block} is not what was written"
                        )
                    known[block] = self._random.randbytes(8192)
                    handle.pwrite(known[block], at)
                    if self.rounds % 64 == 0:
                        handle.flush()
                    self.rounds += 1
                    self.longest_s = max(self.longest_s, time.monotonic() - start)
                for block, data in known.items():
                    assert handle.pread(8192, self._offset + block * 8192) == data
        except (nbd.Error, AssertionError) as error:
            self.error = error

    def progress(self) -> None:
        before = self.rounds
        eventually(lambda: self.error or self.rounds > before + 20, "the client goes on")
        assert self.error is None, self.error

    def finish(self) -> None:
        self._stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error


def test_a_store_killed_and_restarted_is_a_pause_for_clients_of_both_sites(pair: Pair) -> None:
    clients = [
        VerifiedClient(site.export.uri_of("v"), (pair.half_mib + offset) * MIB - 64 * 1024, 4 * MIB)
        for site, offset in ((pair.a, 0), (pair.b, 6))
    ]
    for life in range(2, 5):
        for client in clients:
            client.progress()
        pair.b.store.kill(signal.SIGKILL)
        pair.b.store.start()
        pair.b.store.wait_hello(life)
    for client in clients:
        client.progress()
        client.finish()


def test_an_owner_killed_and_restarted_is_a_pause_for_a_forwarding_client(pair: Pair) -> None:
    client = VerifiedClient(pair.b.export.uri_of("v"), (pair.half_mib - 2) * MIB, 4 * MIB)
    for life in range(2, 5):
        client.progress()
        pair.a.export.kill(signal.SIGKILL)
        pair.a.export.start()
        pair.a.export.wait_hello(life)
    client.progress()
    client.finish()


def test_a_peer_stopped_for_longer_than_the_timeout_gives_eio_and_no_hang(pair: Pair) -> None:
    pair.io_timeout_ms = 1_500
    pair.change(epoch=2)
    far = pair.half_mib * MIB
    with connected(pair.a.export.uri_of("v")) as handle:
        handle.pwrite(b"1" * 4096, far)
        pair.b.store.kill(signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(nbd.Error) as raised:
            handle.pwrite(b"2" * 4096, far)
        assert raised.value.errno == "EIO"
        assert 1.0 < time.monotonic() - start < 4.0
        handle.pread(4096, 0)
        pair.b.store.kill(signal.SIGCONT)
        handle.pwrite(b"3" * 4096, far)
        assert handle.pread(4096, far) == b"3" * 4096


def test_a_late_copy_of_a_failed_write_never_overtakes_a_newer_write(tmp_path: Path) -> None:
    """A write is delayed on its way to the store until its client was told EIO and another connection has
    written the same place: by then the store must not take it any more."""
    pair = Pair(tmp_path, io_timeout_ms=1_000)
    proxy = DelayProxy(pair.b.store.address)
    pair.store_address = proxy.address
    try:
        pair.start()
        far = pair.half_mib * MIB
        with connected(pair.a.export.uri_of("v")) as first, connected(pair.a.export.uri_of("v")) as second:
            first.pwrite(b"a" * 4096, far)
            assert proxy.connections == 1
            second.pwrite(b"b" * 4096, far)
            proxy.freeze(0)
            with pytest.raises(nbd.Error):
                first.pwrite(b"L" * 4096, far)
            second.pwrite(b"n" * 4096, far)
            assert proxy.thaw(0) > 4096
            with connected(pair.a.export.uri_of("v")) as third:
                for _ in range(50):
                    assert third.pread(4096, far) == b"n" * 4096
        assert "request.bug" not in pair.a.export.log + pair.b.store.log
    finally:
        pair.close()
        proxy.close()


def test_a_superseded_session_can_neither_write_nor_read(pair: Pair) -> None:
    far = pair.half_mib * MIB
    with connected(pair.b.store.uri_of(segments(1, 1))) as old:
        old.pwrite(b"o" * 512, far)
        with connected(pair.b.store.uri_of(segments(1, 2))) as new:
            for request in (lambda: old.pwrite(b"x" * 512, far), lambda: old.pread(512, far), old.flush):
                with pytest.raises(nbd.Error) as raised:
                    request()
                assert raised.value.errno == "ESHUTDOWN"
            assert new.pread(512, far) == b"o" * 512


def test_an_older_or_equal_generation_is_refused(pair: Pair) -> None:
    with connected(pair.b.store.uri_of(segments(1, 5))):
        assert refused(pair.b.store, segments(1, 5))
        assert refused(pair.b.store, segments(1, 4))
    assert refused(pair.b.store, segments(1, 5)), "also after it was closed"
    assert not refused(pair.b.store, segments(1, 6))


def description_of(process: FakeManager, export: str) -> str:
    handle = nbd.NBD()
    handle.set_export_name(export)
    handle.set_full_info(True)
    host, port = process.address.split(":")
    handle.connect_tcp(host, port)
    try:
        return handle.get_export_description()
    finally:
        handle.shutdown()


def test_a_new_life_of_an_export_turns_the_former_life_away(pair: Pair) -> None:
    far = pair.half_mib * MIB
    store = pair.b.store
    with connected(store.uri_of(segments(1, 5, "a~one~3"))) as old:
        old.pread(512, far)
        ticket = description_of(store, segments(1, 1, "a~two~0")).removeprefix("ticket=")
        old.pread(512, far)
        with (
            connected(store.uri_of(segments(1, 2, f"a~two~0~{ticket}"))) as new,
            connected(store.uri_of(segments(1, 3, "a~two~1"))) as another,
        ):
            with pytest.raises(nbd.Error):
                old.pwrite(b"x" * 512, far)
            late = description_of(store, segments(1, 9, f"a~one~3~{ticket}"))
            assert late.startswith("ticket=")
            assert late != f"ticket={ticket}", "a ticket is good once"
            new.pwrite(b"n" * 512, far)
            assert another.pread(512, far) == b"n" * 512


def test_an_open_that_was_told_a_ticket_does_no_io(pair: Pair) -> None:
    far = pair.half_mib * MIB
    with (
        connected(pair.b.store.uri_of(segments(1, 5, "a~one~3"))),
        connected(pair.b.store.uri_of(segments(1, 1, "a~two~0"))) as asking,
    ):
        for request in (lambda: asking.pwrite(b"x" * 512, far), lambda: asking.pread(512, far), asking.flush):
            with pytest.raises(nbd.Error) as raised:
                request()
            assert raised.value.errno == "ESHUTDOWN"


def test_clients_are_served_on_though_somebody_takes_the_place_of_their_export(pair: Pair) -> None:
    """Any NBD client can open a session in the name of a manager; it must not keep that manager out."""
    far = pair.half_mib * MIB
    store = pair.b.store
    with connected(pair.a.export.uri_of("v")) as client:
        client.pwrite(b"1" * 512, far)
        ticket = description_of(store, segments(1, 1, "a~x~0")).removeprefix("ticket=")
        with connected(store.uri_of(segments(1, 1, f"a~x~0~{ticket}"))) as stranger:
            stranger.pread(512, far)
            client.pwrite(b"2" * 512, far)
            assert client.pread(512, far) == b"2" * 512
            with pytest.raises(nbd.Error):
                stranger.pread(512, far)


def test_strangers_are_not_let_in(pair: Pair) -> None:
    assert refused(pair.b.store, segments(1, 1, "mallory~x~0"))
    assert refused(pair.a.export, forward(1, 1, "mallory~x~0"))


def test_malformed_reserved_names_are_refused(pair: Pair) -> None:
    for name in (".segments/v/1/a~b~c", ".segments/v/x/a~b~c/1", ".segments/v/1/abc/1", ".other/v/1/a~b~c/1",
                 ".", "./v", segments(1, 1, volume="w"), forward(1, 1)):  # fmt: skip
        assert refused(pair.b.store, name), name
    assert refused(pair.a.export, segments(1, 1))


def test_an_older_epoch_is_refused_and_a_newer_one_waits_for_the_map(pair: Pair) -> None:
    pair.change(epoch=3)
    assert refused(pair.a.export, forward(2, 1))
    assert refused(pair.b.store, segments(2, 1))
    opened = threading.Event()

    def open_newer() -> None:
        with connected(pair.a.export.uri_of(forward(4, 2))) as handle:
            handle.pread(512, 0)
            opened.set()

    waiting = threading.Thread(target=open_newer, daemon=True)
    waiting.start()
    seen = len(pair.a.export.received(feed.Stats))
    eventually(lambda: len(pair.a.export.received(feed.Stats)) > seen, "some time passes")
    assert not opened.is_set()
    pair.change(epoch=4)
    waiting.join(10)
    assert opened.is_set()


def test_a_handle_of_an_older_epoch_is_turned_away_at_its_next_request(pair: Pair) -> None:
    with (
        connected(pair.a.export.uri_of(forward(1, 1))) as owner,
        connected(pair.b.store.uri_of(segments(1, 1))) as store,
    ):
        owner.pread(512, 0)
        store.pread(512, pair.half_mib * MIB)
        pair.change(epoch=2)
        for handle in (owner, store):
            with pytest.raises(nbd.Error) as raised:
                handle.pread(512, pair.half_mib * MIB)
            assert raised.value.errno == "ESHUTDOWN"


def test_only_the_owner_takes_forwarded_requests(pair: Pair) -> None:
    assert refused(pair.b.export, forward(1, 1, "a~life~0"))


def test_a_store_serves_its_own_ranges_only(pair: Pair) -> None:
    with connected(pair.b.store.uri_of(segments(1, 1))) as handle:
        handle.pread(512, pair.half_mib * MIB)
        for offset in (0, pair.half_mib * MIB - 512):
            with pytest.raises(nbd.Error):
                handle.pread(1024, offset)


def test_the_description_for_peers_tells_boot_instance_and_losses(pair: Pair) -> None:
    handle = nbd.NBD()
    handle.set_export_name(segments(1, 1))
    handle.set_full_info(True)
    host, port = pair.b.store.address.split(":")
    handle.connect_tcp(host, port)
    boot, instance, losses = handle.get_export_description().split()
    assert boot == "boot=" + Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert instance == f"instance={pair.b.store.hellos[0].instance}"
    assert losses == "losses=0"


def test_lost_writes_fail_the_next_flush_of_every_session_once(tmp_path: Path) -> None:
    """INV-3. The store's real volume is an NBD export whose server dies with unflushed writes."""
    pair = Pair(tmp_path, io_timeout_ms=8_000)
    socket_path = tmp_path / "lun.sock"

    def serve_lun() -> "subprocess.Popen[bytes]":
        server = subprocess.Popen(
            ["nbdkit", "--foreground", "-U", str(socket_path), "file", str(tmp_path / "b0.img")],
            stdin=subprocess.DEVNULL,
        )
        eventually(socket_path.exists, "the LUN's server listens")
        return server

    server = serve_lun()
    spec = pair.real_b
    pair.real_b = feed.BackendSpec(
        spec.real,
        f"nbd+unix:///?socket={socket_path}",
        spec.label_id,
        spec.cluster_id,
        spec.capacity_bytes,
        "",
    )
    far = pair.half_mib * MIB
    try:
        pair.start()
        with (
            connected(pair.a.export.uri_of("v")) as writer,
            connected(pair.a.export.uri_of("v")) as idle,
            connected(pair.b.export.uri_of("v")) as forwarded,
        ):
            for handle in (writer, forwarded):
                handle.pwrite(b"w" * 4096, far)
                handle.flush()
                handle.pwrite(b"W" * 4096, far)
            server.kill()
            server.wait(10)
            socket_path.unlink()
            server = serve_lun()
            writer.pread(4096, far)
            for handle in (writer, idle, forwarded):
                with pytest.raises(nbd.Error) as raised:
                    handle.flush()
                assert raised.value.errno == "EIO"
            for handle in (writer, idle, forwarded):
                handle.flush()
            with connected(pair.a.export.uri_of("v")) as late:
                late.pwrite(b"n" * 4096, far)
                late.flush()
    finally:
        pair.close()
        server.kill()
        server.wait(10)
