"""The journal's file format: header, records, and how a file is read back.

May live here: bytes in, entries out; no files. Little endian throughout.

Header: magic (8) · version (u32) · serial number of the file (u64) · base (u64) · stamp (16) · CRC32.
All bytes before `base` were on stable storage before the file got its name.
Record: payload length (u32) · CRC32 (u32) · kind (u8) · payload. The checksum also covers the serial
number and the record's offset, so bytes of another file, or from another place, never pass for a record.

What is found behind the last good record is either the torn end of writes that no sync covered (cut it:
nobody was promised anything) or damage (refuse). It is damage when it lies before the watermark (see
watermark.py), or when a good record behind it says that the sync had got that far: each batch that
follows a sync begins with a SYNCED record, which can be found by its mark without the records before it.
"""

import struct
import zlib
from enum import IntEnum
from typing import Final

from msgspec import Struct

from vimraft.metadata.pysyncobj.errors import REMEDY, CorruptData

LogEntry = tuple[bytes, int, int]
"""(command, index, term), as PySyncObj keeps it."""

REGULAR: Final = b"\x00"
"""First byte of an entry's command that is for the tables; the rest is the codec's."""
BATCH: Final = b"\x10"
"""The same of an entry with several (see batches.py)."""
MAX_COMMAND_BYTES: Final = 32 << 10
"""PySyncObj sends larger entries on a path of their own that mishandles some sizes (multiples of its
batch size, config.BATCH_BYTES); commands are held well below it, so that the path is never taken."""
MAGIC: Final = b"VIMRJRNL"
VERSION: Final = 1
STAMP_BYTES: Final = 16
MAX_PAYLOAD_BYTES: Final = 1 << 20
_HEADER = struct.Struct("<8sIQQ16s")
_CRC = struct.Struct("<I")
HEADER_BYTES: Final = _HEADER.size + _CRC.size
_HEAD = struct.Struct("<IIB")
HEAD_BYTES: Final = _HEAD.size
_PLACE = struct.Struct("<QQIB")
_ENTRY = struct.Struct("<QQ")
ENTRY_OVERHEAD_BYTES: Final = HEAD_BYTES + _ENTRY.size
_NUMBER = struct.Struct("<Q")
_MARK: Final = bytes.fromhex("d1f0a96be2437c58")


class Kind(IntEnum):
    ENTRY = 1
    """index, term, command"""
    TRUNCATE = 2
    """first removed index; it and all behind it go"""
    CLEAR = 3
    """all entries go"""
    TERM = 4
    """term, and whom this node voted for in it"""
    COMMIT = 5
    """index"""
    SYNCED = 6
    """mark, offset: when this was written, everything before that offset was on stable storage"""


_ENTRY_KIND: Final = int(Kind.ENTRY)


class Header(Struct, frozen=True):
    serial: int
    base: int
    stamp: bytes


class Contents(Struct):
    """What a journal holds."""

    entries: list[LogEntry]
    term: int = 0
    voted_for: str | None = None
    commit: int = 1
    """PySyncObj's first entry, a no-op, counts as committed from the start."""


class Found(Struct, frozen=True):
    header: Header
    contents: Contents
    end: int
    """Offset behind the last good record; what follows in the file is a torn tail."""


def pack_header(header: Header) -> bytes:
    packed = _HEADER.pack(MAGIC, VERSION, header.serial, header.base, header.stamp)
    return packed + _CRC.pack(zlib.crc32(packed))


