"""The backup file: whole or refused, and readable by every later release."""

import os
import random
from pathlib import Path

import pytest

from tests.backup_cases import busy_tables, header_of
from vimraft.core import codec
from vimraft.metadata import backup
from vimraft.metadata.backup import BadBackup, decode_backup, encode_backup
from vimraft.metadata.pysyncobj.disk import OsDisk

FIXTURE = Path(__file__).parents[2] / "fixtures" / "backup1.vimraft-backup"


@pytest.fixture(scope="module")
def state():
    return busy_tables().state


def test_what_was_backed_up_comes_back(state):
    found = decode_backup(encode_backup(header_of(state), state), "b")
    assert found.state == state
    assert found.header == header_of(state)
    assert backup.problems(found) == []


def test_a_backup_of_the_first_format_is_read():
    found = decode_backup(FIXTURE.read_bytes(), "b")
    assert codec.state_digest(found.state) == (
        "ef61a3db5bce5ce045c8d85ef6c1def2713901ce0446f5ab7c09d210bdbc8ddc"
    )
    assert found.header == header_of(found.state)
    assert backup.problems(found) == []


def test_every_flipped_byte_and_every_cut_is_noticed(state):
    data = encode_backup(header_of(state), state)
    rng = random.Random(7)
    for at in {*range(60), len(data) - 1, *rng.sample(range(len(data)), 200)}:
        damaged = bytearray(data)
        damaged[at] ^= 1 << rng.randrange(8)
        with pytest.raises(BadBackup, match=r"^b: "):
            decode_backup(bytes(damaged), "b")
    for length in (0, 1, 16, 31, 32, 40, len(data) // 2, len(data) - 1):
        with pytest.raises(BadBackup):
            decode_backup(data[:length], "b")
    with pytest.raises(BadBackup):
        decode_backup(data + b"\0", "b")


def test_a_copy_made_as_text_is_recognised(state):
    data = encode_backup(header_of(state), state).replace(b"\r\n", b"\n")
    with pytest.raises(BadBackup, match="copied as text"):
        decode_backup(data, "b")


def test_a_file_that_is_none_and_a_later_format_say_what_to_do(state):
    with pytest.raises(BadBackup, match="vimraft meta backup"):
        decode_backup(b"#!/bin/sh\n", "b")
    data = bytearray(encode_backup(header_of(state), state))
    data[16] = 9
    with pytest.raises(BadBackup, match="format 9, this release reads 1"):
        decode_backup(bytes(data), "b")


def test_writing_leaves_a_whole_file_for_its_owner_only(tmp_path, state):
    data = encode_backup(header_of(state), state)
    (tmp_path / "x.vimraft-backup.new").write_bytes(b"y" * (len(data) + 50))
    backup.write_backup(OsDisk(tmp_path), "x.vimraft-backup", data)
    assert (tmp_path / "x.vimraft-backup").read_bytes() == data
    assert os.listdir(tmp_path) == ["x.vimraft-backup"]


class FullDisk(OsDisk):
    def open(self, name, *, create=False):
        file = super().open(name, create=create)
        file.pwrite = self._full
        return file

    def _full(self, data, offset):
        raise OSError(28, "No space left on device")


def test_a_full_disk_leaves_the_backup_before_and_no_rest(tmp_path, state):
    (tmp_path / "x").write_bytes(b"before")
    with pytest.raises(OSError, match="No space"):
        backup.write_backup(FullDisk(tmp_path), "x", encode_backup(header_of(state), state))
    assert os.listdir(tmp_path) == ["x"]
    assert (tmp_path / "x").read_bytes() == b"before"


def test_names_sort_by_time_and_say_what_is_inside(state):
    name = backup.file_name(header_of(state, kind="before-upgrade"))
    named = backup.parse_name(name)
    assert named is not None
    assert (named.generation, named.log_index, named.kind) == (1, state.index, "before-upgrade")
    assert name.startswith(named.when)
    assert backup.parse_name("notes.txt") is None
    assert backup.parse_name(name + ".new") is None
