"""The manager's data directory: one manager at a time, and files that survive a power loss whole.

May live here: the lock, durable writing, putting another Raft directory in place of the one that is there,
and the error that says why a manager cannot start.

Putting in place (`meta recover|restore`): the new one is written as `raft.building`, renamed `raft.new` once
it is whole, then the old one goes aside and the new one takes its name. Whoever takes the lock next settles
what an interruption left: while there is a `raft` that one counts, else the whole `raft.new` does.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

from vimraft.site.config import Config

log = structlog.get_logger(__name__)


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
        settle(config.data_dir)
        yield
    finally:
        os.close(fd)


RAFT = "raft"
_BUILDING = "raft.building"
_NEW = "raft.new"


def settle(data_dir: Path) -> None:
    """Finish or drop what an interrupted `put_in_place` left. The caller holds the lock."""
    raft, new, building = (data_dir / name for name in (RAFT, _NEW, _BUILDING))
    if building.exists():
        shutil.rmtree(building)
        log.warning("directory.unfinished_dropped", path=str(building))
    if not new.exists():
        return
    if raft.exists():
        shutil.rmtree(new)
        log.warning("directory.not_replaced", kept=str(raft), dropped=str(new))
        return
    os.rename(new, raft)
    sync_directory(data_dir)
    log.warning("directory.replacement_finished", path=str(raft))


def put_in_place(data_dir: Path, build: Callable[[Path], None], aside: str) -> Path | None:
    """Have `build` make a Raft directory, and put it in place of the one that is there, which is kept under
    the name `aside`; where it is now (None: there was none). Raises OSError, and what `build` raises."""
    raft, new, building = (data_dir / name for name in (RAFT, _NEW, _BUILDING))
    settle(data_dir)
    build(building)
    os.rename(building, new)
    sync_directory(data_dir)
    kept: Path | None = None
    if raft.exists():
        kept = _unused(data_dir / aside)
        os.rename(raft, kept)
        sync_directory(data_dir)
    os.rename(new, raft)
    sync_directory(data_dir)
    return kept


def _unused(path: Path) -> Path:
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


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
