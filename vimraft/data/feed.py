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

from vimraft.protocol import maps
from vimraft.protocol.owner_effects import Command
from vimraft.protocol.verify import Tally

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


class CopiesMap(Struct, frozen=True):
    """Of a volume with several copies, or with one that is moving: what its owner and its stores go by."""

    map: maps.VolumeMap
    segments: dict[str, tuple[PlaneSegment, ...]]
    """By copy ("A+": where A is moving to), only those at this manager's sites."""
    boots: dict[str, str]
    """Of the managers that have segments of it, as the tables bind them."""


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
    copies: CopiesMap | None = None
    """Not None: `segments` is empty, and the machines of vimraft.protocol serve the volume."""
    copy_names: tuple[str, ...] = ()
    """Local names of all copies, in every process (of a volume with one copy it may be empty). Two maps of
    one name that have no local name in common are of two volumes."""


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


class LeaseRow(Struct, frozen=True, array_like=True):
    """The last renewal of a manager that the tables have; `installed_index` came with it."""

    manager: str
    incarnation: str
    counter: int
    installed_index: int


class Leases(Struct, frozen=True, tag=True):
    """The lease table as of `index`; to the export only, in order with the maps."""

    index: int
    rows: tuple[LeaseRow, ...]
    lease_ms: int = 4_000
    """Of the cluster's settings."""


class Decided(Struct, frozen=True, tag=True):
    """What became of a Proposal; sent once, when it is known, after the map that it brought."""

    token: int
    applied: bool
    reason: str = ""


class MoveOwnerTo(Struct, frozen=True, tag=True):
    """Give the volume to another manager in good order, then answer MoveDone(token)."""

    token: int
    volume: str
    new_owner: str


class VerifyCopies(Struct, frozen=True, tag=True):
    """Compare the copies of a volume that this process owns, or go on with it, and answer VerifyTold. Said
    again and again under one id, since what is told may be lost: whoever is not asked for long stops."""

    id: str
    volume: str
    tally: Tally
    """Where it begins, if nothing is known here under that id."""
    repair: bool = False
    source: str = ""
    """Copy that is right; "": what most copies hold."""
    stop: bool = False


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


class CopyStatus(Struct, frozen=True):
    """One copy as its owner sees it. Bytes and regions since the resync began; `phase` "" = none runs."""

    name: str
    state: str
    phase: str = ""
    regions: int = 0
    left: int = 0
    copied_bytes: int = 0
    full: bool = False
    reads: int = 0
    writes: int = 0


class CopiesStatus(Struct, frozen=True):
    """A volume with copies at its owner."""

    epoch: int
    takeover: str
    """Phase of it; "over": it serves."""
    copies: tuple[CopyStatus, ...]
    hold_us: int = 0
    """Of the last map change."""
    longest_hold_us: int = 0


class Stats(Struct, frozen=True, tag=True):
    """Once a second."""

    volumes: dict[str, IoCounters]
    reals: dict[str, IoCounters]
    held: int
    """Requests waiting in a hold now."""
    copies: dict[str, CopiesStatus] = {}


class Problem(Struct, frozen=True, tag=True):
    """A real volume cannot be opened, carries the wrong label, or failed a flush."""

    real: str
    kind: Literal["missing", "label", "io", "flush"]
    message: str


class Proposal(Struct, frozen=True, tag=True):
    """Propose this until it is decided, under one id: (instance of Hello, token)."""

    token: int
    command: Command


class MoveDone(Struct, frozen=True, tag=True):
    token: int
    moved: bool
    message: str = ""


VerifyState = Literal["running", "over", "stopped", "moved", "busy"]
"""`moved`: this process does not own the volume, or not yet. `busy`: another one of that volume runs."""


class VerifyTold(Struct, frozen=True, tag=True):
    id: str
    state: VerifyState
    tally: Tally
    message: str = ""


class Boot(Struct, frozen=True, tag=True):
    """From the store, after its first map and when it changes: the life of the page cache, and the ids of
    the write-intent records here."""

    boot: str
    records: tuple[tuple[str, str], ...] = ()
    """(volume, record id)"""


Asked = MoveOwnerTo | VerifyCopies
ToPlane = Welcome | MapUpdate | LeaseUntil | Leases | Decided | Asked | Hold | Unhold | Quit
FromPlane = Hello | Installed | Held | Stats | Problem | Proposal | MoveDone | VerifyTold | Boot

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
