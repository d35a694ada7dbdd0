"""Backups: all tables in one file that says what it is and shows when it is damaged.

May live here: the file format, checking, and its way to a directory. Who takes backups and when, and what
becomes of one, is above. Bytes in, bytes out: the disk comes through the port `Disk`.

Format, little endian: magic (16) · format version (u32) · header length (u32) · tables length (u64) · header
(msgpack) · tables (codec bytes, with the version byte of their level) · SHA-256 (32) of all before it. The
magic ends in CR LF, so a copy made as text shows. No field is ever reused; a header may gain fields.
"""

import hashlib
import re
import struct
import time
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import msgspec
from msgspec import Struct

from vimraft.core.codec import CodecError, decode_state, encode_state
from vimraft.core.invariants import check
from vimraft.core.tables import State

if TYPE_CHECKING:  # the port alone: whoever checks a file needs no Raft
    from vimraft.metadata.pysyncobj.disk import Disk

MAGIC: Final = b"vimraft-backup\r\n"
VERSION: Final = 1
SUFFIX: Final = ".vimraft-backup"
MAX_BACKUP_BYTES: Final = 4 << 30
"""Larger than any tables can be: what claims more is no backup."""
_FRAME = struct.Struct("<16sIIQ")
_SUM_BYTES = hashlib.sha256().digest_size

Kind = Literal["manual", "daily", "before-upgrade"]


class BadBackup(Exception):
    """Names the file, what is wrong with it, and the remedy."""


class BackupHeader(Struct, frozen=True):
    """What the file says of itself."""

    cluster_id: str
    index: int
    """Of the tables: the last command that they include."""
    level: int
    cluster: str
    """Identity of the log's cluster, and its generation."""
    generation: int
    at_ms: int
    """Wall clock of who took it; for people."""
    manager: str
    who: str
    release: str
    kind: Kind
    quorum: bool
    """Taken after a barrier: it holds everything acknowledged until then. Else: as applied at `manager`."""
    members: tuple[str, ...]
    """Raft addresses in the log at that time."""


class Backup(NamedTuple):
    header: BackupHeader
    state: State


def encode_backup(header: BackupHeader, state: State) -> bytes:
    assert (header.index, header.level, header.cluster_id) == (state.index, state.level, state.cluster_id)
    head, tables = msgspec.msgpack.encode(header), encode_state(state)
    body = _FRAME.pack(MAGIC, VERSION, len(head), len(tables)) + head + tables
    return body + hashlib.sha256(body).digest()


def decode_backup(data: bytes, name: str) -> Backup:
    """Raises BadBackup, whose message begins with `name`; what comes back is whole and reads."""
    header, tables = _checked(data, name)
    try:
        state = decode_state(tables)
    except CodecError as error:
        raise BadBackup(f"{name}: its tables cannot be read: {error}") from None
    if (header.index, header.level, header.cluster_id) != (state.index, state.level, state.cluster_id):
        raise BadBackup(f"{name}: its header is not of its tables. Use another backup")
    return Backup(header, state)


def decode_header(data: bytes, name: str) -> BackupHeader:
    """As decode_backup, without reading the tables (their checksum is checked)."""
    return _checked(data, name)[0]


def _checked(data: bytes, name: str) -> tuple[BackupHeader, bytes]:
    if data[: len(MAGIC)] != MAGIC or len(data) < _FRAME.size:
        text = " (it was copied as text?)" if data[:14] == MAGIC[:14] else ""
        raise BadBackup(f"{name}: is no vimraft backup{text}. Name a file that vimraft meta backup wrote")
    _, version, head_bytes, tables_bytes = _FRAME.unpack_from(data)
    if version != VERSION:
        raise BadBackup(
            f"{name}: backup format {version}, this release reads {VERSION}; use the release that wrote it, "
            "or a newer one"
        )
    whole = _FRAME.size + head_bytes + tables_bytes + _SUM_BYTES
    if len(data) != whole:
        raise BadBackup(f"{name}: damaged: {len(data)} of {whole} bytes. Use another copy or backup")
    if hashlib.sha256(memoryview(data)[:-_SUM_BYTES]).digest() != data[-_SUM_BYTES:]:
        raise BadBackup(f"{name}: damaged: its checksum does not match. Use another copy or backup")
    try:
        header = msgspec.msgpack.decode(data[_FRAME.size : _FRAME.size + head_bytes], type=BackupHeader)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadBackup(f"{name}: its header cannot be read: {error}. Use another backup") from None
    return header, data[_FRAME.size + head_bytes : -_SUM_BYTES]


def problems(backup: Backup) -> list[str]:
    """What the guarantees of the tables (INV-nn) find wrong in it; empty when nothing is."""
    return [f"{found.invariant}: {found.what}" for found in check(backup.state)]


def file_name(header: BackupHeader) -> str:
    """Sorts by time; says when, from which generation and index, and why it was taken."""
    when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(header.at_ms / 1000))
    return f"{when}-g{header.generation}-i{header.index}-{header.kind}{SUFFIX}"


class Named(NamedTuple):
    """What the name of an automatic backup says."""

    name: str
    when: str
    generation: int
    log_index: int
    kind: str


_NAME = re.compile(r"(\d{8}T\d{6}Z)-g(\d+)-i(\d+)-([a-z-]+)" + re.escape(SUFFIX))


def parse_name(name: str) -> Named | None:
    """None for a file that is not called like a backup: not ours to count or remove."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    return Named(name, match[1], int(match[2]), int(match[3]), match[4])


def write_backup(disk: "Disk", name: str, data: bytes) -> None:
    """The file is there whole or not at all, whenever power fails. Raises OSError."""
    temporary = name + ".new"
    try:
        file = disk.open(temporary, create=True)
        try:
            file.truncate(0)
            file.pwrite(data, 0)
            file.datasync()
        finally:
            file.close()
        disk.rename(temporary, name)
    except OSError:
        disk.remove(temporary)  # a full disk gets its space back
        raise
    disk.sync_names()
