"""The shell of an owner: stores that die or are late, maps, leases, marks, moves."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.copies_memory import MIB, MemoryStore, copies_map
from tests.copies_owner import Plane, eventually
from vimraft.core import commands
from vimraft.data import feed
from vimraft.data.copies.marks import Marks
from vimraft.data.copies.owner_side import Client
from vimraft.data.errors import IoError, TryAgain
from vimraft.data.holds import Holds
from vimraft.data.request import FLUSH, READ, WRITE, ZERO, Op
from vimraft.protocol.lease import Mark
from vimraft.protocol.losses import LossMark
from vimraft.protocol.maps import VolumeMap
from vimraft.protocol.messages import Session, StoreAnswer
from vimraft.protocol.owner_effects import StoreRequest

BLOCK = 4096


@pytest.fixture
def plane(tmp_path: Path) -> Plane:
    """Serves, with copies A here and B at b."""
    plane = Plane(tmp_path, copies_map(("A", "in_sync", "a"), ("B", "in_sync", "b")))
    plane.lease()
    plane.open()
    plane.wait_serving()
    return plane


def write(plane: Plane, offset: int, data: bytes) -> None:
    plane.volume.run(Op(WRITE, offset, len(data), memoryview(data)), plane.client)


def read(plane: Plane, offset: int, length: int) -> bytes:
    found = bytearray(length)
    plane.volume.run(Op(READ, offset, length, memoryview(found)), plane.client)
    return bytes(found)


def flush(plane: Plane, client: Client | None = None) -> None:
    plane.volume.run(Op(FLUSH, 0, 1), client or plane.client)


class Later(threading.Thread):
    """A request in a thread of its own."""

    def __init__(self, plane: Plane, op: Op) -> None:
        super().__init__(daemon=True)
        self.error: Exception | None = None
        self._call = lambda: plane.volume.run(op, plane.client)
        self.start()

    def run(self) -> None:
        try:
            self._call()
        except (IoError, TryAgain) as error:
            self.error = error

    def ended(self) -> "Later":
        self.join(10)
        assert not self.is_alive(), "the request hangs"
        return self


def later_write(plane: Plane, offset: int, data: bytes) -> Later:
    return Later(plane, Op(WRITE, offset, len(data), memoryview(data)))


def test_a_write_is_at_both_copies_when_it_is_acknowledged(plane: Plane) -> None:
    write(plane, BLOCK, b"x" * BLOCK)
    for name, copy in (("a", "A"), ("b", "B")):
        assert plane.stores[name].data[copy][BLOCK : 2 * BLOCK] == b"x" * BLOCK
    assert read(plane, BLOCK, BLOCK) == b"x" * BLOCK
    flush(plane)


def test_a_long_zero_is_made_in_parts(plane: Plane) -> None:
    write(plane, 0, b"x" * BLOCK)
    plane.volume.run(Op(ZERO, 0, 8 * MIB), plane.client)
    assert not any(plane.stores["b"].data["B"])


def test_what_lies_outside_is_refused(plane: Plane) -> None:
    with pytest.raises(IoError, match="outside"):
        read(plane, 8 * MIB - BLOCK, 2 * BLOCK)


def test_a_store_that_died_is_retired_before_the_write_is_acknowledged(plane: Plane) -> None:
    plane.links.cut.add("b")
    request = later_write(plane, 0, b"y" * BLOCK)
    proposal = plane.wait_proposal(commands.Retire)
    assert request.is_alive(), "acknowledged, although a copy missed it"
    plane.renew("b", installed=0, lease_ms=100)
    plane.change(copies_map(("A", "in_sync", "a"), ("B", "stale", "b"), epoch=2))
    plane.decide(proposal, applied=True)
    assert request.ended().error is None
    assert read(plane, 0, BLOCK) == b"y" * BLOCK


def test_without_a_decision_the_write_fails_and_is_not_acknowledged(tmp_path: Path) -> None:
    plane = Plane(tmp_path, copies_map(("A", "in_sync", "a"), ("B", "in_sync", "b")), io_timeout_s=1.5)
    plane.lease()
    plane.open()
    plane.wait_serving()
    plane.links.cut.add("b")
    error = later_write(plane, 0, b"y" * BLOCK).ended().error
    assert isinstance(error, IoError)


def test_a_store_that_is_silent_counts_as_lost(tmp_path: Path) -> None:
    plane = Plane(tmp_path, copies_map(("A", "in_sync", "a"), ("B", "in_sync", "b")), io_timeout_s=3.0)
    plane.lease()
    plane.open()
    plane.wait_serving()
    plane.stores["b"].down = True
    later_write(plane, 0, b"y" * BLOCK)
    plane.wait_proposal(commands.Retire)


def test_many_requests_that_break_together_lose_the_store_once(plane: Plane) -> None:
    plane.stores["b"].down = True
    requests = [later_write(plane, n * MIB, b"z" * BLOCK) for n in range(6)]
    plane.links.cut.add("b")
    time.sleep(0.1)
    plane.stores["b"].down = False
    plane.links.cut.clear()
    for request in requests:
        assert request.ended().error is None
    assert not [p for p in plane.proposals() if isinstance(p.command, commands.Retire)]


class HeldReads(MemoryStore):
    """Reads wait until they `may` go on."""

    def __init__(self, me: str, newest: VolumeMap) -> None:
        super().__init__(me, newest)
        self.held, self.may = threading.Event(), threading.Event()

    def ask(self, session: Session, request: StoreRequest, done: Callable[[StoreAnswer], None]) -> None:
        if request.kind == "read":
            self.held.set()
            self.may.wait(5)
        super().ask(session, request, done)


def test_a_write_that_waited_for_a_read_goes_on_at_once_when_that_is_answered(tmp_path: Path) -> None:
    """The thread of the read does the local part of the write, whose answer is not the read's to drop."""
    plane = Plane(tmp_path, copies_map(("A", "in_sync", "a"), ("B", "in_sync", "b")))
    store = plane.stores["a"] = HeldReads("a", plane.newest)
    plane.lease()
    plane.open()
    plane.wait_serving()
    reader = Later(plane, Op(READ, 0, BLOCK, memoryview(bytearray(BLOCK))))
    assert store.held.wait(5)
    writer = later_write(plane, 0, b"w" * BLOCK)
    writer.join(0.2)
    assert writer.is_alive(), "it does not wait for the read"
    store.may.set()
    assert reader.ended().error is None
    writer.join(1.5)  # with a lost answer: until the store counts as lost, 2 s
    assert not writer.is_alive()


