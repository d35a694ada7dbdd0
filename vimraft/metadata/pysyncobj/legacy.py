"""Directories of the first release, made into ours.

May live here: reading PySyncObj's FileJournal and its meta file, and the conversion. In place, at the first
start; a crash at any moment leaves a directory that this converts again or that is converted. The order:
identity.json, members.json, then the journal under its old name in one step, then the meta file goes. The
snapshot stays as it is (format 1 is read) until the next one replaces it.

Commands lose their pickle on the way: the first release wrote (method number, (codec bytes,)) around each
command and PySyncObj's own list for a membership change. Every node makes the same of the same entry.
"""

import io
import pickle
import struct
from typing import Any, Final

from msgspec import structs

from vimraft.core.apply import apply
from vimraft.core.tables import State
from vimraft.metadata.pysyncobj import identity, watermark
from vimraft.metadata.pysyncobj.disk import Disk, read_whole
from vimraft.metadata.pysyncobj.errors import REMEDY, CorruptData
from vimraft.metadata.pysyncobj.identity import Identity
from vimraft.metadata.pysyncobj.journal import JOURNAL, write_journal
from vimraft.metadata.pysyncobj.members import encode_change, load_members, parse_change, save_members
from vimraft.metadata.pysyncobj.records import REGULAR, Contents, Header, LogEntry
from vimraft.metadata.pysyncobj.snapshot_file import SNAPSHOT, load_snapshot

META: Final = JOURNAL + ".meta"
_MAGIC: Final = b"PYSYNCOBJ\0"
_FIRST_RECORD: Final = 40
_LAST_RECORD = struct.Struct("<I")
_LAST_RECORD_AT: Final = 36
_LENGTH = struct.Struct("<I")
_ENTRY = struct.Struct("<QQ")
_UNREADABLE: Final = (
    pickle.UnpicklingError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    AttributeError,
    ImportError,
)
_LEFT_OVER: Final = (META, META + ".tmp", "members.json.tmp", "snapshot.tmp")


def present(disk: Disk) -> bool:
    """Whether the journal is one of the first release. Raises OSError."""
    if not disk.exists(JOURNAL):
        return False
    file = disk.open(JOURNAL)
    try:
        return file.pread(len(_MAGIC), 0) == _MAGIC
    finally:
        file.close()


def convert(disk: Disk, self_address: str) -> Identity | None:
    """None: there was nothing worth keeping, this is a first start.

    Raises CorruptData, SyncFailed, OSError."""
    contents = read_contents(disk)
    remembered = load_members(disk)
    if remembered is None:
        if disk.exists(SNAPSHOT) or len(contents.entries) > 1:
            raise CorruptData(f"{disk.describe('members.json')} is missing beside an existing log. {REMEDY}")
        disk.remove(JOURNAL)
        _clean(disk)
        return None
    try:
        contents.entries = [(unpickled(command), index, term) for command, index, term in contents.entries]
    except ValueError as error:
        raise CorruptData(f"{disk.describe(JOURNAL)}: {error}. {REMEDY}") from None
    mine = identity.load(disk)
    if mine is None:
        mine = identity.make(remembered.initial, forming=self_address in remembered.initial)
        # The directories' first lists differ when managers joined; the tables are the same everywhere.
        mine = structs.replace(mine, cluster=_cluster_of_tables(disk, contents) or mine.cluster)
        identity.save(disk, mine)
    # These have a log, and it was theirs before they knew ids: they need not meet again.
    save_members(disk, structs.replace(remembered, met=remembered.initial))
    mark = watermark.load(disk, JOURNAL)
    serial = 1 if mark is None else mark.serial + 1
    write_journal(disk, JOURNAL, Header(serial, 0, mine.stamp), contents)[0].close()
    _clean(disk)
    return mine


