"""Snapshots: the file, written in the background, sent, received, refused, interrupted."""

import errno
import random
import struct
import threading
import zlib
from collections.abc import Callable

import pytest
from pysyncobj.node import TCPNode

from tests.core_cases import three_sites
from tests.raft_directories import exchange
from tests.simulation.disk import SimDisk
from vimraft.core.codec import encode_state, state_digest
from vimraft.core.tables import State
from vimraft.metadata.pysyncobj import snapshot_file
from vimraft.metadata.pysyncobj.errors import CorruptData
from vimraft.metadata.pysyncobj.members import Member
from vimraft.metadata.pysyncobj.snapshot import (
    Snapshot,
    SnapshotExchange,
    decode_snapshot,
    encode_snapshot,
    load_snapshot,
)

PEER = TCPNode("127.0.0.1:2")
MEMBERS = (Member("127.0.0.1:1", "a"), Member("127.0.0.1:2"), Member("127.0.0.1:3", "c", voter=False))
BUSY, WRITTEN, FAILED = 1, 2, 3


def snapshot(index: int = 12, state: State | None = None) -> Snapshot:
    state = three_sites().state if state is None else state
    return Snapshot(MEMBERS, (b"\x00p", index - 1, 3), (b"\x00l", index, 3), state, "cluster", 4)


def write(side: SnapshotExchange, index: int = 12) -> tuple[int, int | None]:
    whole = snapshot(index)
    side.serialize((None, whole.last, whole.previous, set()), index - 1)
    return side.checkSerializing()


def side(disk: SimDisk, **options: object) -> SnapshotExchange:
    return exchange(disk, snapshot(), current=lambda previous, last: snapshot(last[1]), **options)


def give(receiver: SnapshotExchange, data: bytes) -> bool:
    assert not receiver.setTransmissionData((data[:1000], True, False))
    assert not receiver.setTransmissionData((data[1000:], False, False))
    return receiver.setTransmissionData((b"", False, True))


