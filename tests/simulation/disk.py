"""A disk in memory that loses what was not synced: implements the Disk and File ports.

Two levels, as in a kernel: what the process sees (the page cache and the directory as it is now), and what
is on stable storage. `datasync` moves a file's contents there, `sync_names` the directory's entries.

`crash` is a power cut: of every file any subset of the pages that were not synced survives, each in any
version it had since the last sync, now and then torn between two sectors; the size is any that it had;
of the unsynced creations, renames and removals any subset survives. `kill` is the death of the process:
the page cache stays. After either, handles of before raise `Crashed` whatever is asked of them.

After a failed `datasync` the pages count as clean although they are lost, as Linux does it: a second
`datasync` "succeeds" and the data is gone at the next power cut.
"""

import errno
import random
from collections.abc import Callable, Iterator
from typing import Final

PAGE_BYTES: Final = 4096
SECTOR_BYTES: Final = 512
MAX_VERSIONS: Final = 3
"""Of a page that was written again and again without a sync, the newest ones are candidates."""
TORN_SHARE: Final = 0.1

OnOperation = Callable[[str, str], None]
"""(file name, one of `OPERATIONS`), before it happens. May raise Crashed."""
READS: Final = frozenset({"open", "exists", "size", "pread"})
CHANGES: Final = frozenset({"create", "pwrite", "truncate", "datasync", "rename", "remove", "sync_names"})
OPERATIONS: Final = READS | CHANGES


class Crashed(BaseException):
    """The process is dead; nothing above may catch this. Raised by a hook inside a pwrite, `part` (0 … 1)
    says how much of it reached the page cache."""

    def __init__(self, why: str = "crashed", part: float = 0.0) -> None:
        super().__init__(why)
        self.part = part