def test_without_a_lease_nothing_is_read_and_with_it_reads_go_on(plane: Plane) -> None:
    plane.lease(seconds=0)
    found = bytearray(BLOCK)
    request = Later(plane, Op(READ, 0, BLOCK, memoryview(found)))
    request.join(0.2)
    assert request.is_alive()
    plane.lease()
    assert request.ended().error is None


def test_another_owner_ends_this_life_and_requests_are_made_anew(plane: Plane) -> None:
    plane.stores["b"].down = True
    request = later_write(plane, 0, b"z" * BLOCK)
    eventually(lambda: plane.stores["a"].requests, "the write is under way")
    newer = copies_map(("A", "in_sync", "a"), ("B", "in_sync", "b"), epoch=2, owner="b")
    plane.volumes.close(plane.volume, plane.feed_map(newer))
    assert isinstance(request.ended().error, TryAgain)
    with pytest.raises(TryAgain):
        write(plane, 0, b"z" * BLOCK)


def test_a_restarted_owner_serves_only_in_a_newer_epoch(tmp_path: Path) -> None:
    plane = Plane(tmp_path, copies_map(("A", "in_sync", "a"), ("B", "in_sync", "b"), epoch=4))
    plane.volumes.meet([plane.feed_map(plane.newest)])
    plane.open()
    with pytest.raises(TryAgain):
        read(plane, 0, BLOCK)
    assert not plane.stores["a"].requests, "it spoke to stores in the epoch of its former life"
    plane.change(copies_map(("A", "in_sync", "a"), ("B", "in_sync", "b"), epoch=5))
    plane.wait_serving()
    plane.lease()
    read(plane, 0, BLOCK)


