"""Backups that a manager takes by itself: daily, and before a newer release touches what an older one left.

They lie in `data_dir/backups`, one file each. Taken when the manager starts and whenever BACKUP_PERIOD_S has
passed since the newest one; the present release and level are remembered in `last-run.json`, so that a start
after an upgrade is noticed before the log is opened.

A backup that cannot be taken (disk full) is an event and a problem that the console shows, and is tried
again later; it never stops a manager. Times are wall clock: for names and ages only, nothing depends on their
order but which of two is listed first. May live here: the directory, retention, and the two occasions.
"""

import asyncio
import calendar
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import structlog

from vimraft import __version__
from vimraft.api.schema_meta import BackupInfo
from vimraft.core.tables import State
from vimraft.metadata.backup import (
    SUFFIX,
    BackupHeader,
    Kind,
    Named,
    encode_backup,
    file_name,
    parse_name,
    write_backup,
)
from vimraft.metadata.pysyncobj.disk import OsDisk
from vimraft.site.config import BackupConfig
from vimraft.site.directory import write_durably

log = structlog.get_logger(__name__)

BACKUP_PERIOD_S: Final = 24 * 3600
LOOK_S: Final = 60.0
"""How often the age of the newest backup is looked at (and a failed one is tried again)."""
NOT_READY_S: Final = 1.0
LAST_RUN: Final = "last-run.json"


class LastRun(msgspec.Struct, frozen=True):
    """What used this data directory last."""

    release: str
    level: int


def read_last_run(data_dir: Path) -> LastRun | None:
    """None: nobody that says so, or not readable; then it is not known to be the present release."""
    try:
        return msgspec.json.decode((data_dir / LAST_RUN).read_bytes(), type=LastRun)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def remember_run(data_dir: Path, level: int) -> None:
    """Raises OSError."""
    this = LastRun(__version__, level)
    if read_last_run(data_dir) != this:
        write_durably(data_dir / LAST_RUN, msgspec.json.encode(this), mode=0o600)


class BackupDirectory:
    """The automatic backups of one manager. Methods block; they may run in any one thread at a time."""

    def __init__(self, data_dir: Path, config: BackupConfig) -> None:
        self.path = data_dir / "backups"
        self._config = config

    def found(self) -> list[Named]:
        """Newest first. Empty when there is no directory."""
        try:
            names = [parse_name(name) for name in os.listdir(self.path)]
        except FileNotFoundError:
            return []
        return sorted([name for name in names if name is not None], reverse=True)

    def infos(self) -> tuple[BackupInfo, ...]:
        shown = []
        for named in self.found():
            try:
                size_bytes = (self.path / named.name).stat().st_size
            except OSError:
                continue  # just removed
            shown.append(
                BackupInfo(
                    name=named.name,
                    at_ms=_at_ms(named),
                    index=named.log_index,
                    generation=named.generation,
                    kind=named.kind,
                    size_bytes=size_bytes,
                )
            )
        return tuple(shown)

    def take(self, header: BackupHeader, state: State) -> Path:
        """Raises OSError; then all older ones are still there."""
        self.path.mkdir(mode=0o700, exist_ok=True)
        name = file_name(header)
        write_backup(OsDisk(self.path), name, encode_backup(header, state))
        self._drop_old()
        return self.path / name

    def _drop_old(self) -> None:
        keep = {"daily": self._config.keep_daily, "before-upgrade": self._config.keep_before_upgrade}
        seen: dict[str, int] = {}
        for named in self.found():
            seen[named.kind] = seen.get(named.kind, 0) + 1
            if seen[named.kind] > keep.get(named.kind, seen[named.kind]):
                (self.path / named.name).unlink(missing_ok=True)
        for name in os.listdir(self.path):
            if name.endswith(SUFFIX + ".new"):  # the rest of one that was interrupted
                (self.path / name).unlink(missing_ok=True)

    def daily_due(self, now_s: float) -> bool:
        """Also when the newest seems to be of the future: the clock was set back."""
        newest = next((named for named in self.found() if named.kind == "daily"), None)
        return newest is None or not 0 <= now_s - _at_ms(newest) / 1000 < BACKUP_PERIOD_S


def _at_ms(named: Named) -> int:
    return calendar.timegm(time.strptime(named.when, "%Y%m%dT%H%M%SZ")) * 1000


class DailyBackups:
    """The task of a running manager. `take` makes one and raises OSError when it cannot."""

    def __init__(
        self,
        directory: BackupDirectory,
        *,
        ready: Callable[[], bool],
        header: Callable[[Kind], tuple[BackupHeader, State]],
        record: Callable[[str, str, str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`ready`: there are tables worth it. `record(name, severity, message)` makes an event."""
        self.directory = directory
        self.problem = ""
        """Why the last one could not be taken; '' when it could."""
        self._ready = ready
        self._header = header
        self._record = record
        self._clock = clock

    async def run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S if self._ready() else NOT_READY_S)

    async def look(self) -> None:
        """Take one if it is due."""
        try:
            due = self._ready() and await asyncio.to_thread(self.directory.daily_due, self._clock())
            if not due:
                return
            path = await asyncio.to_thread(self.directory.take, *self._header("daily"))
        except OSError as error:
            before = self.problem
            self.problem = f"no daily backup in {self.directory.path}: {error.strerror or error}"
            if self.problem != before:
                log.error("backup.failed", cause=self.problem)
                text = f"{self.problem}; free some space there: it is tried again"
                self._record("backup.failed", "error", text)
            return
        self.problem = ""
        log.info("backup.taken", path=str(path))
        self._record("backup.taken", "info", f"daily backup {path.name}")
