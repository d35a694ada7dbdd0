"""NBD exports as real volumes, against real servers that are killed, stopped and made to fail."""

import errno
import threading
import time
from pathlib import Path

import pytest

from tests.storage_fixture import (
    MIB,
    NbdServer,
    free_port,
    make_file,
    nbd_server,
    needs,
    prepare_now,
    request,
    run,
    spec,
    wait_until,
)
from vimraft.data.backends.base import HOLE, ZERO, BackendError
from vimraft.data.backends.nbd import NbdBackend
from vimraft.data.backends.open import check_uri, open_backend
from vimraft.data.label import read_label, verify_label
from vimraft.data.prepare import prepare

pytestmark = pytest.mark.cluster
TIMEOUT_S = 5.0


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    make_file(tmp_path / "disk", 8 * MIB)
    return tmp_path / "disk"


def opened(server: NbdServer, **more: object) -> NbdBackend:
    return NbdBackend(server.uri(), **({"io_timeout_s": TIMEOUT_S} | more))  # type: ignore[arg-type]


def read(backend: NbdBackend, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    backend.read_into(memoryview(buffer), offset)
    return bytes(buffer)


def put(backend: NbdBackend, data: bytes, offset: int = MIB, *, fua: bool = False) -> None:
    backend.write(memoryview(data), offset, fua=fua)


@pytest.fixture(params=["nbdkit memory", "nbdkit file", "nbdkit bare", "qemu-nbd"])
def any_server(request, tmp_path, disk):
    """`bare`: everything optional is missing, and requests are small."""
    arguments = {
        "nbdkit memory": ("memory", "8M"),
        "nbdkit file": ("file", str(disk)),
        "nbdkit bare": (
            *("--filter=nozero", "--filter=noextents", "--filter=fua", "--filter=multi-conn"),
            *("--filter=blocksize-policy", "file", str(disk), "multi-conn-mode=disable"),
            *("blocksize-maximum=64k", "blocksize-error-policy=error"),
        ),
        "qemu-nbd": ("--format=raw", "--shared=4", str(disk)),
    }[request.param]
    program = request.param.split()[0]
    needs(program)
    with nbd_server(tmp_path, *arguments, program=program) as server:
        yield server


def test_every_request_does_what_it_says_on_every_server(any_server):
    backend = opened(any_server)
    assert (backend.fd, backend.size_bytes) == (-1, 8 * MIB)
    put(backend, b"a" * (2 * MIB))
    put(backend, b"b" * 512, MIB + 512, fua=True)
    backend.zero(MIB + 1024, 512, may_trim=False, fua=False, fast=False)
    backend.zero(MIB + 1536, 512, may_trim=True, fua=True, fast=False)
    backend.flush()
    expected = b"a" * 512 + b"b" * 512 + bytes(1024) + b"a" * (2 * MIB - 2048)
    assert read(backend, MIB, 2 * MIB) == expected
    backend.trim(4 * MIB, MIB, fua=True)
    assert read(backend, 4 * MIB, 512) == bytes(512)
    runs = backend.extents(512, 8 * MIB - 512)
    assert sum(length for length, _ in runs) == 8 * MIB - 512
    assert backend.losses == 0
    assert backend.counters.writes == 2
    backend.close()


def test_extents_show_holes_where_the_server_tells(tmp_path, disk):
    with nbd_server(tmp_path, "file", str(disk)) as server:
        backend = opened(server)
        put(backend, b"x" * MIB, 2 * MIB)
        assert backend.extents(0, 8 * MIB) == [(2 * MIB, HOLE | ZERO), (MIB, 0), (5 * MIB, HOLE | ZERO)]
        assert backend.extents(5 * MIB, MIB) == [(MIB, HOLE | ZERO)]
        backend.close()


def test_tcp_is_served_as_well(tmp_path, disk):
    port = free_port()
    with nbd_server(tmp_path, "--port", str(port), "--ipaddr", "127.0.0.1", "file", str(disk)) as server:
        assert server.tcp_port == port
        backend = NbdBackend(f"nbd://127.0.0.1:{port}/", io_timeout_s=TIMEOUT_S)
        put(backend, b"x" * MIB, fua=True)
        server.kill()
        server.start()
        assert read(backend, MIB, MIB) == b"x" * MIB
        backend.close()


def test_tls_is_used_where_the_uri_says_so_and_survives_a_restart(tmp_path, disk):
    keys = tmp_path / "keys.psk"
    keys.write_text("alice:" + "0123456789abcdef" * 4 + "\n")
    with nbd_server(tmp_path, "--tls=require", f"--tls-psk={keys}", "file", str(disk)) as server:
        with pytest.raises(BackendError, match="start the NBD server, or correct the URI"):
            opened(server)
        uri = f"nbds+unix://alice@/?socket={server.socket}&tls-psk-file={keys}"
        check_uri(uri)
        backend = NbdBackend(uri, io_timeout_s=TIMEOUT_S)
        put(backend, b"x" * MIB)
        server.kill()
        server.start()
        backend.flush()
        assert backend.losses == 1
        assert read(backend, MIB, MIB) == b"x" * MIB
        backend.close()


def test_fast_zero_is_refused_where_the_server_cannot(tmp_path, disk):
    with nbd_server(tmp_path, "--filter=nozero", "file", str(disk)) as server:
        backend = opened(server)
        put(backend, b"x" * MIB)
        with pytest.raises(OSError, match="faster") as caught:
            backend.zero(MIB, MIB, may_trim=True, fua=False, fast=True)
        assert caught.value.errno == errno.EOPNOTSUPP
        backend.zero(MIB, MIB, may_trim=True, fua=False, fast=False)
        assert read(backend, MIB, MIB) == bytes(MIB)
        backend.close()


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (("-r", "memory", "8M"), "is exported read-only"),
        (("--filter=blocksize-policy", "memory", "8M", "blocksize-minimum=4096"), "--filter=blocksize"),
        (("eval", "get_size=echo 8M", "pread=head -c $3 /dev/zero", "pwrite=cat >/dev/null"), "has no flush"),
    ],
)
def test_an_export_that_cannot_be_a_real_volume_is_refused(tmp_path, arguments, cause):
    with nbd_server(tmp_path, *arguments) as server, pytest.raises(BackendError, match=cause) as caught:
        opened(server)
    assert caught.value.kind == "missing"
    assert server.uri() in str(caught.value)


