"""Handing the tables to PySyncObj: written here, sent, received.

May live here: `SnapshotExchange`, which takes the place of PySyncObj's serializer object (the format is in
snapshot_file.py). The stock one
renames without fsync, installs a received file before anyone has looked at it, and answers "installed"
when loading failed; so the exchange
- checks a received file *before* it replaces the one we have, and refuses one that is not wanted,
- syncs file and directory, so that the journal is never trimmed against a snapshot that may vanish,
- writes our own in the background, and drops that work when a received one overtakes it: the older of two
  never replaces the newer.
"""

import threading
import time
from collections.abc import Callable
from typing import Final, NoReturn

import structlog
from pysyncobj.node import Node, TCPNode

from vimraft.metadata.pysyncobj.config import SNAPSHOT_CHUNK_BYTES
from vimraft.metadata.pysyncobj.disk import Disk, File, read_whole
from vimraft.metadata.pysyncobj.errors import CorruptData, SyncFailed
from vimraft.metadata.pysyncobj.records import LogEntry
from vimraft.metadata.pysyncobj.snapshot_file import (
    MAX_SNAPSHOT_BYTES,
    SNAPSHOT,
    Snapshot,
    decode_snapshot,
    encode_snapshot,
    load_snapshot,
    snapshot_index,
    write_snapshot,
)

__all__ = ["Snapshot", "SnapshotExchange", "decode_snapshot", "encode_snapshot", "load_snapshot"]

log = structlog.get_logger(__name__)

NEW: Final = SNAPSHOT + ".new"
INCOMING: Final = SNAPSHOT + ".incoming"
BREATH_S: Final = 0.000_1
"""Between two pieces the writing thread sleeps this long. Merely giving the interpreter's lock up does not
do: it would take it again before the thread that waits for it has woken."""
BREATH_RATIO: Final = 3
"""… or so many times as long as the piece took: commits go on beside it nearly as fast as without."""
CLOSING_S: Final = 30.0

Background = Callable[[Callable[[], None]], None]
_NOT_SERIALIZING, _SERIALIZING, _SUCCESS, _FAILED = range(4)


class _GivenUp(Exception):
    """The node closes, or a newer snapshot has arrived."""


class _Writing:
    """One snapshot on its way to the disk."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.dropped = False
        """Set under the exchange's lock: it must not take the name any more."""
        self.done = threading.Event()
        self.succeeded = False
        self.breathed_s = 0.0
        """Processor time of the writing thread at its last breath."""
        self.lost = ""
        """The new name may vanish again, or not: why."""


class _Sending:
    """One snapshot on its way to a node: the file stays open, also when a newer one takes its name."""

    def __init__(self, file: File) -> None:
        """Raises CorruptData, OSError."""
        self.file = file
        self.position = 0
        self.index = snapshot_index(file)


