"""The shell of a store: its real volumes, its record, its turn."""

import errno
import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.copied_volumes import BOOT, Asker, B, copied_map, session
from tests.plane import CLUSTER_ID, MIB, eventually
from tests.plane_fakes import FakeBackend, in_thread
from vimraft.core.ids import LABEL_BYTES, ManagerName
from vimraft.data.backends.nbd_pool import NoAnswer
from vimraft.data.copies import store_turns
from vimraft.data.copies.record_file import Disk, RecordBusy, open_record
from vimraft.data.copies.store_side import StoreSide, Tools
from vimraft.data.copies.store_turns import StoreTurns
from vimraft.data.copies.workers import Crew, Timers
from vimraft.data.feed import BackendSpec, MapUpdate, VolumeMap
from vimraft.data.reals import RealSlot
from vimraft.protocol.messages import (
    Done,
    IoFailed,
    NewerEpoch,
    OldEpoch,
    RecordFailed,
    Unknown,
)

KIB4 = 4096


class Bench:
    """One store of manager b, with copy B on a memory file."""

    def __init__(self, directory: Path, *, use_fd: bool = True, disk: Disk | None = None) -> None:
        self.directory = directory
        self.backend = FakeBackend("fake:0", 32 * MIB + LABEL_BYTES, use_fd=use_fd)
        spec = BackendSpec("sb:0", "fake:0", "0" * 32, CLUSTER_ID, 32 * MIB, "")
        self.slots = {"sb:0": RealSlot(spec, self.backend, "", "", 0)}
        self.troubles: list[tuple[str, OSError]] = []
        self.failures: list[str] = []
        self.bugs: list[Exception] = []
        crew, timers = Crew("test", 4, self.bugs.append), Timers(self.bugs.append)
        self.tools = Tools(self.slots.__getitem__, self, crew, timers, lambda _event, **_fields: None)
        self.disk = disk or Disk()
        self.side = self.open()
        self.owner = Asker(self.side.ask)

    def real_failed(self, real: RealSlot, error: OSError) -> None:
        self.troubles.append((real.real, error))

    def flush_failed(self, real: RealSlot, error: OSError) -> None:
        self.troubles.append((real.real, error))

    def open(self) -> StoreSide:
        record = open_record(self.directory, "v", ("A", "B"), self.disk)
        return StoreSide(ManagerName("b"), BOOT, record, self.tools, self.failures.append)

    def install(self, plane_map: VolumeMap) -> None:
        assert plane_map.copies is not None
        self.side.applied(plane_map.copies, plane_map.epoch)

    def give_up(self) -> None:
        self.side.stop()
        eventually(lambda: self.side.over, "nothing is under way")
        self.side.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    bench.install(copied_map("b"))
    yield bench
    assert not bench.bugs


def test_a_write_is_done_when_ask_returns_and_is_read_back(bench: Bench) -> None:
    assert bench.owner.write(8192, b"x" * KIB4) == Done()
    assert bench.owner.now("read", 8192, 8192 + KIB4) == Done(b"x" * KIB4)
    assert bench.owner.now("flush") == Done()
    assert bench.backend.flushes == 1


def test_the_region_is_marked_durably_before_its_data_are_written(tmp_path: Path) -> None:
    bench = Bench(tmp_path, use_fd=False)
    bench.install(copied_map("b"))
    seen: list[tuple[int, ...]] = []

    def look() -> None:
        seen.append(tuple(sorted(bench.side._record.load().copies[B].active)))

    bench.backend.entered = look
    assert bench.owner.write(3 * MIB, b"x" * KIB4) == Done()
    assert bench.owner.write(3 * MIB + KIB4, b"x" * KIB4) == Done()
    assert seen == [(3,), (3,)]
    assert bench.side.figures()[2] == 1


def test_zeros_and_trims_read_as_zeros(bench: Bench) -> None:
    for kind in ("zero", "trim"):
        assert bench.owner.write(0, b"x" * KIB4) == Done()
        assert bench.owner.now(kind, 0, KIB4) == Done()  # type: ignore[arg-type]
        assert bench.owner.now("read", 0, KIB4) == Done(bytes(KIB4))


