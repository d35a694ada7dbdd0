"""The manager's data directory: one manager at a time, and files that survive a power loss whole.

May live here: the lock, durable writing, and the error that says why a manager cannot start.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from vimraft.site.config import Config


class StartError(Exception):
    """The manager cannot start: names the thing, the cause and the remedy."""


@contextlib.contextmanager
def locked(config: Config) -> Iterator[None]:
    """One manager per data directory, proven by a lock that dies with its process."""
    try:
        config.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(config.data_dir / "manager.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(
            f"data_dir {config.data_dir}: {error.strerror}; make it writable for this user"
        ) from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip()
            raise StartError(
                f"data_dir {config.data_dir} is in use by site manager process {holder or '?'}; "
                "stop that one, or give this one a data_dir of its own"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)


def write_durably(path: Path, data: bytes, *, mode: int) -> None:
    """The whole file or the one before it, also after a power loss."""
    temporary = path.with_name(path.name + ".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(temporary, path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
