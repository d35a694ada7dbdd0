"""A disk to look at: reads what is there, keeps every change in memory.

May live here: this one implementation of the port `Disk`. With it recovery can be run on the directory of a
stopped manager to see what it would find, without touching a byte of it.
"""

from vimraft.metadata.pysyncobj.disk import Disk, File, read_whole


class _ScratchFile:
    def __init__(self, content: bytearray) -> None:
        self._content = content

    def size(self) -> int:
        return len(self._content)

    def pread(self, count: int, offset: int) -> bytes:
        return bytes(self._content[offset : offset + count])

    def pwrite(self, data: bytes, offset: int) -> None:
        if len(self._content) < offset:
            self._content.extend(bytes(offset - len(self._content)))
        self._content[offset : offset + len(data)] = data

    def truncate(self, size: int) -> None:
        del self._content[size:]
        self._content.extend(bytes(size - len(self._content)))

    def datasync(self) -> None:
        pass

    def close(self) -> None:
        pass


class ScratchDisk:
    """Implements `Disk` over another, which is only read."""

    def __init__(self, below: Disk) -> None:
        self._below = below
        self._files: dict[str, bytearray | None] = {}
        """What has been opened, made or removed (None) here."""

    def open(self, name: str, *, create: bool = False) -> File:
        if name not in self._files:
            data = read_whole(self._below, name)
            if data is not None:
                self._files[name] = bytearray(data)
        content = self._files.get(name)
        if content is None:
            if not create:
                raise FileNotFoundError(2, "No such file or directory", self.describe(name))
            content = self._files[name] = bytearray()
        return _ScratchFile(content)

    def exists(self, name: str) -> bool:
        if name in self._files:
            return self._files[name] is not None
        return self._below.exists(name)

    def rename(self, old: str, new: str) -> None:
        self.open(old)
        self._files[new], self._files[old] = self._files[old], None

    def remove(self, name: str) -> None:
        self._files[name] = None

    def sync_names(self) -> None:
        pass

    def describe(self, name: str) -> str:
        return self._below.describe(name)
