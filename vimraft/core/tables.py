"""The replicated tables: what every site manager holds, as immutable values.

May live here: frozen structs and the `State` that gathers them; no behaviour but trivial lookups.
`State` consists of persistent maps (immutables.Map), so a reader on another thread keeps a consistent
state for as long as it likes, and a refused command trivially changes nothing (INV-8).

Units: *sectors* are 512 bytes; *units* are allocation units of `Settings.unit_bytes` on a real volume,
unit 0 being the label, so the data of a real volume are units 1 … capacity_units.

The structs are `gc=False`: frozen, and made of nothing but each other, they can never be part of a cycle, so
the collector need not walk through them.
"""

from typing import Any, Literal, NamedTuple

import msgspec
from immutables import Map
from msgspec import Struct

from vimraft.core.chunked import Chunked
from vimraft.core.ids import (
    SECTOR_BYTES,
    ClientId,
    LocalName,
    ManagerName,
    RealId,
    SiteName,
    StorageAddress,
    VolumeName,
)
from vimraft.core.levels import FIRST

RealState = Literal["active", "excluded", "draining", "failed"]
ReplicaState = Literal["in_sync", "syncing", "stale", "failed"]
ReadPolicy = Literal["balance", "local", "primary"]
"""Which copy in sync is read: the least loaded one; the owner's own; the first one."""


class Run(NamedTuple):
    """A range of allocation units on one real volume: `first` … `first + count - 1`."""

    first: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here


class Manager(Struct, frozen=True, gc=False, omit_defaults=True):
    """A site manager daemon. Addresses are `host:port`; `api_url` is `http://host:port`."""

    name: ManagerName
    raft_address: str
    api_url: str
    nbd_address: str
    peer_address: str
    level: int = 1
    """The highest level that its release reads; 1 in all rows of a cluster of level 1 (see `levels`)."""


class Site(Struct, frozen=True, gc=False):
    name: SiteName
    manager: ManagerName
    priority: tuple[SiteName, ...] = ()
    """Further sites to look for space at, in order, after this one."""


class Storage(Struct, frozen=True, gc=False):
    address: StorageAddress
    site: SiteName
    uri: str
    """Where the device is, for people and for the default URI of its LUNs (may be empty)."""


class RealVolume(Struct, frozen=True, gc=False):
    storage: StorageAddress
    lun: int
    site: SiteName
    volume_class: str
    uri: str
    label_id: str
    """UUID (hex) that the label on the device must carry."""
    capacity_units: int
    free: tuple[Run, ...]
    """First-fit free list: sorted, disjoint, never adjacent (coalesced)."""
    state: RealState = "active"
    reason: str = ""

    @property
    def id(self) -> RealId:
        return RealId(self.storage, self.lun)

    @property
    def free_units(self) -> int:
        return sum(run.count for run in self.free)


class Segment(Struct, frozen=True, gc=False, array_like=True):
    """Virtual sectors `virtual_first … +sectors-1` lie at real sectors `real_first …` of a LUN."""

    virtual_first: int
    sectors: int
    storage: StorageAddress
    lun: int
    real_first: int

    @property
    def virtual_end(self) -> int:
        return self.virtual_first + self.sectors

    @property
    def real_id(self) -> RealId:
        return RealId(self.storage, self.lun)


class Replica(Struct, frozen=True, gc=False, omit_defaults=True):
    """One full copy. `segments` are sorted by virtual_first and tile 0 … size_sectors exactly.

    What has a default appears from level 3 on only, and not in the bytes before (see `levels`)."""

    local_name: LocalName
    state: ReplicaState
    segments: tuple[Segment, ...]
    left_epoch: int = 0
    """The epoch in which it left the in-sync set: it may lack what was written in that epoch and later.
    0: it is in sync, or never was."""
    record: str = ""
    """Id of the write-intent record, kept at the others, that covers all it missed since `left_epoch`.
    Empty: there is none, and it needs a full copy."""
    paused: bool = False
    """An operator asked that it be not resynced for now."""
    volume_class: str = ""
    """Of its real volumes; empty: that of the volume."""
    moving: tuple[Segment, ...] = ()
    """Segments that take the place of present ones over the same virtual sectors once they hold the same
    (`BeginMove`, `MoveSegments`). Sorted; only a copy in sync has them."""


class Volume(Struct, frozen=True, gc=False, omit_defaults=True):
    name: VolumeName
    size_sectors: int
    volume_class: str
    owner: ManagerName
    epoch: int
    replicas: tuple[Replica, ...]
    sites: tuple[SiteName, ...]
    """The priority order it was built with; growing uses it again."""
    created_ms: int
    created_by: ManagerName
    read_only: bool = msgspec.field(default_factory=bool)
    """By a factory, so that it is in the bytes of all levels whatever it holds."""
    lossy_epoch: int = 0
    """The epoch that began when the last in-sync copy may have lost what had not been flushed; 0: never."""
    trashed_ms: int = 0
    """In the trash: since when. 0 in all others."""
    read_policy: ReadPolicy = "balance"

    @property
    def size_bytes(self) -> int:
        return self.size_sectors * SECTOR_BYTES


