"""The tables as a file: format, reading, writing, and handing it to PySyncObj.

May live here: the snapshot format and `SnapshotExchange`, which takes the place of PySyncObj's
serializer object. The stock one renames without fsync, installs a received file before anyone has
looked at it, and answers "installed" when loading failed; so the exchange
- checks magic, version, CRC and content of a received file *before* it replaces the one we have,
- refuses one that is not ahead of what this node holds already,
- syncs file and directory, so that the journal is never trimmed against a snapshot that may vanish.

Format: magic (8) · version (u32) · CRC32 of the payload (u32) · payload length (u64) · payload
(msgpack: members, the last two log entries, the codec bytes of the tables). Little endian. No pickle.
"""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
import structlog
from msgspec import Struct
from pysyncobj.node import Node, TCPNode

from vimraft.core.codec import CodecError, decode_state, encode_state
from vimraft.core.tables import State
from vimraft.metadata.pysyncobj.config import SNAPSHOT_CHUNK_BYTES
from vimraft.metadata.pysyncobj.errors import CorruptData
from vimraft.metadata.pysyncobj.files import replace_durably, write_durably

log = structlog.get_logger(__name__)

MAGIC: Final = b"VIMRAFT\x01"
VERSION: Final = 1
_HEADER = struct.Struct("<8sIIQ")
_REMEDY = (
    "If other managers run: remove this one from the cluster there, empty its data directory and join "
    "again. Otherwise restore the file from a backup; do not delete it, the tables are in it"
)
LogEntry = tuple[bytes, int, int]
"""(command, index, term), as PySyncObj keeps it."""


class Snapshot(Struct, frozen=True):
    members: frozenset[str]
    previous: LogEntry
    last: LogEntry
    """The newest entry that `state` includes; `previous` is the one before it."""
    state: State

    @property
    def index(self) -> int:
        return self.last[1]


class _Payload(Struct, frozen=True, array_like=True):
    members: list[str]
    previous: LogEntry
    last: LogEntry
    state: bytes


_payload = msgspec.msgpack.Decoder(_Payload)


def encode_snapshot(snapshot: Snapshot) -> bytes:
    payload = msgspec.msgpack.encode(
        _Payload(sorted(snapshot.members), snapshot.previous, snapshot.last, encode_state(snapshot.state))
    )
    return _HEADER.pack(MAGIC, VERSION, zlib.crc32(payload), len(payload)) + payload


def decode_snapshot(data: bytes, name: str) -> Snapshot:
    """Raises CorruptData, whose message begins with `name`."""
    if len(data) < _HEADER.size:
        raise CorruptData(f"{name}: {len(data)} bytes are no snapshot. {_REMEDY}")
    magic, version, crc, length = _HEADER.unpack_from(data)
    payload = memoryview(data)[_HEADER.size :]
    if magic != MAGIC:
        raise CorruptData(f"{name}: is not a vimraft snapshot. {_REMEDY}")
    if version != VERSION:
        raise CorruptData(
            f"{name}: snapshot version {version}, this release reads {VERSION}. Start the release that "
            "wrote it"
        )
    if len(payload) != length or zlib.crc32(payload) != crc:
        raise CorruptData(f"{name}: damaged ({len(payload)} of {length} bytes, checksum). {_REMEDY}")
    try:
        raw = _payload.decode(payload)
        state = decode_state(raw.state)
    except (msgspec.MsgspecError, CodecError) as error:
        raise CorruptData(f"{name}: {error}. {_REMEDY}") from None
    return Snapshot(frozenset(raw.members), raw.previous, raw.last, state)


