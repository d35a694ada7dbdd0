"""The snapshot file, and how it is sent, received and refused."""

import struct
import zlib
from pathlib import Path

import pytest
from pysyncobj.node import TCPNode

from tests.core_cases import three_sites
from vimraft.core.codec import state_digest
from vimraft.core.tables import State
from vimraft.metadata.pysyncobj.errors import CorruptData
from vimraft.metadata.pysyncobj.first_snapshot import (
    Snapshot,
    SnapshotExchange,
    decode_snapshot,
    encode_snapshot,
    load_snapshot,
)

MEMBERS = frozenset({"127.0.0.1:1", "127.0.0.1:2"})
PEER = TCPNode("127.0.0.1:2")


def snapshot(index: int = 12) -> Snapshot:
    return Snapshot(MEMBERS, (b"\x00p", index - 1, 3), (b"\x00l", index, 3), three_sites().state)


class Side:
    """An exchange with what a node would hand it."""

    def __init__(self, path: Path, *, applied: int = 0) -> None:
        path.mkdir()
        self.path = path / "snapshot"
        self.state = three_sites().state
        self.installed: Snapshot | None = None
        self.failures = 0
        self.exchange = SnapshotExchange(
            self.path,
            current_state=lambda: self.state,
            wanted=lambda received: received.index > applied,
            install=self._install,
            recovered=None,
            failed=self._failed,
        )

    def _install(self, received: Snapshot) -> None:
        self.installed = received

    def _failed(self) -> None:
        self.failures += 1

    def write(self, index: int = 12) -> tuple[int, int | None]:
        entries = snapshot(index)
        nodes = {TCPNode(address) for address in MEMBERS}
        self.exchange.serialize((None, entries.last, entries.previous, nodes), index - 1)
        return self.exchange.checkSerializing()


def test_a_snapshot_comes_back_as_it_was(tmp_path: Path) -> None:
    original = snapshot()
    path = tmp_path / "snapshot"
    path.write_bytes(encode_snapshot(original))
    loaded = load_snapshot(path)
    assert loaded is not None
    assert loaded == original
    assert state_digest(loaded.state) == state_digest(original.state)
    assert load_snapshot(tmp_path / "none") is None


def test_every_flipped_bit_and_every_cut_is_noticed() -> None:
    data = encode_snapshot(Snapshot(MEMBERS, (b"", 1, 1), (b"", 2, 1), State()))
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        with pytest.raises(CorruptData, match="file-name"):
            decode_snapshot(bytes(damaged), "file-name")
        with pytest.raises(CorruptData):
            decode_snapshot(data[:position], "file-name")
    with pytest.raises(CorruptData):
        decode_snapshot(data + b"x", "file-name")


def test_tables_of_a_later_format_are_refused_though_the_checksum_fits() -> None:
    data = encode_snapshot(Snapshot(MEMBERS, (b"", 1, 1), (b"", 2, 1), State()))
    payload = bytes(data[24:]).replace(b"\x01\x9e", b"\x63\x9e", 1)  # version byte of the tables
    if payload == data[24:]:
        payload = payload[:-1] + b"\xc1"
    header = struct.pack("<8sIIQ", data[:8], 1, zlib.crc32(payload), len(payload))
    with pytest.raises(CorruptData):
        decode_snapshot(header + payload, "file-name")


def test_a_snapshot_travels_in_parts_and_is_installed_once_complete(tmp_path: Path) -> None:
    sender, receiver = Side(tmp_path / "a"), Side(tmp_path / "b")
    assert sender.write() == (2, 11)
    assert sender.exchange.checkSerializing()[0] == 0  # reported once
    results = []
    while True:
        part = sender.exchange.getTransmissionData(PEER)
        assert part is not None
        results.append(receiver.exchange.setTransmissionData(part))
        if part[2]:
            break
    assert results[-1] is True
    assert not any(results[:-1])
    assert receiver.installed is None  # the engine asks for it
    _, last, previous, members = receiver.exchange.deserialize()
    assert (last[1], previous[1]) == (12, 11)
    assert {node.id for node in members} == MEMBERS
    assert receiver.installed is not None
    assert state_digest(receiver.installed.state) == state_digest(sender.state)
    assert load_snapshot(receiver.path) == receiver.installed


def test_a_damaged_or_unneeded_transmission_leaves_the_own_snapshot_alone(tmp_path: Path) -> None:
    receiver = Side(tmp_path / "b", applied=50)
    receiver.write(index=60)
    own = receiver.path.read_bytes()
    older = encode_snapshot(snapshot(index=40))
    damaged = bytearray(encode_snapshot(snapshot(index=70)))
    damaged[-1] ^= 1
    for data in (older, bytes(damaged)):
        assert not receiver.exchange.setTransmissionData((data, True, False))
        assert not receiver.exchange.setTransmissionData((b"", False, True))
        assert receiver.path.read_bytes() == own
    assert not receiver.exchange.setTransmissionData((b"tail of an older one", False, False))
    assert not receiver.exchange.setTransmissionData(None)


def test_a_new_snapshot_restarts_transmissions_that_are_under_way(tmp_path: Path) -> None:
    sender = Side(tmp_path / "a")
    sender.write(index=12)
    first = sender.exchange.getTransmissionData(PEER)
    assert first is not None
    assert first[1]
    sender.write(index=20)
    again = sender.exchange.getTransmissionData(PEER)
    assert again is not None
    assert again[1]  # from the beginning, of the new file
    assert decode_snapshot(again[0], "sent").index == 20


def test_a_snapshot_that_cannot_be_written_keeps_the_old_one(tmp_path: Path) -> None:
    side = Side(tmp_path / "a")
    side.write(index=12)
    (tmp_path / "a" / "snapshot.tmp").mkdir()  # as a full disk would: the temporary file fails
    assert side.write(index=20)[0] == 3
    assert side.failures == 1
    loaded = load_snapshot(side.path)
    assert loaded is not None
    assert loaded.index == 12
