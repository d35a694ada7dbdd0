"""The site's own database (aiosqlite): events, load history, and the tables as last applied.

May live here: SQL and retention. Nothing here decides anything: the log does. If the file is damaged it is
set aside and begun anew, because a catalogue must never keep a site from serving.
"""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

import aiosqlite
import structlog
from msgspec import Struct

from vimraft.api.schema import EventReply
from vimraft.core.codec import CodecError, decode_state, encode_state
from vimraft.core.tables import State

log = structlog.get_logger(__name__)

SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER NOT NULL, site TEXT NOT NULL, name TEXT NOT NULL,
    subject TEXT NOT NULL, severity TEXT NOT NULL, message TEXT NOT NULL, dedupe TEXT UNIQUE);
CREATE TABLE IF NOT EXISTS load (
    at_ms INTEGER NOT NULL, real TEXT NOT NULL, read_iops REAL NOT NULL, write_iops REAL NOT NULL,
    read_bytes_s REAL NOT NULL, write_bytes_s REAL NOT NULL, read_latency_us REAL NOT NULL,
    write_latency_us REAL NOT NULL, PRIMARY KEY (at_ms, real));
CREATE TABLE IF NOT EXISTS tables (
    id INTEGER PRIMARY KEY CHECK (id = 1), log_index INTEGER NOT NULL, at_ms INTEGER NOT NULL,
    state BLOB NOT NULL);
"""
PRUNE_EVERY = 200


class _Damaged(sqlite3.DatabaseError):
    """The file opens, but its content is not whole."""


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """A full disk or a lock is no reason to set a healthy database aside."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF
    return isinstance(error, _Damaged) or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class NewEvent(Struct, frozen=True):
    """An event to record. Two with the same `dedupe` are one (a restart sees old changes again)."""

    name: str
    subject: str
    severity: str
    message: str
    at_ms: int
    site: str = ""
    dedupe: str | None = None


class Catalogue:
    """Open with `await Catalogue.open(path, …)`."""

    def __init__(self, db: aiosqlite.Connection, site: str, keep_events: int, keep_load_hours: int) -> None:
        self._db = db
        self._site = site
        self._keep_events = keep_events
        self._keep_load_ms = keep_load_hours * 3_600_000
        self._writes = 0
        self._lock = asyncio.Lock()

    @classmethod
    async def open(cls, path: Path, *, site: str, keep_events: int, keep_load_hours: int) -> "Catalogue":
        """A damaged file is renamed to `*.damaged-<time>` and a new one begun."""
        try:
            db = await cls._connect(path)
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            aside = path.with_name(f"{path.name}.damaged-{int(time.time())}")
            log.error("catalogue.damaged", path=str(path), set_aside=str(aside), cause=str(error))
            _set_aside(path, aside)
            db = await cls._connect(path)
        return cls(db, site, keep_events, keep_load_hours)

    @staticmethod
    async def _connect(path: Path) -> aiosqlite.Connection:
        db = await aiosqlite.connect(path)
        try:
            await db.execute("PRAGMA journal_mode=WAL")
            await db.execute("PRAGMA synchronous=NORMAL")
            cursor = await db.execute("PRAGMA quick_check(1)")
            row = await cursor.fetchone()
            if row is None or row[0] != "ok":
                raise _Damaged(f"quick_check: {row[0] if row else 'no answer'}")
            await db.executescript(SCHEMA)
            await db.commit()
        except BaseException:
            await db.close()
            raise
        return db

    async def close(self) -> None:
        async with self._lock:
            with contextlib.suppress(ValueError):  # aiosqlite: already closed
                await self._db.close()

    async def record(self, events: Sequence[NewEvent]) -> None:
        """Never raises: an event that cannot be kept is in the log instead."""
        try:
            await self._record(events)
        except sqlite3.Error as error:
            log.error("catalogue.not_recorded", events=[e.name for e in events], cause=str(error))

    async def _record(self, events: Sequence[NewEvent]) -> None:
        rows = [
            (e.at_ms, e.site or self._site, e.name, e.subject, e.severity, e.message, e.dedupe)
            for e in events
        ]
        async with self._lock:
            await self._db.executemany(
                "INSERT OR IGNORE INTO events (at_ms, site, name, subject, severity, message, dedupe) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                rows,
            )
            self._writes += 1
            if self._writes % PRUNE_EVERY == 0:
                await self._db.execute(
                    "DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?", (self._keep_events,)
                )
            await self._db.commit()

    async def events(self, *, after: int, limit: int) -> tuple[EventReply, ...]:
        """Oldest first; `after` -1: the newest `limit`."""
        columns = "id, at_ms, site, name, subject, severity, message"
        if after < 0:
            sql = f"SELECT {columns} FROM (SELECT * FROM events ORDER BY id DESC LIMIT ?) ORDER BY id"
            cursor = await self._db.execute(sql, (limit,))
        else:
            sql = f"SELECT {columns} FROM events WHERE id > ? ORDER BY id LIMIT ?"
            cursor = await self._db.execute(sql, (after, limit))
        return tuple(EventReply(*row) for row in await cursor.fetchall())

    async def record_load(
        self, at_ms: int, rows: Sequence[tuple[str, float, float, float, float, float, float]]
    ) -> None:
        """(real, read/write iops, read/write bytes/s, read/write µs) each. Raises sqlite3.Error."""
        async with self._lock:
            await self._db.executemany(
                "INSERT OR REPLACE INTO load VALUES (?, ?, ?, ?, ?, ?, ?, ?)", [(at_ms, *row) for row in rows]
            )
            await self._db.execute("DELETE FROM load WHERE at_ms < ?", (at_ms - self._keep_load_ms,))
            await self._db.commit()

    async def save_tables(self, state: State, at_ms: int) -> None:
        """Raises sqlite3.Error."""
        data = await asyncio.to_thread(encode_state, state)
        async with self._lock:
            await self._db.execute(
                "INSERT OR REPLACE INTO tables VALUES (1, ?, ?, ?)", (state.index, at_ms, data)
            )
            await self._db.commit()

    async def tables(self) -> tuple[State, int] | None:
        """The tables as last saved and when (Unix ms); None: none, or of a version unknown here."""
        cursor = await self._db.execute("SELECT state, at_ms FROM tables WHERE id = 1")
        row = await cursor.fetchone()
        if row is None:
            return None
        try:
            return await asyncio.to_thread(decode_state, row[0]), int(row[1])
        except CodecError as error:
            log.error("catalogue.tables_unreadable", cause=str(error))
            return None


def _set_aside(path: Path, aside: Path) -> None:
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
