"""The HTTP API's bodies, as the OpenAPI document shows them. Paths are in `server`.

May live here: frozen structs only. Sizes are bytes, times Unix milliseconds unless a name says otherwise.
Every answer that shows tables carries `AsOf`, since people may read them without a quorum.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from vimraft.api.schema_copies import CopyProgress, HoldReport, VolumeProgress
from vimraft.api.schema_verify import VerifyReport
from vimraft.core.tables import MapChange, ReadPolicy, Replica, Settings

Int64 = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
"""What the log's codec can carry."""


class ErrorReply(Struct, frozen=True):
    """`code` is stable: rejected, not_found, usage, token, unavailable, unknown_outcome, conflict, local,
    internal."""

    code: str
    message: str
    """Names the thing and the cause."""
    remedy: str = ""
    """What to do next."""
    reason: dict[str, Any] = field(default_factory=dict)
    """The typed reason of a refused command (vimraft.core.reasons), with its `type`."""


class AsOf(Struct, frozen=True):
    index: int
    age_seconds: float
    """Since this manager last knew that the tables were current; 0 with a quorum."""
    quorum: bool


class TableReply(Struct, frozen=True):
    """One of the four tables. `columns` are exactly the design's; each row has one cell a column."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int, ...], ...]
    as_of: AsOf
    version: int = 0
    """Index of the last command that changed a table: pages of one version belong together (`as_of` moves
    on with every lease renewal)."""


class Pids(Struct, frozen=True):
    manager: int | None
    export: int | None
    store: int | None


class IoRates(Struct, frozen=True):
    """Over the last few seconds."""

    read_iops: float = 0.0
    write_iops: float = 0.0
    read_bytes_s: float = 0.0
    write_bytes_s: float = 0.0
    read_latency_us: float = 0.0
    write_latency_us: float = 0.0
    errors: int = 0
    """Since the process started."""
    in_flight: int = 0
    connections: int = 0
    """Of clients, for a virtual volume."""


class SiteStatus(Struct, frozen=True):
    name: str
    manager: str
    role: Literal["leader", "follower", "down"]
    healthy: bool
    problem: str
    """Why it is not healthy ('' when it is)."""
    pid: Pids
    lag: int
    """Commands it is behind the newest applied index known."""
    last_seen_seconds: float
    api_url: str
    nbd_address: str
    priority: tuple[str, ...] = ()
    incarnation: str = ""
    installed_index: int = -1
    """Its export and store both serve tables of at least this index; -1: none."""
    vote: str = ""
    """What its manager is in the log: voter, observer or joining; '' when not known."""
    contact_ms: int | None = None
    """Since the log's leader (or the manager that answers) last heard its manager."""


class RealStatus(Struct, frozen=True):
    id: str
    """storage:lun"""
    storage: str
    lun: int
    site: str
    volume_class: str
    uri: str
    capacity_bytes: int
    free_bytes: int
    releasing_bytes: int
    state: str
    reason: str
    io: IoRates
    trashed_bytes: int = 0
    """Held by volumes in the trash."""


class VolumeStatus(Struct, frozen=True):
    name: str
    size_bytes: int
    volume_class: str
    owner: str
    epoch: int
    read_only: bool
    replicas: tuple["ReplicaStatus", ...]
    sites: tuple[str, ...]
    """Sites where its segments lie."""
    created_ms: int
    io: dict[str, IoRates]
    """Per site that serves it to clients now."""
    takeover: str = ""
    """What a new owner does before it serves; `over` or empty: it serves."""
    hold_ms: float = 0.0
    """How long I/O waited for the last change of its map, at whatever site it waited longest."""
    longest_hold_ms: float = 0.0
    p99_hold_ms: float = 0.0
    """Of the last 256 changes."""
    map_changes: int = 0
    """So many these figures are of."""
    holds: dict[str, HoldReport] = field(default_factory=dict)
    """The same by site that serves it."""
    read_policy: ReadPolicy = "balance"
    """Which copy is read."""
    read_switches: int = 0
    """How often reads left the copy that they went to, since this owner began to serve."""
    lossy_epoch: int = 0
    """The epoch in which the last copy in sync may have lost what was not flushed; 0: never."""


