"""The write-intent record of one volume on this host's disk, and the lock that says who may write the volume.

    <name>.rec    frames: magic, length, number, CRC-32 of (file id, number, body), body (msgpack)
                  frame 0: the header; every other one: the changes of one `Keep`, all or none

May live here: the file, its lock, finding it, replacing it by a shorter one. The record itself is
`vimraft.protocol.regions`. Keeps:

- INV-3: `keep` returns True when the changes are on stable storage. When it could not be done nobody knows
  what the disk has, and nothing is ever kept again through this opening.
- A power cut leaves a beginning of the frames and perhaps a torn last one, which was promised to nobody and
  is cut off. A bad frame that a good one follows is damage, and refused: what it said is not known.
- An opening writes the file anew. After a failed sync the page cache may show what the disk does not have; so
  what was read is believed only when it is (again) durable.
- Exclusive flock while open. It goes with the last thread of a dead process, so after its system calls; a
  process that stands still keeps it. So whoever holds it knows that no other process of this host has I/O to
  this volume under way or to come: a former holder gives it up only when it has drained.
- A file is found by the local names of the volume's copies. Those are never used twice within a generation
  (epochs jump between two), so the record of a deleted volume is not found under its old name, and a volume
  that was restored under another name finds its own. Two processes that know maps of different age find the
  same file as long as the maps have a copy in common; if they have none, they write to nothing in common.
"""

import contextlib
import errno
import fcntl
import os
import struct
import uuid
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

import msgspec
from msgspec import Struct

from vimraft.protocol.regions import Change, StoreRecord

SUFFIX = ".rec"
FRESH = ".new"
"""Added to the name of a record that is being written anew."""
FORMAT = 1
MAX_FILE_BYTES = 1 << 30
"""More is not read. A volume of 16 TiB that was written everywhere needs 80 MB for each copy."""
MAX_FRAME_BYTES = 512 << 20
MIN_TAIL_BYTES = 256 << 10
"""Frames may grow to this, or to the size of the file when it was written anew if that is more."""
HEADER_READ_BYTES = 64 << 10
LOCK_TRIES = 16
"""Each costs a replacement of the file between opening and locking it."""

_MAGIC = b"vrC\x01"
_FRAME = struct.Struct(">4sIQI")
_encoder = msgspec.msgpack.Encoder()
_changes = msgspec.msgpack.Decoder(tuple[Change, ...])


class RecordError(Exception):
    """The record cannot be used: names the file, the cause and the remedy."""


class RecordBusy(RecordError):
    """Another process of this host holds it: its turn is not over."""


class Header(Struct, frozen=True):
    format: int
    id: str
    """Of this file; frames of another one do not count."""
    volume: str
    copies: tuple[str, ...]
    """Local names that it was ever used for, as long as it knows something of them."""


_header = msgspec.msgpack.Decoder(Header)


