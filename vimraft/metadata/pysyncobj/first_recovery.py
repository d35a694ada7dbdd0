"""What a restart finds: snapshot, journal and members, checked against each other.

May live here: the checks before PySyncObj opens its files, and the journal class that trims in one
step. PySyncObj itself clears the whole journal when its first entries are not those of the snapshot,
which is what a crash between "snapshot written" and "journal trimmed" leaves; `recover` finishes that
trim instead. Whatever cannot be explained stops the start (CorruptData): never start empty.
"""

import struct
from pathlib import Path

from msgspec import Struct
from pysyncobj.journal import FileJournal, MetaStorer

from vimraft.metadata.pysyncobj.config import PySyncObjConfig
from vimraft.metadata.pysyncobj.errors import CorruptData, Misconfigured
from vimraft.metadata.pysyncobj.files import replace_durably
from vimraft.metadata.pysyncobj.first_members import MembersFile, fold, load_members, save_members
from vimraft.metadata.pysyncobj.first_snapshot import LogEntry, Snapshot, load_snapshot

_REMEDY = (
    "If other managers run: remove this one from the cluster there, empty its data directory and join "
    "again. Otherwise restore the directory from a backup"
)


class Recovered(Struct, frozen=True):
    snapshot: Snapshot | None
    initial_members: frozenset[str]
    members: frozenset[str]
    """In force now: the latest configuration in the log."""


class TrimmingJournal(FileJournal):
    """PySyncObj's journal, but old entries go in one step: the stock one empties the file and
    writes the rest again, so a kill in between loses what had been acknowledged."""

    def __init__(self, path: str) -> None:
        self._path = path
        super().__init__(path)

    def deleteEntriesTo(self, entryTo: int) -> None:  # noqa: N802, N803 (PySyncObj's names)
        keep = [self[i] for i in range(entryTo, len(self))]
        commit_index = self.getRaftCommitIndex()
        write_journal(Path(self._path), keep)
        super()._destroy()
        super().__init__(self._path)
        self.setRaftCommitIndex(commit_index)


def write_journal(path: Path, entries: list[LogEntry]) -> None:
    """Replace the journal at `path` by one of exactly `entries`. Its meta file stays."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    journal = FileJournal(str(temporary))
    for entry in entries:
        journal.add(*entry)
    journal._destroy()
    replace_durably(temporary, path)


def recover(config: PySyncObjConfig) -> Recovered:
    """Raises CorruptData, Misconfigured, OSError."""
    snapshot = load_snapshot(config.snapshot_path)
    entries = _read_journal(config.journal_path)
    if entries:
        entries = _align(config, snapshot, entries)
    remembered = load_members(config.members_path)
    if remembered is None:
        if snapshot is not None or len(entries) > 1:
            raise CorruptData(f"{config.members_path} is missing beside an existing log. {_REMEDY}")
        remembered = _first_start(config)
    initial = frozenset(remembered.initial)
    base = initial if snapshot is None else snapshot.members
    try:
        members = fold(base, (command for command, _, _ in entries))
    except Exception as error:
        raise CorruptData(
            f"{config.journal_path}: a membership change cannot be read: {error}. {_REMEDY}"
        ) from error
    return Recovered(snapshot, initial, members)


def _first_start(config: PySyncObjConfig) -> MembersFile:
    if not config.members:
        raise Misconfigured(
            f"{config.raft_dir} is new and no members are given: name the Raft addresses of the "
            "managers that form the cluster, or join a running one"
        )
    members = tuple(sorted(set(config.members)))
    first = MembersFile(initial=members, latest=members)
    save_members(config.members_path, first)
    return first


def _read_journal(path: Path) -> list[LogEntry]:
    """[] when there is no journal yet."""
    if not path.exists():
        return []
    try:
        journal = FileJournal(str(path))
        entries = [journal[i] for i in range(len(journal))]
        journal._destroy()
    except (struct.error, ValueError, IndexError, OSError) as error:
        raise CorruptData(f"{path}: cannot be read: {error}. {_REMEDY}") from None
    indexes = [index for _, index, _ in entries]
    if indexes and indexes != list(range(indexes[0], indexes[0] + len(indexes))):
        raise CorruptData(f"{path}: its records do not follow each other. {_REMEDY}")
    meta = path.with_name(path.name + ".meta")
    if len(entries) > 1 and not MetaStorer(str(meta)).getMeta():
        # Term and vote were written before the second entry; without them this node might vote twice.
        raise CorruptData(f"{meta}: missing or unreadable beside a journal. {_REMEDY}")
    return entries


def _align(config: PySyncObjConfig, snapshot: Snapshot | None, entries: list[LogEntry]) -> list[LogEntry]:
    """The entries that count, with the journal on disk trimmed to them."""
    first = entries[0][1]
    if snapshot is None:
        if first != 1:
            raise CorruptData(
                f"{config.snapshot_path} is missing: the journal begins at entry {first}. {_REMEDY}"
            )
        return entries
    start = snapshot.previous[1] - first
    if start < 0:
        raise CorruptData(
            f"{config.snapshot_path} ends at entry {snapshot.index}, but the journal begins at "
            f"{first}: it is an older file. {_REMEDY}"
        )
    if [_key(e) for e in entries[start : start + 2]] != [_key(snapshot.previous), _key(snapshot.last)]:
        # The snapshot came from a leader and is ahead of this journal (or replaces its tail):
        # PySyncObj clears the journal and goes on from the snapshot.
        return []
    if start > 0:
        entries = entries[start:]
        write_journal(config.journal_path, entries)
    return entries


def _key(entry: LogEntry) -> tuple[int, int]:
    return entry[1], entry[2]