def test_a_read_only_export_may_be_opened_to_read(tmp_path):
    with nbd_server(tmp_path, "-r", "memory", "8M") as server:
        backend = opened(server, read_only=True)
        assert read(backend, 0, 512) == bytes(512)
        with pytest.raises(OSError, match="read-only") as caught:
            put(backend, b"x" * 512)
        assert caught.value.errno == errno.EROFS
        backend.close()


def test_a_server_that_is_not_there_is_told_at_once(tmp_path):
    with pytest.raises(BackendError, match="start the NBD server") as caught:
        open_backend(f"nbd+unix:///?socket={tmp_path}/none")
    assert caught.value.kind == "missing"


def test_a_server_that_does_not_answer_costs_the_timeout_only(tmp_path):
    with nbd_server(tmp_path, "memory", "8M") as server:
        server.pause()
        started = time.monotonic()
        with pytest.raises(BackendError, match="does not answer"):
            opened(server, io_timeout_s=0.3)
        assert time.monotonic() - started < 3


@pytest.mark.parametrize("name", ["ENOSPC", "EIO", "EPERM", "EINVAL"])
def test_the_servers_errno_comes_through(tmp_path, name):
    trigger = tmp_path / "fail"
    error = ("--filter=error", "memory", "8M", f"error-pwrite={name}", "error-pwrite-rate=100%")
    with nbd_server(tmp_path, *error, f"error-file={trigger}") as server:
        backend = opened(server)
        trigger.touch()
        with pytest.raises(OSError, match="write") as caught:
            put(backend, b"x" * 512)
        assert caught.value.errno == getattr(errno, name)
        assert backend.counters.errors == 1
        assert (backend.broken, backend.losses) == ("", 0)
        trigger.unlink()
        put(backend, b"x" * 512)
        backend.close()


