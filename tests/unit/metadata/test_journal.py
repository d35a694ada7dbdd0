"""The journal's promises one by one; crashes at every moment are in tests/property."""

import errno
import random

import pytest

from tests.simulation.disk import SimDisk
from vimraft.metadata.pysyncobj import records
from vimraft.metadata.pysyncobj.errors import CorruptData, SyncFailed
from vimraft.metadata.pysyncobj.journal import DurableJournal, open_journal
from vimraft.metadata.pysyncobj.records import MAX_PAYLOAD_BYTES, Header, Kind, pack_header

STAMP = b"0123456789abcdef"


def journal(disk: SimDisk, entries: int = 0) -> DurableJournal:
    made = DurableJournal(disk, stamp=STAMP)
    for index in range(1, entries + 1):
        made.add(b"\0command %d" % index, index, 1)
    made.sync()
    return made


def test_it_holds_entries_as_the_engine_keeps_them() -> None:
    made = journal(SimDisk(), 5)
    assert made[0] == (b"\0command 1", 1, 1)
    assert made[-1][1] == len(made) == 5
    assert [index for _, index, _ in made[1:3]] == [2, 3]
    made.deleteEntriesFrom(3)
    made.deleteEntriesFrom(9)
    made.deleteEntriesTo(1)
    made.deleteEntriesTo(0)
    assert [index for _, index, _ in made[:]] == [2, 3]
    assert (made.getCurrentTerm(), made.getVotedForNodeId(), made.getRaftCommitIndex()) == (0, None, 1)


def test_what_was_synced_survives_a_power_cut_and_what_was_written_survives_the_process() -> None:
    disk = SimDisk()
    made = journal(disk, 3)
    made.setCurrentTerm(7, "node b")
    made.setRaftCommitIndex(3)
    made.sync()
    made.add(b"\0x", 4, 7)
    made.write()
    made.add(b"\0y", 5, 7)
    assert made.unwritten
    disk.kill()
    again = open_journal(disk, STAMP)
    assert [index for _, index, _ in again[:]] == [1, 2, 3, 4]
    assert (again.getCurrentTerm(), again.getVotedForNodeId(), again.getRaftCommitIndex()) == (7, "node b", 3)
    assert again.synced_index == 4


def test_it_says_what_waits_for_a_sync() -> None:
    made = journal(SimDisk(), 3)
    assert [made.dirty, made.urgent, made.unwritten] == [False, False, False]
    made.setRaftCommitIndex(1)
    assert not made.dirty  # as it was
    made.setRaftCommitIndex(3)
    assert made.dirty
    assert not made.urgent
    assert (made.synced_commit, made.synced_index) == (1, 3)
    made.add(b"\0", 4, 1)
    assert made.urgent
    made.write()
    assert made.urgent
    assert made.dirty
    assert not made.unwritten
    made.sync()
    assert [made.dirty, made.urgent] == [False, False]
    assert (made.synced_commit, made.synced_index) == (3, 4)
    made.deleteEntriesFrom(1)
    assert made.synced_index == 1
    made.setCurrentTerm(0, None)
    made.sync()
    made.setCurrentTerm(2, None)
    assert made.urgent


def test_a_batch_costs_one_write_one_sync_and_one_mark() -> None:
    disk = SimDisk()
    made = journal(disk, 3)
    seen: list[tuple[str, str]] = []
    disk.on_operation = lambda name, what: seen.append((name, what))
    for index in range(4, 50):
        made.add(b"\0x", index, 1)
    made.setRaftCommitIndex(20)
    made.setCurrentTerm(2, "b")
    made.sync()
    made.sync()
    assert seen == [("journal", "pwrite"), ("journal", "datasync"), ("journal.synced", "pwrite")]


def test_after_a_failed_sync_it_does_nothing_more() -> None:
    disk = SimDisk()
    made = journal(disk, 3)
    made.add(b"\0lost", 4, 1)
    disk.fail_sync = True
    with pytest.raises(SyncFailed, match="journal: not made durable"):
        made.sync()
    disk.fail_sync = False
    for again in (made.sync, made.write, lambda: made.deleteEntriesTo(1)):
        with pytest.raises(SyncFailed, match="earlier"):
            again()
    assert made.synced_index == 3
    made._destroy()
    disk.crash(random.Random(1))
    assert len(open_journal(disk, STAMP)) == 3


def test_a_full_disk_at_every_byte_of_a_batch() -> None:
    for room in range(0, 400, 3):
        disk = SimDisk()
        made = journal(disk, 3)
        for index in range(4, 10):
            made.add(b"\0" + b"x" * 20, index, 1)
        made.setCurrentTerm(2, "b")
        disk.capacity_bytes = disk.used_bytes() + room
        full = room < made.file_bytes - len(disk.contents("journal") or b"")
        for _ in range(2):
            if full:
                with pytest.raises(OSError, match="space") as raised:
                    made.sync()
                assert raised.value.errno == errno.ENOSPC
                assert made.synced_index == 3
                assert len(made) == 9
        if room % 2:
            made.add(b"\0later", 10, 2)
        before, disk.capacity_bytes = list(made[:]), None
        made.sync()
        disk.crash(random.Random(room))
        again = open_journal(disk, STAMP)
        assert list(again[:]) == before
        assert again.getVotedForNodeId() == "b"


