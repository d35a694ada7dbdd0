"""Writing files that survive a power cut, and one process per directory.

May live here: fsync, rename, flock. Nothing that knows what the files mean.
"""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from vimraft.metadata.pysyncobj.errors import DirectoryInUse


def sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_durably(temporary: Path, final: Path) -> None:
    """`final` is the old file or all of the new one, whenever power fails. Raises OSError."""
    handle = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    temporary.replace(final)
    sync_directory(final.parent)


def write_durably(path: Path, data: bytes) -> None:
    """Raises OSError; then the old file is still there."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    replace_durably(temporary, path)


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