def eval_server(trigger: Path, *more: str) -> tuple[str, ...]:
    fail = f'[ -e {trigger} ] && {{ echo "EIO disk" >&2; exit 1; }}; exit 0'
    return (
        *("eval", "get_size=echo 8M", "pread=head -c $3 /dev/zero", "can_write=exit 0", "can_flush=exit 0"),
        f"flush={fail}",
        *(more[:1] or ("pwrite=cat >/dev/null",)),
        *more[1:],
    )


def test_a_failed_flush_is_sticky(tmp_path):
    trigger = tmp_path / "fail"
    with nbd_server(tmp_path, *eval_server(trigger)) as server:
        backend = opened(server)
        backend.flush()
        trigger.touch()
        with pytest.raises(OSError, match="a flush failed") as caught:
            backend.flush()
        assert caught.value.errno == errno.EIO
        trigger.unlink()
        for action in (backend.flush, lambda: put(backend, b"x" * 512)):
            with pytest.raises(OSError, match="acknowledged data may be lost"):
                action()
        assert read(backend, 0, 512) == bytes(512)
        backend.close()


def test_fua_without_the_servers_help_is_a_write_and_a_flush(tmp_path):
    trigger = tmp_path / "fail"
    with nbd_server(tmp_path, "--filter=fua", *eval_server(trigger)) as server:
        backend = opened(server)
        put(backend, b"x" * 512, fua=True)
        trigger.touch()
        with pytest.raises(OSError, match="a flush failed"):
            put(backend, b"x" * 512, fua=True)
        assert backend.broken
        backend.close()


def test_a_failed_sync_inside_a_fua_write_is_sticky(tmp_path):
    trigger = tmp_path / "fail"
    write = (
        f'pwrite=cat >/dev/null; case "$5" in *fua*) [ -e {trigger} ]'
        ' && { echo "EIO x" >&2; exit 1; };; esac; exit 0'
    )
    with nbd_server(tmp_path, *eval_server(trigger, write, "can_fua=echo native")) as server:
        backend = opened(server)
        put(backend, b"x" * 512, fua=True)
        trigger.touch()
        with pytest.raises(OSError, match="a synchronous write failed"):
            put(backend, b"x" * 512, fua=True)
        assert backend.broken
        backend.close()


def test_killed_with_unflushed_writes_counts_one_loss(tmp_path, disk):
    with nbd_server(tmp_path, "file", str(disk)) as server:
        backend = opened(server)
        put(backend, b"x" * 4096)
        server.kill()
        server.start()
        backend.flush()
        assert backend.losses == 1
        backend.flush()
        assert backend.losses == 1
        assert read(backend, MIB, 4096) == b"x" * 4096
        backend.close()


@pytest.mark.parametrize("fua", [False, True])
def test_killed_with_everything_flushed_counts_none(tmp_path, disk, fua):
    with nbd_server(tmp_path, "file", str(disk)) as server:
        backend = opened(server)
        put(backend, b"x" * 4096, fua=fua)
        if not fua:
            backend.flush()
        server.kill()
        server.start()
        put(backend, b"y" * 4096, 2 * MIB)
        backend.flush()
        assert backend.losses == 0
        assert read(backend, MIB, 4096) == b"x" * 4096
        backend.close()


