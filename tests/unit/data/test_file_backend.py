"""Regular files as real volumes."""

import errno
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.storage_fixture import MIB, allocated_bytes, make_file, small_tmpfs
from vimraft.data.backends.base import HOLE, ZERO, BackendError
from vimraft.data.backends.block import BlockBackend
from vimraft.data.backends.file import FileBackend
from vimraft.data.backends.open import check_uri, open_backend


def read(backend: FileBackend, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    backend.read_into(memoryview(buffer), offset)
    return bytes(buffer)


@pytest.fixture
def backend(tmp_path: Path):
    opened = open_backend(make_file(tmp_path / "lun", 8 * MIB))
    assert isinstance(opened, FileBackend)
    yield opened
    opened.close()


def test_what_was_written_is_read_and_counted(backend):
    backend.write(memoryview(b"abc" * 512), 4096, fua=False)
    backend.flush()
    assert read(backend, 4096, 1536) == b"abc" * 512
    assert read(backend, 0, 4096) == bytes(4096)
    counted = backend.counters
    assert (counted.reads, counted.writes, counted.flushes, counted.errors) == (2, 1, 1, 0)
    assert (counted.read_bytes, counted.write_bytes) == (1536 + 4096, 1536)


def test_fua_write_is_read_back(backend):
    backend.write(memoryview(b"x" * 512), 512, fua=True)
    assert read(backend, 512, 512) == b"x" * 512


def test_read_past_the_end_fails_and_shows_no_zeros(backend):
    os.truncate(backend.path, 4 * MIB)
    with pytest.raises(OSError, match="ends at byte 4194304") as caught:
        read(backend, 4 * MIB - 512, 1024)
    assert caught.value.errno == errno.EIO
    assert backend.counters.errors == 1


@pytest.mark.parametrize("may_trim", [True, False])
def test_zero_reads_as_zeros_at_any_alignment(backend, may_trim):
    backend.write(memoryview(b"\xff" * MIB), MIB, fua=False)
    backend.zero(MIB + 512, 100_352, may_trim=may_trim, fua=True, fast=True)
    assert read(backend, MIB, 512) == b"\xff" * 512
    assert read(backend, MIB + 512, 100_352) == bytes(100_352)
    assert read(backend, MIB + 512 + 100_352, 512) == b"\xff" * 512


def test_zero_that_may_trim_frees_space_and_the_other_keeps_it(backend):
    path = Path(backend.path)
    backend.write(memoryview(b"\xff" * (4 * MIB)), 0, fua=True)
    backend.zero(0, MIB, may_trim=False, fua=True, fast=False)
    assert allocated_bytes(path) >= 4 * MIB
    backend.zero(0, 2 * MIB, may_trim=True, fua=True, fast=False)
    assert allocated_bytes(path) <= 2 * MIB + 65536


def test_zero_writes_zeros_where_the_file_system_cannot(backend, monkeypatch):
    monkeypatch.setattr("vimraft.data.backends.file.try_fallocate", lambda *_: False)
    backend.write(memoryview(b"\xff" * (3 * MIB)), 0, fua=False)
    with pytest.raises(OSError, match="faster") as caught:
        backend.zero(512, 2 * MIB, may_trim=True, fua=False, fast=True)
    assert caught.value.errno == errno.EOPNOTSUPP
    backend.zero(512, 2 * MIB, may_trim=True, fua=False, fast=False)
    assert read(backend, 0, 3 * MIB) == b"\xff" * 512 + bytes(2 * MIB) + b"\xff" * (MIB - 512)


def test_trim_reads_as_zeros(backend):
    backend.write(memoryview(b"\xff" * MIB), 0, fua=False)
    backend.trim(0, MIB, fua=True)
    assert read(backend, 0, MIB) == bytes(MIB)


@given(
    st.lists(st.tuples(st.integers(0, 31), st.booleans()), max_size=12),
    st.integers(0, 32),
    st.integers(0, 32),
)
def test_extents_cover_the_range_and_never_call_data_zero(tmp_path_factory, writes, first, last):
    path = tmp_path_factory.mktemp("extents") / "lun"
    backend = open_backend(make_file(path, 32 * 65536))
    model = bytearray(32)
    for block, filled in writes:
        if filled:
            backend.write(memoryview(b"\xaa" * 65536), block * 65536, fua=False)
        else:
            backend.zero(block * 65536, 65536, may_trim=True, fua=False, fast=False)
        model[block] = filled
    first, last = min(first, last), max(first, last)
    runs = backend.extents(first * 65536, (last - first) * 65536)
    backend.close()
    assert sum(length for length, _ in runs) == (last - first) * 65536
    position = first * 65536
    for length, bits in runs:
        assert length > 0
        if bits:
            assert bits == HOLE | ZERO
            assert not any(model[position // 65536 : -(-(position + length) // 65536)])
        position += length


def test_a_failed_flush_is_never_retried(backend, monkeypatch):
    calls = []

    def fail(_fd: int) -> None:
        calls.append(1)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    backend.write(memoryview(b"x" * 512), 0, fua=False)
    with pytest.raises(OSError, match="a flush failed"):
        backend.flush()
    monkeypatch.undo()
    for action in (
        backend.flush,
        lambda: backend.write(memoryview(b"x" * 512), 0, fua=False),
        lambda: backend.write(memoryview(b"x" * 512), 0, fua=True),
        lambda: backend.zero(0, 512, may_trim=True, fua=False, fast=False),
        lambda: backend.trim(0, 512, fua=False),
    ):
        with pytest.raises(OSError, match="acknowledged data may be lost") as caught:
            action()
        assert caught.value.errno == errno.EIO
    assert len(calls) == 1
    assert read(backend, 0, 512) == b"x" * 512


def test_a_failed_sync_of_a_fua_write_breaks_the_volume(backend, monkeypatch):
    real = os.pwritev

    def fail_when_synchronous(fd, buffers, offset, flags=0):
        if flags:
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, buffers, offset, flags)

    monkeypatch.setattr(os, "pwritev", fail_when_synchronous)
    with pytest.raises(OSError, match="a synchronous write failed"):
        backend.write(memoryview(b"x" * 512), 0, fua=True)
    assert backend.broken


def test_without_rwf_dsync_a_fua_write_is_followed_by_a_sync(backend, monkeypatch):
    real, synced = os.pwritev, []

    def old_kernel(fd, buffers, offset, flags=0):
        if flags:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return real(fd, buffers, offset, flags)

    monkeypatch.setattr(os, "pwritev", old_kernel)
    monkeypatch.setattr(os, "fdatasync", synced.append)
    for _ in range(2):
        backend.write(memoryview(b"x" * 512), 0, fua=True)
    assert synced == [backend.fd, backend.fd]
    assert not backend.broken


@pytest.mark.parametrize("fua", [False, True])
def test_a_full_file_system_gives_enospc_and_breaks_nothing(tmp_path, fua):
    with small_tmpfs(tmp_path / "small", "2m") as directory:
        backend = open_backend(make_file(directory / "lun", 8 * MIB))
        with pytest.raises(OSError, match="space") as caught:
            backend.write(memoryview(b"x" * (4 * MIB)), 0, fua=fua)
        assert caught.value.errno == errno.ENOSPC
        assert not backend.broken
        backend.zero(0, 4 * MIB, may_trim=True, fua=False, fast=False)
        backend.write(memoryview(b"y" * 4096), 0, fua=fua)
        backend.flush()
        backend.close()


def test_many_threads_keep_out_of_each_others_way(backend):
    problems: list[str] = []

    def work(number: int) -> None:
        mine, offset = bytes([number]) * 65536, number * 65536 * 2
        for _ in range(40):
            backend.write(memoryview(mine), offset, fua=False)
            backend.extents(0, 8 * MIB)
            if read(backend, offset, 65536) != mine:
                problems.append(f"thread {number} read what it did not write")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_read_only_refuses_every_change(tmp_path):
    backend = open_backend(make_file(tmp_path / "lun", MIB), read_only=True)
    for action in (
        lambda: backend.write(memoryview(b"x" * 512), 0, fua=False),
        lambda: backend.zero(0, 512, may_trim=True, fua=False, fast=False),
        lambda: backend.trim(0, 512, fua=False),
    ):
        with pytest.raises(OSError, match="read-only") as caught:
            action()
        assert caught.value.errno == errno.EROFS
    backend.flush()
    assert not backend.broken
    backend.close()


def test_a_file_that_is_served_cannot_be_taken_exclusively(tmp_path):
    uri = make_file(tmp_path / "lun", MIB)
    export, store = open_backend(uri), open_backend(uri)
    with pytest.raises(BackendError, match="in use"):
        open_backend(uri, exclusive=True)
    export.close()
    store.close()
    preparing = open_backend(uri, exclusive=True)
    with pytest.raises(BackendError, match="being prepared"):
        open_backend(uri)
    preparing.close()


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "directory"),
        (os.mkfifo, "not a regular file"),
        (lambda path: path.symlink_to(path), "symbolic links"),
    ],
)
def test_what_is_no_file_is_refused_with_cause_and_remedy(tmp_path, make, cause):
    make(tmp_path / "lun")
    with pytest.raises(BackendError, match=cause) as caught:
        open_backend(f"file://{tmp_path}/lun")
    assert caught.value.kind == "missing"
    assert str(tmp_path / "lun") in str(caught.value)


