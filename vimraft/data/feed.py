"""Messages between the site manager and its two data-plane processes (export and store).

One Unix stream socket per process, which the process dials; frames are a 4-byte big-endian length and
msgpack. Everything that changes what may be served (maps, leases, holds) goes down this one ordered
channel. The process passes its listening sockets (SCM_RIGHTS) with its Hello, so that a restarted
manager can adopt a running process and later hand the sockets to its successor.

May live here: message structs, framing, the bound on a frame. No policy.
"""

import struct
from typing import Literal

import msgspec
from msgspec import Struct

MAX_FRAME_BYTES = 256 << 20
Role = Literal["export", "store"]


class PlaneSegment(Struct, frozen=True, gc=False, array_like=True):
    """Bytes `offset … offset+length-1` of the volume. `real` is 'storage:lun'; `real_offset` in bytes
    from the start of the LUN (label included). `manager` is who holds it: '' means this one."""

    offset: int
    length: int
    real: str
    real_offset: int
    manager: str


class VolumeMap(Struct, frozen=True):
    """What one process needs to serve one volume.

    export, owner: `segments` tile the whole volume; each is local or lies at a peer's store.
    export, elsewhere: no segments; requests are forwarded to `owner`'s export.
    store: only the segments at this manager's sites (holes between them are refused).
    """

    name: str
    size_bytes: int
    epoch: int
    owner: str
    owned: bool
    """This manager is the owner."""
    needs_lease: bool
    """Owner only: serve only before the lease deadline (False under the sole-holder rule)."""
    read_only: bool
    local_name: str
    segments: tuple[PlaneSegment, ...]


class BackendSpec(Struct, frozen=True):
    real: str
    uri: str
    label_id: str
    cluster_id: str
    capacity_bytes: int
    """Usable bytes after the label."""
    failed: str
    """Why it must not be used ('' = usable)."""


class PeerSpec(Struct, frozen=True):
    manager: str
    nbd_address: str
    """Its export, host:port."""
    peer_address: str
    """Its store, host:port."""


class Welcome(Struct, frozen=True, tag=True):
    manager: str
    incarnation: str


class MapUpdate(Struct, frozen=True, tag=True):
    """Install: hold the volumes named, drain, swap, release; then answer Installed(index)."""

    index: int
    full: bool
    """Volumes, backends and peers that are not in this message are gone."""
    io_timeout_ms: int
    volumes: tuple[VolumeMap, ...] = ()
    removed_volumes: tuple[str, ...] = ()
    backends: tuple[BackendSpec, ...] = ()
    removed_backends: tuple[str, ...] = ()
    peers: tuple[PeerSpec, ...] = ()
    removed_peers: tuple[str, ...] = ()


class LeaseUntil(Struct, frozen=True, tag=True):
    """The manager's lease ends at this CLOCK_BOOTTIME, in ns; 0: none."""

    boottime_ns: int


class Hold(Struct, frozen=True, tag=True):
    """Hold I/O of these volumes (all if empty), drain, answer Held(token)."""

    token: int
    volumes: tuple[str, ...]


class Unhold(Struct, frozen=True, tag=True):
    token: int


class Quit(Struct, frozen=True, tag=True):
    """Finish what runs, flush, exit: clean shutdown."""


class Hello(Struct, frozen=True, tag=True):
    role: Role
    pid: int
    instance: str
    """Identity of this life of the process."""
    boot_id: str
    manager: str
    installed_index: int
    """-1: no map yet."""


class Installed(Struct, frozen=True, tag=True):
    index: int
    hold_us: int
    """Longest time that I/O of one volume was held for it."""


class Held(Struct, frozen=True, tag=True):
    token: int


class IoCounters(Struct, frozen=True):
    """Cumulative since the process started."""

    reads: int = 0
    writes: int = 0
    read_bytes: int = 0
    write_bytes: int = 0
    read_ns: int = 0
    write_ns: int = 0
    flushes: int = 0
    errors: int = 0
    in_flight: int = 0
    connections: int = 0
    forwarded: int = 0


class Stats(Struct, frozen=True, tag=True):
    """Once a second."""

    volumes: dict[str, IoCounters]
    reals: dict[str, IoCounters]
    held: int
    """Requests waiting in a hold now."""


class Problem(Struct, frozen=True, tag=True):
    """A real volume cannot be opened, carries the wrong label, or failed a flush."""

    real: str
    kind: Literal["missing", "label", "io", "flush"]
    message: str


ToPlane = Welcome | MapUpdate | LeaseUntil | Hold | Unhold | Quit
FromPlane = Hello | Installed | Held | Stats | Problem

_encoder = msgspec.msgpack.Encoder()
to_plane = msgspec.msgpack.Decoder(ToPlane)
from_plane = msgspec.msgpack.Decoder(FromPlane)
HEADER = struct.Struct(">I")


class FrameError(ValueError):
    """The other side does not speak this protocol."""


def encode_frame(message: ToPlane | FromPlane) -> bytes:
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"message of {len(body)} bytes exceeds the bound of {MAX_FRAME_BYTES}")
    return HEADER.pack(len(body)) + body


def frame_length(header: bytes) -> int:
    (length,) = HEADER.unpack(header)
    if length > MAX_FRAME_BYTES:
        raise FrameError(f"frame of {length} bytes exceeds the bound of {MAX_FRAME_BYTES}")
    return int(length)