def test_requests_wait_while_the_server_is_away_and_go_on(tmp_path, disk):
    with nbd_server(tmp_path, "file", str(disk)) as server:
        backend = opened(server, io_timeout_s=20.0)
        server.kill()
        results: list[str] = []

        def work(number: int) -> None:
            put(backend, bytes([number]) * 4096, number * MIB)
            results.append("written")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
        for thread in threads:
            thread.start()
        wait_until(lambda: backend.problem != "", "the loss is noticed")
        assert results == []
        server.start()
        for thread in threads:
            thread.join()
        assert results == ["written"] * 4
        for number in range(1, 5):
            assert read(backend, number * MIB, 4096) == bytes([number]) * 4096
        backend.close()


def test_a_server_that_stays_away_gives_eio_after_the_timeout(tmp_path, disk):
    with nbd_server(tmp_path, "file", str(disk)) as server:
        backend = opened(server, io_timeout_s=0.4)
        server.kill()
        with pytest.raises(OSError, match="onnect") as caught:
            read(backend, 0, 512)
        assert caught.value.errno == errno.EIO
        server.start()
        assert read(backend, 0, 512) == bytes(512)
        backend.close()


def test_a_server_that_comes_back_with_another_disk_is_not_used(tmp_path):
    with nbd_server(tmp_path, "memory", "8M") as server:
        prepare_now(server.uri())
        backend = opened(server, io_timeout_s=0.5)
        put(backend, b"x" * 4096, 2 * MIB)
        backend.flush()
        server.kill()
        server.start()
        with pytest.raises(OSError, match="came back with another volume") as caught:
            read(backend, 2 * MIB, 4096)
        assert caught.value.errno == errno.EIO
        server.kill()
        server.start("memory", "9M")
        with pytest.raises(OSError, match="now has 9437184 bytes instead of 8388608"):
            read(backend, 2 * MIB, 4096)
        backend.close()


def test_a_stopped_server_gives_eio_and_nothing_overtakes_its_old_write(tmp_path, disk):
    """The old write is still in the stopped server's socket when the caller gets EIO. Whatever is
    written afterwards must win."""
    with nbd_server(tmp_path, "file", str(disk)) as server:
        backend = opened(server, io_timeout_s=0.4)
        server.pause()
        with pytest.raises(OSError, match="does not answer") as caught:
            put(backend, b"old" * 512)
        assert caught.value.errno == errno.EIO
        with pytest.raises(OSError, match="older connection"):
            put(backend, b"new" * 512)
        server.resume()
        backend._pool._io_timeout_s = TIMEOUT_S
        put(backend, b"new" * 512)
        assert read(backend, MIB, 1536) == b"new" * 512
        backend.close()


def test_a_slow_write_on_a_lost_connection_is_waited_for(tmp_path, disk):
    slow = ("--filter=delay", "file", str(disk), "delay-write=1500ms")
    with nbd_server(tmp_path, *slow) as server:
        backend = opened(server, io_timeout_s=0.3)
        with pytest.raises(OSError, match="does not answer"):
            put(backend, b"old" * 512)
        backend._pool._io_timeout_s = 20.0
        put(backend, b"new" * 512)
        assert read(backend, MIB, 1536) == b"new" * 512
        backend.close()


