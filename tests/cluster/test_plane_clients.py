"""Clients that die, come in crowds, ask for the impossible, or come while the server is replaced."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import nbd
import pytest

from tests.plane import MIB, Pair, connected, eventually
from vimraft.data import feed

pytestmark = pytest.mark.cluster

DEEP_CLIENT = """
import sys, nbd
handle = nbd.NBD()
handle.connect_uri(sys.argv[1])
buffers = [nbd.Buffer.from_bytearray(bytearray(65536)) for _ in range(64)]
running = set()
handle.pread(512, 0)
print("going", flush=True)
n = 0
while True:
    while len(running) < 64:
        offset = n * 65536 % (8 << 20)
        submit = handle.aio_pwrite if n % 2 else handle.aio_pread
        running.add(submit(buffers[n % 64], offset))
        n += 1
    handle.poll(-1)
    running = {cookie for cookie in running if not handle.aio_command_completed(cookie)}
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    pair = Pair(tmp_path_factory.mktemp("c"))
    try:
        pair.start()
        yield pair
    finally:
        pair.close()


@pytest.mark.parametrize("site", ["a", "b"])
def test_twenty_clients_killed_with_64_requests_in_flight(pair: Pair, site: str) -> None:
    """The server lives on, and it is the same one."""
    export = getattr(pair, site).export
    assert export.process is not None
    pid = export.process.pid
    for _ in range(20):
        client = subprocess.Popen(
            [sys.executable, "-c", DEEP_CLIENT, export.uri_of("v")], stdout=subprocess.PIPE
        )
        assert client.stdout is not None
        assert client.stdout.readline() == b"going\n"
        client.kill()
        client.wait(10)
        client.stdout.close()
    with connected(export.uri_of("v")) as handle:
        handle.pwrite(b"alive " * 512 + b"." * 1024, 0)
        assert handle.pread(512, 0)[:6] == b"alive "
    assert export.process.poll() is None
    assert export.process.pid == pid


def grown_kib(pair: Pair, warm_up: int, times: int, action: "object") -> int:
    for _ in range(warm_up):
        action()
    before = pair.a.export.rss_kib()
    for _ in range(times):
        action()
    return pair.a.export.rss_kib() - before


def test_ten_thousand_failing_requests_do_not_grow_the_process(pair: Pair) -> None:
    with connected(pair.a.export.uri_of("v")) as handle:
        handle.set_strict_mode(0)

        def fail() -> None:
            with pytest.raises(nbd.Error):
                handle.pread(100, 1)

        grown = grown_kib(pair, 1_000, 10_000, fail)
    assert grown < 1_500, f"{grown} KiB for 10,000 failures"


def test_four_hundred_connections_do_not_grow_the_process(pair: Pair) -> None:
    def visit() -> None:
        with connected(pair.a.export.uri_of("v")) as handle:
            handle.pread(4096, 0)

    grown = grown_kib(pair, 100, 400, visit)
    assert grown < 1_000, f"{grown} KiB for 400 connections"


def test_a_client_that_comes_while_the_export_is_replaced_is_served_after(pair: Pair) -> None:
    export = pair.a.export
    hellos = len(export.hellos)
    with connected(export.uri_of("v")) as handle:
        handle.pwrite(b"kept" * 128, 4 * MIB)
    export.kill(signal.SIGKILL)
    read = []

    def visit() -> None:
        with connected(export.uri_of("v")) as handle:
            read.append(bytes(handle.pread(512, 4 * MIB)))

    visitor = threading.Thread(target=visit)
    visitor.start()
    export.start()
    export.wait_hello(hellos + 1)
    visitor.join(15)
    assert read == [b"kept" * 128]


@pytest.mark.parametrize("how", ["quit", "terminate"])
def test_a_client_that_reconnects_sees_no_error_when_the_export_is_replaced(pair: Pair, how: str) -> None:
    """Kernel clients and QEMU resend after a lost connection, but an error reply is final to them."""
    export = pair.a.export
    hellos = len(export.hellos)
    replies: list[nbd.Error] = []
    stop = threading.Event()
    writes = []

    def write_for_ever() -> None:
        while not stop.is_set():
            handle = nbd.NBD()
            try:
                handle.connect_uri(export.uri_of("v"))
                while not stop.is_set():
                    handle.pwrite(b"r" * 4096, 8 * MIB)
                    writes.append(1)
            except nbd.Error as error:
                if handle.aio_is_ready():
                    replies.append(error)

    writer = threading.Thread(target=write_for_ever)
    writer.start()
    eventually(lambda: len(writes) > 20, "it writes")
    if how == "quit":
        export.send(feed.Quit())
    else:
        export.kill(signal.SIGTERM)
    assert export.process is not None
    assert export.process.wait(10) == 0
    export.start()
    export.wait_hello(hellos + 1)
    before = len(writes)
    eventually(lambda: len(writes) > before + 20, "it goes on")
    stop.set()
    writer.join(10)
    assert replies == []


def test_garbage_from_the_manager_ends_the_conversation_and_not_the_process(pair: Pair) -> None:
    export = pair.a.export
    for garbage in (b"\xff\xff\xff\xff", feed.HEADER.pack(4) + b"junk"):
        hellos = len(export.hellos)
        export.send_raw(garbage)
        eventually(lambda hellos=hellos: len(export.hellos) > hellos, "it dials again")
    with connected(export.uri_of("v")) as handle:
        handle.pread(512, 0)


def test_a_second_life_is_refused_while_the_first_holds_the_lock(pair: Pair) -> None:
    """INV-2: two exports of one manager must never run."""
    export = pair.a.export
    first = export.process
    assert first is not None
    export.start()
    second, export.process = export.process, first
    assert second is not None
    assert second.wait(10) != 0
    assert first.poll() is None
    assert "is locked: another export" in export.log


def test_the_export_serves_on_while_its_manager_is_away(pair: Pair) -> None:
    export = pair.a.export
    hellos = len(export.hellos)
    export.hang_up()
    with connected(export.uri_of("v")) as handle:
        handle.pwrite(b"a" * 512, 0)
        handle.flush()
    eventually(lambda: len(export.hellos) > hellos, "it dials again")
    assert export.hellos[-1].installed_index >= 1
    assert export.hellos[-1].instance == export.hellos[-2].instance


def test_no_interpreter_but_debians_is_accepted(tmp_path: Path) -> None:
    """A python3 elsewhere first on PATH decides the embedded prefix; the plugin says so and ends."""
    code = (
        "import os, sys; os.__file__ = '/opt/python/lib/os.py'; sys.path.insert(0, sys.argv[1]);"
        "from nbd_plugin import bootstrap; bootstrap.prepare()"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        ["/usr/bin/python3", "-c", code, str(root)],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.defpath},
    )
    assert done.returncode != 0
    assert "not Debian's" in done.stderr