def test_a_restarted_owner_that_gets_a_lease_was_reopened_before(tmp_path: Path) -> None:
    plane = Plane(tmp_path, copies_map(("A", "in_sync", "a"), ("B", "in_sync", "b"), epoch=4))
    plane.volumes.meet([plane.feed_map(plane.newest)])
    plane.open()
    assert not plane.stores["a"].requests
    plane.lease()
    plane.wait_serving()
    read(plane, 0, BLOCK)


def test_a_new_map_is_installed_under_writes(plane: Plane) -> None:
    stop = threading.Event()
    written = []

    def work() -> None:
        while not stop.is_set():
            write(plane, len(written) % 512 * BLOCK, b"w" * BLOCK)
            written.append(1)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    for epoch in range(2, 12):
        plane.change(copies_map(("A", "in_sync", "a"), ("B", "in_sync", "b"), epoch=epoch))
        assert plane.volume.wait_installed(epoch, time.monotonic() + 5)
    before = len(written)
    eventually(lambda: len(written) > before, "writes go on")
    stop.set()
    worker.join(5)
    assert plane.stores["a"].data["A"] == plane.stores["b"].data["B"]


def test_a_stale_copy_is_brought_back(plane: Plane) -> None:
    write(plane, 3 * MIB, b"q" * BLOCK)
    plane.change(copies_map(("A", "in_sync", "a"), ("B", "stale", "b"), epoch=2))
    plane.renew("b")  # it has installed that map, too
    write(plane, 5 * MIB, b"r" * BLOCK)
    begin = plane.wait_proposal(commands.BeginResync)
    plane.change(copies_map(("A", "in_sync", "a"), ("B", "syncing", "b"), epoch=3))
    plane.decide(begin, applied=True)
    promote = plane.wait_proposal(commands.Promote)
    assert dict(promote.command.boots) == {"b": "boot"}
    plane.change(copies_map(("A", "in_sync", "a"), ("B", "in_sync", "b"), epoch=4))
    plane.decide(promote, applied=True)
    write(plane, 6 * MIB, b"s" * BLOCK)
    assert plane.stores["a"].data["A"] == plane.stores["b"].data["B"]


def test_the_sole_holder_right_is_given_up_durably_before_a_promotion(tmp_path: Path) -> None:
    plane = Plane(tmp_path, copies_map(("A", "in_sync", "a"), ("B", "stale", "b")))
    plane.open()  # no lease: it is the sole holder
    plane.wait_serving()
    write(plane, 0, b"q" * BLOCK)
    begin = plane.wait_proposal(commands.BeginResync)
    plane.change(copies_map(("A", "in_sync", "a"), ("B", "syncing", "b"), epoch=2))
    plane.decide(begin, applied=True)
    plane.lease()  # before somebody is there who will decide it, it does not propose what holds I/O
    plane.wait_proposal(commands.Promote)
    plane.lease(seconds=0)
    mark = Marks(tmp_path).load("v")
    assert mark is not None
    assert mark.epoch == 2
    found = bytearray(BLOCK)
    request = Later(plane, Op(READ, 0, BLOCK, memoryview(found)))
    request.join(0.2)
    assert request.is_alive(), "a read by the right that was given up"


def test_a_mark_survives_the_process(tmp_path: Path) -> None:
    Marks(tmp_path).keep("v/1", Mark(7, 3))
    assert Marks(tmp_path).load("v/1") == Mark(7, 3)
    Marks(tmp_path).keep("v/1", None)
    assert Marks(tmp_path).load("v/1") is None


def test_a_damaged_mark_counts_as_one(tmp_path: Path) -> None:
    Marks(tmp_path).keep("v", Mark(7, 3))
    (tmp_path / "v.mark").write_bytes(b"")
    damaged = Marks(tmp_path).load("v")
    assert damaged is not None
    assert damaged.epoch > 1 << 40