def check(payload: bytes) -> None:
    """Raises ValueError for one that is too long (a bug)."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"a journal record of {len(payload)} bytes")


def pack(kind: int, payload: bytes, serial: int, offset: int) -> bytes:
    """The record for exactly this place; `check` the payload before."""
    length = len(payload)
    crc = zlib.crc32(payload, zlib.crc32(_PLACE.pack(serial, offset, length, kind)))
    return _HEAD.pack(length, crc, kind) + payload


def entry_payload(entry: LogEntry) -> bytes:
    command, index, term = entry
    return _ENTRY.pack(index, term) + command


def number_payload(number: int) -> bytes:
    return _NUMBER.pack(number)


def term_payload(term: int, voted_for: str | None) -> bytes:
    return _NUMBER.pack(term) + (b"" if voted_for is None else b"\x01" + voted_for.encode())


def synced_payload(offset: int) -> bytes:
    return _MARK + _NUMBER.pack(offset)


def read_header(data: bytes, name: str) -> Header:
    """Raises CorruptData."""
    if len(data) < HEADER_BYTES:
        raise CorruptData(f"{name}: {len(data)} bytes are no journal. {REMEDY}")
    magic, version, serial, base, stamp = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise CorruptData(f"{name}: is not a journal of vimraft. {REMEDY}")
    if zlib.crc32(data[: _HEADER.size]) != _CRC.unpack_from(data, _HEADER.size)[0]:
        raise CorruptData(f"{name}: its header is damaged (checksum). {REMEDY}")
    if version != VERSION:
        raise CorruptData(
            f"{name}: journal version {version}, this release reads {VERSION}. Start the release that "
            "wrote it"
        )
    return Header(serial, base, stamp)


def read(data: bytes, name: str, watermark: int | None) -> Found:
    """`watermark`: up to where the file is known to have been synced; None: not known.

    Raises CorruptData, whose message begins with `name`."""
    header = read_header(data, name)
    synced = max(header.base, watermark or 0)
    if len(data) < synced:
        raise CorruptData(
            f"{name}: cut off: {len(data)} bytes of the {synced} that had been synced. {REMEDY}"
        )
    contents = Contents([])
    end = _read_records(data, header.serial, contents, name)
    if end < len(data):
        marked = _last_mark(data, header.serial, end)
        if end < max(synced, marked):
            raise CorruptData(
                f"{name}: damaged at byte {end}, before byte {max(synced, marked)}, up to which it had "
                f"been synced. {REMEDY}"
            )
        if watermark is None:
            raise CorruptData(
                f"{name}: ends at byte {end} of {len(data)} with what is no record, and its watermark is "
                f"damaged too: whether entries are missing cannot be known. {REMEDY}"
            )
    if contents.entries:
        contents.commit = min(contents.commit, contents.entries[-1][1])
    return Found(header, contents, end)


def _read_records(data: bytes, serial: int, contents: Contents, name: str) -> int:
    """Fills `contents`; returns the offset of the first byte that is no good record."""
    # The loop decides how long a restart takes: names are local, and entries are taken in here.
    crc32, place, head, entry = zlib.crc32, _PLACE.pack, _HEAD.unpack_from, _ENTRY.unpack_from
    entries = contents.entries
    size = len(data)
    position = HEADER_BYTES
    last: int | None = None
    while position + HEAD_BYTES <= size:
        length, crc, kind = head(data, position)
        start = position + HEAD_BYTES
        end = start + length
        if end > size:
            break
        payload = data[start:end]
        if crc32(payload, crc32(place(serial, position, length, kind))) != crc:
            break
        if kind == _ENTRY_KIND:
            index, term = entry(payload)
            if last is not None and index != last + 1:
                raise CorruptData(f"{name}: entry {index} follows entry {last}. {REMEDY}")
            entries.append((payload[16:], index, term))
        else:
            _take(kind, payload, contents, name)
        last = entries[-1][1] if entries else None
        position = end
    return position


def _take(kind: int, payload: bytes, contents: Contents, name: str) -> None:
    entries = contents.entries
    if kind == Kind.TRUNCATE:
        first = _NUMBER.unpack(payload)[0]
        keep = first - entries[0][1] if entries else -1
        if not 0 <= keep <= len(entries):
            raise CorruptData(f"{name}: removes entries from {first} on, which it does not hold. {REMEDY}")
        del entries[keep:]
    elif kind == Kind.CLEAR:
        entries.clear()
    elif kind == Kind.TERM:
        contents.term = _NUMBER.unpack_from(payload)[0]
        contents.voted_for = payload[_NUMBER.size + 1 :].decode() if len(payload) > _NUMBER.size else None
    elif kind == Kind.COMMIT:
        contents.commit = _NUMBER.unpack(payload)[0]
    elif kind != Kind.SYNCED:
        raise CorruptData(f"{name}: a record of kind {kind}. Start the release that wrote it")


def _last_mark(data: bytes, serial: int, begin: int) -> int:
    """The furthest offset that a good SYNCED record at or behind `begin` speaks of; 0: there is none."""
    furthest = 0
    length = len(_MARK) + _NUMBER.size
    found = data.find(_MARK, begin + HEAD_BYTES)
    while found >= 0:
        payload = data[found : found + length]
        position = found - HEAD_BYTES
        if (
            len(payload) == length
            and data[position:found] == pack(Kind.SYNCED, payload, serial, position)[:HEAD_BYTES]
        ):
            furthest = max(furthest, _NUMBER.unpack_from(payload, len(_MARK))[0])
        found = data.find(_MARK, found + 1)
    return furthest