def _cluster_of_tables(disk: Disk, contents: Contents) -> str:
    """Empty: they were never formed, as far as this directory knows."""
    snapshot = load_snapshot(disk)
    state, applied = (State(), 0) if snapshot is None else (snapshot.state, snapshot.index)
    for command, index, _ in contents.entries:
        if state.cluster_id:
            break
        if index > applied and command[:1] == REGULAR:
            state, _ = apply(state, command[1:])
    return str(state.cluster_id)


def clean(disk: Disk) -> None:
    """What a conversion that was interrupted near its end leaves behind. Raises OSError."""
    if any(disk.exists(name) for name in _LEFT_OVER):
        _clean(disk)


def _clean(disk: Disk) -> None:
    for name in _LEFT_OVER:
        disk.remove(name)
    disk.sync_names()


def read_contents(disk: Disk) -> Contents:
    """Raises CorruptData, OSError."""
    path = disk.describe(JOURNAL)
    try:
        entries = _read_entries(read_whole(disk, JOURNAL) or b"")
    except (struct.error, ValueError) as error:
        raise CorruptData(f"{path}: cannot be read: {error}. {REMEDY}") from None
    indexes = [index for _, index, _ in entries]
    if indexes and indexes != list(range(indexes[0], indexes[0] + len(indexes))):
        raise CorruptData(f"{path}: its records do not follow each other. {REMEDY}")
    meta = _read_meta(read_whole(disk, META) or b"")
    if meta is None:
        if len(entries) > 1:
            # Term and vote were written before the second entry; without them this node might vote twice.
            raise CorruptData(f"{disk.describe(META)}: missing or unreadable beside a journal. {REMEDY}")
        return Contents(entries)
    term, voted_for, commit = meta
    return Contents(entries, term, voted_for, min(commit, indexes[-1]) if indexes else 1)


def _read_entries(data: bytes) -> list[LogEntry]:
    end = _LAST_RECORD.unpack_from(data, _LAST_RECORD_AT)[0]
    if not _FIRST_RECORD <= end <= len(data):
        raise ValueError(f"it ends at byte {end} of {len(data)}")
    entries: list[LogEntry] = []
    position = _FIRST_RECORD
    while position < end:
        length = _LENGTH.unpack_from(data, position)[0]
        start = position + _LENGTH.size
        position = start + length + _LENGTH.size
        if length < _ENTRY.size or position > end or _LENGTH.unpack_from(data, start + length)[0] != length:
            raise ValueError(f"no record at byte {start - _LENGTH.size}")
        index, term = _ENTRY.unpack_from(data, start)
        entries.append((data[start + _ENTRY.size : start + length], index, term))
    return entries


def unpickled(command: bytes) -> bytes:
    """What this release writes for an entry of the first one. Raises ValueError."""
    change = parse_change(command)
    if change is not None:
        return encode_change(change.kind, change.address, change.node_id)
    if command[:1] != REGULAR or len(command) == 1:
        return command
    try:
        _, (data,) = _Plain(io.BytesIO(command[1:])).load()[:2]
    except _UNREADABLE as error:
        raise ValueError(f"a command cannot be read: {error}") from None
    if not isinstance(data, bytes):
        raise ValueError("a command is not of bytes")
    return REGULAR + data


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r}")
    return text.encode("latin-1")


class _Plain(pickle.Unpickler):
    """Plain values only. Pickles of protocol 2 know no bytes: there they are a call of _codecs.encode."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        raise pickle.UnpicklingError(f"{module}.{name} has no place there")


def _read_meta(data: bytes) -> tuple[int, str | None, int] | None:
    """(term, voted for, commit index); None: unreadable."""
    try:
        meta = _Plain(io.BytesIO(data)).load()
        term, voted_for = meta.get("currentTerm", 0), meta.get("votedForNodeId")
        commit = meta.get("raftCommitIndex", 1)
    except _UNREADABLE:
        return None
    if not isinstance(term, int) or not isinstance(commit, int) or not isinstance(voted_for, str | None):
        return None
    return term, voted_for, commit
