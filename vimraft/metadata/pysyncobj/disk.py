"""The disk as the log sees it: one directory of flat files, and what is durable when.

May live here: the port (`Disk`, `File`), its implementation on the operating system, writes that survive
a power cut, and the lock of one process per directory. Nothing that knows what the files mean. The
simulation brings a disk of its own, which loses whatever was not synced.
"""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from vimraft.metadata.pysyncobj.errors import DirectoryInUse


class File(Protocol):
    """Every method may raise OSError."""

    def size(self) -> int: ...

    def pread(self, count: int, offset: int) -> bytes:
        """Fewer bytes at the end of the file."""
        ...

    def pwrite(self, data: bytes, offset: int) -> None:
        """All of `data`, into the page cache. After an error any part of it may be there."""
        ...

    def truncate(self, size: int) -> None: ...

    def datasync(self) -> None:
        """On return contents and size are on stable storage. After an error nobody knows."""
        ...

    def close(self) -> None: ...


class Disk(Protocol):
    """A directory; names have no slash. Every method may raise OSError."""

    def open(self, name: str, *, create: bool = False) -> File:
        """For reading and writing. Raises FileNotFoundError unless `create`."""
        ...

    def exists(self, name: str) -> bool: ...

    def rename(self, old: str, new: str) -> None:
        """Replaces `new`. Durable after `sync_names`."""
        ...

    def remove(self, name: str) -> None:
        """Of no effect when it is missing."""
        ...

    def sync_names(self) -> None:
        """On return creations, renames and removals are on stable storage."""
        ...

    def describe(self, name: str) -> str:
        """For messages to people: where the file is."""
        ...


class OsFile:
    def __init__(self, handle: int) -> None:
        self._handle = handle

    def size(self) -> int:
        return os.fstat(self._handle).st_size

    def pread(self, count: int, offset: int) -> bytes:
        found = bytearray()
        while len(found) < count:
            part = os.pread(self._handle, count - len(found), offset + len(found))
            if not part:
                break
            found += part
        return bytes(found)

    def pwrite(self, data: bytes, offset: int) -> None:
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self._handle, rest, offset)
            rest = rest[written:]
            offset += written

    def truncate(self, size: int) -> None:
        os.ftruncate(self._handle, size)

    def datasync(self) -> None:
        os.fdatasync(self._handle)

    def close(self) -> None:
        os.close(self._handle)


class OsDisk:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def open(self, name: str, *, create: bool = False) -> OsFile:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        return OsFile(os.open(self._directory / name, flags, 0o600))

    def exists(self, name: str) -> bool:
        return (self._directory / name).exists()

    def rename(self, old: str, new: str) -> None:
        (self._directory / old).replace(self._directory / new)

    def remove(self, name: str) -> None:
        (self._directory / name).unlink(missing_ok=True)

    def sync_names(self) -> None:
        handle = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def describe(self, name: str) -> str:
        return str(self._directory / name)


def read_whole(disk: Disk, name: str) -> bytes | None:
    """None when there is no such file. Raises OSError."""
    try:
        file = disk.open(name)
    except FileNotFoundError:
        return None
    try:
        return file.pread(file.size(), 0)
    finally:
        file.close()


def write_durably(disk: Disk, name: str, data: bytes) -> None:
    """The file is the old one or all of the new one, whenever power fails. Raises OSError."""
    temporary = name + ".new"
    disk.remove(temporary)
    file = disk.open(temporary, create=True)
    try:
        file.pwrite(data, 0)
        file.datasync()
    finally:
        file.close()
    disk.rename(temporary, name)
    disk.sync_names()


class DirectoryLock:
    """Held for the life of the process; the kernel lets go of it when the process dies."""

    def __init__(self, directory: Path) -> None:
        """Raises DirectoryInUse."""
        path = directory / "lock"
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._handle)
            raise DirectoryInUse(
                f"{directory}: another process has it open (lock {path}). Stop that process, or give "
                "this one a data directory of its own"
            ) from None

    def close(self) -> None:
        os.close(self._handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
