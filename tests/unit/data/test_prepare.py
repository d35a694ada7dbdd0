"""Taking files and devices into use."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.storage_fixture import (
    LABEL,
    MIB,
    allocated_bytes,
    loop_device,
    make_file,
    mounted,
    needs,
    prepare_now,
    request,
    run,
    small_tmpfs,
    spec,
)
from vimraft.data import prepare as prepare_module
from vimraft.data.backends.base import BackendError
from vimraft.data.backends.block import BlockBackend
from vimraft.data.backends.open import open_backend
from vimraft.data.label import read_label, verify_label
from vimraft.data.prepare import Cancelled, prepare, zero_range
from vimraft.data.probe import probe


def never() -> bool:
    return False


def refused(uri: str, **more: object) -> BackendError:
    with pytest.raises(BackendError) as caught:
        prepare_now(uri, **more)
    assert uri in str(caught.value)
    return caught.value


def content(path: Path) -> bytes:
    return path.read_bytes()[MIB:]


def test_a_sparse_file_is_made_on_request(tmp_path):
    made = prepare_now(f"file://{tmp_path}/lun", size_bytes=64 * MIB)
    assert (made.capacity_units, made.size_bytes) == (63, 64 * MIB)
    path = tmp_path / "lun"
    assert path.stat().st_size == 64 * MIB
    assert path.stat().st_mode & 0o777 == 0o600
    assert allocated_bytes(path) <= 2 * MIB


def test_a_preallocated_file_has_all_its_blocks(tmp_path):
    prepare_now(f"file://{tmp_path}/lun", size_bytes=16 * MIB, preallocate=True)
    assert allocated_bytes(tmp_path / "lun") >= 16 * MIB


def test_an_existing_blank_file_is_taken_as_it_is(tmp_path):
    uri = make_file(tmp_path / "lun", 10 * MIB + 512)
    made = prepare_now(uri)
    assert (made.capacity_units, made.size_bytes) == (9, 10 * MIB + 512)


def test_an_existing_sparse_file_gets_its_blocks_when_asked(tmp_path):
    uri = make_file(tmp_path / "lun", 8 * MIB)
    prepare_now(uri, preallocate=True)
    assert allocated_bytes(tmp_path / "lun") >= 8 * MIB


def test_progress_runs_from_nothing_to_all(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, "CHUNK_BYTES", MIB)
    steps: list[tuple[int, int]] = []
    prepare(
        request(f"file://{tmp_path}/lun", size_bytes=5 * MIB), MIB, lambda *step: steps.append(step), never
    )
    assert steps == [(done * MIB, 4 * MIB) for done in range(5)]


@pytest.mark.parametrize(
    ("size_bytes", "uri_end", "cause"),
    [
        (None, "lun", "does not exist; check the path, or give --size"),
        (MIB, "lun", "too small; at least 2097152"),
        (4 * MIB, "no/such/lun", "mkdir -p"),
    ],
)
def test_a_file_that_cannot_be_made_is_explained(tmp_path, size_bytes, uri_end, cause):
    error = refused(f"file://{tmp_path}/{uri_end}", size_bytes=size_bytes)
    assert error.kind == "missing"
    assert cause in str(error)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_size_is_not_resized(tmp_path):
    uri = make_file(tmp_path / "lun", 4 * MIB)
    assert "4194304 bytes instead of 8388608" in str(refused(uri, size_bytes=8 * MIB))
    prepare_now(uri, size_bytes=4 * MIB)


def test_a_file_that_is_too_small_is_refused(tmp_path):
    assert "at least 2097152 are needed" in str(refused(make_file(tmp_path / "lun", 2 * MIB - 1)))


def test_a_real_volume_of_ours_is_refused_and_named(tmp_path):
    uri = f"file://{tmp_path}/lun"
    prepare_now(uri, size_bytes=4 * MIB)
    before = (tmp_path / "lun").read_bytes()
    error = refused(uri)
    assert error.kind == "label"
    assert "the label of real volume s1:0 of vimraft cluster cluster-1" in str(error)
    assert "--force" in str(error)
    assert (tmp_path / "lun").read_bytes() == before


def test_force_takes_it_and_leaves_only_zeros_behind(tmp_path):
    uri = f"file://{tmp_path}/lun"
    prepare_now(uri, size_bytes=4 * MIB)
    with open(tmp_path / "lun", "r+b") as file:
        file.seek(2 * MIB)
        file.write(b"secret" * 1000)
    prepare(request(uri, force=True), MIB, lambda _done, _total: None, never)
    assert content(tmp_path / "lun") == bytes(3 * MIB)
    backend = open_backend(uri)
    assert verify_label(backend, spec(uri)).label_id == LABEL
    backend.close()


def test_a_half_damaged_label_is_still_ours_and_refused(tmp_path):
    uri = f"file://{tmp_path}/lun"
    prepare_now(uri, size_bytes=4 * MIB)
    with open(tmp_path / "lun", "r+b") as file:
        file.write(bytes(4096))
    assert "the label of real volume" in str(refused(uri))
    with open(tmp_path / "lun", "r+b") as file:
        file.seek(MIB // 2 + 50)
        file.write(b"###")
    assert "damaged" in str(refused(uri))


def write_signature(at: int, signature: bytes):
    def make(path: Path) -> None:
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(signature)

    return make


def make_ext4(path: Path) -> None:
    needs("mkfs.ext4")
    run("mkfs.ext4", "-q", "-F", "-L", "precious", str(path))


def make_swap(path: Path) -> None:
    needs("mkswap")
    run("mkswap", str(path))


MBR = bytes(4) + b"\x83" + bytes(3) + b"\x00\x08\x00\x00\x00\x20\x00\x00" + bytes(48) + b"\x55\xaa"


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (make_ext4, "ext4 (file system) named 'precious'"),
        (make_swap, "swap"),
        (write_signature(0, b"LUKS\xba\xbe\x00\x01"), "crypto_LUKS"),
        (write_signature(0, b"XFSB\x00\x00\x10\x00"), "data (byte 0 is not zero)"),
        (write_signature(0, b"QFI\xfb\x00\x00\x00\x03"), "a qcow2 disk image"),
        (write_signature(446, MBR), "a partition table (dos)"),
        (write_signature(3 * MIB, b"\x01"), "data (byte 3145728 is not zero)"),
        (write_signature(8 * MIB - 1, b"\x01"), "data (byte 8388607 is not zero)"),
    ],
)
def test_content_is_named_and_refused(tmp_path, make, named):
    uri = make_file(tmp_path / "lun", 8 * MIB)
    make(tmp_path / "lun")
    before = (tmp_path / "lun").read_bytes()
    error = refused(uri)
    assert error.kind == "label"
    assert f"carries {named}" in str(error)
    assert (tmp_path / "lun").read_bytes() == before


def test_a_blank_file_carries_nothing(tmp_path):
    uri = make_file(tmp_path / "lun", 8 * MIB)
    (tmp_path / "zeros").write_bytes(bytes(3 * MIB))
    for path in (uri, f"file://{tmp_path}/zeros"):
        backend = open_backend(path, read_only=True)
        assert probe(backend) == ""
        backend.close()


def test_cancelling_leaves_no_file_of_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, "CHUNK_BYTES", MIB)
    answers = iter([False, False, True])
    with pytest.raises(Cancelled):
        prepare(
            request(f"file://{tmp_path}/lun", size_bytes=8 * MIB),
            MIB,
            lambda _done, _total: None,
            lambda: next(answers),
        )
    assert list(tmp_path.iterdir()) == []


def test_cancelling_with_force_leaves_no_label(tmp_path):
    uri = f"file://{tmp_path}/lun"
    prepare_now(uri, size_bytes=4 * MIB)
    with pytest.raises(Cancelled):
        prepare(request(uri, force=True), MIB, lambda _done, _total: None, lambda: True)
    backend = open_backend(uri)
    assert read_label(backend) is None
    backend.close()


KILLED_WHILE_ZEROING = """
import sys
from vimraft.data import prepare
prepare.CHUNK_BYTES = 1 << 20
def progress(done, total):
    if done:
        print("zeroing", flush=True)
        sys.stdin.read()
