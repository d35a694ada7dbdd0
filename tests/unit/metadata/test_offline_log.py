"""The log of a stopped manager: looked at without touching it, and made anew as a generation of its own."""

import hashlib
from pathlib import Path

import pytest

from tests.backup_cases import busy_tables
from vimraft.core import codec
from vimraft.core.commands import Barrier, Request
from vimraft.core.rebirth import reborn
from vimraft.metadata.pysyncobj import offline
from vimraft.metadata.pysyncobj.config import PySyncObjConfig
from vimraft.metadata.pysyncobj.disk import OsDisk
from vimraft.metadata.pysyncobj.members import encode_change
from vimraft.metadata.pysyncobj.recovery import recover
from vimraft.metadata.pysyncobj.scratch import ScratchDisk

ME = "127.0.0.1:1001"


def config(directory: Path) -> PySyncObjConfig:
    return PySyncObjConfig(self_address=ME, members=(ME,), data_dir=directory, allow_plaintext=True)


def contents(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file()
    }


def write(directory: Path, state, **given):
    offline.write_generation(
        directory / "raft",
        state,
        **{"self_address": ME, "cluster": "c", "generation": 2, "after": None} | given,
    )


def test_there_is_no_log_in_an_empty_directory_or_beside_a_lock(tmp_path):
    assert offline.read_log(config(tmp_path)) is None
    (tmp_path / "raft").mkdir()
    (tmp_path / "raft" / "lock").touch()
    assert offline.read_log(config(tmp_path)) is None


def test_a_generation_holds_its_tables_and_one_voter(tmp_path):
    state = reborn(busy_tables().state, at_ms=1, who="me", what="restored")
    write(tmp_path, state)
    found = offline.read_log(config(tmp_path))
    assert found is not None
    assert found.state == found.committed == state
    assert found.voters == found.members == (ME,)
    assert (found.identity.cluster, found.identity.generation) == ("c", 2)
    assert offline.generation_of(tmp_path / "raft") == 2


def test_looking_changes_nothing_and_tells_decided_from_undecided(tmp_path):
    state = busy_tables().state
    write(tmp_path, state)
    found = recover(OsDisk(tmp_path / "raft"), config(tmp_path))
    for number, index in enumerate(range(4, 7)):
        data = codec.encode_request(Request("c", number, 0, "me", Barrier()), state.level)
        found.journal.add(b"\x00" + data, index, 1)
    found.journal.setRaftCommitIndex(5)
    found.journal.write()
    found.journal.sync()
    found.journal._destroy()
    before = contents(tmp_path)
    read = offline.read_log(config(tmp_path))
    assert contents(tmp_path) == before
    assert read is not None
    assert (read.state.index, read.committed.index, read.undecided) == (state.index + 3, state.index + 2, 1)
    assert (read.last_index, read.term) == (6, 1)


def test_members_that_were_in_the_log_are_not_in_the_generation_after_it(tmp_path):
    state = busy_tables().state
    (tmp_path / "a").mkdir()
    write(tmp_path / "a", state)
    found = recover(OsDisk(tmp_path / "a" / "raft"), config(tmp_path / "a"))
    found.journal.add(encode_change("add", "127.0.0.1:1002", "x"), 4, 1)
    found.journal.setRaftCommitIndex(4)
    found.journal.sync()
    found.journal._destroy()
    survivor = offline.read_log(config(tmp_path / "a"))
    assert survivor is not None
    assert len(survivor.voters) == 2
    (tmp_path / "b").mkdir()
    write(tmp_path / "b", state, generation=3, after=survivor)
    after = offline.read_log(config(tmp_path / "b"))
    assert after is not None
    assert after.voters == (ME,)
    assert after.last_index == 4


def test_a_scratch_disk_keeps_changes_to_itself(tmp_path):
    (tmp_path / "kept").write_bytes(b"old")
    (tmp_path / "gone").write_bytes(b"x")
    disk = ScratchDisk(OsDisk(tmp_path))
    file = disk.open("kept")
    file.pwrite(b"NEW!", 1)
    assert disk.open("kept").pread(10, 0) == b"oNEW!"
    disk.remove("gone")
    assert not disk.exists("gone")
    disk.rename("kept", "moved")
    assert disk.open("moved").size() == 5
    with pytest.raises(FileNotFoundError):
        disk.open("kept")
    assert (tmp_path / "kept").read_bytes() == b"old"
    assert (tmp_path / "gone").exists()