def test_a_path_may_hold_percent_and_blanks(tmp_path):
    make_file(tmp_path / "a b%", MIB)
    backend = open_backend(f"file://{tmp_path}/a%20b%25")
    assert backend.size_bytes == MIB
    backend.close()


@pytest.mark.parametrize(
    ("uri", "cause"),
    [
        ("", "no scheme"),
        ("/srv/lun", "no scheme"),
        ("http://host/x", "'http' is not known"),
        ("file://host/srv/lun", "names the host 'host'"),
        ("file:srv/lun", "not the absolute path"),
        ("file:///srv/", "not the absolute path"),
        ("file:///srv/a b", "blanks"),
        ("file:///srv/lun?x=1", "has a query"),
        ("file:///srv/lun#1", "fragment"),
        ("nbd:///export", "names no host"),
        ("nbd://host:99999/x", "ort"),
        ("nbd://host/x?tls-certificates=/x", "'tls-certificates' is not known"),
        ("nbd+unix:///x", "no absolute socket path"),
        ("nbd+unix://host/x?socket=/s", "names a host"),
        ("nbds+unix:///x?socket=/s&colour=red", "'colour' is not known"),
    ],
)
def test_a_bad_uri_is_named_with_its_cause(uri, cause):
    with pytest.raises(BackendError, match=cause) as caught:
        check_uri(uri)
    assert caught.value.kind == "missing"
    assert repr(uri) in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "file:///srv/lun.img",
        "file://localhost/srv/lun.img",
        "block:///dev/disk/by-id/x",
        "nbd://host/export",
        "nbd://[::1]:10809/e",
        "nbds://user@host/export?tls-certificates=/etc/pki",
        "nbd+unix:///?socket=/run/x.sock",
        "nbds+unix:///x?socket=/s&tls-psk-file=/etc/psk",
    ],
)
def test_good_uris_pass(uri):
    check_uri(uri)


class FileAsDevice(BlockBackend):
    """The arithmetic of a device with 4 KiB blocks, on a file, where loop devices are not permitted."""

    def _check_kind(self) -> None:
        self._block_bytes = 4096


@given(st.integers(0, 63), st.integers(1, 64), st.booleans())
def test_a_device_zeroes_exactly_the_range_at_any_alignment(tmp_path_factory, first, sectors, may_trim):
    path = tmp_path_factory.mktemp("device") / "lun"
    path.write_bytes(b"\xff" * 65536)
    device = FileAsDevice(str(path), f"block://{path}")
    length = min(sectors * 512, 65536 - first * 512)
    device.zero(first * 512, length, may_trim=may_trim, fua=False, fast=False)
    device.close()
    found = path.read_bytes()
    end = first * 512 + length
    assert found == b"\xff" * (first * 512) + bytes(length) + b"\xff" * (65536 - end)