def test_a_newer_request_waits_for_its_map(bench: Bench) -> None:
    bench.owner.epoch = 2
    number = bench.owner.send("write", 0, KIB4, data=b"n" * KIB4)
    assert number not in bench.owner.answers
    bench.install(copied_map("b", epoch=2))
    eventually(lambda: number in bench.owner.answers, "the map is there")
    assert bench.owner.answers[number].result == Done()
    bench.owner.epoch = 1
    assert bench.owner.write(0, b"o" * KIB4) == OldEpoch(2)


def test_many_threads_write_different_blocks(bench: Bench) -> None:
    def work(thread: int) -> None:
        owner = Asker(bench.side.ask)
        owner.number = thread * 1000
        for at in range(50):
            first = (at * 8 + thread) * KIB4
            number = owner.send("write", first, first + KIB4, data=bytes([thread]) * KIB4)
            eventually(lambda number=number: number in owner.answers, "an answer")  # type: ignore[misc]
            assert owner.answers[number].result == Done()

    threads = [in_thread(lambda thread=thread: work(thread)) for thread in range(1, 5)]  # type: ignore[misc]
    for thread, outcome in threads:
        thread.join(20)
        assert outcome == [None]
    for thread in range(1, 5):
        for at in range(50):
            first = (at * 8 + thread) * KIB4
            assert bench.owner.now("read", first, first + KIB4) == Done(bytes([thread]) * KIB4)


def test_an_error_of_the_real_volume_is_told_and_reported(bench: Bench) -> None:
    bench.backend.failing = errno.EIO
    assert bench.owner.write(0, b"x" * KIB4) == IoFailed(B)
    assert [real for real, _ in bench.troubles] == ["sb:0"]


def test_a_failed_flush_is_never_tried_again_also_not_after_a_restart(bench: Bench) -> None:
    assert bench.owner.write(0, b"x" * KIB4) == Done()
    bench.backend.failing = errno.EIO
    assert bench.owner.now("flush") == IoFailed(B)
    bench.backend.failing = 0
    bench.owner.session = session(2)
    assert bench.owner.now("flush") == IoFailed(B)
    bench.give_up()
    bench.side = bench.open()
    bench.install(copied_map("b", epoch=2))
    again = Asker(bench.side.ask)
    again.epoch = 2
    assert again.now("flush") == IoFailed(B)
    assert bench.backend.flushes == 0


def test_lost_writes_of_a_backend_session_fail_the_next_flush(bench: Bench) -> None:
    assert bench.owner.write(0, b"x" * KIB4) == Done()
    bench.backend.losses += 1
    assert bench.owner.now("flush") == IoFailed(B)


def test_a_volatile_real_volume_with_active_regions_is_in_doubt_after_a_restart(tmp_path: Path) -> None:
    bench = Bench(tmp_path, use_fd=False)
    bench.install(copied_map("b"))
    assert bench.owner.now("flush") == Done()
    assert bench.owner.write(0, b"x" * KIB4) == Done()
    bench.give_up()
    bench.side = bench.open()
    bench.install(copied_map("b"))
    assert Asker(bench.side.ask).now("flush") == IoFailed(B)


def test_it_is_in_doubt_also_when_it_was_opened_later_than_the_record(tmp_path: Path) -> None:
    bench = Bench(tmp_path, use_fd=False)
    bench.install(copied_map("b"))
    assert bench.owner.write(0, b"x" * KIB4) == Done()
    bench.give_up()
    open_slot = bench.slots["sb:0"]
    opening = RealSlot(open_slot.spec, None, "opening", "is being opened", 0)
    opening.opening = True
    bench.slots["sb:0"] = opening
    bench.side = bench.open()
    bench.install(copied_map("b"))
    bench.slots["sb:0"] = open_slot
    bench.side.reals_replaced()
    assert Asker(bench.side.ask).now("flush") == IoFailed(B)


