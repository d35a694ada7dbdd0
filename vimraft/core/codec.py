"""Bytes for the log, the snapshot and the catalogue: a version byte (the level, see `levels`), then msgpack.

May live here: encoding only. Equal values give equal bytes (maps are written sorted), so a digest of
`encode_state` compares the tables of two managers.
"""

from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any, TypeVar

import msgspec
from immutables import Map

from vimraft.core import levels
from vimraft.core.chunked import Chunked
from vimraft.core.codec_first import decode_first_request
from vimraft.core.codec_second import decode_second_request
from vimraft.core.commands import (
    SINCE_COPIES,
    Applied,
    Command,
    FormCluster,
    Outcome,
    Rejected,
    Request,
    SetLevel,
)
from vimraft.core.history import weight
from vimraft.core.ids import ClientId, ManagerName, VolumeName
from vimraft.core.pieces import pieces
from vimraft.core.tables import (
    ClientResult,
    Lease,
    Manager,
    MapChange,
    RealVolume,
    Release,
    Settings,
    Site,
    State,
    Storage,
    Volume,
)

T = TypeVar("T")
SMALL_BYTES = 4_096
"""Below it a copy of the bytes takes less time than a view of them."""


class CodecError(ValueError):
    """The bytes are of another version, torn, or not ours."""


class _SinceCopies(msgspec.Struct, frozen=True):
    """Tables that level 3 brought."""

    boots: list[tuple[ManagerName, str]]
    trash_ids: list[int]
    trash: list[Volume]


class _Snapshot(msgspec.Struct, frozen=True, omit_defaults=True):
    """What has a default is not in the bytes while there is none of it. msgspec writes the number of fields
    in one byte as long as a struct has at most 15: further tables go into `copies`, or a struct like it."""

    index: int
    cluster_id: str
    settings: Settings
    managers: list[Manager]
    sites: list[Site]
    storages: list[Storage]
    reals: list[RealVolume]
    volumes: list[Volume]
    releases: list[Release]
    leases: list[Lease]
    clients: list[tuple[ClientId, ClientResult]]
    history: list[MapChange]
    next_release_id: int
    next_local_number: int
    copies: _SinceCopies | None = None


_encoder = msgspec.msgpack.Encoder()
_request = msgspec.msgpack.Decoder(Request)
_outcome = msgspec.msgpack.Decoder(Applied | Rejected)
_snapshot = msgspec.msgpack.Decoder(_Snapshot)
_VERSION_BYTE = {level: bytes([level]) for level in range(levels.FIRST, levels.LATEST + 1)}
BRING_LEVEL = (FormCluster, SetLevel)
_REQUESTS: "dict[int, Callable[[bytes | memoryview], Request]]" = {
    1: decode_first_request,
    2: decode_second_request,
    3: _request.decode,
}
_SINCE_COPIES = frozenset(SINCE_COPIES)


def _encode(value: Any, level: int) -> bytes:
    return _VERSION_BYTE[level] + _encoder.encode(value)


def level_of(data: bytes, what: str) -> int:
    """The level that bytes were written for. Raises CodecError for one that this release does not read."""
    if not data:
        raise CodecError(f"{what}: is empty")
    level = data[0]
    if level not in _VERSION_BYTE:
        raise CodecError(
            f"{what}: format version {level}, this release reads {levels.FIRST} to {levels.LATEST}; "
            "start the release that wrote it"
        )
    return level


def _decode(decode: "Callable[[bytes | memoryview], T]", data: bytes, what: str) -> T:
    try:
        return decode(data[1:] if len(data) < SMALL_BYTES else memoryview(data)[1:])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"{what}: {error}") from None


def level_brought(command: Command) -> int:
    """The level that a cluster has after `command`, if it is one that decides that; else the first."""
    return command.level if isinstance(command, BRING_LEVEL) else levels.FIRST


def request_level(command: Command, cluster_level: int) -> int:
    """For which level a request with `command` is written in a cluster of `cluster_level`."""
    if type(command) in _SINCE_COPIES:
        return max(cluster_level, levels.COPIES)
    brought = level_brought(command)
    return max(cluster_level, brought) if levels.readable(brought) else cluster_level


