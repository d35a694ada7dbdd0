"""The operating system's disk, made to fail: wraps the methods of OsDisk and OsFile in this process.

May live here: death at the n-th operation, a disk that fills, and a record of what a power cut would leave.
The classes stay the same objects, so it does not matter who imported them. Used by faulty_node.py only.

The record (`shadow`) holds each file as it was when it was last synced, and which names pointed to which
file at the last `sync_names`; power_cut.py makes directories of it. It is written after the real sync
and before the caller hears of it: what it lacks was never promised to anyone.
"""

import errno
import itertools
import json
import os
import random
import signal
import threading
from pathlib import Path
from typing import Any

from vimraft.metadata.pysyncobj.disk import OsDisk, OsFile

NAMES = "names.json"
"""As of the last sync of names."""
LIVE = "live-"
"""Before a number: a hard link to the file itself, so that what a lost name stood for can be found."""


class Killer:
    """Ends the process before or within the n-th operation, counted from the first snapshot file made."""

    def __init__(self, at: int, seed: int) -> None:
        self._left = at
        self._counting = False
        self._rng = random.Random(seed)
        self._lock = threading.Lock()

    def made(self, name: str) -> None:
        self._counting = self._counting or name.startswith("snapshot")

    def due(self) -> bool:
        with self._lock:
            if not self._counting:
                return False
            self._left -= 1
            return self._left == 0

    def part(self, length: int) -> int:
        return self._rng.randrange(length + 1)

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
        threading.Event().wait()


class Limit:
    """Bytes that the directory may hold: the number in a file, which a test may change or remove."""

    def __init__(self, control: Path, directory: Path) -> None:
        self._control = control
        self._directory = directory

    def room(self) -> int:
        try:
            limit = int(self._control.read_text())
        except FileNotFoundError:
            return 1 << 60
        with os.scandir(self._directory) as found:
            return max(0, limit - sum(entry.stat().st_size for entry in found))


class Shadow:
    """What a power cut leaves for certain. File contents are kept under numbers, names beside them."""

    def __init__(self, path: Path, directory: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._names: dict[str, int] = {}
        path.mkdir(exist_ok=True)
        for old in path.iterdir():
            old.unlink()
        for file in sorted(directory.iterdir()):  # what a start finds is on the disk
            if file.is_file() and file.name != "lock":
                number = self.made(file)
                (path / str(number)).write_bytes(file.read_bytes())
        self.names_synced()

    def number(self, name: str) -> int:
        with self._lock:
            return self._names[name]

    def made(self, file: Path) -> int:
        with self._lock:
            self._names[file.name] = number = next(self._numbers)
            (self._path / str(number)).touch()
            os.link(file, self._path / f"{LIVE}{number}")
        return number

    def renamed(self, old: str, new: str) -> None:
        with self._lock:
            self._names[new] = self._names.pop(old)

    def removed(self, name: str) -> None:
        with self._lock:
            self._names.pop(name, None)

    def names_synced(self) -> None:
        with self._lock:
            temporary = self._path / (NAMES + ".new")
            temporary.write_text(json.dumps(self._names))
            temporary.replace(self._path / NAMES)

    def synced(self, number: int, size: int, written: list[tuple[int, bytes]]) -> None:
        with (self._path / str(number)).open("r+b") as file:
            for offset, data in written:
                file.seek(offset)
                file.write(data)
            file.truncate(size)


class FaultyFile(OsFile):
    def __init__(self, handle: int, faults: "Installed", number: int) -> None:
        super().__init__(handle)
        self._faults = faults
        self._number = number
        self._written: list[tuple[int, bytes]] = []

    def pwrite(self, data: bytes, offset: int) -> None:
        faults = self._faults
        if faults.killer is not None and faults.killer.due():
            super().pwrite(data[: faults.killer.part(len(data))], offset)
            faults.killer.die()
        if faults.limit is not None:
            fits = self.size() - offset + faults.limit.room()
            if fits < len(data):
                super().pwrite(data[: max(0, fits)], offset)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().pwrite(data, offset)
        if faults.shadow is not None:
            self._written.append((offset, bytes(data)))

    def truncate(self, size: int) -> None:
        self._faults.step()
        if self._faults.limit is not None and size - self.size() > self._faults.limit.room():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().truncate(size)

    def datasync(self) -> None:
        self._faults.step()
        written, self._written = self._written, []
        size = self.size()
        super().datasync()
        if self._faults.shadow is not None:
            self._faults.shadow.synced(self._number, size, written)


class Installed:
    def __init__(self, options: dict[str, Any], directory: Path) -> None:
        self.killer = Killer(options["kill_at"], options.get("seed", 0)) if options.get("kill_at") else None
        self.limit = Limit(Path(options["limit_file"]), directory) if options.get("limit_file") else None
        self.shadow = Shadow(Path(options["shadow"]), directory) if options.get("shadow") else None

    def step(self) -> None:
        if self.killer is not None and self.killer.due():
            self.killer.die()


def install(options: dict[str, Any], directory: Path) -> None:
    """From now on every OsDisk of this process has these faults. `directory`: the Raft directory."""
    directory.mkdir(parents=True, exist_ok=True)
    faults = Installed(options, directory)
    rename, remove, sync_names = OsDisk.rename, OsDisk.remove, OsDisk.sync_names
    real_open = OsDisk.open

    def open_faulty(self: OsDisk, name: str, *, create: bool = False) -> OsFile:
        new = create and not self.exists(name)
        if create and faults.killer is not None:
            faults.killer.made(name)
            faults.step()
        handle = real_open(self, name, create=create)._handle
        number = 0
        if faults.shadow is not None:
            number = faults.shadow.made(directory / name) if new else faults.shadow.number(name)
        return FaultyFile(handle, faults, number)

    def rename_faulty(self: OsDisk, old: str, new: str) -> None:
        faults.step()
        rename(self, old, new)
        if faults.shadow is not None:
            faults.shadow.renamed(old, new)

    def remove_faulty(self: OsDisk, name: str) -> None:
        faults.step()
        remove(self, name)
        if faults.shadow is not None:
            faults.shadow.removed(name)

    def sync_names_faulty(self: OsDisk) -> None:
        faults.step()
        sync_names(self)
        if faults.shadow is not None:
            faults.shadow.names_synced()

    OsDisk.open = open_faulty  # type: ignore[method-assign]
    OsDisk.rename = rename_faulty  # type: ignore[method-assign]
    OsDisk.remove = remove_faulty  # type: ignore[method-assign]
    OsDisk.sync_names = sync_names_faulty  # type: ignore[method-assign]
