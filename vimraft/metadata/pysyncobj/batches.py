"""Several commands in one entry of the log.

May live here: putting commands into an entry, and taking them out. What waits at a node when its round begins
goes into the log together: an entry costs each node a record in the journal, a place in a message and a
check of the log's matching, which with small commands is more than to apply them. Nothing ever waits for a
batch to become full.

Keeps: the commands of an entry are applied in their order, all of them or none, and each has an outcome of
its own; at levels whose releases do not know such entries none is made.
"""

import struct
from collections.abc import Sequence
from typing import Final

from vimraft.core import levels
from vimraft.metadata.pysyncobj.records import BATCH, MAX_COMMAND_BYTES, REGULAR

MAX_BATCH: Final = 64
"""Commands of an entry. More would save nothing, and make applying one take long."""
_LENGTH: Final = struct.Struct("<I")
_LENGTH_BYTES: Final = _LENGTH.size


def may_join(level: int) -> bool:
    return level >= levels.ENTRIES_HOLD_MANY


def room(commands: Sequence[bytes], size: int, more: bytes) -> bool:
    """Whether `more` may be added to `commands`, which have `size` bytes together."""
    count = len(commands)
    return count < MAX_BATCH and size + len(more) + _LENGTH_BYTES * (count + 1) <= MAX_COMMAND_BYTES


def join(commands: Sequence[bytes]) -> bytes:
    """An entry with these commands, each of which begins with REGULAR."""
    if len(commands) == 1:
        return commands[0]
    parts = [BATCH]
    for command in commands:
        assert command[:1] == REGULAR
        parts.append(_LENGTH.pack(len(command) - 1))
        parts.append(command[1:])
    return b"".join(parts)


def split(entry: bytes) -> list[bytes]:
    """What the commands of `entry`, REGULAR or BATCH, hold for apply. Raises ValueError for a torn one."""
    if entry[:1] == REGULAR:
        return [entry[1:]]
    commands: list[bytes] = []
    at, end, length_at = 1, len(entry), _LENGTH.unpack_from
    while at < end:
        start = at + _LENGTH_BYTES
        if start > end:
            raise ValueError("a batch that is torn")
        at = start + length_at(entry, at)[0]
        if not start < at <= end:
            raise ValueError("a batch that is torn")
        commands.append(entry[start:at])
    return commands


def for_tables(entry: bytes) -> bool:
    return entry[:1] in (REGULAR, BATCH)
