"""The record file of a store: what survives, who may have it, under which names it is found."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plane import eventually
from vimraft.core.ids import LocalName
from vimraft.data.copies import record_file
from vimraft.data.copies.record_file import (
    Disk,
    RecordBusy,
    RecordError,
    RecordFile,
    open_record,
    parse,
    remove_records,
)
from vimraft.protocol.regions import (
    Change,
    Cleared,
    Doubted,
    Dropped,
    FloorRaised,
    Identified,
    Marked,
    Merged,
    StoreRecord,
    Tagged,
)

A, B = LocalName("A"), LocalName("B")
SOME: tuple[tuple[Change, ...], ...] = (
    (FloorRaised(3), Identified(A, "first")),
    (Marked(A, (1, 2, 70_000), 4),),
    (Cleared(A, (1,)), Tagged(B, (9,), 5), Doubted(B, "boot")),
)


class WorseDisk(Disk):
    """Fails from the n-th write or sync on; what was written until then stays."""

    def __init__(self, *, writes: int = 1 << 30, syncs: int = 1 << 30, directories: int = 1 << 30) -> None:
        self.left = {"write": writes, "sync": syncs, "directory": directories}
        self.number = errno.EIO

    def _use(self, what: str) -> None:
        self.left[what] -= 1
        if self.left[what] < 0:
            raise OSError(self.number, os.strerror(self.number))

    def write(self, fd: int, data: bytes, offset: int) -> None:
        try:
            self._use("write")
        except OSError:
            super().write(fd, data[: len(data) // 2], offset)
            raise
        super().write(fd, data, offset)

    def sync(self, fd: int) -> None:
        self._use("sync")
        super().sync(fd)

    def sync_directory(self, path: Path) -> None:
        self._use("directory")
        super().sync_directory(path)


def said(*batches: tuple[Change, ...]) -> tuple[Change, ...]:
    return StoreRecord.of(change for batch in batches for change in batch).changes()


def loaded(directory: Path, volume: str = "v", *copies: str) -> tuple[Change, ...]:
    record = open_record(directory, volume, copies or ("A", "B"))
    try:
        return record.load().changes()
    finally:
        record.close()


def filled(directory: Path, *batches: tuple[Change, ...]) -> Path:
    record = open_record(directory, "v", ("A", "B"))
    for batch in batches or SOME:
        assert record.keep(batch)
    record.close()
    return record.path


# --- what survives ------------------------------------------------------------------------------
def test_what_was_kept_is_there_after_a_restart(tmp_path: Path) -> None:
    filled(tmp_path)
    assert loaded(tmp_path) == said(*SOME)
    assert loaded(tmp_path) == said(*SOME)


def test_a_new_record_is_empty(tmp_path: Path) -> None:
    assert loaded(tmp_path / "deeper" / "copies") == ()


def test_a_power_cut_at_any_byte_leaves_whole_batches_from_the_beginning(tmp_path: Path) -> None:
    path = filled(tmp_path / "one")
    data = path.read_bytes()
    header = 0
    while len(data) and not _parses(data[:header]):
        header += 1
    ends = [header]
    for cut in range(header, len(data) + 1):
        found = parse(data[:cut], "x")
        if found.end != ends[-1]:
            ends.append(found.end)
            assert found.end == cut
        whole = len(ends) - 2  # the frame that an opening writes is empty here
        assert StoreRecord.of(found.changes).changes() == said(*SOME[: max(0, whole)])
    assert len(ends) == len(SOME) + 2


def _parses(data: bytes) -> bool:
    try:
        parse(data, "x")
    except RecordError:
        return False
    return True


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_torn_last_batch_is_cut_off_and_what_follows_is_kept(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("r")
    path = filled(directory, *SOME[:2])
    whole = path.stat().st_size
    record = open_record(directory, "v", ("A", "B"))
    whole = path.stat().st_size
    assert record.keep(SOME[2])
    record.close()
    image = bytearray(path.read_bytes())
    garbage = data.draw(st.binary(min_size=0, max_size=len(image) - whole))
    torn = image[:whole] + garbage if data.draw(st.booleans()) else image[: whole + len(garbage)]
    path.write_bytes(torn)
    expected = said(*SOME[:2]) if bytes(torn) != bytes(image) else said(*SOME)
    record = open_record(directory, "v", ("A", "B"))
    assert record.load().changes() == expected
    assert record.keep((FloorRaised(99),))
    record.close()
    assert loaded(directory)[0] == FloorRaised(99)


def test_damage_before_whole_batches_is_refused_with_a_remedy(tmp_path: Path) -> None:
    record = open_record(tmp_path, "v", ("A", "B"))
    assert record.keep(SOME[0])
    assert record.keep(SOME[1])
    path, last = record.path, record.path.stat().st_size
    assert record.keep(SOME[2])
    record.close()
    image = bytearray(path.read_bytes())
    for at in range(last):
        damaged = bytearray(image)
        damaged[at] ^= 0x55
        with pytest.raises(RecordError, match="remove the file"):
            parse(bytes(damaged), str(path))


def test_a_batch_whose_sync_failed_is_not_promised_and_nothing_after_it_is(tmp_path: Path) -> None:
    filled(tmp_path, SOME[0])
    record = open_record(tmp_path, "v", ("A",), WorseDisk(syncs=2))
    assert record.keep(SOME[1])
    assert not record.keep(SOME[2])
    assert not record.keep((FloorRaised(50),))
    assert "Input/output error" in record.failed
    record.close()
    assert loaded(tmp_path) in (said(*SOME[:2]), said(*SOME))


def test_a_full_disk_promises_nothing_and_loses_nothing(tmp_path: Path) -> None:
    filled(tmp_path, SOME[0])
    disk = WorseDisk(writes=2)
    disk.number = errno.ENOSPC
    record = open_record(tmp_path, "v", ("A",), disk)
    assert record.keep(SOME[1])
    assert not record.keep(SOME[2])
    record.close()
    assert loaded(tmp_path) == said(*SOME[:2])


@pytest.mark.parametrize("what", ["writes", "syncs", "directories"])
def test_an_opening_that_cannot_write_changes_nothing(tmp_path: Path, what: str) -> None:
    filled(tmp_path)
    with pytest.raises(OSError, match="Input/output"):
        open_record(tmp_path, "v", ("A", "B"), WorseDisk(**{what: 0}))
    assert loaded(tmp_path) == said(*SOME)


def test_a_long_record_is_replaced_by_a_short_one(tmp_path: Path) -> None:
    record = open_record(tmp_path, "v", ("A",))
    batch = (Marked(A, tuple(range(4_000)), 7),)
    for _ in range(200):
        assert record.keep(batch)
    assert record.path.stat().st_size < 4 * record_file.MIN_TAIL_BYTES
    assert record.keep((FloorRaised(8),))
    record.close()
    assert loaded(tmp_path, "v", "A") == said(batch, (FloorRaised(8),))


@pytest.mark.parametrize("what", ["writes", "syncs", "directories"])
def test_a_replacement_that_fails_in_any_step_keeps_the_lock_and_what_was_durable(
    tmp_path: Path, what: str
) -> None:
    record = open_record(tmp_path, "v", ("A",))
    assert record.keep(SOME[0])
    record.close()
    record = open_record(tmp_path, "v", ("A",), WorseDisk(**{what: 1}))
    with pytest.raises(OSError, match="Input/output"):
        record.use_for("v", ("A", "C"))
    with pytest.raises(RecordBusy):
        open_record(tmp_path, "v", ("A",))
    assert not record.keep((FloorRaised(9),))
    record.close()
    assert loaded(tmp_path, "v", "A") == said(SOME[0])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.builds(FloorRaised, st.integers(0, 1 << 60)),
            st.builds(Marked, st.sampled_from([A, B]), st.tuples(st.integers(0, 99_999)), st.integers(0, 50)),
            st.builds(Tagged, st.sampled_from([A, B]), st.tuples(st.integers(0, 99)), st.integers(1, 50)),
            st.builds(Cleared, st.sampled_from([A, B]), st.tuples(st.integers(0, 99))),
            st.builds(Identified, st.sampled_from([A, B]), st.text(max_size=5)),
            st.builds(Doubted, st.sampled_from([A, B]), st.text(max_size=5)),
            st.builds(Merged, st.just(B), st.just(A)),
            st.builds(Dropped, st.sampled_from([A, B])),
        ),
        max_size=12,
    )
)
def test_any_changes_come_back(tmp_path_factory: pytest.TempPathFactory, changes: list[Change]) -> None:
    directory = tmp_path_factory.mktemp("r")
    filled(directory, *[(change,) for change in changes] or ((),))
    assert loaded(directory) == said(tuple(changes))


# --- names --------------------------------------------------------------------------------------
def test_a_new_volume_under_an_old_name_does_not_find_the_old_record(tmp_path: Path) -> None:
    filled(tmp_path)
    assert loaded(tmp_path, "v", "C", "D") == ()
    assert loaded(tmp_path, "v", "B", "A") == said(*SOME)


def test_a_volume_restored_under_another_name_finds_its_own(tmp_path: Path) -> None:
    filled(tmp_path)
    assert loaded(tmp_path, "w", "B") == said(*SOME)
    record = open_record(tmp_path, "w", ("A",))
    assert record.volume == "w"
    record.close()


def test_it_is_found_by_a_copy_that_came_later_when_the_first_one_is_gone(tmp_path: Path) -> None:
    record = open_record(tmp_path, "v", ("A",))
    record.use_for("v", ("A", "C"))
    assert record.keep((FloorRaised(4),))
    record.close()
    assert loaded(tmp_path, "v", "C") == said((FloorRaised(4),))


def test_a_file_of_another_kind_under_its_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / record_file.record_name("v", "A")).write_bytes(b"not a record" * 100)
    with pytest.raises(RecordError, match="does not begin"):
        open_record(tmp_path, "v", ("A",))
    assert loaded(tmp_path, "other", "X") == ()


def test_frames_of_another_file_do_not_count(tmp_path: Path) -> None:
    one, two = filled(tmp_path / "1"), filled(tmp_path / "2", SOME[0])
    first = one.read_bytes()
    at = parse(first, "x").end
    record = open_record(tmp_path / "1", "v", ("A",))
    base = one.stat().st_size
    assert record.keep((FloorRaised(77),))
    record.close()
    assert at
    two.write_bytes(two.read_bytes() + one.read_bytes()[base:])
    assert loaded(tmp_path / "2") == said(SOME[0])


def test_records_of_volumes_that_are_no_more_are_removed(tmp_path: Path) -> None:
    gone, kept = filled(tmp_path), open_record(tmp_path, "w", ("C",))
    kept.close()
    held = open_record(tmp_path, "x", ("D",))
    half = tmp_path / "y~E.rec.new"
    half.write_bytes(b"of one that was being made")
    rewritten = tmp_path / f"{kept.path.name}.new"
    rewritten.write_bytes(b"of one that is there")
    assert remove_records(tmp_path, {"C"}) == 1
    assert not half.exists()
    assert rewritten.exists()
    assert not gone.exists()
    assert kept.path.exists()
    assert held.path.exists()
    held.close()
    assert remove_records(tmp_path / "never made", {"C"}) == 0


# --- one holder ---------------------------------------------------------------------------------
_HOLDER = """
import sys, pathlib
from vimraft.data.copies.record_file import open_record
record = open_record(pathlib.Path(sys.argv[1]), "v", ("A", "B"))
print("held", flush=True)
for line in sys.stdin:
    record.close()
    print("closed", flush=True)