def test_a_volume_is_given_away(plane: Plane) -> None:
    plane.volume.move(9, "b")
    proposal = plane.wait_proposal(commands.MoveOwner)
    newer = copies_map(("A", "in_sync", "a"), ("B", "in_sync", "b"), epoch=2, owner="b")
    elsewhere = msgspec.structs.replace(plane.feed_map(newer), copies=None)  # it forwards from now on
    plane.volumes.close(plane.volume, elsewhere)
    plane.decide(proposal, applied=True)
    assert feed.MoveDone(9, True) in plane.told


def test_a_refused_move_is_told_and_the_owner_serves_on(plane: Plane) -> None:
    plane.volume.move(9, "b")
    plane.decide(plane.wait_proposal(commands.MoveOwner), applied=False)
    eventually(lambda: any(isinstance(m, feed.MoveDone) and not m.moved for m in plane.told), "it is told")
    write(plane, 0, b"x" * BLOCK)


def test_proposals_are_told_again_to_a_manager_that_connects(plane: Plane) -> None:
    plane.links.cut.add("b")
    later_write(plane, 0, b"y" * BLOCK)
    proposal = plane.wait_proposal(commands.Retire)
    assert plane.shell.undecided() == [proposal]
    plane.decide(proposal, applied=False)
    assert proposal not in plane.shell.undecided()


def test_a_lost_write_cache_fails_the_next_flush_of_older_sessions_once(plane: Plane) -> None:
    write(plane, 0, b"y" * BLOCK)
    plane.change(lossy(copies_map(("A", "in_sync", "a"), ("B", "in_sync", "b"), epoch=2)))
    with pytest.raises(IoError):
        flush(plane)
    flush(plane)
    flush(plane, Client("new", LossMark(2)))


def lossy(newer: VolumeMap) -> VolumeMap:
    return VolumeMap(
        *(newer.epoch if f == "lossy_epoch" else getattr(newer, f) for f in newer.__struct_fields__)
    )


def test_a_flush_that_fails_at_the_last_copy_is_reported_and_what_was_lost_written_again(
    plane: Plane,
) -> None:
    write(plane, 0, b"y" * BLOCK)
    plane.renew("b", installed=0, lease_ms=100)
    plane.change(copies_map(("A", "in_sync", "a"), ("B", "stale", "b"), epoch=2))
    store = plane.stores["a"]
    before = len(store.requests)
    store.failing.add("flush")
    with pytest.raises(IoError):
        flush(plane)
    store.failing.clear()
    proposal = plane.wait_proposal(commands.LoseUnflushed)

    def written_again() -> bool:
        return any(
            request.kind == "write" and len(request.data) == MIB for request in store.requests[before:]
        )

    eventually(written_again, "its region is written again")
    plane.change(lossy(copies_map(("A", "in_sync", "a"), ("B", "stale", "b"), epoch=3)))
    plane.decide(proposal, applied=True)
    with pytest.raises(IoError):
        flush(plane, Client("other", LossMark(2)))
    assert read(plane, 0, BLOCK) == b"y" * BLOCK


def test_figures_name_the_copies(plane: Plane) -> None:
    read(plane, 0, BLOCK)
    status = plane.volumes.status()["v"]
    assert [copy.name for copy in status.copies] == ["A", "B"]
    assert sum(copy.reads_local + copy.reads_remote for copy in status.copies) >= 1


def test_a_takeover_counts_as_a_hold_and_the_beginning_of_a_new_volume_does_not(tmp_path: Path) -> None:
    found = []
    for new in (False, True):
        first = copies_map(("A", "in_sync", "a"), ("B", "in_sync", "b"))
        plane, holds = Plane(tmp_path / str(new), first), Holds()
        plane.lease()
        plane.volume = plane.volumes.open(plane.feed_map(plane.newest), holds, new=new)
        plane.wait_serving()
        eventually(lambda holds=holds, new=new: new or holds.times() is not None, "it is noted")
        found.append(holds.times())
    assert found[0] is not None
    assert found[1] is None
