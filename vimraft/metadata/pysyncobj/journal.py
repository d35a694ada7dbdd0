"""The journal: all of Raft's durable state in one append-only file, one fdatasync for all of it.

May live here: `DurableJournal`, which takes the place of PySyncObj's FileJournal. That one writes through
mmap without fsync, keeps no checksums, rewrites in place, loses everything when it is killed at the wrong
moment and dies of SIGBUS on a full disk. The format is in records.py, the watermark in watermark.py.

Keeps:
- What `sync` has returned for is there after any crash: entries, term and vote, commit index. Or opening
  raises CorruptData; never silently less.
- Memory is ahead of the file: `add` and the like append to a buffer; `write` hands it to the page cache
  (from then on it survives the death of the process), `sync` to stable storage. If the disk is full the
  buffer stays, and the next `write` goes on at the same place.
- Old entries go from memory at once, and from the file when they have become many, by a new one that is
  complete and synced before it gets the name. Until then, or when it cannot be written (disk full), the file
  begins earlier than memory; recovery trims what it reads.
- After a failed fdatasync nothing is known about the file: SyncFailed now and at every later call.
"""

import errno
import math
from typing import Final, overload

import structlog
from pysyncobj.journal import Journal

from vimraft.metadata.pysyncobj import records, watermark
from vimraft.metadata.pysyncobj.disk import Disk, File, read_whole
from vimraft.metadata.pysyncobj.errors import REMEDY, CorruptData, SyncFailed
from vimraft.metadata.pysyncobj.records import Contents, Header, Kind, LogEntry
from vimraft.metadata.pysyncobj.watermark import Mark, Watermark

log = structlog.get_logger(__name__)

JOURNAL: Final = "journal"
NO_STAMP: Final = bytes(records.STAMP_BYTES)
REWRITE_CHUNK_BYTES: Final = 1 << 20
REWRITE_RETRY_BYTES: Final = 4 << 20
NEVER: Final = math.inf
DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def open_journal(disk: Disk, stamp: bytes, name: str = JOURNAL) -> "DurableJournal":
    """The journal that is there. `stamp` (16 bytes) names the node that it must belong to.

    Raises CorruptData (also when it is missing), SyncFailed, OSError."""
    if not disk.exists(name):
        raise CorruptData(f"{disk.describe(name)}: missing. {REMEDY}")
    return DurableJournal(disk, name, stamp=stamp)


def create_journal(
    disk: Disk, stamp: bytes, contents: Contents | None = None, name: str = JOURNAL
) -> "DurableJournal":
    """A new one with `contents`, durably in place of one that may be there. Raises SyncFailed, OSError."""
    present = watermark.load(disk, name)
    serial = 1 if present is None else present.serial + 1
    contents = Contents([]) if contents is None else contents
    write_journal(disk, name, Header(serial, 0, stamp), contents)[0].close()
    return DurableJournal(disk, name, stamp=stamp)


def write_journal(disk: Disk, name: str, header: Header, contents: Contents) -> tuple[File, int]:
    """Replace the journal by one that holds exactly `contents`; (open file, its length).

    Raises OSError when the old one is still in force, SyncFailed when nobody can tell."""
    temporary = name + ".new"
    base = records.HEADER_BYTES + _length(contents)
    disk.remove(temporary)
    file = disk.open(temporary, create=True)
    try:
        end = _fill(file, Header(header.serial, base, header.stamp), contents)
        assert end == base
        _datasync(file, disk.describe(temporary))
        _rename(disk, temporary, name)
    except OSError:
        file.close()
        disk.remove(temporary)  # it holds space that the old journal may need
        raise
    return file, end


def _length(contents: Contents) -> int:
    entries = sum(records.ENTRY_OVERHEAD_BYTES + len(command) for command, _, _ in contents.entries)
    return (
        entries
        + records.HEAD_BYTES
        + len(records.term_payload(contents.term, contents.voted_for))
        + records.HEAD_BYTES
        + len(records.number_payload(contents.commit))
    )


def _fill(file: File, header: Header, contents: Contents) -> int:
    serial = header.serial
    chunk = bytearray(records.pack_header(header))
    written = 0
    for entry in contents.entries:
        chunk += records.pack(Kind.ENTRY, records.entry_payload(entry), serial, written + len(chunk))
        if len(chunk) >= REWRITE_CHUNK_BYTES:
            file.pwrite(bytes(chunk), written)
            written += len(chunk)
            chunk.clear()
    term = records.term_payload(contents.term, contents.voted_for)
    chunk += records.pack(Kind.TERM, term, serial, written + len(chunk))
    commit = records.number_payload(contents.commit)
    chunk += records.pack(Kind.COMMIT, commit, serial, written + len(chunk))
    file.pwrite(bytes(chunk), written)
    return written + len(chunk)