def test_callers_together_get_a_connection_each_up_to_the_bound(tmp_path, disk):
    slow = ("--filter=delay", "file", str(disk), "delay-read=200ms")
    with nbd_server(tmp_path, *slow) as server:
        backend = opened(server, max_connections=4)
        threads = [threading.Thread(target=read, args=(backend, 0, 512)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(backend._pool._current) == 4
        backend.close()


def test_without_multi_conn_there_is_one_connection(tmp_path, disk):
    alone = ("--filter=multi-conn", "file", str(disk), "multi-conn-mode=disable")
    with nbd_server(tmp_path, *alone) as server:
        backend = opened(server)
        threads = [
            threading.Thread(target=put, args=(backend, b"x" * 4096, number * 4096)) for number in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        backend.flush()
        assert len(backend._pool._current) == 1
        backend.close()


def test_a_flush_never_trusts_a_connection_younger_than_the_writes(tmp_path, disk):
    """The server dies and is back before the old connection was used again: a flush on a new one
    would succeed, and the writes before it may be gone."""
    with nbd_server(tmp_path, "--filter=delay", "file", str(disk), "delay-read=300ms") as server:
        backend = opened(server, max_connections=4)
        put(backend, b"x" * 4096)
        readers = [threading.Thread(target=read, args=(backend, 0, 512)) for _ in range(3)]
        for reader in readers:
            reader.start()
        wait_until(lambda: len(backend._pool._current) >= 2, "a second connection")
        pool = backend._pool
        assert [s for s in pool._current if pool._covers(s)] == [pool.first]
        server.kill()
        server.start()
        backend.flush()
        assert backend.losses == 1
        for reader in readers:
            reader.join()
        backend.close()


def test_many_threads_through_kills_lose_nothing_unnoticed(tmp_path, disk):
    """Every thread writes its own blocks, flushes and compares; the server is killed all the while.
    The page cache outlives it, so all data must be there, and no request may fail."""
    with nbd_server(tmp_path, "file", str(disk)) as server:
        backend = opened(server, io_timeout_s=30.0)
        problems: list[str] = []
        done = threading.Event()

        def work(number: int) -> None:
            try:
                turn = 0
                while not done.is_set():
                    turn += 1
                    mine = bytes([number, turn & 0xFF]) * 2048
                    put(backend, mine, number * 65536, fua=turn % 3 == 0)
                    if turn % 5 == 0:
                        backend.flush()
                    if read(backend, number * 65536, 4096) != mine:
                        problems.append(f"thread {number}, turn {turn}: older bytes")
            except OSError as error:
                problems.append(f"thread {number}: {error}")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 7)]
        for thread in threads:
            thread.start()
        for _ in range(6):
            before = backend.counters.writes
            wait_until(lambda at=before: backend.counters.writes > at + 50 or bool(problems), "progress")
            server.kill()
            server.start()
        done.set()
        for thread in threads:
            thread.join()
        assert problems == []
        assert backend.losses >= 1
        backend.close()


def test_an_export_is_prepared_and_recognized(tmp_path, disk):
    with nbd_server(tmp_path, "file", str(disk)) as server:
        made = prepare_now(server.uri())
        assert made.capacity_units == 7
        backend = open_backend(server.uri())
        assert verify_label(backend, spec(server.uri())).real == "s1:0"
        backend.close()
        with pytest.raises(BackendError, match="carries the label of real volume s1:0"):
            prepare_now(server.uri())
        with pytest.raises(BackendError, match="leave --size out"):
            prepare_now(server.uri(), size_bytes=8 * MIB)


def test_content_of_an_export_is_named_and_force_zeroes_it(tmp_path, disk):
    needs("mkfs.ext4")
    run("mkfs.ext4", "-q", "-F", "-L", "precious", str(disk))
    with nbd_server(tmp_path, "--filter=nozero", "--filter=noextents", "file", str(disk)) as server:
        with pytest.raises(BackendError, match=r"carries ext4 \(file system\) named 'precious'"):
            prepare_now(server.uri())
        prepare_now(server.uri(), force=True)
    assert disk.read_bytes()[MIB:] == bytes(7 * MIB)


def test_a_server_killed_while_preparing_leaves_no_label(tmp_path, disk):
    disk.write_bytes(b"\xff" * (8 * MIB))
    with nbd_server(tmp_path, "file", str(disk)) as server:

        def kill_it(done: int, _total: int) -> None:
            if done == 0:
                server.kill()

        with pytest.raises(BackendError, match="preparing it failed"):
            prepare(request(server.uri(), force=True), MIB, kill_it, lambda: False, io_timeout_s=0.3)
        server.start()
        backend = open_backend(server.uri(), read_only=True)
        assert read_label(backend) is None
        backend.close()
