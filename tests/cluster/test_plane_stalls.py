"""Peers and real volumes that fall silent in the middle of something."""

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

from tests.plane import CLUSTER_ID, MIB, Pair, connected, eventually, segment, volume
from tests.plane_fakes import in_thread
from vimraft.data.engine import Plane
from vimraft.data.errors import IoError
from vimraft.data.feed import BackendSpec, MapUpdate, PeerSpec

pytestmark = pytest.mark.cluster


@contextlib.contextmanager
def scripted_peer(directory: Path, **methods: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """An NBD server whose callbacks are shell lines; its address."""
    port_file = directory / "peer.port"
    script = (
        "import socket,sys,os;s=socket.create_server(('127.0.0.1',0));"
        "open(sys.argv[1]+'~','w').write(str(s.getsockname()[1]));os.rename(sys.argv[1]+'~',sys.argv[1]);"
        "os.dup2(s.fileno(),3);os.set_inheritable(3,True);"
        "os.environ.update(LISTEN_PID=str(os.getpid()),LISTEN_FDS='1');os.execv(sys.argv[2],sys.argv[2:])"
    )
    shell = {"open": "echo x", "export_description": "echo boot=x losses=0", "get_size": "echo 33554432"}
    lines = [
        f"{name}={line}"
        for name, line in ({"can_write": "true", "can_zero": "true"} | shell | methods).items()
    ]
    server = subprocess.Popen(
        ["/usr/bin/python3", "-c", script, str(port_file), "/usr/bin/nbdkit", "-f", "eval", *lines],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        eventually(port_file.exists, "the peer listens")
        yield f"127.0.0.1:{port_file.read_text()}", server
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(10)


def owner_of(address: str, io_timeout_ms: int) -> Plane:
    """Its volume v lies at peer b, in two segments."""
    plane = Plane("export", "a")
    plane.links.start()
    v = volume("v", 4, segment(0, 1, "sb:0", 0, "b"), segment(1, 3, "sb:0", 5, "b"))
    plane.install(MapUpdate(1, True, io_timeout_ms, (v,), peers=(PeerSpec("b", address, address),)))
    return plane


HALF_FAILS = 'if [ $4 -lt 1048576 ]; then echo "EIO no" >&2; exit 1; fi; sleep 600'
"""A write of the first segment is answered with an error, one of the second never."""


def failing_write(plane: Plane) -> tuple[threading.Thread, list[object]]:
    handle, _ = plane.open("v")
    return in_thread(lambda: handle.write(memoryview(bytearray(8192)), MIB - 4096, 0))


def test_a_request_ends_in_time_when_its_peer_answers_half_of_it_with_an_error_and_stops(
    tmp_path: Path,
) -> None:
    with scripted_peer(tmp_path, pwrite=HALF_FAILS) as (address, _):
        plane = owner_of(address, 1_000)
        thread, outcome = failing_write(plane)
        thread.join(6)
        assert not thread.is_alive(), "the request hangs"
        assert isinstance(outcome[0], IoError)
        assert plane.links.unfenced, "the half that got no answer may still be written: it is fenced first"


def test_a_drain_breaks_off_a_request_of_which_a_part_was_answered_with_an_error(tmp_path: Path) -> None:
    answered = tmp_path / "answered"
    with scripted_peer(tmp_path, pwrite=f"touch {answered}; {HALF_FAILS}") as (address, _):
        plane = owner_of(address, 60_000)
        thread, outcome = failing_write(plane)
        eventually(answered.exists, "the peer answers")
        eventually(lambda: outcome or plane.links.abort("v"), "the request ends")
        thread.join(5)
        assert isinstance(outcome[0], IoError)


def test_silent_nbd_servers_do_not_keep_clients_of_other_volumes_waiting(tmp_path: Path) -> None:
    """They accept connections and never say a word."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"nbd://127.0.0.1:{silent.getsockname()[1]}/"
        bad = [BackendSpec(f"sa:{n}", uri, "0" * 32, CLUSTER_ID, MIB, "") for n in range(1, 6)]
        pair = Pair(tmp_path)
        owner, _, _ = pair.updates()
        start = time.monotonic()
        try:
            export = pair.a.export
            near = volume("n", 4, segment(0, 4, "sa:0", 0))
            far = volume("s", 1, segment(0, 1, "sa:1", 0))
            export.always_send(
                msgspec.structs.replace(owner, volumes=(near, far), backends=(pair.real_a, *bad))
            )
            export.start()
            with connected(export.uri_of("n")) as handle:
                handle.pwrite(b"x" * 4096, 0)
                handle.flush()
            for index in range(2, 6):
                export.install(MapUpdate(index, False, 5_000, (msgspec.structs.replace(near, epoch=index),)))
            assert time.monotonic() - start < 5.0
        finally:
            pair.close()


def file_peer(directory: Path) -> dict[str, str]:
    data = directory / "data"
    with data.open("wb") as file:
        file.truncate(32 * MIB)
    quiet = "oflag=seek_bytes conv=notrunc,fsync 2>/dev/null"
    return {
        "pread": f"dd if={data} skip=$4 count=$3 iflag=count_bytes,skip_bytes 2>/dev/null",
        "pwrite": f"dd of={data} seek=$4 {quiet}",
    }


def test_more_clients_than_connections_to_peers_are_all_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an idle client keeps open is closed for one that needs it."""
    monkeypatch.setattr("vimraft.data.remote.MAX_LINKS", 3)
    with scripted_peer(tmp_path, **file_peer(tmp_path)) as (address, _):
        plane = owner_of(address, 20_000)
        handles = [plane.open("v")[0] for _ in range(8)]

        def serve(number: int) -> None:
            for turn in range(3):
                at, data = number * 4096, bytes([number * 8 + turn]) * 4096
                handles[number].write(memoryview(data), at, 0)
                buffer = bytearray(4096)
                handles[number].read(memoryview(buffer), at)
                assert buffer == data

        for number in range(8):
            serve(number)
        together = [in_thread(lambda number=number: serve(number)) for number in range(8)]
        for thread, _ in together:
            thread.join(60)
        assert [outcome for _, outcome in together] == [[None]] * 8
        assert len(plane.links.links) <= 3


def test_a_connection_to_a_peer_that_nobody_uses_is_closed_and_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vimraft.data.remote.IDLE_LINK_S", 0.3)
    with scripted_peer(tmp_path, **file_peer(tmp_path)) as (address, _):
        plane = owner_of(address, 5_000)
        handle, name = plane.open("v")
        buffer = bytearray(4096)
        for _ in range(2):
            handle.read(memoryview(buffer), 0)
            assert len(plane.links.links) == 1
            eventually(lambda: not plane.links.links, "it is closed")
        plane.close(handle, name)