class _Inode:
    """Contents of one file, cached and stable."""

    def __init__(self) -> None:
        self.cache = bytearray()
        self.stable = b""
        self.versions: dict[int, list[bytes]] = {}
        """Of each unsynced page, oldest first."""
        self.sizes: list[int] = []
        """That the file had since the last sync, but the stable one."""

    def write(self, data: bytes, offset: int) -> None:
        if not data:
            return
        end = offset + len(data)
        if len(self.cache) < end:
            self.cache.extend(bytes(end - len(self.cache)))
            self._resized()
        self.cache[offset:end] = data
        for page in range(offset // PAGE_BYTES, (end - 1) // PAGE_BYTES + 1):
            versions = self.versions.setdefault(page, [])
            versions.append(bytes(self.cache[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]))
            del versions[:-MAX_VERSIONS]

    def truncate(self, size: int) -> None:
        if size < len(self.cache):
            del self.cache[size:]
            self.versions = {page: v for page, v in self.versions.items() if page * PAGE_BYTES < size}
        else:
            self.cache.extend(bytes(size - len(self.cache)))
        self._resized()

    def _resized(self) -> None:
        self.sizes.append(len(self.cache))
        del self.sizes[:-MAX_VERSIONS]

    def sync(self) -> None:
        if self.versions or self.sizes:
            self.stable = bytes(self.cache)
        self.forget()

    def forget(self) -> None:
        """Nothing counts as unsynced any more (true after a sync, false after a failed one)."""
        self.versions = {}
        self.sizes = []

    def lose(self, rng: random.Random, share: float) -> None:
        """A power cut that keeps each unsynced page with probability `share`."""
        if self.versions or self.sizes or self.stable != self.cache:
            size = rng.choice([len(self.stable), *self.sizes])
            if share == 1.0:
                size = len(self.cache)
            after = bytearray(self.stable[:size])
            after.extend(bytes(size - len(after)))
            for page, versions in sorted(self.versions.items()):
                if rng.random() < share:
                    _overlay(after, page, rng.choice(versions) if share < 1.0 else versions[-1], rng, share)
            self.stable = bytes(after)
        self.cache = bytearray(self.stable)
        self.forget()


def _overlay(after: bytearray, page: int, data: bytes, rng: random.Random, share: float) -> None:
    """Put `data` in its place, as far as the size goes; sometimes only some of its sectors."""
    start = page * PAGE_BYTES
    torn = share < 1.0 and rng.random() < TORN_SHARE
    for at in range(0, len(data), SECTOR_BYTES if torn else PAGE_BYTES):
        if torn and rng.random() < 0.5:
            continue
        part = data[at : at + (SECTOR_BYTES if torn else PAGE_BYTES)]
        room = max(0, len(after) - start - at)
        after[start + at : start + at + min(room, len(part))] = part[:room]


class SimDisk:
    """Implements vimraft.metadata.pysyncobj.disk.Disk."""

    def __init__(self, *, capacity_bytes: int | None = None, on_operation: OnOperation | None = None) -> None:
        self.capacity_bytes = capacity_bytes
        self.on_operation = on_operation
        self.fail_sync = False
        """datasync and sync_names raise EIO."""
        self.life = 0
        """Number of crashes and kills so far."""
        self._names: dict[str, _Inode] = {}
        self._stable_names: dict[str, _Inode] = {}
        self._unsynced: list[tuple[str, str | None, _Inode]] = []
        """(name, the name it had before or None, inode it stands for now); removal: name is ''."""

    # --- what may happen to it -----------------------------------------------------------------------

    def crash(self, rng: random.Random) -> None:
        """Power fails. Reproducible from `rng`."""
        share = rng.choice([0.0, 1.0, rng.random(), rng.random(), rng.random()])
        names = dict(self._stable_names)
        for name, old, inode in self._unsynced:
            if share == 1.0 or rng.random() < share:
                if old is not None and names.get(old) is inode:
                    del names[old]
                if name:
                    names[name] = inode
        inodes = {id(inode): inode for name, inode in sorted(names.items())}
        for inode in inodes.values():
            inode.lose(rng, share)
        self._names = names
        self._stable_names = dict(names)
        self._unsynced = []
        self.life += 1

    def kill(self) -> None:
        """The process dies; the page cache stays."""
        self.life += 1

    def contents(self, name: str) -> bytes | None:
        """As the process sees it; None: no such file."""
        inode = self._names.get(name)
        return None if inode is None else bytes(inode.cache)

    def put(self, name: str, data: bytes) -> None:
        """A file as if it had always been there, on stable storage too."""
        inode = _Inode()
        inode.cache, inode.stable = bytearray(data), bytes(data)
        self._names[name] = self._stable_names[name] = inode

    def names(self) -> list[str]:
        return sorted(self._names)

    def used_bytes(self) -> int:
        return sum(len(inode.cache) for inode in self._names.values())

    def survivor(self) -> "SimDisk":
        """A disk with what is on stable storage here, and nothing else."""
        other = SimDisk(capacity_bytes=self.capacity_bytes)
        for name, inode in self._stable_names.items():
            other.put(name, inode.stable)
        return other

    def copy(self) -> "SimDisk":
        """The same files on a disk of its own; only of one where everything is synced."""
        other = SimDisk(capacity_bytes=self.capacity_bytes)
        for name, inode in self._names.items():
            other.put(name, bytes(inode.cache))
        return other

    # --- the port ------------------------------------------------------------------------------------

    def open(self, name: str, *, create: bool = False) -> "SimFile":
        missing = name not in self._names
        self.before(name, "create" if create and missing else "open")
        if missing:
            if not create:
                raise FileNotFoundError(errno.ENOENT, "no such file", name)
            self._names[name] = inode = _Inode()
            self._unsynced.append((name, None, inode))
        return SimFile(self, name, self._names[name])

    def exists(self, name: str) -> bool:
        self.before(name, "exists")
        return name in self._names

    def rename(self, old: str, new: str) -> None:
        self.before(old, "rename")
        if old not in self._names:
            raise FileNotFoundError(errno.ENOENT, "no such file", old)
        inode = self._names.pop(old)
        self._names[new] = inode
        self._unsynced.append((new, old, inode))

    def remove(self, name: str) -> None:
        self.before(name, "remove")
        inode = self._names.pop(name, None)
        if inode is not None:
            self._unsynced.append(("", name, inode))

    def sync_names(self) -> None:
        self.before("", "sync_names")
        if self.fail_sync:
            raise OSError(errno.EIO, "input/output error")
        self._stable_names = dict(self._names)
        self._unsynced = []

    def describe(self, name: str) -> str:
        return name

    def before(self, name: str, what: str) -> None:
        if self.on_operation is not None:
            self.on_operation(name, what)

    def room_bytes(self, wanted: int) -> int:
        """How many of `wanted` further bytes fit."""
        if self.capacity_bytes is None:
            return wanted
        return max(0, min(wanted, self.capacity_bytes - self.used_bytes()))

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())


class SimFile:
    """Implements vimraft.metadata.pysyncobj.disk.File."""

    def __init__(self, disk: SimDisk, name: str, inode: _Inode) -> None:
        self._disk = disk
        self._name = name
        self._inode = inode
        self._life = disk.life
        self._open = True

    def size(self) -> int:
        self._before("size")
        return len(self._inode.cache)

    def pread(self, count: int, offset: int) -> bytes:
        self._before("pread")
        return bytes(self._inode.cache[offset : offset + count])

    def pwrite(self, data: bytes, offset: int) -> None:
        data = bytes(data)
        try:
            self._before("pwrite")
        except Crashed as crash:
            if self._life == self._disk.life:
                self._inode.write(data[: int(crash.part * len(data))], offset)
            raise
        growth = max(0, offset + len(data) - len(self._inode.cache))
        room = self._disk.room_bytes(growth)
        if room < growth:
            self._inode.write(data[: len(data) - growth + room], offset)
            raise OSError(errno.ENOSPC, "no space left on device")
        self._inode.write(data, offset)

    def truncate(self, size: int) -> None:
        self._before("truncate")
        self._inode.truncate(size)

    def datasync(self) -> None:
        self._before("datasync")
        if self._disk.fail_sync:
            self._inode.forget()
            raise OSError(errno.EIO, "input/output error")
        self._inode.sync()

    def close(self) -> None:
        self._open = False  # of no effect on the data, and allowed after a crash: `finally` blocks run

    def _before(self, what: str) -> None:
        if self._life != self._disk.life:
            raise Crashed("the process that opened this file is dead")
        assert self._open, f"{self._name} is closed"
        self._disk.before(self._name, what)