"""


def _holder(directory: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def _free(directory: Path, *copies: str) -> bool:
    try:
        open_record(directory, "v", copies or ("A",)).close()
    except RecordBusy:
        return False
    return True


def test_a_second_process_gets_it_when_the_first_gives_it_up_stopped_or_not(tmp_path: Path) -> None:
    process = _holder(tmp_path)
    try:
        assert not _free(tmp_path)
        assert not _free(tmp_path, "B", "C")
        process.send_signal(signal.SIGSTOP)
        assert not _free(tmp_path)
        process.send_signal(signal.SIGCONT)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("close\n")
        process.stdin.flush()
        assert process.stdout.readline() == "closed\n"
        assert _free(tmp_path)
    finally:
        process.kill()
        process.wait(10)


def test_a_killed_process_gives_it_up(tmp_path: Path) -> None:
    process = _holder(tmp_path)
    process.kill()
    process.wait(10)
    eventually(lambda: _free(tmp_path), "the lock goes with its process")


def test_the_lock_follows_the_replacements(tmp_path: Path) -> None:
    record: RecordFile = open_record(tmp_path, "v", ("A",))
    record.use_for("v", ("A", "B"))
    assert not _free(tmp_path)
    assert not _free(tmp_path, "B")
    record.close()
    assert _free(tmp_path)
