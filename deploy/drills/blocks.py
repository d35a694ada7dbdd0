"""What each block of a drill's volume may hold: the checker of chaos.

May live here: tags and the sets of allowed ones; no I/O. All that depends on how many copies a volume has is
`Blocks.power_lost`: with one copy, a power loss of a site that holds it may take back what was not flushed.
Keeps: every block has one writer, so its history is a sequence; 0 is the tag of a block never written.
"""

import struct
from dataclasses import dataclass, field

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


@dataclass
class _Block:
    readable: set[int] = field(default_factory=lambda: {0})
    """What a read may return."""
    stable: set[int] = field(default_factory=lambda: {0})
    """What stable storage may hold: these, and all written since."""


class Blocks:
    """Of one writer."""

    def __init__(self, count: int) -> None:
        self._blocks = [_Block() for _ in range(count)]
        self._unflushed: set[int] = set()
        self.last_tag = 0
        self.acknowledged = 0

    def next_tag(self) -> int:
        self.last_tag += 1
        return self.last_tag

    def written(self, number: int, tag: int) -> None:
        """Acknowledged: nothing older may be read any more."""
        block = self._blocks[number]
        block.readable = {tag}
        block.stable.add(tag)
        self._unflushed.add(number)
        self.acknowledged += 1

    def unknown(self, number: int, tag: int) -> None:
        """Neither acknowledged nor certainly refused: it may show at any time."""
        block = self._blocks[number]
        block.readable.add(tag)
        block.stable.add(tag)
        self._unflushed.add(number)

    def flushed(self, numbers: set[int]) -> None:
        """`numbers`: what had been written when the flush was sent."""
        for number in numbers:
            self._blocks[number].stable = set(self._blocks[number].readable)
        self._unflushed -= numbers

    def unflushed(self) -> set[int]:
        return set(self._unflushed)

    def power_lost(self) -> None:
        """What was not flushed may be gone."""
        for number in self._unflushed:
            self._blocks[number].readable |= self._blocks[number].stable

    def read(self, number: int, tag: int | None) -> str:
        """'' or what is wrong. What was read once is not unread: older tags are out from then on."""
        block = self._blocks[number]
        if tag not in block.readable:
            found = "bytes that were never written there" if tag is None else f"tag {tag}"
            return f"{found}; allowed: {sorted(block.readable)}"
        if tag == max(block.readable):
            block.readable = {tag}
        return ""

    def written_numbers(self) -> list[int]:
        return [number for number, block in enumerate(self._blocks) if block.readable != {0}]
