"""Jobs that no table knows: a small file each, so that their manager goes on with them after a restart.

May live here: the records and their files (`<data_dir>/jobs/ID.json`), written whole and durably. Progress in
them may be behind, never ahead: whoever goes on repeats the rest, which is harmless.
"""

import os
from pathlib import Path
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from vimraft.api.schema_moves import MigrateRequest, SaveRequest
from vimraft.api.schema_verify import VerifyRequest
from vimraft.protocol.verify import Tally

log = structlog.get_logger(__name__)

MAX_RECORDS: Final = 64


class SiteDrain(Struct, frozen=True, tag=True):
    site: str
    who: str


class Migration(Struct, frozen=True, tag=True):
    volume: str
    created_ms: int
    """Of the volume: another one under its name is none of this job's."""
    request: MigrateRequest
    before: tuple[str, ...]
    """Copies that it had."""
    who: str


class Save(Struct, frozen=True, tag=True):
    volume: str
    created_ms: int
    request: SaveRequest
    who: str
    was_read_only: bool
    target_created_ms: int = 0
    """0: the target is not built yet."""
    fresh: bool = False
    """The target was built by this job: what was not written there reads as zeros."""
    copied_bytes: int = 0
    """From the beginning, durable at the target."""
    verified: bool = False
    trashing: bool = False
    """The deletion has been proposed: from here on there is no way back."""


class Verification(Struct, frozen=True, tag=True):
    volume: str
    created_ms: int
    request: VerifyRequest
    who: str
    tally: Tally = Tally()
    """A new owner goes on from there."""


Record = SiteDrain | Migration | Save | Verification
_decoder = msgspec.json.Decoder(Record)


class TooManyRecords(Exception):
    """MAX_RECORDS jobs of this kind run already."""


class JobRecords:
    def __init__(self, data_dir: Path) -> None:
        self._directory = data_dir / "jobs"

    def put(self, job_id: str, record: Record) -> None:
        """Blocks until it is on disk. Raises OSError, TooManyRecords."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        path = self._path(job_id)
        if not path.exists() and len(list(self._directory.glob("*.json"))) >= MAX_RECORDS:
            raise TooManyRecords
        temporary = path.with_suffix(".new")
        with open(temporary, "wb") as file:
            file.write(msgspec.json.encode(record))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        self._sync_directory()

    def drop(self, job_id: str) -> None:
        """Raises OSError."""
        self._path(job_id).unlink(missing_ok=True)
        if self._directory.exists():
            self._sync_directory()

    def load(self) -> dict[str, Record]:
        """By job id; what cannot be read is said and left where it is."""
        found: dict[str, Record] = {}
        for path in sorted(self._directory.glob("*.json"))[:MAX_RECORDS]:
            try:
                found[path.stem] = _decoder.decode(path.read_bytes())
            except (OSError, msgspec.MsgspecError) as error:
                log.error("job.record_unreadable", path=str(path), cause=str(error))
        return found

    def _path(self, job_id: str) -> Path:
        return self._directory / f"{job_id}.json"

    def _sync_directory(self) -> None:
        handle = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