def load_snapshot(path: Path) -> Snapshot | None:
    """None when there is none. Raises CorruptData, OSError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return decode_snapshot(data, str(path))


class SnapshotExchange:
    """Serves PySyncObj under the method names of its own serializer; the node's thread only.

    Results of `serialize` are reported by the next `checkSerializing`, as PySyncObj expects: only
    then it trims the journal.
    """

    _NOT_SERIALIZING, _SUCCESS, _FAILED = 0, 2, 3

    def __init__(
        self,
        path: Path,
        *,
        current_state: Callable[[], State],
        wanted: Callable[[Snapshot], bool],
        install: Callable[[Snapshot], None],
        recovered: tuple[Snapshot, frozenset[str]] | None,
        failed: Callable[[], None],
    ) -> None:
        """`wanted` says whether a received snapshot is ahead of this node. `recovered`: the snapshot
        found at start, and the members that are in force now. `failed`: writing did not succeed."""
        self._path = path
        self._incoming_path = path.with_name(path.name + ".incoming")
        self._current_state = current_state
        self._wanted = wanted
        self._install = install
        self._failed = failed
        self._next_load = recovered
        self.loaded_index = 0 if recovered is None else recovered[0].index
        """The node must have applied at least this much once a load is over."""
        self._result = self._NOT_SERIALIZING
        self._serialized_index = 0
        self._outgoing: dict[Node, BinaryIO] = {}
        self._incoming: BinaryIO | None = None

    # --- writing our own -----------------------------------------------------------------------

    def serialize(self, data: tuple[None, LogEntry, LogEntry, set[Node]], index: int) -> None:
        _, last, previous, cluster = data
        snapshot = Snapshot(
            frozenset(node.id for node in cluster), _entry(previous), _entry(last), self._current_state()
        )
        self._serialized_index = index
        try:
            write_durably(self._path, encode_snapshot(snapshot))
        except OSError as error:
            # Disk full or failing: the journal keeps everything, and the node tries again later.
            log.error("raft.snapshot_not_written", path=str(self._path), problem=str(error))
            self._result = self._FAILED
            self._failed()
            return
        self._result = self._SUCCESS
        log.info("raft.snapshot_written", index=snapshot.index)

    def checkSerializing(self) -> tuple[int, int | None]:  # noqa: N802 (PySyncObj's name)
        result, self._result = self._result, self._NOT_SERIALIZING
        if result == self._SUCCESS:
            self._close_outgoing()  # half-sent older files are of no use: begin again with this one
        return result, self._serialized_index

    # --- loading ----------------------------------------------------------------------------------

    def deserialize(self) -> tuple[None, LogEntry, LogEntry, list[TCPNode]]:
        """Called at start and after `setTransmissionData` has returned True, never otherwise."""
        assert self._next_load is not None
        (snapshot, members), self._next_load = self._next_load, None
        self._install(snapshot)
        return None, snapshot.last, snapshot.previous, [TCPNode(address) for address in sorted(members)]

    # --- sending ----------------------------------------------------------------------------------

    def getTransmissionData(self, node: Node) -> tuple[bytes, bool, bool] | None:  # noqa: N802
        """The next (chunk, is first, is last) for `node`; the last one is empty."""
        first = node not in self._outgoing
        try:
            if first:
                self._outgoing[node] = self._path.open("rb")
            chunk = self._outgoing[node].read(SNAPSHOT_CHUNK_BYTES)
        except OSError as error:
            log.error("raft.snapshot_not_readable", path=str(self._path), problem=str(error))
            self.cancelTransmisstion(node)
            return None
        if not chunk:
            self.cancelTransmisstion(node)
        return chunk, first, not chunk

    def cancelTransmisstion(self, node: Node) -> None:  # noqa: N802 (sic)
        handle = self._outgoing.pop(node, None)
        if handle is not None:
            handle.close()

    # --- receiving --------------------------------------------------------------------------------

    def setTransmissionData(self, data: tuple[bytes, bool, bool] | None) -> bool:  # noqa: N802
        """True: a complete, checked, newer snapshot has replaced ours; `deserialize` gives it."""
        if data is None:
            return False
        chunk, first, last = data
        try:
            if first:
                self._drop_incoming()
                self._incoming = self._incoming_path.open("wb")
            if self._incoming is None:
                return False  # the beginning went to an earlier life of this process
            self._incoming.write(chunk)
            return last and self._finish_incoming()
        except (OSError, CorruptData) as error:
            log.error("raft.snapshot_not_received", problem=str(error))
            self._drop_incoming()
            return False

    def _finish_incoming(self) -> bool:
        self._drop_incoming()
        snapshot = decode_snapshot(self._incoming_path.read_bytes(), "received snapshot")
        if not self._wanted(snapshot):
            log.info("raft.snapshot_not_needed", index=snapshot.index)
            self._incoming_path.unlink()
            return False
        replace_durably(self._incoming_path, self._path)
        self._close_outgoing()
        self._next_load = (snapshot, snapshot.members)
        self.loaded_index = snapshot.index
        log.info("raft.snapshot_received", index=snapshot.index)
        return True

    def _drop_incoming(self) -> None:
        handle, self._incoming = self._incoming, None
        if handle is not None:
            handle.close()

    def _close_outgoing(self) -> None:
        for node in list(self._outgoing):
            self.cancelTransmisstion(node)

    def close(self) -> None:
        self._drop_incoming()
        self._close_outgoing()


def _entry(entry: LogEntry) -> LogEntry:
    command, index, term = entry
    return bytes(command), index, term