class Later:
    """A background that runs its jobs when it is told to."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], None]] = []

    def __call__(self, job: Callable[[], None]) -> None:
        self.jobs.append(job)

    def run(self) -> None:
        self.jobs.pop(0)()


def test_a_snapshot_comes_back_as_it_was() -> None:
    disk = SimDisk()
    assert load_snapshot(disk) is None
    assert write(side(disk)) == (WRITTEN, 11)
    assert disk.contents("snapshot") == encode_snapshot(snapshot())
    assert load_snapshot(disk) == snapshot()
    assert disk.names() == ["snapshot"]


@pytest.mark.parametrize("received", [False, True])
def test_one_that_is_reported_survives_any_power_cut(received: bool) -> None:
    """The journal is trimmed against it from then on."""
    for seed in range(20):
        disk = SimDisk()
        node = side(disk)
        if received:
            assert give(node, encode_snapshot(snapshot()))
        else:
            assert write(node)[0] == WRITTEN
        disk.crash(random.Random(seed))
        assert load_snapshot(disk) == snapshot()


def test_every_flipped_bit_and_every_cut_is_noticed() -> None:
    data = encode_snapshot(Snapshot(MEMBERS, (b"", 1, 1), (b"", 2, 1), State(), "cluster", 1))
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        with pytest.raises(CorruptData, match="file-name"):
            decode_snapshot(bytes(damaged), "file-name")
        with pytest.raises(CorruptData):
            decode_snapshot(data[:position], "file-name")
    with pytest.raises(CorruptData):
        decode_snapshot(data + b"x", "file-name")


def test_tables_of_a_later_level_are_refused_though_the_checksum_fits() -> None:
    data = encode_snapshot(snapshot())
    payload = data[24:].replace(encode_state(snapshot().state), b"\x63" + encode_state(snapshot().state)[1:])
    header = struct.pack("<8sIIQ", data[:8], 2, zlib.crc32(payload), len(payload))
    with pytest.raises(CorruptData, match="version 99"):
        decode_snapshot(header + payload, "file-name")


def test_a_snapshot_travels_in_parts_and_is_installed_once_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vimraft.metadata.pysyncobj.snapshot.SNAPSHOT_CHUNK_BYTES", 100)
    installed: list[Snapshot] = []
    target = SimDisk()
    sender, receiver = side(SimDisk()), side(target, install=installed.append)
    write(sender)
    results = []
    while True:
        part = sender.getTransmissionData(PEER)
        assert part is not None
        results.append(receiver.setTransmissionData(part))
        if part[2]:
            break
    assert results == [False] * (len(results) - 1) + [True]
    assert len(results) > 5
    assert not installed  # the engine asks for it
    _, last, previous, voters = receiver.deserialize()
    assert (last[1], previous[1]) == (12, 11)
    assert [node.id for node in voters] == ["127.0.0.1:1", "127.0.0.1:2"]
    assert state_digest(installed[0].state) == state_digest(three_sites().state)
    target.kill()
    assert load_snapshot(target) == installed[0]


def test_a_damaged_or_unneeded_transmission_leaves_the_own_snapshot_alone() -> None:
    disk = SimDisk()
    receiver = side(disk, wanted=lambda received: received.index > 50)
    write(receiver, index=60)
    own = disk.contents("snapshot")
    damaged = bytearray(encode_snapshot(snapshot(70)))
    damaged[-1] ^= 1
    for data in (encode_snapshot(snapshot(40)), bytes(damaged)):
        assert not give(receiver, data)
        assert disk.contents("snapshot") == own
    assert not receiver.setTransmissionData((b"tail of an older one", False, False))
    assert not receiver.setTransmissionData(None)


def test_a_transmission_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vimraft.metadata.pysyncobj.snapshot.MAX_SNAPSHOT_BYTES", 2_000)
    disk = SimDisk()
    receiver = side(disk)
    for i in range(10):
        assert not receiver.setTransmissionData((b"x" * 500, i == 0, False))
    assert disk.used_bytes() <= 2_000


def test_a_transmission_under_way_goes_on_with_its_file_when_there_is_a_newer_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vimraft.metadata.pysyncobj.snapshot.SNAPSHOT_CHUNK_BYTES", 100)
    sender, receiver, installed = side(SimDisk()), SimDisk(), []
    write(sender, index=12)
    part = sender.getTransmissionData(PEER)
    write(sender, index=20)
    target = side(receiver, install=installed.append)
    while not target.setTransmissionData(part):
        part = sender.getTransmissionData(PEER)
        assert part is not None
        assert not part[1]
    assert sender.sent_index(PEER) == 12
    target.deserialize()
    assert [one.index for one in installed] == [12]
    part = sender.getTransmissionData(PEER)
    assert part is not None
    assert part[1]  # the next one is the newer


def test_a_transmission_that_the_log_does_not_continue_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vimraft.metadata.pysyncobj.snapshot.SNAPSHOT_CHUNK_BYTES", 100)
    sender = side(SimDisk())
    write(sender, index=12)
    sender.getTransmissionData(PEER)
    write(sender, index=20)
    sender.drop_older(12)
    part = sender.getTransmissionData(PEER)
    assert part is not None
    assert not part[1]
    sender.drop_older(19)
    part = sender.getTransmissionData(PEER)
    assert part is not None
    assert part[1]


def test_while_one_is_written_the_engine_waits_and_the_tables_are_those_of_the_beginning() -> None:
    disk, later = SimDisk(), Later()
    writer = side(disk, background=later)
    assert write(writer) == (BUSY, 11)
    writer.serialize((None, (b"", 30, 1), (b"", 29, 1), set()), 29)  # of no effect
    assert len(later.jobs) == 1
    later.run()
    assert writer.checkSerializing() == (WRITTEN, 11)
    assert writer.checkSerializing()[0] == 0  # reported once
    assert load_snapshot(disk) == snapshot()


@pytest.mark.parametrize("finished", [True, False])
def test_a_received_snapshot_overtakes_the_one_that_is_written(finished: bool) -> None:
    """Otherwise the older one would replace the newer, or the journal be trimmed to what it is not."""
    disk, later = SimDisk(), Later()
    node = side(disk, background=later)
    write(node, index=12)
    if finished:
        later.run()
    assert give(node, encode_snapshot(snapshot(50)))
    if not finished:
        later.run()
    assert node.checkSerializing() == (0, None)
    found = load_snapshot(disk)
    assert found is not None
    assert found.index == 50
    assert not disk.exists("snapshot.new")
    assert write(node, index=60)[0] == BUSY


@pytest.mark.parametrize("fault", ["full", "sync"])
def test_a_snapshot_that_cannot_be_written_keeps_the_old_one(fault: str) -> None:
    failures: list[int] = []
    disk = SimDisk()
    writer = side(disk, failed=lambda: failures.append(1))
    write(writer, index=12)
    if fault == "full":
        disk.capacity_bytes = disk.used_bytes() + 1_000
    else:
        disk.fail_sync = True
    assert write(writer, index=20)[0] == FAILED
    assert failures == [1]
    assert disk.names() == ["snapshot"]
    assert load_snapshot(disk) == snapshot(12)
    disk.capacity_bytes, disk.fail_sync = None, False
    assert write(writer, index=20)[0] == WRITTEN


def test_a_full_disk_refuses_a_received_snapshot_and_takes_it_later() -> None:
    disk = SimDisk(capacity_bytes=500)
    receiver = side(disk)
    data = encode_snapshot(snapshot())
    assert not give(receiver, data)
    disk.capacity_bytes = None
    assert give(receiver, data)


def test_a_node_that_closes_while_it_writes_leaves_the_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that goes on writing would meet the next process in the same directory."""
    monkeypatch.setattr(snapshot_file, "BREATHER_BYTES", 1)
    disk = SimDisk()
    reached, go_on = threading.Event(), threading.Event()

    def pause(name: str, what: str) -> None:
        if (name, what) == ("snapshot.new", "pwrite"):
            reached.set()
            assert go_on.wait(10)

    threads: list[threading.Thread] = []

    def start(job: Callable[[], None]) -> None:
        threads.append(threading.Thread(target=job))
        threads[0].start()

    writer = side(disk, background=start)
    disk.on_operation = pause
    assert write(writer) == (BUSY, 11)
    assert reached.wait(10)
    closing = threading.Thread(target=writer.close)
    closing.start()
    go_on.set()
    closing.join(10)
    threads[0].join(10)
    assert not closing.is_alive()
    assert disk.names() in ([], ["snapshot"])  # it may just have been complete


def test_a_disk_that_cannot_be_read_sends_nothing() -> None:
    disk = SimDisk()
    sender = side(disk)
    assert sender.getTransmissionData(PEER) is None
    write(sender)

    def broken(name: str, what: str) -> None:
        if what == "pread":
            raise OSError(errno.EIO, "input/output error")

    disk.on_operation = broken
    assert sender.getTransmissionData(PEER) is None
    disk.on_operation = None
    assert sender.getTransmissionData(PEER) is not None
