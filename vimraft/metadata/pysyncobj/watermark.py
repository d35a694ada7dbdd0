"""How far the journal is known to be on stable storage: the file `journal.synced`.

May live here: that file. It tells a torn end (cut it) from damage (refuse). Two slots, each in a sector of
its own and written in turn after every sync of the journal, so that one that is being written when the
power fails leaves the other. It is not synced itself after it was made: a sync more per commit would
double the latency. So after a power cut it may be old, then the journal's own SYNCED records help; after
the death of the process alone it is exact.
"""

import struct
import zlib
from typing import Final

import structlog
from msgspec import Struct

from vimraft.metadata.pysyncobj.disk import Disk, File, read_whole, write_durably

log = structlog.get_logger(__name__)

SUFFIX: Final = ".synced"
_SLOT = struct.Struct("<4sQQ")
_CRC = struct.Struct("<I")
_SLOT_BYTES: Final = 512
_MAGIC: Final = b"VRSY"


class Mark(Struct, frozen=True, order=True):
    serial: int
    """Of the journal file that it speaks of."""
    end: int


def _pack(mark: Mark) -> bytes:
    packed = _SLOT.pack(_MAGIC, mark.serial, mark.end)
    return packed + _CRC.pack(zlib.crc32(packed))


def _unpack(data: bytes) -> Mark | None:
    if len(data) < _SLOT.size + _CRC.size:
        return None
    magic, serial, end = _SLOT.unpack_from(data)
    if magic != _MAGIC or zlib.crc32(data[: _SLOT.size]) != _CRC.unpack_from(data, _SLOT.size)[0]:
        return None
    return Mark(serial, end)


def load(disk: Disk, journal_name: str) -> Mark | None:
    """The newest of the good slots; None: there is none. Raises OSError."""
    data = read_whole(disk, journal_name + SUFFIX)
    return max((mark for mark in _slots(data or b"") if mark is not None), default=None)


def _slots(data: bytes) -> list[Mark | None]:
    return [_unpack(data[at : at + _SLOT_BYTES]) for at in (0, _SLOT_BYTES)]


class Watermark:
    """Open for writing."""

    def __init__(self, disk: Disk, journal_name: str, mark: Mark) -> None:
        """Makes the file, durably, unless a usable one is there. Raises OSError."""
        name = journal_name + SUFFIX
        slots = _slots(read_whole(disk, name) or b"")
        if slots == [None, None]:
            write_durably(disk, name, _pack(mark).ljust(_SLOT_BYTES, b"\0") * 2)
            slots = [mark, mark]
        self._name = disk.describe(name)
        self._file: File = disk.open(name)
        self._failed = False
        older, newer = slots
        self._next = 1 if newer is None or (older is not None and newer < older) else 0
        """The slot to write: never the newest good one."""
        self.put(mark.serial, mark.end)

    def put(self, serial: int, end: int) -> None:
        """The journal has just been synced up to `end`."""
        try:
            self._file.pwrite(_pack(Mark(serial, end)), self._next * _SLOT_BYTES)
        except OSError as error:
            # An older mark is still true; it only tells less.
            if not self._failed:
                log.warning("raft.watermark_not_written", path=self._name, problem=str(error))
            self._failed = True
            return
        self._failed = False
        self._next ^= 1

    def close(self) -> None:
        self._file.close()