class Release(Struct, frozen=True, gc=False):
    """Segments of a deleted volume, handed out again only when every manager in `waiting` has
    confirmed that it can no longer write there (and, where it holds them, that they are zero)."""

    release_id: int
    volume: VolumeName
    epoch: int
    segments: tuple[Segment, ...]
    waiting: tuple[ManagerName, ...]


class Lease(Struct, frozen=True, gc=False):
    manager: ManagerName
    incarnation: str
    counter: int
    installed_index: int


def _always(value: int) -> Any:
    """A default that is in the bytes of all levels, although the struct omits defaults."""
    return msgspec.field(default_factory=lambda: value)


class Settings(Struct, frozen=True, gc=False, omit_defaults=True):
    """What has a plain default appears from level 3 on only, and not in the bytes before (see `levels`)."""

    unit_bytes: int = _always(1 << 20)
    lease_ms: int = _always(4_000)
    io_timeout_ms: int = _always(30_000)
    history_changes: int = _always(1_000)
    """How many map changes `history` keeps."""
    trash_keep_h: int = 72
    """So long a deleted volume stays in the trash; 0: volumes are deleted at once."""
    read_threshold: int = 4
    """Reads of a volume with copies leave the copy that they go to when so many requests are under way
    there."""
    read_hysteresis_percent: int = 25
    """And only for one that is less loaded by this much."""


class SegmentsBefore(Struct, frozen=True, gc=False, array_like=True):
    """A list of segments as it was: the `first` and the `last` ones of the present list, `gone` between."""

    first: int
    last: int
    gone: tuple[Segment, ...]


class FreeBefore(Struct, frozen=True, gc=False, array_like=True):
    """A free list as it was, in the same way."""

    first: int
    last: int
    gone: tuple[Run, ...]


class VolumeBefore(Struct, frozen=True, gc=False, omit_defaults=True):
    """A virtual volume as it was."""

    name: VolumeName
    row: Volume | None = None
    """Without segments; None: there was none."""
    segments: tuple[SegmentsBefore, ...] = ()
    """One for each replica of `row`, from the present segments of the local name."""


class RealBefore(Struct, frozen=True, gc=False, omit_defaults=True):
    """A real volume as it was."""

    storage: StorageAddress
    lun: int
    row: RealVolume | None = None
    """With an empty free list; None: there was none."""
    free: FreeBefore | None = None


class Before(Struct, frozen=True, gc=False, omit_defaults=True):
    """What a change replaced: enough to go from the tables after it to those before it. A row that is None
    did not exist."""

    settings: Settings | None = None
    managers: tuple[tuple[ManagerName, Manager | None], ...] = ()
    sites: tuple[tuple[SiteName, Site | None], ...] = ()
    storages: tuple[tuple[StorageAddress, Storage | None], ...] = ()
    reals: tuple[RealBefore, ...] = ()
    volumes: tuple[VolumeBefore, ...] = ()
    trash: tuple[tuple[int, VolumeBefore], ...] = ()
    epochs_of: ManagerName | None = None
    """The volumes of this manager had the epoch before their present one."""


class MapChange(Struct, frozen=True, gc=False, omit_defaults=True):
    index: int
    at_ms: int
    who: str
    what: str
    """`built`, `deleted`, `grown`, `reopened`, `released` …"""
    name: str
    before: Before | None = None
    """None: not known (any more), so nobody can look behind this change."""


class ClientResult(Struct, frozen=True, gc=False, omit_defaults=True):
    sequence: int
    index: int
    outcome: bytes
    """The encoded Outcome, given again to a retry (INV-8)."""
    digest: bytes = b""
    """Of the command: the same id under another command is a mistake of the client, not a retry."""
    at_ms: int = 0
    """Of the command; 0 in all rows of a cluster of level 1."""


class State(Struct, frozen=True, gc=False):
    """All tables after `index` commands. Never mutated: `apply` returns a new one."""

    index: int = 0
    cluster_id: str = ""
    settings: Settings = Settings()
    managers: Map[ManagerName, Manager] = Map()
    sites: Map[SiteName, Site] = Map()
    storages: Map[StorageAddress, Storage] = Map()
    reals: Map[RealId, RealVolume] = Map()
    volumes: Map[VolumeName, Volume] = Map()
    releases: Map[int, Release] = Map()
    leases: Map[ManagerName, Lease] = Map()
    clients: Map[ClientId, ClientResult] = Map()
    history: Chunked[MapChange] = Chunked()
    next_release_id: int = 1
    next_local_number: int = 0
    """Local volume names are given cluster-wide in order: volume A, B … Z, AA …"""
    level: int = FIRST
    """Which behaviours and which encoding hold here; see `levels`."""
    remembered: int = 0
    """Weight of what the history remembers (`history.weight`): kept so that nobody has to add it up."""
    boots: Map[ManagerName, str] = Map()
    """The boot of each manager's stores to which `in_sync` is bound: of `Rejoin`, the last one applied."""
    trash: Map[int, Volume] = Map()
    """Volumes deleted for the time being, by the index of the command that did it; they hold their space."""

    def _replace(self, **changes: Any) -> "State":
        """As that of a NamedTuple, at a fifth of the time."""
        return msgspec.structs.replace(self, **changes)
