"""Labels: two copies, one truth."""

import errno
from pathlib import Path

import pytest

from tests.storage_fixture import CLUSTER, LABEL, MIB, make_file, prepare_now, spec
from vimraft.data.backends.base import BackendError
from vimraft.data.backends.file import FileBackend
from vimraft.data.label import COPY_OFFSETS, Label, encode_label, read_label, verify_label, write_label

A_LABEL = Label(cluster_id=CLUSTER, label_id=LABEL, real="s1:0", capacity_bytes=3 * MIB, created_ms=1)


@pytest.fixture
def backend(tmp_path: Path):
    make_file(tmp_path / "lun", 4 * MIB)
    opened = FileBackend(str(tmp_path / "lun"), f"file://{tmp_path}/lun")
    yield opened
    opened.close()


def damage(backend: FileBackend, copy: int, at: int = 40) -> None:
    backend.write(memoryview(b"#"), COPY_OFFSETS[copy] + at, fua=False)


def test_a_blank_device_has_no_label(backend):
    assert read_label(backend) is None


def test_a_label_is_read_as_it_was_written(backend):
    write_label(backend, A_LABEL)
    assert read_label(backend) == A_LABEL


@pytest.mark.parametrize("at", [0, 16, 20, 24, 30, 100])
@pytest.mark.parametrize("copy", [0, 1])
def test_one_damaged_copy_is_made_up_for_by_the_other(backend, copy, at):
    write_label(backend, A_LABEL)
    damage(backend, copy, at)
    assert read_label(backend) == A_LABEL


def test_an_unreadable_copy_is_made_up_for_by_the_other(backend, monkeypatch):
    write_label(backend, A_LABEL)
    real = backend.read_into

    def bad_sector(buffer, offset):
        if offset == 0:
            raise OSError(errno.EIO, "Input/output error")
        real(buffer, offset)

    monkeypatch.setattr(backend, "read_into", bad_sector)
    assert read_label(backend) == A_LABEL


def test_two_damaged_copies_are_an_error_not_a_blank_device(backend):
    write_label(backend, A_LABEL)
    damage(backend, 0)
    damage(backend, 1)
    with pytest.raises(BackendError, match="wrong checksum") as caught:
        read_label(backend)
    assert caught.value.kind == "label"


def test_a_label_of_a_later_format_is_named(backend):
    block = bytearray(encode_label(A_LABEL))
    block[19] = 9
    for offset in COPY_OFFSETS:
        backend.write(memoryview(block), offset, fua=False)
    with pytest.raises(BackendError, match="format 9, this release reads 1"):
        read_label(backend)


def test_copies_that_contradict_each_other_are_refused(backend):
    write_label(backend, A_LABEL)
    other = Label(cluster_id="cluster-2", label_id="x", real="s9:1", capacity_bytes=1, created_ms=1)
    backend.write(memoryview(encode_label(other)), COPY_OFFSETS[1], fua=False)
    with pytest.raises(BackendError, match="contradict"):
        read_label(backend)


def test_a_label_survives_the_loss_of_everything_between(backend):
    write_label(backend, A_LABEL)
    backend.zero(4096, COPY_OFFSETS[1] + 4096, may_trim=True, fua=True, fast=False)
    assert read_label(backend) == A_LABEL


def test_a_write_that_does_not_stick_is_noticed(backend, monkeypatch):
    monkeypatch.setattr(backend, "write", lambda data, offset, fua: None)
    with pytest.raises(BackendError, match="reads back differently"):
        write_label(backend, A_LABEL)


def test_the_right_label_is_accepted(backend):
    write_label(backend, A_LABEL)
    assert verify_label(backend, spec(backend.uri)).real == "s1:0"


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"cluster_id": "cluster-2"}, "belongs to vimraft cluster cluster-1, not to cluster-2"),
        ({"label_id": "label-2"}, "carries the label label-1 of real volume s1:0, expected label-2"),
        ({"capacity_bytes": 4 * MIB}, "was shortened"),
    ],
)
def test_a_foreign_label_is_refused_with_what_was_expected(backend, changes, cause):
    write_label(backend, A_LABEL)
    with pytest.raises(BackendError, match=cause) as caught:
        verify_label(backend, spec(backend.uri, **changes))
    assert caught.value.kind == "label"
    assert "s1:0" in str(caught.value)
    assert backend.uri in str(caught.value)


def test_a_missing_label_is_refused(backend):
    with pytest.raises(BackendError, match="carries no vimraft label") as caught:
        verify_label(backend, spec(backend.uri))
    assert caught.value.kind == "label"


def test_a_prepared_volume_passes_its_check(tmp_path):
    uri = f"file://{tmp_path}/made"
    prepare_now(uri, size_bytes=4 * MIB)
    backend = FileBackend(f"{tmp_path}/made", uri)
    assert verify_label(backend, spec(uri)).capacity_bytes == 3 * MIB
    backend.close()
