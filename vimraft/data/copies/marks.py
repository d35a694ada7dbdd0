"""Durable marks of the sole-holder right that owners gave up (see `vimraft.protocol.lease`).

May live here: one small file per volume, replaced whole. Keeps INV-2: a mark is on stable storage when `keep`
returns; what cannot be read counts as a mark of every epoch, so that nobody serves without a lease by it.
"""

import contextlib
import os
from pathlib import Path
from urllib.parse import quote

import msgspec

from vimraft.protocol.lease import Mark

_ANY_EPOCH = (1 << 62) - 1
_decoder = msgspec.msgpack.Decoder(Mark)


class Marks:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def _path(self, volume: str) -> Path:
        return self._directory / f"{quote(volume, safe='')}.mark"

    def load(self, volume: str) -> Mark | None:
        """None: the right was not given up."""
        try:
            return _decoder.decode(self._path(volume).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError):
            return Mark(_ANY_EPOCH, 0)

    def keep(self, volume: str, mark: Mark | None) -> None:
        """None: take it away. Raises OSError; then what the file says is unknown."""
        path = self._path(volume)
        self._directory.mkdir(parents=True, exist_ok=True)
        if mark is None:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        else:
            fresh = path.with_suffix(".mark.new")
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, msgspec.msgpack.encode(mark))
                os.fsync(fd)
            finally:
                os.close(fd)
            fresh.replace(path)
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
