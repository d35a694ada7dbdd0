"""The tables as a file: format, reading, writing.

May live here: the snapshot format. Little endian, no pickle.
Format 2: magic (8) · version (u32) · CRC32 of the payload (u32) · payload length (u64) · payload, which is:
length of the head (u32) · head (msgpack: members with node ids, the last two log entries, cluster,
generation) · the codec bytes of the tables. Format 1, of the first release: the payload is one msgpack
array of member addresses, the last two log entries, and the codec bytes.

A snapshot is written piece by piece, each encoded when the one before has been written: the tables are
immutable, so a thread of its own can do it, and between two pieces other threads run.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Final

import msgspec
from msgspec import Struct

from vimraft.core.codec import CodecError, decode_state, encode_state_pieces
from vimraft.core.tables import State
from vimraft.metadata.pysyncobj.disk import Disk, File, read_whole
from vimraft.metadata.pysyncobj.errors import REMEDY, CorruptData
from vimraft.metadata.pysyncobj.members import Member
from vimraft.metadata.pysyncobj.records import LogEntry

SNAPSHOT: Final = "snapshot"
MAGIC: Final = b"VIMRAFT\x01"
VERSION: Final = 2
FIRST_VERSION: Final = 1
MAX_SNAPSHOT_BYTES: Final = 1 << 30
BREATHER_BYTES: Final = 16 << 10
_HEADER = struct.Struct("<8sIIQ")
_LENGTH = struct.Struct("<I")


class Snapshot(Struct, frozen=True):
    members: tuple[Member, ...]
    previous: LogEntry
    last: LogEntry
    """The newest entry that `state` includes; `previous` is the one before it."""
    state: State
    cluster: str = ""
    """"" and 0 in snapshots of the first release, which knew neither."""
    generation: int = 0
    birth: str = ""
    config_index: int = 0
    """Log index of the change that made the members what they are; 0: not known."""

    @property
    def index(self) -> int:
        return self.last[1]


class _Head(Struct, frozen=True, array_like=True):
    members: list[Member]
    previous: LogEntry
    last: LogEntry
    cluster: str
    generation: int
    birth: str = ""
    config_index: int = 0


class _FirstPayload(Struct, frozen=True, array_like=True):
    members: list[str]
    previous: LogEntry
    last: LogEntry
    state: bytes


_head = msgspec.msgpack.Decoder(_Head)
_first_payload = msgspec.msgpack.Decoder(_FirstPayload)


def _payload_pieces(snapshot: Snapshot) -> Iterator[bytes]:
    members = sorted(snapshot.members, key=lambda member: member.address)
    head = msgspec.msgpack.encode(
        _Head(
            members,
            snapshot.previous,
            snapshot.last,
            snapshot.cluster,
            snapshot.generation,
            snapshot.birth,
            snapshot.config_index,
        )
    )
    yield _LENGTH.pack(len(head)) + head
    yield from encode_state_pieces(snapshot.state)


def encode_snapshot(snapshot: Snapshot) -> bytes:
    payload = b"".join(_payload_pieces(snapshot))
    return _HEADER.pack(MAGIC, VERSION, zlib.crc32(payload), len(payload)) + payload


def write_snapshot(file: File, snapshot: Snapshot, between: Callable[[], None]) -> int:
    """Into an empty file; not synced. `between` is called after every BREATHER_BYTES or so, and may raise to
    give up. Returns the file's length. Raises OSError."""
    crc = since = 0
    position = _HEADER.size
    for piece in _payload_pieces(snapshot):
        file.pwrite(piece, position)
        position += len(piece)
        crc = zlib.crc32(piece, crc)
        since += len(piece)
        if since >= BREATHER_BYTES:
            since = 0
            between()
    file.pwrite(_HEADER.pack(MAGIC, VERSION, crc, position - _HEADER.size), 0)
    return position


def decode_snapshot(data: bytes, name: str) -> Snapshot:
    """Raises CorruptData, whose message begins with `name`."""
    if len(data) < _HEADER.size:
        raise CorruptData(f"{name}: {len(data)} bytes are no snapshot. {REMEDY}")
    magic, version, crc, length = _HEADER.unpack_from(data)
    payload = memoryview(data)[_HEADER.size :]
    if magic != MAGIC:
        raise CorruptData(f"{name}: is not a vimraft snapshot. {REMEDY}")
    if len(payload) != length or zlib.crc32(payload) != crc:
        raise CorruptData(f"{name}: damaged ({len(payload)} of {length} bytes, checksum). {REMEDY}")
    try:
        if version == VERSION:
            return _decode_payload(payload)
        if version == FIRST_VERSION:
            return _decode_first(payload)
    except (msgspec.MsgspecError, CodecError, struct.error) as error:
        raise CorruptData(f"{name}: {error}. {REMEDY}") from None
    raise CorruptData(
        f"{name}: snapshot version {version}, this release reads {FIRST_VERSION} to {VERSION}. Start the "
        "release that wrote it"
    )


def _decode_payload(payload: memoryview) -> Snapshot:
    end = _LENGTH.size + _LENGTH.unpack_from(payload)[0]
    head = _head.decode(payload[_LENGTH.size : end])
    state = decode_state(bytes(payload[end:]))
    return Snapshot(
        members=tuple(head.members),
        previous=head.previous,
        last=head.last,
        state=state,
        cluster=head.cluster,
        generation=head.generation,
        birth=head.birth,
        config_index=head.config_index,
    )


def _decode_first(payload: memoryview) -> Snapshot:
    raw = _first_payload.decode(payload)
    members = tuple(Member(address) for address in sorted(raw.members))
    return Snapshot(members, raw.previous, raw.last, decode_state(raw.state))


def snapshot_index(file: File) -> int:
    """Of a whole one; its tables are not looked at. Raises CorruptData, OSError."""
    data = file.pread(_HEADER.size + _LENGTH.size, 0)
    if len(data) < _HEADER.size + _LENGTH.size:
        raise CorruptData(f"{len(data)} bytes are no snapshot. {REMEDY}")
    magic, version, _, length = _HEADER.unpack_from(data)
    if magic == MAGIC and version == VERSION:
        head = file.pread(_LENGTH.unpack_from(data, _HEADER.size)[0], len(data))
        try:
            return _head.decode(head).last[1]
        except msgspec.MsgspecError as error:
            raise CorruptData(f"snapshot: {error}. {REMEDY}") from None
    return decode_snapshot(file.pread(_HEADER.size + length, 0), "snapshot").index


def load_snapshot(disk: Disk) -> Snapshot | None:
    """None when there is none. Raises CorruptData, OSError."""
    data = read_whole(disk, SNAPSHOT)
    return None if data is None else decode_snapshot(data, disk.describe(SNAPSHOT))