def test_a_bug_below_ends_the_request_as_an_error(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.install(copied_map("b"))

    def entered() -> None:
        raise RuntimeError("a bug")

    bench.backend.entered = entered
    assert bench.owner.write(0, b"x" * KIB4) == IoFailed(B)
    bench.give_up()


def test_an_outcome_without_an_answer_blocks_a_seal_until_the_server_answers(tmp_path: Path) -> None:
    bench = Bench(tmp_path, use_fd=False)
    bench.install(copied_map("b"))
    silent = [True]

    def entered() -> None:
        if silent[0]:
            raise NoAnswer(errno.EIO, "no word")

    bench.backend.entered = entered
    assert bench.owner.write(0, b"x" * KIB4) == Unknown()
    bench.backend.failing = errno.EIO
    bench.install(copied_map("b", epoch=2))
    assert bench.side.idle
    assert not bench.side.drained
    bench.owner.epoch = 2
    number = bench.owner.send("seal", copy="")
    assert number not in bench.owner.answers
    silent[0] = False
    bench.backend.failing = 0
    eventually(lambda: number in bench.owner.answers, "the server answers, so the old write is over")
    assert bench.owner.answers[number].result == Done(regions=(0,))


def test_a_record_that_cannot_be_kept_promises_nothing(tmp_path: Path) -> None:
    class Full(Disk):
        full = False

        def write(self, fd: int, data: bytes, offset: int) -> None:
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            super().write(fd, data, offset)

    disk = Full()
    bench = Bench(tmp_path, disk=disk)
    bench.install(copied_map("b"))
    disk.full = True
    assert bench.owner.write(0, b"x" * KIB4) == RecordFailed()
    assert bench.owner.now("read", 0, KIB4) == RecordFailed()
    assert len(bench.failures) == 1
    bench.give_up()
    disk.full = False
    bench.side = bench.open()
    bench.install(copied_map("b", epoch=2))
    again = Asker(bench.side.ask)
    again.epoch = 2
    assert again.now("read", 0, KIB4) == Done(bytes(KIB4))


def test_it_gives_its_record_up_only_when_nothing_is_under_way(bench: Bench) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def entered() -> None:
        inside.set()
        assert go_on.wait(20)

    bench.backend.entered = entered
    thread, outcome = in_thread(lambda: bench.owner.write(0, b"x" * KIB4))
    assert inside.wait(20)
    bench.side.stop()
    assert not bench.side.over
    late = Asker(bench.side.ask)
    assert late.write(0, b"y" * KIB4) == NewerEpoch(0)
    with pytest.raises(RecordBusy):
        open_record(bench.directory, "v", ("B",))
    go_on.set()
    thread.join(20)
    assert outcome == [Done()]
    eventually(lambda: bench.side.over, "the write has ended")
    bench.side.close()
    open_record(bench.directory, "v", ("B",)).close()


def test_whoever_waits_when_it_ends_is_told_to_ask_again(bench: Bench) -> None:
    bench.owner.epoch = 5
    number = bench.owner.send("write", 0, KIB4, data=b"x" * KIB4)
    bench.give_up()
    assert bench.owner.answers[number].result == NewerEpoch(0)


def test_io_goes_on_with_the_real_volume_that_takes_the_place_of_another(bench: Bench) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def entered() -> None:
        inside.set()
        assert go_on.wait(20)

    bench.backend.entered = entered
    thread, _ = in_thread(lambda: bench.owner.write(0, b"x" * KIB4))
    assert inside.wait(20)
    fresh = FakeBackend("fake:1", 32 * MIB + LABEL_BYTES, use_fd=True)
    bench.slots["sb:0"] = RealSlot(bench.slots["sb:0"].spec, fresh, "", "", 0)
    bench.side.reals_replaced()
    assert not bench.side.idle
    go_on.set()
    thread.join(20)
    eventually(lambda: bench.side.idle, "nothing uses the old one")
    bench.backend.close()
    other = Asker(bench.side.ask)
    other.number = 100
    assert other.write(0, b"y" * KIB4) == Done()
    assert other.now("read", 0, KIB4) == Done(b"y" * KIB4)


def test_io_waits_for_a_real_volume_that_is_being_opened(bench: Bench) -> None:
    old = bench.slots["sb:0"]
    opening = RealSlot(old.spec, None, "opening", "is being opened", 0)
    opening.opening = True
    bench.slots["sb:0"] = opening
    bench.side.reals_replaced()
    thread, outcome = in_thread(lambda: bench.owner.write(0, b"x" * KIB4))
    bench.slots["sb:0"] = old
    bench.side.reals_replaced()
    thread.join(20)
    assert outcome == [Done()]


# --- turns --------------------------------------------------------------------------------------
class Two:
    """The export and the store process of manager b, by their turns alone."""

    def __init__(self, directory: Path) -> None:
        self.bench = Bench(directory / "unused")
        self.told: list[str] = []
        make = {
            role: StoreTurns(
                role, "b", BOOT, directory / "copies", real_of=self.bench.slots.__getitem__,
                watch=self.bench, log=lambda event, **_fields: self.told.append(event),
            )
            for role in ("export", "store")
        }  # fmt: skip
        self.export, self.store = make["export"], make["store"]
        self.index = 0

    def install(self, turns: StoreTurns, plane_map: VolumeMap | None) -> None:
        self.index += 1
        volumes = () if plane_map is None else (plane_map,)
        update = MapUpdate(self.index, True, 1_000, volumes)
        draining = turns.install(update, 1.0)
        eventually(lambda: all(one.idle for one in draining), "drained")


def _open(turns: StoreTurns) -> bool:
    volume = turns.known("v")
    return volume is not None and volume.side is not None


def test_the_store_of_a_volume_is_where_its_owner_is_or_in_the_store_process(tmp_path: Path) -> None:
    two = Two(tmp_path)
    mine, theirs = copied_map("b", owner="b"), copied_map("b", owner="a", epoch=2)
    for turns in (two.export, two.store):
        two.install(turns, mine)
    eventually(lambda: _open(two.export), "the owner's export has it")
    two.install(two.store, theirs)
    assert not _open(two.store)  # the export has not let go
    owner = Asker(two.store.volume("v").ask)
    owner.epoch = 2
    early = owner.send("seal", copy="")
    assert not owner.answers
    two.install(two.export, theirs)
    eventually(lambda: early in owner.answers, "the store process has it")
    assert owner.answers[early].result == Done()
    assert not _open(two.export)
    mine_late = Asker(two.export.volume("v").ask)
    assert mine_late.now("seal", copy="") == NewerEpoch(0)
    newer = copied_map("b", owner="b", epoch=3)
    two.install(two.export, newer)
    two.install(two.store, newer)
    eventually(lambda: _open(two.export), "and back")
    own = Asker(two.export.volume("v").ask)
    own.session, own.epoch = session(manager="b"), 3
    assert own.write(0, b"x" * KIB4) == Done()


def test_what_came_too_early_is_told_so_in_the_end(tmp_path: Path) -> None:
    two = Two(tmp_path)
    held = open_record(tmp_path / "copies", "v", ("A", "B"))
    two.install(two.store, copied_map("b"))
    owner = Asker(two.store.volume("v").ask)
    number = owner.send("seal", copy="")
    eventually(lambda: number in owner.answers, "an answer")
    assert owner.answers[number].result == NewerEpoch(0)
    held.close()
    eventually(lambda: _open(two.store), "it is its turn")


def test_a_turn_that_ends_and_begins_again_at_once_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that goes on after a pause gets many maps in one moment."""
    two = Two(tmp_path)
    two.install(two.store, copied_map("b"))
    eventually(lambda: _open(two.store), "it is its turn")
    with monkeypatch.context() as busy:
        todo: list[Callable[[], None]] = []
        busy.setattr(two.store._openers, "submit", todo.append)
        two.install(two.store, None)
        two.install(two.store, copied_map("b", epoch=2))
    for work in todo:
        work()
    eventually(lambda: two.told.count("copies.store_opened") == 2, "a new life")
    owner = Asker(two.store.volume("v").ask)
    owner.epoch = 2
    assert owner.write(0, b"x" * KIB4) == Done()


def test_a_turn_that_waits_for_long_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_turns, "LONG_S", 0.02)
    two = Two(tmp_path)
    held = open_record(tmp_path / "copies", "v", ("A", "B"))
    two.install(two.store, copied_map("b"))
    eventually(lambda: "copies.turn_waits" in two.told, "it is told")
    owner = Asker(two.store.volume("v").ask)
    number = owner.send("seal", copy="")
    eventually(lambda: number in owner.answers, "an answer, many looks later")
    held.close()
    eventually(lambda: _open(two.store), "it is its turn")
    assert two.told == ["copies.turn_waits", "copies.store_opened"]


def test_a_failed_flush_of_a_real_volume_is_known_to_the_next_process(tmp_path: Path) -> None:
    two = Two(tmp_path)
    two.install(two.store, copied_map("b"))
    eventually(lambda: _open(two.store), "it is its turn")
    owner = Asker(two.store.volume("v").ask)
    assert owner.write(0, b"x" * KIB4) == Done()
    two.store.flush_failed("sb:0")  # for another volume on it
    two.install(two.store, None)
    two.install(two.export, copied_map("b", owner="b", epoch=2))
    own = Asker(two.export.volume("v").ask)
    own.session, own.epoch = session(manager="b"), 2
    number = own.send("flush")
    eventually(lambda: number in own.answers, "an answer")
    assert own.answers[number].result == IoFailed(B)


def test_a_process_that_ends_keeps_the_record_until_then(tmp_path: Path) -> None:
    two = Two(tmp_path)
    two.install(two.store, copied_map("b"))
    eventually(lambda: _open(two.store), "it is its turn")
    two.store.stop()
    two.store.flush_failed("sb:0")
    volume = two.store.known("v")
    assert volume is not None
    assert Asker(volume.ask).write(0, b"x" * KIB4) == NewerEpoch(0)
    assert volume.side is not None
    assert volume.side._record.load().copies[B].doubtful == BOOT
    two.install(two.export, copied_map("b", owner="b", epoch=2))
    assert not _open(two.export)


def test_the_floor_goes_with_the_record(tmp_path: Path) -> None:
    two = Two(tmp_path)
    two.install(two.store, copied_map("b", owner="a"))
    eventually(lambda: _open(two.store), "it is its turn")
    taker = Asker(two.store.volume("v").ask)
    taker.session, taker.epoch = session(manager="c"), 7
    taker.send("seal", copy="")  # its tables do not have that epoch yet
    volume = two.store.known("v")
    assert volume is not None
    assert volume.side is not None
    eventually(lambda: volume.side is not None and volume.side._record.load().floor == 7, "durable")
    two.install(two.store, None)
    eventually(lambda: not _open(two.store), "it is not any more")
    two.install(two.export, copied_map("b", owner="b", epoch=2))
    eventually(lambda: _open(two.export), "the other one has it")
    former = Asker(two.export.volume("v").ask)
    former.session, former.epoch = session(manager="b"), 2
    assert "Sealed" in repr(former.write(0, b"x" * KIB4))


def test_a_failed_record_is_opened_anew(tmp_path: Path) -> None:
    two = Two(tmp_path)
    two.install(two.store, copied_map("b"))
    eventually(lambda: _open(two.store), "it is its turn")
    volume = two.store.known("v")
    assert volume is not None
    first = volume.side
    assert first is not None
    first._record.failed = "as if its disk had refused"
    assert Asker(volume.ask).write(0, b"x" * KIB4) == RecordFailed()
    eventually(lambda: volume.side not in (None, first), "another life of the store")
    again = Asker(volume.ask)
    assert again.write(0, b"x" * KIB4) == Done()


def test_a_volume_built_under_the_name_of_a_deleted_one_has_its_own_record(tmp_path: Path) -> None:
    two = Two(tmp_path)
    two.install(two.store, copied_map("b"))
    eventually(lambda: _open(two.store), "it is its turn")
    volume = two.store.known("v")
    assert volume is not None
    owner = Asker(volume.ask)
    assert owner.write(0, b"x" * KIB4) == Done()
    first = volume.side
    rebuilt = copied_map("b", epoch=9, states={"C": "in_sync", "D": "stale"})  # type: ignore[dict-item]
    two.install(two.store, rebuilt)
    eventually(lambda: volume.side not in (None, first), "another record")
    assert volume.side is not None
    assert volume.side._record.load().floor == 0
    assert set(volume.side._record.copies) == {"C", "D"}


def test_the_boot_message_names_the_records_that_are_here(tmp_path: Path) -> None:
    two = Two(tmp_path)
    plane_map = copied_map("b")
    assert two.store.boot_message([plane_map]).records == ()
    two.install(two.store, plane_map)
    eventually(lambda: _open(two.store), "it is its turn")
    owner = Asker(two.store.volume("v").ask)
    assert owner.now("hand_over", record="r-1") == Done()
    for turns in (two.store, two.export):
        message = turns.boot_message([plane_map])
        assert (message.boot, message.records) == (BOOT, (("v", "r-1"),))


def test_a_checksum_is_that_of_the_bytes(bench: Bench) -> None:
    bench.owner.write(MIB - KIB4, b"x" * KIB4)
    data = bytes(MIB - KIB4) + b"x" * KIB4 + bytes(MIB)
    assert bench.owner.now("checksum", 0, 2 * MIB) == Done(hashlib.blake2b(data, digest_size=16).digest())
    bench.backend.failing = errno.EIO
    assert bench.owner.now("checksum", 0, 2 * MIB) == IoFailed(B)