class SnapshotExchange:
    """Serves PySyncObj under the method names of its own serializer; the node's thread only, but for what
    `background` runs. Results of `serialize` are reported by a later `checkSerializing`, as PySyncObj
    expects: only then it trims the journal."""

    def __init__(
        self,
        disk: Disk,
        *,
        current: Callable[[LogEntry, LogEntry], Snapshot],
        wanted: Callable[[Snapshot], bool],
        install: Callable[[Snapshot], None],
        failed: Callable[[], None],
        lost: Callable[[str], NoReturn],
        background: Background,
        recovered: Snapshot | None = None,
        congested: Callable[[Node], bool] = lambda _: False,
    ) -> None:
        """`current(previous, last)`: the snapshot of this moment, `last` being the newest entry applied.
        `wanted`: a received snapshot is of this cluster and ahead of this node. `install`: it is on stable
        storage, take it. `failed`: writing did not succeed. `lost`: nobody
        knows which file the disk will have; does not return. `background` runs what it is given, once, in a
        thread of its own or at once. `recovered`: for a first `deserialize` at start.
        `congested`: a node that has not taken what it was sent; its next part waits for a later heartbeat,
        since PySyncObj would otherwise hand the whole file to a slow link at once."""
        self._disk = disk
        self._current = current
        self._wanted = wanted
        self._install = install
        self._failed = failed
        self._lost = lost
        self._background = background
        self._next_load = recovered
        self._congested = congested
        self.loaded_index = 0 if recovered is None else recovered.index
        """The node must have applied at least this much once a load is over."""
        self._lock = threading.Lock()
        """Around "may this file still take the name" and the renaming."""
        self._writing: _Writing | None = None
        self._serialized_index = 0
        self._outgoing: dict[Node, _Sending] = {}
        self._sent: dict[Node, int] = {}
        self._incoming: File | None = None
        self._received = 0

    # --- writing our own -----------------------------------------------------------------------

    def serialize(self, data: tuple[None, LogEntry, LogEntry, set[Node]], index: int) -> None:
        _, last, previous, _ = data
        if self._writing is not None:
            return
        snapshot = self._current(_entry(previous), _entry(last))
        self._serialized_index = index
        writing = self._writing = _Writing(snapshot.index)
        self._background(lambda: self._write(writing, snapshot))

    def _write(self, writing: _Writing, snapshot: Snapshot) -> None:
        """In the background."""
        writing.breathed_s = time.thread_time()
        try:
            self._disk.remove(NEW)
            file = self._disk.open(NEW, create=True)
            try:
                write_snapshot(file, snapshot, lambda: _breathe(writing))
                file.datasync()
            finally:
                file.close()
            with self._lock:
                if writing.dropped:
                    raise _GivenUp
                self._take_name(NEW)
            writing.succeeded = True
        except _GivenUp:
            self._drop_new()
        except SyncFailed as error:
            writing.lost = str(error)
        except OSError as error:
            # Disk full or failing: the journal keeps everything, and the node tries again later.
            log.error("raft.snapshot_not_written", path=self._disk.describe(SNAPSHOT), problem=str(error))
            self._drop_new()
        finally:
            writing.done.set()

    def _take_name(self, file: str) -> None:
        """Raises OSError (the old one is still there), SyncFailed."""
        self._disk.rename(file, SNAPSHOT)
        try:
            self._disk.sync_names()
        except OSError as error:
            # A later sync might succeed all the same, and the journal be trimmed to a name that is gone.
            path = self._disk.describe(SNAPSHOT)
            raise SyncFailed(
                f"{path}: its new name was not made durable: {error}. Check the disk, then start again"
            ) from error

    def _drop_new(self) -> None:
        try:
            self._disk.remove(NEW)
        except OSError as error:
            log.warning("raft.snapshot_left_over", path=self._disk.describe(NEW), problem=str(error))

    def checkSerializing(self) -> tuple[int, int | None]:  # noqa: N802 (PySyncObj's name)
        writing = self._writing
        if writing is None:
            return _NOT_SERIALIZING, None
        if not writing.done.is_set():
            return _SERIALIZING, self._serialized_index
        self._writing = None
        if writing.lost:
            self._lost(writing.lost)
        if writing.dropped:
            return _NOT_SERIALIZING, None
        if not writing.succeeded:
            self._failed()
            return _FAILED, self._serialized_index
        log.info("raft.snapshot_written", index=writing.index)
        return _SUCCESS, self._serialized_index

    # --- loading ----------------------------------------------------------------------------------

    def deserialize(self) -> tuple[None, LogEntry, LogEntry, list[TCPNode]]:
        """Called after `setTransmissionData` has returned True (and at start, with `recovered`), never
        otherwise. The nodes are the voters."""
        assert self._next_load is not None
        snapshot, self._next_load = self._next_load, None
        self._install(snapshot)
        voters = sorted(member.address for member in snapshot.members if member.voter)
        return None, snapshot.last, snapshot.previous, [TCPNode(address) for address in voters]

    # --- sending ----------------------------------------------------------------------------------

    def getTransmissionData(self, node: Node) -> tuple[bytes, bool, bool] | None:  # noqa: N802
        """The next (chunk, is first, is last) for `node`; the last one is empty. None: not now."""
        if self._congested(node):
            return None
        first = node not in self._outgoing
        try:
            if first:
                self._open(node)
            sending = self._outgoing[node]
            chunk = sending.file.pread(SNAPSHOT_CHUNK_BYTES, sending.position)
        except (OSError, CorruptData) as error:
            path = self._disk.describe(SNAPSHOT)
            log.error("raft.snapshot_not_readable", path=path, problem=str(error))
            self.cancelTransmisstion(node)
            return None
        sending.position += len(chunk)
        if not chunk:
            self._sent[node] = sending.index
            self.cancelTransmisstion(node)
        return chunk, first, not chunk

    def _open(self, node: Node) -> None:
        """Raises CorruptData, OSError."""
        file = self._disk.open(SNAPSHOT)
        try:
            self._outgoing[node] = _Sending(file)
        except BaseException:
            file.close()
            raise

    def sent_index(self, node: Node) -> int:
        """The last entry of the snapshot of which the last part has just been given for `node`."""
        return self._sent.pop(node)

    def cancelTransmisstion(self, node: Node) -> None:  # noqa: N802 (sic)
        sending = self._outgoing.pop(node, None)
        if sending is not None:
            sending.file.close()

    def drop_older(self, first: int) -> None:
        """The log begins with `first` now: a snapshot that ends before it is of no use now."""
        for node in [node for node, sending in self._outgoing.items() if sending.index < first]:
            self.cancelTransmisstion(node)

    # --- receiving --------------------------------------------------------------------------------

    def setTransmissionData(self, data: tuple[bytes, bool, bool] | None) -> bool:  # noqa: N802
        """True: a complete, checked, wanted snapshot has replaced ours, durably; `deserialize` gives it."""
        if data is None:
            return False
        chunk, first, last = data
        try:
            if first:
                self._drop_incoming()
                self._disk.remove(INCOMING)
                self._incoming, self._received = self._disk.open(INCOMING, create=True), 0
            if self._incoming is None:
                return False  # the beginning went to an earlier life of this process
            if self._received + len(chunk) > MAX_SNAPSHOT_BYTES:
                raise CorruptData(f"received snapshot: more than {MAX_SNAPSHOT_BYTES} bytes")
            self._incoming.pwrite(chunk, self._received)
            self._received += len(chunk)
            return last and self._finish_incoming()
        except SyncFailed as error:
            self._lost(str(error))
        except (OSError, CorruptData) as error:
            log.error("raft.snapshot_not_received", problem=str(error))
            self._drop_incoming()
            return False

    def _finish_incoming(self) -> bool:
        assert self._incoming is not None
        snapshot = decode_snapshot(read_whole(self._disk, INCOMING) or b"", "received snapshot")
        if not self._wanted(snapshot):
            log.info("raft.snapshot_not_needed", index=snapshot.index)
            self._drop_incoming()
            self._disk.remove(INCOMING)
            return False
        self._incoming.datasync()
        self._drop_incoming()
        with self._lock:
            if self._writing is not None:
                self._writing.dropped = True
            self._take_name(INCOMING)
        self.stop_sending()
        self._next_load = snapshot
        self.loaded_index = snapshot.index
        log.info("raft.snapshot_received", index=snapshot.index)
        return True

    def _drop_incoming(self) -> None:
        file, self._incoming = self._incoming, None
        if file is not None:
            file.close()

    def stop_sending(self) -> None:
        """To anyone."""
        for node in list(self._outgoing):
            self.cancelTransmisstion(node)

    def close(self) -> None:
        """Afterwards nothing of it touches the disk."""
        writing = self._writing
        if writing is not None:
            with self._lock:
                writing.dropped = True
            if not writing.done.wait(CLOSING_S):
                log.error("raft.snapshot_still_written", path=self._disk.describe(NEW))
        self._drop_incoming()
        self.stop_sending()


def _breathe(writing: _Writing) -> None:
    if writing.dropped:
        raise _GivenUp
    worked_s = time.thread_time() - writing.breathed_s
    time.sleep(max(BREATH_S, BREATH_RATIO * worked_s))
    writing.breathed_s = time.thread_time()


def _entry(entry: LogEntry) -> LogEntry:
    command, index, term = entry
    return bytes(command), index, term
