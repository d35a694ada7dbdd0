"""What a restart makes of snapshot, journal and member list, for every way a crash may leave them."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from pysyncobj import pickle
from pysyncobj.journal import FileJournal

from vimraft.core.tables import State
from vimraft.metadata.pysyncobj.config import PySyncObjConfig
from vimraft.metadata.pysyncobj.errors import CorruptData, DirectoryInUse, Misconfigured
from vimraft.metadata.pysyncobj.files import DirectoryLock
from vimraft.metadata.pysyncobj.first_members import MembersFile, fold, load_members, save_members
from vimraft.metadata.pysyncobj.first_recovery import Recovered, TrimmingJournal, recover
from vimraft.metadata.pysyncobj.first_snapshot import Snapshot, encode_snapshot

A, B, C, D = (f"127.0.0.1:{port}" for port in (1, 2, 3, 4))


def membership(kind: str, address: str) -> bytes:
    return b"\x02" + pickle.dumps([kind, address])


class Disk:
    def __init__(self, path: Path) -> None:
        self.config = PySyncObjConfig(self_address=A, members=(A, B, C), data_dir=path)
        self.config.raft_dir.mkdir(parents=True)

    def members(self, *initial: str) -> None:
        save_members(self.config.members_path, MembersFile(initial=initial, latest=initial))

    def journal(self, first: int, commands: Iterable[bytes], term: int = 1) -> None:
        journal = FileJournal(str(self.config.journal_path))
        for i, command in enumerate(commands):
            journal.add(command, first + i, term)
        journal.setCurrentTerm(term, A)
        journal._destroy()

    def snapshot(self, index: int, term: int = 1, members: tuple[str, ...] = (A, B, C)) -> None:
        entries = [(b"\x00c", number, term) for number in (index - 1, index)]
        self.config.snapshot_path.write_bytes(
            encode_snapshot(Snapshot(frozenset(members), entries[0], entries[1], State(index=index)))
        )

    def recover(self) -> Recovered:
        return recover(self.config)

    def journal_indexes(self) -> list[int]:
        journal = FileJournal(str(self.config.journal_path))
        indexes = [journal[i][1] for i in range(len(journal))]
        journal._destroy()
        return indexes


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_a_first_start_remembers_the_members_it_was_given(disk: Disk) -> None:
    assert disk.recover().members == {A, B, C}
    assert load_members(disk.config.members_path) == MembersFile(initial=(A, B, C), latest=(A, B, C))


def test_a_first_start_without_members_is_refused(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.config = PySyncObjConfig(self_address=A, data_dir=tmp_path)
    with pytest.raises(Misconfigured, match="no members"):
        disk.recover()


def test_killed_between_snapshot_and_trim_the_trim_is_finished(disk: Disk) -> None:
    """PySyncObj would clear the journal here, and lose entries 7 … 9."""
    disk.members(A, B, C)
    disk.journal(1, [b"\x00c"] * 9)
    disk.snapshot(6)
    assert disk.recover().snapshot is not None
    assert disk.journal_indexes() == [5, 6, 7, 8, 9]
    disk.recover()
    assert disk.journal_indexes() == [5, 6, 7, 8, 9]


def test_a_trim_keeps_the_rest_and_the_vote(disk: Disk) -> None:
    disk.journal(1, [b"\x00c"] * 9, term=4)
    journal = TrimmingJournal(str(disk.config.journal_path))
    journal.setRaftCommitIndex(8)
    journal.deleteEntriesTo(6)
    journal.add(b"\x00d", 10, 4)
    assert [journal[i][1] for i in range(len(journal))] == [7, 8, 9, 10]
    assert (journal.getCurrentTerm(), journal.getVotedForNodeId(), journal.getRaftCommitIndex()) == (4, A, 8)
    journal._destroy()
    assert disk.journal_indexes() == [7, 8, 9, 10]


def test_a_received_snapshot_ahead_of_the_journal_is_taken(disk: Disk) -> None:
    disk.members(A, B, C)
    disk.journal(1, [b"\x00c"] * 3)
    disk.snapshot(50, members=(A, B, C, D))
    found = disk.recover()
    assert found.snapshot is not None
    assert found.snapshot.index == 50
    assert found.members == {A, B, C, D}


def test_an_older_snapshot_than_the_journal_stops_the_start(disk: Disk) -> None:
    disk.members(A, B, C)
    disk.journal(20, [b"\x00c"] * 3)
    disk.snapshot(6)
    with pytest.raises(CorruptData, match="older"):
        disk.recover()


def test_a_lost_snapshot_stops_the_start(disk: Disk) -> None:
    disk.members(A, B, C)
    disk.journal(20, [b"\x00c"] * 3)
    with pytest.raises(CorruptData, match="missing"):
        disk.recover()


def test_a_gap_in_the_journal_stops_the_start(disk: Disk) -> None:
    disk.members(A, B, C)
    disk.journal(1, [b"\x00c"] * 2)
    disk.journal(7, [b"\x00c"])
    with pytest.raises(CorruptData, match="follow"):
        disk.recover()


def test_a_lost_vote_stops_the_start(disk: Disk) -> None:
    disk.members(A, B, C)
    disk.journal(1, [b"\x00c"] * 2)
    meta = disk.config.raft_dir / "journal.meta"
    meta.write_bytes(b"torn")
    with pytest.raises(CorruptData, match="meta"):
        disk.recover()


def test_a_lost_or_damaged_member_list_stops_the_start(disk: Disk) -> None:
    disk.journal(1, [b"\x00c"] * 2)
    with pytest.raises(CorruptData, match="missing"):
        disk.recover()
    disk.config.members_path.write_text("{")
    with pytest.raises(CorruptData, match="not a member list"):
        disk.recover()


def test_the_members_in_force_are_the_latest_in_the_log(disk: Disk) -> None:
    disk.members(A, B, C)
    disk.journal(1, [b"\x01", membership("add", D), membership("rem", B)])
    assert disk.recover().members == {A, C, D}
    disk.snapshot(2, members=(A, B, C))  # replaced by a snapshot that is not in this journal's line
    assert fold((A, B), [membership("rem", B), membership("add", B), b"\x00x"]) == {A, B}


def test_a_directory_is_open_once(tmp_path: Path) -> None:
    with DirectoryLock(tmp_path), pytest.raises(DirectoryInUse, match=str(tmp_path)):
        DirectoryLock(tmp_path)
    DirectoryLock(tmp_path).close()


@pytest.mark.parametrize(
    "changed",
    [{"heartbeat_ms": 200}, {"election_max_ms": 400}, {"heartbeat_ms": 0}, {"compaction_entries": 2}],
)
def test_options_that_contradict_each_other_are_refused(tmp_path: Path, changed: dict[str, int]) -> None:
    config = PySyncObjConfig(self_address=A, members=(A,), data_dir=tmp_path, **changed)
    with pytest.raises(Misconfigured):
        config.check()
