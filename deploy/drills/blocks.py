"""What each block of a drill's volume may hold: the checker of chaos.

May live here: tags and the sets of allowed ones; no I/O. What depends on a volume's copies is when the drill
calls `power_lost`: once everything that holds a block has lost power, what was not flushed may be gone.
Keeps: every block has one writer, so its history is a sequence of growing tags; 0 is a block never written.
"""

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

BLOCK_BYTES = 4096
_HEAD = struct.Struct("<8sQQQ")
_MAGIC = b"vmrdrill"


def encode(run: int, number: int, tag: int) -> bytes:
    """Every 32 bytes say where they belong, so a torn or misplaced block shows."""
    return _HEAD.pack(_MAGIC, run, number, tag) * (BLOCK_BYTES // _HEAD.size)


def decode(run: int, number: int, data: bytes) -> int | None:
    """The tag; None when these are not the bytes of this block of this run."""
    if data == bytes(BLOCK_BYTES):
        return 0
    magic, of_run, of_number, tag = _HEAD.unpack_from(data)
    good = (magic, of_run, of_number) == (_MAGIC, run, number) and data == encode(run, number, tag)
    return int(tag) if good else None


class Expected(NamedTuple):
    """What was allowed when a read was sent."""

    readable: frozenset[int]
    newest: int
    losses: int


@dataclass
class _Block:
    readable: set[int] = field(default_factory=lambda: {0})
    """What a read may return."""
    stable: set[int] = field(default_factory=lambda: {0})
    """What stable storage may hold: these, and all written since."""
    acknowledged: int = 0
    session: int = 0
    """In which `acknowledged` was written."""


class Blocks:
    """Of one writer. A session is one connection of that writer."""

    def __init__(self, count: int) -> None:
        self._blocks = [_Block() for _ in range(count)]
        self._unflushed: set[int] = set()
        self._losses = 0
        self.last_tag = 0

    def next_tag(self) -> int:
        self.last_tag += 1
        return self.last_tag

    def unknown(self, number: int, tag: int) -> None:
        """Sent: it may show at any time."""
        block = self._blocks[number]
        block.readable.add(tag)
        block.stable.add(tag)
        self._unflushed.add(number)

    def written(self, number: int, tag: int, session: int) -> None:
        """Acknowledged: nothing older may be read any more."""
        block = self._blocks[number]
        block.readable = {tag}
        block.stable.add(tag)
        block.acknowledged, block.session = tag, session
        self._unflushed.add(number)

    def flushed(self, numbers: set[int], session: int) -> None:
        """`numbers`: what had been written when the flush was sent. A session whose writes were lost is told
        so by its flush, so one that succeeds vouches for all that this session wrote."""
        for number in numbers:
            block = self._blocks[number]
            if block.session == session:
                block.readable = {tag for tag in block.readable if tag >= block.acknowledged}
            block.stable = set(block.readable)
        self._unflushed -= numbers

    def unflushed(self) -> set[int]:
        return set(self._unflushed)

    def power_lost(self) -> None:
        """What was not flushed may be gone."""
        self._losses += 1
        for number in self._unflushed:
            self._blocks[number].readable |= self._blocks[number].stable

    def expect(self, number: int) -> Expected:
        """To be called before a read is sent."""
        return Expected(frozenset(self._blocks[number].readable), self.last_tag, self._losses)

    def read(self, number: int, tag: int | None, expected: Expected) -> str:
        """'' or what is wrong. What was allowed when it was sent may come, and what was written since."""
        block = self._blocks[number]
        if tag is None:
            return "bytes that were never written there"
        if tag not in expected.readable | block.readable and not expected.newest < tag <= self.last_tag:
            return f"tag {tag}; allowed: {sorted(expected.readable | block.readable)}"
        if expected.losses == self._losses:
            # What was read once is not unread. (Not so when power was lost between reading and the answer.)
            block.readable = {allowed for allowed in block.readable if allowed >= tag} or {tag}
        return ""

    def written_numbers(self) -> list[int]:
        return [number for number, block in enumerate(self._blocks) if block.readable != {0}]