def encode_request(request: Request, level: int = levels.FIRST) -> bytes:
    """`level`: of the tables as the proposer knows them; what they can do is read by all managers."""
    return _encode(request, request_level(request.command, level))


def decode_request(data: bytes) -> Request:
    """Raises CodecError."""
    return _decode(_REQUESTS[level_of(data, "request")], data, "request")


def encode_outcome(outcome: Outcome, level: int = levels.FIRST) -> bytes:
    return _VERSION_BYTE[level] + _encoder.encode(outcome)


def decode_outcome(data: bytes) -> Outcome:
    """Raises CodecError."""
    level_of(data, "outcome")
    outcome: Outcome = _decode(_outcome.decode, data, "outcome")
    return outcome


def _sorted_values(table: "Map[Any, T]") -> list[T]:
    return [table[key] for key in sorted(table)]


def _raw(state: State) -> _Snapshot:
    return _Snapshot(
        index=state.index,
        cluster_id=state.cluster_id,
        settings=state.settings,
        managers=_sorted_values(state.managers),
        sites=_sorted_values(state.sites),
        storages=_sorted_values(state.storages),
        reals=_sorted_values(state.reals),
        volumes=_sorted_values(state.volumes),
        releases=_sorted_values(state.releases),
        leases=_sorted_values(state.leases),
        # Not sorted as pairs: other threads would wait for it when there are many.
        clients=[(name, state.clients[name]) for name in sorted(state.clients)],
        history=list(state.history),
        next_release_id=state.next_release_id,
        next_local_number=state.next_local_number,
        copies=_since_copies(state) if state.boots or state.trash else None,
    )


def _since_copies(state: State) -> _SinceCopies:
    boots = [(name, state.boots[name]) for name in sorted(state.boots)]
    trash_ids = sorted(state.trash)
    return _SinceCopies(boots, trash_ids, [state.trash[trash_id] for trash_id in trash_ids])


def encode_state(state: State) -> bytes:
    return _encode(_raw(state), state.level)


def encode_state_pieces(state: State) -> Iterator[bytes]:
    """The bytes of `encode_state`, a bounded part at a time."""
    yield _VERSION_BYTE[state.level]
    yield from pieces(_raw(state), _encoder.encode)


def decode_state(data: bytes) -> State:
    """Raises CodecError."""
    level = level_of(data, "snapshot")
    raw = _decode(_snapshot.decode, data, "snapshot")
    copies = raw.copies or _SinceCopies([], [], [])
    if len(copies.trash_ids) != len(copies.trash):
        raise CodecError("snapshot: volumes in the trash and their ids differ in number")
    return State(
        index=raw.index,
        cluster_id=raw.cluster_id,
        settings=raw.settings,
        managers=Map((ManagerName(m.name), m) for m in raw.managers),
        sites=Map((s.name, s) for s in raw.sites),
        storages=Map((s.address, s) for s in raw.storages),
        reals=Map((r.id, r) for r in raw.reals),
        volumes=Map((VolumeName(v.name), v) for v in raw.volumes),
        releases=Map((r.release_id, r) for r in raw.releases),
        leases=Map((lease.manager, lease) for lease in raw.leases),
        clients=Map(raw.clients),
        history=Chunked(raw.history),
        next_release_id=raw.next_release_id,
        next_local_number=raw.next_local_number,
        level=level,
        remembered=sum(weight(change) for change in raw.history),
        boots=Map(copies.boots),
        trash=Map(zip(copies.trash_ids, copies.trash, strict=True)),
    )


def command_digest(command: Command) -> bytes:
    """Tells commands apart that came under the same request id."""
    return sha256(_encoder.encode(command)).digest()[:8]


def state_digest(state: State) -> str:
    """SHA-256 of the canonical bytes: equal on managers that applied the same commands."""
    return sha256(encode_state(state)).hexdigest()