class Disk:
    """What a record needs of the operating system; a test puts a worse one in its place."""

    def write(self, fd: int, data: bytes, offset: int) -> None:
        done = 0
        while done < len(data):
            done += os.pwrite(fd, memoryview(data)[done:], offset + done)

    def sync(self, fd: int) -> None:
        os.fdatasync(fd)

    def sync_directory(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


_DISK = Disk()


def _frame(number: int, seed: bytes, body: bytes) -> bytes:
    if len(body) > MAX_FRAME_BYTES:
        raise OSError(errno.EFBIG, f"{len(body)} bytes of changes at once")
    return _FRAME.pack(_MAGIC, len(body), number, _checksum(number, seed, body)) + body


def _checksum(number: int, seed: bytes, body: bytes | memoryview) -> int:
    return zlib.crc32(body, zlib.crc32(seed + number.to_bytes(8, "big")))


def _frame_at(data: memoryview, at: int, seed: bytes) -> tuple[int, memoryview] | None:
    """(number, body) of a whole frame, or None."""
    if at + _FRAME.size > len(data):
        return None
    magic, length, number, checksum = _FRAME.unpack_from(data, at)
    first = at + _FRAME.size
    if magic != _MAGIC or length > MAX_FRAME_BYTES or first + length > len(data):
        return None
    body = data[first : first + length]
    return (number, body) if _checksum(number, seed, body) == checksum else None


class Loaded(Struct, frozen=True):
    header: Header
    changes: tuple[Change, ...]
    end: int
    """Bytes of whole frames."""
    number: int
    """Of the next frame."""

    def record(self) -> StoreRecord:
        return StoreRecord.of(self.changes)


def parse(data: bytes, where: str) -> Loaded:
    """Raises RecordError: there is no header, or damage in the middle."""
    view = memoryview(data)
    header = parse_header(view, where)
    seed = header.id.encode()
    found: list[Change] = []
    first = _frame_at(view, 0, b"")
    assert first is not None
    at, expected = _FRAME.size + len(first[1]), 1
    while (frame := _frame_at(view, at, seed)) is not None and frame[0] == expected:
        try:
            found += _changes.decode(frame[1])
        except msgspec.MsgspecError as error:
            raise RecordError(f"{where}: frame {expected} is not understood ({error}); {_REMEDY}") from None
        at += _FRAME.size + len(frame[1])
        expected += 1
    later = data.find(_MAGIC, at)
    while later >= 0:
        if _frame_at(view, later, seed) is not None:
            raise RecordError(f"{where}: is damaged at byte {at}, before frames that are whole; {_REMEDY}")
        later = data.find(_MAGIC, later + 1)
    return Loaded(header, tuple(found), at, expected)


_REMEDY = (
    "check that disk; take the copies that lie at this site out (`vimraft vol copy remove`), remove the "
    "file, and add them again"
)


def parse_header(view: memoryview, where: str) -> Header:
    frame = _frame_at(view, 0, b"")
    if frame is None or frame[0] != 0:
        raise RecordError(f"{where}: does not begin as a record of copies does; {_REMEDY}")
    try:
        header = _header.decode(frame[1])
    except msgspec.MsgspecError as error:
        raise RecordError(f"{where}: its header is not understood ({error}); {_REMEDY}") from None
    if header.format != FORMAT:
        raise RecordError(f"{where}: has format {header.format}; a newer version of vimraft wrote it")
    return header


def record_name(volume: str, copy: str) -> str:
    return f"{quote(volume, safe='')}~{quote(copy, safe='')}{SUFFIX}"


class RecordFile:
    """Open, locked and durable. Calls come one at a time."""

    def __init__(self, path: Path, fd: int, loaded: Loaded, disk: Disk) -> None:
        """`fd` is locked and becomes this object's. Use `open_record`."""
        self.path = path
        self.failed = ""
        """Why nothing is kept any more."""
        self._fd = fd
        self._disk = disk
        self._header = loaded.header
        self._end = loaded.end
        self._base = loaded.end
        self._number = loaded.number
        self._held: list[int] = []
        """Of a replacement that may have the name: locked as long as this is."""

    @property
    def volume(self) -> str:
        return self._header.volume

    @property
    def copies(self) -> tuple[str, ...]:
        return self._header.copies

    def load(self) -> StoreRecord:
        """What the disk has."""
        return self._read().record()

    def _read(self) -> Loaded:
        return parse(_read_all(self._fd, str(self.path)), str(self.path))

    def keep(self, changes: tuple[Change, ...]) -> bool:
        """True: durable, all of them. False: unknown, and so are all that follow."""
        if self.failed:
            return False
        try:
            frame = _frame(self._number, self._header.id.encode(), _encoder.encode(changes))
            self._disk.write(self._fd, frame, self._end)
            self._disk.sync(self._fd)
            self._end += len(frame)
            self._number += 1
            if self._end - self._base > max(self._base, MIN_TAIL_BYTES):
                self._rewrite(self._header.volume, self._header.copies)
        except (OSError, RecordError) as error:
            self.failed = f"{self.path}: {error}"
        return not self.failed

    def use_for(self, volume: str, copies: Iterable[str]) -> None:
        """Found by these names, too, when it returns; before a store goes by a map with them. Raises OSError,
        RecordError."""
        names = tuple(dict.fromkeys((*copies, *self._header.copies)))
        if volume == self._header.volume and set(names) == set(self._header.copies):
            return
        if self.failed:
            raise RecordError(self.failed)
        try:
            self._rewrite(volume, names)
        except (OSError, RecordError) as error:
            self.failed = f"{self.path}: {error}"
            raise

    def renew(self, volume: str, copies: Iterable[str]) -> None:
        """Write it anew, so that what it says is durable. Names that it knows nothing of any more are left
        out. Raises OSError, RecordError."""
        self._rewrite(volume, tuple(dict.fromkeys((*copies, *self.load().copies))))

    def _rewrite(self, volume: str, copies: tuple[str, ...]) -> None:
        header = Header(FORMAT, uuid.uuid4().hex, volume, copies)
        body = _encoder.encode(self._read().record().changes())
        fd, end = _write_new(self.path, header, body, self._disk)
        self._held.append(fd)
        os.rename(_fresh(self.path), self.path)
        os.close(self._fd)
        self._held.remove(fd)
        self._fd, self._header, self._end, self._base, self._number = fd, header, end, end, 2
        self._disk.sync_directory(self.path.parent)

    def close(self) -> None:
        """Gives the lock up: only when nothing of the volume is under way here."""
        fds, self._fd, self._held = [self._fd, *self._held], -1, []
        self.failed = self.failed or f"{self.path}: is closed"
        for fd in fds:
            if fd >= 0:
                os.close(fd)


def _fresh(path: Path) -> Path:
    return path.with_name(path.name + FRESH)


def _write_new(path: Path, header: Header, body: bytes, disk: Disk) -> tuple[int, int]:
    """A durable file with these changes that may take the place of `path`, locked: (fd, its bytes)."""
    fresh = _fresh(path)
    fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        data = _frame(0, b"", _encoder.encode(header)) + _frame(1, header.id.encode(), body)
        disk.write(fd, data, 0)
        disk.sync(fd)
    except BaseException:
        os.close(fd)
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise
    return fd, len(data)


def _read_all(fd: int, where: str) -> bytes:
    size = os.fstat(fd).st_size
    if size > MAX_FILE_BYTES:
        raise RecordError(f"{where}: has {size} bytes, more than a record can have; {_REMEDY}")
    parts, at = [], 0
    while part := os.pread(fd, 1 << 20, at):
        parts.append(part)
        at += len(part)
    return b"".join(parts)


# --- finding and opening -----------------------------------------------------------------------------------
def open_record(directory: Path, volume: str, copies: Iterable[str], disk: Disk = _DISK) -> RecordFile:
    """The record of the volume that has (some of) these copies; a new one if there is none. Raises
    RecordBusy, RecordError, OSError."""
    names = tuple(dict.fromkeys(copies))
    assert names, "a volume has copies"
    directory.mkdir(parents=True, exist_ok=True)
    record = None
    with _directory_lock(directory):
        for _ in range(LOCK_TRIES):
            path = find_record(directory, volume, names) or _make(directory, volume, names, disk)
            record = _open_locked(path, disk)
            if record is not None:
                break
    if record is None:
        raise RecordBusy(f"{path}: is replaced all the time")
    try:
        record.renew(volume, names)
    except BaseException:
        record.close()
        raise
    return record


def _make(directory: Path, volume: str, names: tuple[str, ...], disk: Disk) -> Path:
    path = directory / record_name(volume, names[0])
    fd, _ = _write_new(path, Header(FORMAT, uuid.uuid4().hex, volume, names), _encoder.encode(()), disk)
    os.close(fd)
    os.rename(_fresh(path), path)
    return path


@contextlib.contextmanager
def _directory_lock(directory: Path) -> Iterator[None]:
    """Finding, making and removing files is one step."""
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise RecordBusy(f"{directory}: another process looks for a record") from None
    except BaseException:
        os.close(fd)
        raise
    try:
        yield
    finally:
        os.close(fd)


def _open_locked(path: Path, disk: Disk) -> RecordFile | None:
    """None: it was replaced meanwhile."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecordBusy(f"{path}: another process holds it") from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return RecordFile(path, fd, parse(_read_all(fd, str(path)), str(path)), disk)
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def find_record(directory: Path, volume: str, copies: tuple[str, ...]) -> Path | None:
    """Raises RecordError if a file that may be it cannot be read."""
    for copy in copies:
        path = directory / record_name(volume, copy)
        header = _header_of(path)
        if header is not None and not set(copies).isdisjoint(header.copies):
            return path
    for path in sorted(directory.glob("*" + SUFFIX)):
        try:
            header = _header_of(path)
        except RecordError:
            continue  # it bears another name
        if header is not None and not set(copies).isdisjoint(header.copies):
            return path
    return None


def _header_of(path: Path) -> Header | None:
    try:
        with path.open("rb") as file:
            return parse_header(memoryview(file.read(HEADER_READ_BYTES)), str(path))
    except FileNotFoundError:
        return None


def remove_records(directory: Path, live: Iterable[str]) -> int:
    """Remove the records of volumes of which no copy is in `live`: the local names of all copies in the
    tables, the trash included; and what a death left of one that was being written. Returns how many. Raises
    RecordBusy, OSError."""
    if not directory.is_dir():
        return 0
    names, removed = set(live), 0
    with _directory_lock(directory):
        for path in sorted(directory.glob("*" + SUFFIX)):
            with contextlib.suppress(RecordError):  # in use, or damaged: a person has to look at that
                removed += _remove(path, names)
        for fresh in directory.glob("*" + SUFFIX + FRESH):
            if not fresh.with_suffix("").exists():
                fresh.unlink()  # nobody holds the record, and who makes one holds the lock of the directory
    return removed


def _remove(path: Path, live: set[str]) -> bool:
    """Whether it was of no copy in `live`, and went."""
    header = _header_of(path)
    if header is None or not live.isdisjoint(header.copies):
        return False
    record = _open_locked(path, _DISK)
    if record is None:
        return False
    gone = live.isdisjoint(record.copies)  # it may have got names meanwhile
    if gone:
        path.unlink()
    record.close()
    return gone