def _datasync(file: File, name: str) -> None:
    try:
        file.datasync()
    except OSError as error:
        raise SyncFailed(f"{name}: not made durable: {error}. Check the disk, then start again") from error


def _rename(disk: Disk, temporary: str, name: str) -> None:
    try:
        disk.rename(temporary, name)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise SyncFailed(f"{disk.describe(name)}: not replaced: {error}. Check the disk") from error
    _sync_names(disk, name)


def _sync_names(disk: Disk, name: str) -> None:
    try:
        disk.sync_names()
    except OSError as error:
        path = disk.describe(name)
        raise SyncFailed(
            f"{path}: its new name was not made durable: {error}. Check the disk, then start again"
        ) from error


class DurableJournal(Journal):
    """One thread. Positions (`deleteEntriesFrom` …) count from the oldest entry held, as PySyncObj has it."""

    def __init__(self, disk: Disk, name: str = JOURNAL, *, stamp: bytes = NO_STAMP) -> None:
        """Opens the journal; makes an empty one if there is neither a journal nor its watermark.

        On return all that was found is on stable storage. Raises CorruptData, SyncFailed, OSError."""
        self._disk = disk
        self._name = name
        self._path = disk.describe(name)
        self._stamp = stamp
        mark = watermark.load(disk, name)
        data = read_whole(disk, name)
        if data is None:
            if mark is not None:
                raise CorruptData(f"{self._path}: missing beside its watermark. {REMEDY}")
            write_journal(disk, name, Header(1, 0, stamp), Contents([]))[0].close()
            data = read_whole(disk, name)
            assert data is not None
        found = self._read(data, mark)
        contents = found.contents
        self._serial = found.header.serial
        self._entries = contents.entries
        self._term, self._voted_for, self._commit = contents.term, contents.voted_for, contents.commit
        self._buffer = bytearray()
        self._marked = 0
        """The newest SYNCED record speaks of this offset."""
        self._urgent = self._failed = False
        self.slack_bytes = 0
        """Of entries that went, so much may stay in the file."""
        self._rewrite_at: float = NEVER
        """A trim that did not fit on the disk is tried again once the file is this long."""
        self._file = disk.open(name)
        if found.end < len(data):
            log.info("raft.journal_torn_end_cut", path=self._path, at=found.end, bytes=len(data) - found.end)
            # Durably, before anything is written there: what is cut must not come back behind it.
            self._file.truncate(found.end)
        _datasync(self._file, self._path)
        # A process that died while it replaced the file may have left the name in the cache only.
        _sync_names(disk, name)
        self._end = self._synced_end = found.end
        self.synced_index = self._last_index()
        """The last entry on stable storage."""
        self.synced_commit = self._commit
        self._watermark = Watermark(disk, name, Mark(self._serial, self._end))

    def _read(self, data: bytes, mark: Mark | None) -> records.Found:
        header = records.read_header(data, self._path)
        if header.stamp != self._stamp:
            raise CorruptData(f"{self._path}: belongs to another node. {REMEDY}")
        known: int | None = None
        if mark is not None:
            if mark.serial > header.serial:
                raise CorruptData(
                    f"{self._path}: is journal number {header.serial}, but number {mark.serial} has "
                    f"taken its place since. {REMEDY}"
                )
            known = mark.end if mark.serial == header.serial else 0
        return records.read(data, self._path, known)

    # --- what PySyncObj calls --------------------------------------------------------------------------

    def add(self, command: bytes, idx: int, term: int) -> None:
        entry = (command, idx, term)
        self._append(Kind.ENTRY, records.entry_payload(entry))
        self._entries.append(entry)

    def clear(self) -> None:
        self._entries = []
        self.synced_index = 0
        self._append(Kind.CLEAR, b"")

    def deleteEntriesFrom(self, entryFrom: int) -> None:  # noqa: N802, N803 (PySyncObj's names)
        """From position `entryFrom` on."""
        if entryFrom >= len(self._entries):
            return
        first = self._entries[entryFrom][1]
        del self._entries[entryFrom:]
        self.synced_index = min(self.synced_index, first - 1)
        self._append(Kind.TRUNCATE, records.number_payload(first))

    def deleteEntriesTo(self, entryTo: int) -> None:  # noqa: N802, N803
        """Those before position `entryTo`; a snapshot that covers them must be on stable storage.

        Raises SyncFailed."""
        if entryTo <= 0:
            return
        del self._entries[:entryTo]
        if self.file_bytes - _length(self._contents()) > self.slack_bytes:
            self._rewrite_or_later()

    @overload
    def __getitem__(self, item: int) -> LogEntry: ...
    @overload
    def __getitem__(self, item: slice) -> list[LogEntry]: ...
    def __getitem__(self, item: int | slice) -> LogEntry | list[LogEntry]:
        return self._entries[item]

    def __len__(self) -> int:
        return len(self._entries)

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:  # noqa: N802, N803
        if raftCommitIndex == self._commit:
            return
        urgent = self._urgent
        self._commit = raftCommitIndex
        self._append(Kind.COMMIT, records.number_payload(raftCommitIndex))
        self._urgent = urgent  # that something is committed is only ever said of entries that are synced

    def getRaftCommitIndex(self) -> int:  # noqa: N802
        return self._commit

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:  # noqa: N802, N803
        if (term, votedForNodeId) == (self._term, self._voted_for):
            return
        self._term, self._voted_for = term, votedForNodeId
        self._append(Kind.TERM, records.term_payload(term, votedForNodeId))

    def getCurrentTerm(self) -> int:  # noqa: N802
        return self._term

    def getVotedForNodeId(self) -> str | None:  # noqa: N802
        return self._voted_for

    def onOneSecondTimer(self) -> None:  # noqa: N802
        """The node decides when to write."""

    def _destroy(self) -> None:
        """Also after a failure. What was not written by then has been promised to nobody."""
        if not self._failed:
            try:
                self.write()
            except OSError as error:
                log.warning("raft.journal_end_not_written", path=self._path, problem=str(error))
        self._file.close()
        self._watermark.close()

    # --- durability ------------------------------------------------------------------------------------

    @property
    def dirty(self) -> bool:
        """Something is not on stable storage yet."""
        return bool(self._buffer) or self._end > self._synced_end

    @property
    def urgent(self) -> bool:
        """`dirty`, and not only with a commit index."""
        return self._urgent

    @property
    def unwritten(self) -> bool:
        """Something would not survive the death of the process."""
        return bool(self._buffer)

    @property
    def file_bytes(self) -> int:
        """Length of the file with all that is to be written."""
        return self._end + len(self._buffer)

    def write(self) -> None:
        """Hand the buffer to the page cache. OSError: the disk is full; nothing is lost, call again."""
        self._check()
        if not self._buffer:
            return
        self._file.pwrite(bytes(self._buffer), self._end)
        self._end += len(self._buffer)
        self._buffer.clear()
        if self._end >= self._rewrite_at:
            self._rewrite_or_later()

    def sync(self) -> None:
        """All done up to now is on stable storage on return. Raises SyncFailed; OSError as `write`."""
        self.write()
        if self._end == self._synced_end:
            return
        try:
            _datasync(self._file, self._path)
        except SyncFailed:
            self._failed = True
            raise
        self._now_synced()
        self._watermark.put(self._serial, self._end)

    def restart(self, previous: LogEntry, last: LogEntry) -> None:
        """A received snapshot, already on stable storage, that ends with these two replaces all entries.

        Durable on return, unless the disk is full. Raises SyncFailed."""
        self._check()
        self.clear()
        self.add(*previous)
        self.add(*last)
        self.setRaftCommitIndex(max(self._commit, last[1]))
        self._rewrite_or_later()

    def _append(self, kind: Kind, payload: bytes) -> None:
        records.check(payload)
        buffer = self._buffer
        if not buffer and self._synced_end > self._marked:
            self._marked = self._synced_end
            mark = records.synced_payload(self._synced_end)
            buffer += records.pack(Kind.SYNCED, mark, self._serial, self._end)
        buffer += records.pack(kind, payload, self._serial, self._end + len(buffer))
        self._urgent = True

    def _now_synced(self) -> None:
        self._synced_end = self._end
        self.synced_index = self._last_index()
        self.synced_commit = self._commit
        self._urgent = False

    def _last_index(self) -> int:
        return self._entries[-1][1] if self._entries else 0

    def _check(self) -> None:
        if self._failed:
            raise SyncFailed(f"{self._path}: an earlier sync failed. Check the disk, then start again")

    def _rewrite_or_later(self) -> None:
        """A new file of what memory holds; while the disk is full, the old one goes on."""
        try:
            self._rewrite()
        except OSError as error:
            log.warning("raft.journal_not_trimmed", path=self._path, problem=str(error))
            self._rewrite_at = self._end + REWRITE_RETRY_BYTES

    def _contents(self) -> Contents:
        return Contents(self._entries, self._term, self._voted_for, self._commit)

    def _rewrite(self) -> None:
        self._check()
        header = Header(self._serial + 1, 0, self._stamp)
        try:
            file, end = write_journal(self._disk, self._name, header, self._contents())
        except SyncFailed:
            self._failed = True
            raise
        self._file.close()
        self._file = file
        self._serial = header.serial
        self._end = end
        self._marked = end  # the header says so: base
        self._buffer.clear()
        self._rewrite_at = NEVER
        self._now_synced()
        self._watermark.put(self._serial, end)