def test_a_full_disk_while_trimming_costs_nothing_and_the_trim_comes_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = SimDisk()
    made = journal(disk, 50)
    disk.capacity_bytes = disk.used_bytes() + 10
    made.deleteEntriesTo(20)
    assert made[0][1] == 21
    assert disk.names() == ["journal", "journal.synced"]
    assert len(open_journal(disk, STAMP)) == 50  # recovery trims it to the snapshot
    made = open_journal(disk, STAMP)
    disk.capacity_bytes = disk.used_bytes()
    made.deleteEntriesTo(48)
    disk.capacity_bytes = None
    made.sync()
    assert made.file_bytes > 1_500
    monkeypatch.setattr("vimraft.metadata.pysyncobj.journal.REWRITE_RETRY_BYTES", 100)
    disk.capacity_bytes = disk.used_bytes() + 200
    made.deleteEntriesTo(1)
    disk.capacity_bytes = None
    for index in range(51, 60):
        made.add(b"\0" + b"x" * 20, index, 1)
    made.sync()
    assert made.file_bytes < 1_000
    assert [index for _, index, _ in open_journal(disk, STAMP)[:]] == list(range(50, 60))


def test_a_received_snapshot_restarts_it() -> None:
    disk = SimDisk()
    made = journal(disk, 20)
    made.setCurrentTerm(3, "b")
    made.restart((b"\0p", 99, 2), (b"\0l", 100, 2))
    disk.crash(random.Random(1))
    again = open_journal(disk, STAMP)
    assert again[:] == [(b"\0p", 99, 2), (b"\0l", 100, 2)]
    assert (again.getCurrentTerm(), again.getVotedForNodeId(), again.getRaftCommitIndex()) == (3, "b", 100)
    assert len(disk.contents("journal") or b"") < 300


def test_a_commit_index_beyond_the_end_is_not_believed() -> None:
    disk = SimDisk()
    made = journal(disk, 5)
    made.setRaftCommitIndex(9)
    made.sync()
    assert open_journal(disk, STAMP).getRaftCommitIndex() == 5


def test_a_gap_stops_the_start() -> None:
    disk = SimDisk()
    made = journal(disk, 5)
    made.add(b"\0", 7, 1)
    made.sync()
    with pytest.raises(CorruptData, match="entry 7 follows entry 5"):
        open_journal(disk, STAMP)


@pytest.mark.parametrize(("serial", "shift", "taken"), [(2, 0, True), (1, 0, False), (2, 1, False)])
def test_records_of_another_file_or_place_are_not_taken(serial: int, shift: int, taken: bool) -> None:
    """The disk may hand out blocks that held something else before."""
    disk = SimDisk()
    made = journal(disk, 30)
    made.deleteEntriesTo(1)
    data = disk.contents("journal") or b""
    payload = records.entry_payload((b"\0old", 31, 1))
    disk.put("journal", data + records.pack(Kind.ENTRY, payload, serial, len(data) + shift))
    assert len(open_journal(disk, STAMP)) == (30 if taken else 29)


def test_what_was_cut_off_as_torn_does_not_come_back_behind_what_replaces_it() -> None:
    disk = SimDisk()
    made = journal(disk, 3)
    begin = made.file_bytes
    for index in (4, 5):
        made.add(b"\0old", index, 1)
    made.write()
    data = bytearray(disk.contents("journal") or b"")
    # The page with entry 4 was lost, the one with entry 5 was not.
    middle = begin + (len(data) - begin) // 2
    data[middle - 8 : middle - 4] = bytes(4)
    disk.put("journal", bytes(data))
    again = open_journal(disk, STAMP)
    assert again[-1][1] == 3
    again.add(b"\0new", 4, 2)
    again.write()
    assert len(disk.contents("journal") or b"") == again.file_bytes < len(data)
    disk.kill()
    assert [entry[1:] for entry in open_journal(disk, STAMP)[:]] == [(1, 1), (2, 1), (3, 1), (4, 2)]


def test_another_format_or_node_stops_the_start() -> None:
    disk = SimDisk()
    journal(disk, 1)
    with pytest.raises(CorruptData, match="another node"):
        open_journal(disk, b"x" * 16)
    data = disk.contents("journal") or b""
    header = pack_header(Header(1, 0, STAMP))
    for bad, words in (
        (b"PYSYNCOBJ" + bytes(60), "not a journal"),
        (b"", "no journal"),
        (data[:20] + b"!" + data[21:], "header"),
        (header[:8] + b"\x63" + header[9:], "header"),
    ):
        disk.put("journal", bad)
        with pytest.raises(CorruptData, match=words):
            open_journal(disk, STAMP)
    disk.remove("journal")
    for opening in (lambda: open_journal(disk, STAMP), lambda: DurableJournal(disk, stamp=STAMP)):
        with pytest.raises(CorruptData, match="missing"):
            opening()


def test_a_record_that_no_reader_would_take_is_never_written() -> None:
    made = journal(SimDisk())
    with pytest.raises(ValueError, match="record"):
        made.add(bytes(MAX_PAYLOAD_BYTES), 1, 1)
    assert len(made) == 0
    assert not made.dirty
