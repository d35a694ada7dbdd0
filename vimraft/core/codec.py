"""Bytes for the log, the snapshot and the catalogue: one version byte, then msgpack.

May live here: encoding only. Equal values give equal bytes (maps are written sorted), so a digest of
`encode_state` compares the tables of two managers.
"""

import hashlib
from typing import Any, TypeVar

import msgspec
from immutables import Map

from vimraft.core.commands import Applied, Command, Outcome, Rejected, Request
from vimraft.core.ids import ClientId, ManagerName, VolumeName
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

VERSION = 1
T = TypeVar("T")


class CodecError(ValueError):
    """The bytes are of another version, torn, or not ours."""


class _Snapshot(msgspec.Struct, frozen=True):
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


_encoder = msgspec.msgpack.Encoder()
_request = msgspec.msgpack.Decoder(Request)
_outcome = msgspec.msgpack.Decoder(Applied | Rejected)
_snapshot = msgspec.msgpack.Decoder(_Snapshot)
_prefix = bytes([VERSION])


def _encode(value: Any) -> bytes:
    return _prefix + _encoder.encode(value)


def _decode(decoder: "msgspec.msgpack.Decoder[T]", data: bytes, what: str) -> T:
    if data[:1] != _prefix:
        found = data[0] if data else "nothing"
        raise CodecError(f"{what}: format version {found}, this release reads {VERSION}")
    try:
        return decoder.decode(memoryview(data)[1:])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"{what}: {error}") from None


def encode_request(request: Request) -> bytes:
    return _encode(request)


def decode_request(data: bytes) -> Request:
    """Raises CodecError."""
    return _decode(_request, data, "request")


def encode_outcome(outcome: Outcome) -> bytes:
    return _encode(outcome)


def decode_outcome(data: bytes) -> Outcome:
    """Raises CodecError."""
    outcome: Outcome = _decode(_outcome, data, "outcome")
    return outcome


def _sorted_values(table: "Map[Any, T]") -> list[T]:
    return [table[key] for key in sorted(table)]


def encode_state(state: State) -> bytes:
    return _encode(
        _Snapshot(
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
            clients=sorted(state.clients.items()),
            history=list(state.history),
            next_release_id=state.next_release_id,
            next_local_number=state.next_local_number,
        )
    )


def decode_state(data: bytes) -> State:
    """Raises CodecError."""
    raw = _decode(_snapshot, data, "snapshot")
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
        history=tuple(raw.history),
        next_release_id=raw.next_release_id,
        next_local_number=raw.next_local_number,
    )


def command_digest(command: Command) -> bytes:
    """Tells commands apart that came under the same request id."""
    return hashlib.sha256(_encoder.encode(command)).digest()[:8]


def state_digest(state: State) -> str:
    """SHA-256 of the canonical bytes: equal on managers that applied the same commands."""
    return hashlib.sha256(encode_state(state)).hexdigest()
