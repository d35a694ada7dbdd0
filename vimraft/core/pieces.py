"""msgpack in pieces: the same bytes as the encoder gives at once, a bounded part at a time.

May live here: encoding only. Large tables are encoded while the log goes on in another thread; encoding them
in one call would hold that thread up (by about half a second for 400,000 segments).
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from msgspec import Struct

from vimraft.core.history import weight as weight_of_change
from vimraft.core.tables import MapChange, RealVolume, Release, Replica, Volume

PIECE_ROWS: Final = 256
"""Segments, or other rows of that size, in one piece: some 0.2 ms of encoding."""

_UNEVEN: Final = (Volume, Replica, Release, RealVolume, MapChange)
"""Rows that may hold many others; those of a table are all of one type."""

_HOLDS_TABLES: Final = frozenset(("copies",))
"""Fields of a snapshot that are a struct of further tables."""

Encode = Callable[[Any], bytes]


def pieces(value: Struct, encode: Encode) -> Iterator[bytes]:
    """Concatenated, the pieces are `encode(value)`; `encode` is that of a plain msgspec.msgpack.Encoder."""
    pending = bytearray()
    for part in _fields(value, encode):
        pending += part
        if len(pending) >= PIECE_ROWS * 64:
            yield bytes(pending)
            pending.clear()
    yield bytes(pending)


def _fields(value: Struct, encode: Encode) -> Iterator[bytes]:
    config = value.__struct_config__
    names = value.__struct_fields__
    if config.tag is not None or names != value.__struct_encode_fields__:
        yield encode(value)
        return
    if config.omit_defaults:
        names = _present(value)
    yield _array_header(len(names)) if config.array_like else _map_header(len(names))
    for name in names:
        if not config.array_like:
            yield encode(name)
        field = getattr(value, name)
        if isinstance(field, list) or type(field) is tuple:
            yield _array_header(len(field))
            yield from _rows(field, encode)
        elif isinstance(field, Struct) and (_weight(field) > 1 or name in _HOLDS_TABLES):
            yield from _fields(field, encode)
        else:
            yield encode(field)


def _present(value: Struct) -> tuple[str, ...]:
    """The fields that msgspec writes under `omit_defaults`: all but those that *are* their default. (It
    writes their number in one byte only if there could be no more than 15.)"""
    fields, defaults = value.__struct_fields__, value.__struct_defaults__
    required = len(fields) - len(defaults)
    assert len(fields) < 16, "msgspec would write a longer header"
    kept = [
        name
        for name, default in zip(fields[required:], defaults, strict=True)
        if getattr(value, name) is not default
    ]
    return (*fields[:required], *kept)


def _rows(rows: Sequence[Any], encode: Encode) -> Iterator[bytes]:
    if not (rows and isinstance(rows[0], _UNEVEN)):
        for start in range(0, len(rows), PIECE_ROWS):
            yield _items(rows[start : start + PIECE_ROWS], encode)
        return
    group: list[Any] = []
    total = 0
    for row in rows:
        weight = _weight(row)
        if total + weight > PIECE_ROWS and group:
            yield _items(group, encode)
            group, total = [], 0
        if weight > PIECE_ROWS:
            yield from _fields(row, encode)
        else:
            group.append(row)
            total += weight
    if group:
        yield _items(group, encode)


def _items(group: Sequence[Any], encode: Encode) -> bytes:
    return encode(group)[len(_array_header(len(group))) :]


def _weight(row: Any) -> int:
    """How many rows of the size of a segment it is, roughly. More than 1 for _UNEVEN ones only."""
    if isinstance(row, Volume):
        return 1 + sum(1 + len(replica.segments) + len(replica.moving) for replica in row.replicas)
    if isinstance(row, Replica):
        return 1 + len(row.segments) + len(row.moving)
    if isinstance(row, Release):
        return 1 + len(row.segments)
    if isinstance(row, RealVolume):
        return 1 + len(row.free)
    if isinstance(row, MapChange):
        return 1 + weight_of_change(row)
    return 1


def _array_header(count: int) -> bytes:
    if count < 16:
        return bytes([0x90 | count])
    return struct.pack(">BH", 0xDC, count) if count < 1 << 16 else struct.pack(">BI", 0xDD, count)


def _map_header(count: int) -> bytes:
    if count < 16:
        return bytes([0x80 | count])
    return struct.pack(">BH", 0xDE, count) if count < 1 << 16 else struct.pack(">BI", 0xDF, count)