request = prepare.PrepareRequest(
    uri=sys.argv[1], storage="s1", lun=0, cluster_id="c", label_id="l", force=True)
prepare.prepare(request, 1 << 20, progress, lambda: False)
"""


def test_killed_while_zeroing_leaves_no_label_and_can_be_repeated(tmp_path):
    uri = f"file://{tmp_path}/lun"
    prepare_now(uri, size_bytes=4 * MIB)
    with open(tmp_path / "lun", "r+b") as file:
        file.seek(MIB)
        file.write(b"\xff" * (3 * MIB))
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED_WHILE_ZEROING, uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"zeroing\n"
    with pytest.raises(BackendError, match="in use"):
        prepare_now(uri, force=True)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    backend = open_backend(uri)
    with pytest.raises(BackendError, match="carries no vimraft label"):
        verify_label(backend, spec(uri))
    backend.close()
    prepare_now(uri, force=True)
    assert content(tmp_path / "lun") == bytes(3 * MIB)


def test_a_full_file_system_is_told_and_nothing_stays(tmp_path):
    with small_tmpfs(tmp_path / "small", "2m") as directory:
        error = refused(f"file://{directory}/lun", size_bytes=8 * MIB, preallocate=True)
        assert error.kind == "io"
        assert "No space left" in str(error)
        assert "free space there" in str(error)
        assert list(directory.iterdir()) == []


def test_a_disk_that_fills_up_while_the_label_is_written_leaves_nothing(tmp_path):
    with small_tmpfs(tmp_path / "small", "64k") as directory:
        (directory / "other").write_bytes(bytes(65536))
        error = refused(f"file://{directory}/lun", size_bytes=8 * MIB)
        assert "No space left" in str(error)
        assert [path.name for path in directory.iterdir()] == ["other"]


def test_a_read_only_file_system_is_told(tmp_path):
    with small_tmpfs(tmp_path / "small", "8m") as directory:
        make_file(directory / "lun", 4 * MIB)
        run("mount", "-o", "remount,ro", str(directory))
        assert "read-only file system; mount it read-write" in str(refused(f"file://{directory}/lun"))


def test_a_failing_disk_leaves_no_label(tmp_path, monkeypatch):
    uri = make_file(tmp_path / "lun", 4 * MIB)

    def fail(_fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    assert "preparing it failed: Input/output error" in str(refused(uri))
    monkeypatch.undo()
    backend = open_backend(uri)
    assert read_label(backend) is None
    backend.close()


def test_zeroing_a_range_touches_nothing_else_and_is_flushed(tmp_path):
    (tmp_path / "lun").write_bytes(b"\xff" * (6 * MIB))
    backend = open_backend(f"file://{tmp_path}/lun")
    steps: list[tuple[int, int]] = []
    zero_range(backend, 2 * MIB, 3 * MIB, lambda *step: steps.append(step))
    assert steps[-1] == (3 * MIB, 3 * MIB)
    assert backend.counters.flushes == 1
    backend.close()
    found = (tmp_path / "lun").read_bytes()
    assert found == b"\xff" * (2 * MIB) + bytes(3 * MIB) + b"\xff" * MIB


# Block devices


def test_a_block_device_is_recognized_prepared_and_served(tmp_path):
    (tmp_path / "disk").write_bytes(bytes(2 * MIB) + b"\xff" * (6 * MIB))
    with loop_device(tmp_path / "disk") as device:
        for uri in (f"block://{device}", f"file://{device}"):
            assert prepare_now(uri, force=True).capacity_units == 7
            backend = open_backend(uri)
            assert isinstance(backend, BlockBackend)
            assert verify_label(backend, spec(uri)).capacity_bytes == 7 * MIB
            backend.write(memoryview(b"data" * 128), MIB, fua=True)
            backend.write(memoryview(b"more" * 1024), 2 * MIB, fua=False)
            backend.zero(2 * MIB + 512, 1024, may_trim=False, fua=False, fast=False)
            backend.trim(3 * MIB, MIB, fua=False)
            backend.flush()
            assert backend.extents(0, 8 * MIB) == [(8 * MIB, 0)]
            buffer = bytearray(2048)
            backend.read_into(memoryview(buffer), 2 * MIB)
            assert buffer == b"more" * 128 + bytes(1024) + b"more" * 128
            backend.close()
    assert (tmp_path / "disk").read_bytes()[MIB : MIB + 512] == b"data" * 128


def test_a_mounted_device_is_refused(tmp_path):
    needs("mkfs.ext4")
    make_file(tmp_path / "disk", 16 * MIB)
    run("mkfs.ext4", "-q", "-F", str(tmp_path / "disk"))
    with loop_device(tmp_path / "disk") as device, mounted(tmp_path / "mnt", device):
        error = refused(f"block://{device}", force=True)
        assert "in use (mounted" in str(error)


def test_a_file_behind_a_loop_device_is_refused(tmp_path):
    uri = make_file(tmp_path / "disk", 4 * MIB)
    with loop_device(tmp_path / "disk") as device:
        error = refused(uri, force=True)
        assert f"is in use as {device}; release it with: losetup -d {device}" in str(error)


def test_a_write_protected_device_is_refused(tmp_path):
    make_file(tmp_path / "disk", 4 * MIB)
    with loop_device(tmp_path / "disk", "--read-only") as device:
        error = refused(f"block://{device}", force=True)
        assert "blockdev --setrw" in str(error)


def test_a_device_with_4_kib_blocks_zeroes_what_it_is_asked_to(tmp_path):
    (tmp_path / "disk").write_bytes(b"\xff" * (4 * MIB))
    with loop_device(tmp_path / "disk", "--sector-size", "4096") as device:
        backend = open_backend(f"block://{device}")
        backend.zero(512, 16_384, may_trim=True, fua=True, fast=False)
        backend.close()
    expected = b"\xff" * 512 + bytes(16_384)
    assert (tmp_path / "disk").read_bytes()[: 512 + 16_384 + 1] == expected + b"\xff"


def test_a_device_that_does_not_exist_is_not_made_as_a_file(tmp_path):
    error = refused(f"block://{tmp_path}/disk", size_bytes=4 * MIB)
    assert "does not exist; check the path" in str(error)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_block_device(tmp_path):
    make_file(tmp_path / "lun", 4 * MIB)
    assert "is not a block device; use file://" in str(refused(f"block://{tmp_path}/lun"))


def test_a_device_that_vanishes_under_i_o_gives_an_error(tmp_path):
    (tmp_path / "disk").write_bytes(b"\xff" * (4 * MIB))
    with loop_device(tmp_path / "disk") as device:
        backend = open_backend(f"block://{device}")
        os.truncate(tmp_path / "disk", MIB)
        run("losetup", "--set-capacity", device)
        with pytest.raises(OSError, match="ends at byte"):
            backend.read_into(memoryview(bytearray(4096)), 3 * MIB)
        backend.close()