class ReplicaStatus(Struct, frozen=True):
    local_name: str
    state: str
    sites: tuple[str, ...]
    segments: int
    paused: bool = False
    """An operator asked that its resync rest."""
    moving: bool = False
    """Some of its segments are moving elsewhere."""
    progress: CopyProgress | None = None
    """None: the volume has no other copy, or its owner is silent."""


class StatusReply(Struct, frozen=True):
    cluster_id: str
    answered_by: str
    leader: str | None
    as_of: AsOf
    sites: tuple[SiteStatus, ...]
    reals: tuple[RealStatus, ...]
    volumes: tuple[VolumeStatus, ...]
    settings: Settings
    version: str
    storages: tuple["StorageStatus", ...] = ()
    membership: "Membership | None" = None
    trashed: int = 0
    """Volumes in the trash."""
    trashed_bytes: int = 0
    """Space that they hold."""


class StorageStatus(Struct, frozen=True):
    address: str
    site: str
    uri: str


class BuildRequest(Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    size_bytes: int
    volume_class: str
    sites: tuple[str, ...] = ()
    copies: Int64 = 1
    plan: bool = False
    """Show what would be built, commit nothing."""
    same_site: bool = False
    """Copies may share a site."""


class SegmentReply(Struct, frozen=True):
    virtual_first: int
    virtual_last: int
    local_name: str
    storage: str
    lun: int
    real_first: int
    real_last: int
    site: str


class VolumeReply(Struct, frozen=True):
    """A volume with its map; `planned` when nothing was committed."""

    volume: VolumeStatus
    segments: tuple[SegmentReply, ...]
    segments_left_out: int
    """Replies hold at most 10,000 segments; the sectors table pages through all."""
    planned: bool
    index: int
    trash_id: int = 0
    """It is in the trash now, under this id; 0: it is not."""


class MapReply(Struct, frozen=True):
    name: str
    size_bytes: int
    epoch: int
    owner: str
    replicas: tuple[Replica, ...]
    table: TableReply


class GrowRequest(Struct, frozen=True, forbid_unknown_fields=True):
    size_bytes: int


class StorageRequest(Struct, frozen=True, forbid_unknown_fields=True):
    address: str
    site: str
    uri: str = ""


class AddRealRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """`size_bytes` creates the file when it does not exist (file:// only)."""

    storage: str
    lun: Int64
    volume_class: str
    uri: str = ""
    """Default: the storage's URI with lun-N appended."""
    size_bytes: Int64 | None = None
    preallocate: bool = False
    force: bool = False
    """Take a device although it carries data or a foreign label; its content is overwritten."""


class SetRealRequest(Struct, frozen=True, forbid_unknown_fields=True):
    state: Literal["active", "excluded"]


class JobReply(Struct, frozen=True):
    """A thing that takes time (preparing a real volume …). Poll until `state` is done or failed."""

    id: str
    what: str
    state: Literal["running", "done", "failed"]
    done_bytes: int
    total_bytes: int
    started_ms: int
    error: ErrorReply | None = None
    note: str = ""
    """What it does, or waits for, now."""
    bytes_s: float = 0.0
    """Over the last seconds."""
    eta_seconds: float | None = None
    """Until it is done, at that rate; None: not known."""
    cancellable: bool = False
    verified: VerifyReport | None = None
    """Of a job that compares copies: what it found."""


class PriorityRequest(Struct, frozen=True, forbid_unknown_fields=True):
    priority: tuple[str, ...]


class SettingRequest(Struct, frozen=True, forbid_unknown_fields=True):
    value: Int64


class EventReply(Struct, frozen=True):
    id: int
    at_ms: int
    site: str
    name: str
    """Stable, dotted: volume.built, volume.build_failed, manager.leader_changed, real.failed …"""
    subject: str
    severity: Literal["info", "warning", "error"]
    message: str


class EventsReply(Struct, frozen=True):
    events: tuple[EventReply, ...]


class HistoryReply(Struct, frozen=True):
    changes: tuple[MapChange, ...]
    """Without what they replaced: that is for looking back, `?at=INDEX`."""
    as_of: AsOf
    oldest_index: int = 0
    """From here on the tables of every index are known."""


class JoinRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A new manager asks to be let in; sites it will be responsible for come with it."""

    manager: str
    raft_address: str
    api_url: str
    nbd_address: str
    peer_address: str
    sites: tuple["JoinSite", ...]
    listening: bool = False
    """It runs and may be let into the log; before that only the tables learn of it, since a member that
    does not answer would only weaken the cluster."""
    node_id: str = ""
    """Identity of its data directory, once it runs: nobody else may then speak at its address."""
    observer: bool = False
    """It shall have full tables and no vote. Without: it is promoted to voter as soon as it has caught up."""
    replace: bool = False
    """It comes back with an empty disk in place of the manager of the same name."""
    level: int = 1
    """The highest level that its release reads (vimraft.core.levels)."""


class JoinSite(Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    priority: tuple[str, ...] = ()


class JoinReply(Struct, frozen=True):
    cluster_id: str
    members: tuple[str, ...]
    """Raft addresses of the other members."""
    api_urls: tuple[str, ...] = ()
    """Of the other managers."""
    cluster: str = ""
    """Identity of the log's cluster, which every Raft link shows."""
    generation: int = 0
    birth: str = ""
    """Which of several lives of that number."""
    role: str = "joining"
    """What it is in the log now."""
    note: str = ""
    """Why it is not (yet) more, or what to think of for the number of voters."""


MemberRole = Literal["leader", "voter", "observer", "joining"]


class Contact(Struct, frozen=True):
    """Another member of the log, as one manager's node sees it (vimraft.metadata.port.PeerStatus)."""

    address: str
    node_id: str = ""
    voter: bool = True
    connected: bool = False
    last_contact_ms: int | None = None
    match_index: int | None = None
    refused: str = ""


class RaftView(Struct, frozen=True):
    """The log, as one manager's node sees it; travels in its heartbeats."""

    address: str
    leader: str | None = None
    role: str = ""
    node_id: str = ""
    term: int = 0
    generation: int = 0
    cluster: str = ""
    applied: int = 0
    commit: int = 0
    problem: str = ""
    peers: tuple[Contact, ...] = ()


class MemberStatus(Struct, frozen=True):
    """One manager in the log, seen by the leader's manager (without one: by the one that answers)."""

    name: str
    """'' for a member that the tables do not name (any more)."""
    raft_address: str
    api_url: str
    role: MemberRole
    """joining: the tables know it, the log does not (yet, or any more)."""
    connected: bool
    last_contact_ms: int | None
    lag: int | None
    """Log entries that it is behind the leader; None: not known."""
    applied_index: int | None
    """Commands applied to its tables, as its last heartbeat said."""
    node_id: str
    release: str
    problem: str
    sites: tuple[str, ...] = ()


class Membership(Struct, frozen=True):
    members: tuple[MemberStatus, ...]
    seen_by: str
    """The manager whose view of the links this is."""
    term: int
    generation: int
    cluster: str
    voters: int
    voters_needed: int
    """A majority of them."""
    voters_reachable: int
    advice: tuple[str, ...] = ()
    """What an operator should do or know, in words."""


class MembersReply(Struct, frozen=True):
    membership: Membership
    as_of: AsOf


class UriReply(Struct, frozen=True):
    uri: str
    site: str
    host: str
    port: int
    export: str
    size_bytes: int


class Heartbeat(Struct, frozen=True):
    """Manager to manager, once a second; drives health and the console, decides nothing."""

    manager: str
    incarnation: str
    index: int
    pid: Pids
    problem: str
    sent_ms: int
    installed_index: int = -1
    volumes: dict[str, IoRates] = field(default_factory=dict)
    reals: dict[str, IoRates] = field(default_factory=dict)
    release: str = ""
    raft: RaftView | None = None
    level: int = 1
    """The highest level that its release reads; the first release does not say."""
    copies: dict[str, VolumeProgress] = field(default_factory=dict)
    """Of the volumes with copies that it owns."""
    holds: dict[str, HoldReport] = field(default_factory=dict)
    """Of all volumes that its export serves."""


class DoneReply(Struct, frozen=True):
    """A change without a body of its own: applied as command number `index`."""

    index: int
