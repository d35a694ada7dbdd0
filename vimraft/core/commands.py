"""Commands: everything that can change the tables, and the outcome of each.

May live here: frozen, tagged structs only. Time, ids and randomness enter inside them (house rule);
`apply` (vimraft.core.apply) is total over them. A command travels inside a `Request`, whose
(client, sequence) makes a retry harmless (INV-8).
"""

from msgspec import UNSET, Struct, UnsetType

from vimraft.core.ids import ClientId, LocalName, ManagerName, SiteName, StorageAddress, VolumeName
from vimraft.core.reasons import Reason
from vimraft.core.tables import Manager, ReadPolicy, RealState, RealVolume, Settings, Site, Storage, Volume


class FormCluster(Struct, frozen=True, gc=False, tag=True, omit_defaults=True):
    """First command of a cluster. Rejected (Exists) once formed, so all managers may propose it."""

    cluster_id: str
    settings: Settings
    level: int = 1
    """The level that the cluster begins with."""


class ReadsLevel(Struct, frozen=True, gc=False, array_like=True):
    """What a manager says of itself in its heartbeats."""

    manager: ManagerName
    level: int


class SetLevel(Struct, frozen=True, gc=False, tag=True):
    """Move the cluster to a higher level. Rejected (CannotRead) while a manager cannot read it. At level 1
    the tables do not know that, so `reported` says it; a manager that it leaves out cannot."""

    level: int
    reported: tuple[ReadsLevel, ...] = ()


class SetManager(Struct, frozen=True, gc=False, tag=True):
    """Add a manager, or change the addresses of one."""

    manager: Manager


class RemoveManager(Struct, frozen=True, gc=False, tag=True):
    """Rejected (InUse) while it has sites, owns volumes or owes a release."""

    name: ManagerName


class SetSite(Struct, frozen=True, gc=False, tag=True):
    """Add a site, or change its manager or priority order. Unknown sites in the order are rejected."""

    site: Site


class RemoveSite(Struct, frozen=True, gc=False, tag=True):
    name: SiteName


class SetStorage(Struct, frozen=True, gc=False, tag=True):
    """Add a storage, or change its URI; its site never changes while it has real volumes."""

    storage: Storage


class RemoveStorage(Struct, frozen=True, gc=False, tag=True):
    address: StorageAddress


class AddRealVolume(Struct, frozen=True, gc=False, tag=True):
    """Put a labelled, zeroed real volume into the pool of its site."""

    storage: StorageAddress
    lun: int
    volume_class: str
    uri: str
    label_id: str
    capacity_units: int


class SetRealVolumeState(Struct, frozen=True, gc=False, tag=True):
    """`excluded`: keeps its data, gives no more space. `failed`: with the reason why."""

    storage: StorageAddress
    lun: int
    state: RealState
    reason: str = ""


class RemoveRealVolume(Struct, frozen=True, gc=False, tag=True):
    """Rejected (InUse) while any segment or unconfirmed release lies on it."""

    storage: StorageAddress
    lun: int


class BuildVolume(Struct, frozen=True, gc=False, tag=True):
    """Build a virtual volume from conditions, all or nothing (placement happens inside apply).

    Takes first-fit space on active real volumes of `volume_class`, site after site in the order of
    `sites`; if `sites` is empty: the sites of `manager`, then their priority orders.
    """

    name: VolumeName
    size_sectors: int
    volume_class: str
    manager: ManagerName
    """The manager that was asked: the start of the search when no sites are named."""
    sites: tuple[SiteName, ...] = ()
    copies: int = 1
    """From level 3 on more than one: on real volumes of their own, and at sites of their own."""
    same_site: bool | UnsetType = UNSET
    """True: copies may share a site where there are too few. Unset (and not False) when not asked, so that
    the bytes of levels that did not know it stay as they were."""


class GrowVolume(Struct, frozen=True, gc=False, tag=True):
    name: VolumeName
    size_sectors: int


class DeleteVolume(Struct, frozen=True, gc=False, tag=True):
    name: VolumeName


class ConfirmRelease(Struct, frozen=True, gc=False, tag=True):
    manager: ManagerName
    release_id: int


class ReopenVolumes(Struct, frozen=True, gc=False, tag=True):
    """The export of `manager` starts anew: epoch + 1 for every volume that it owns."""

    manager: ManagerName
    incarnation: str


class RenewLease(Struct, frozen=True, gc=False, tag=True):
    manager: ManagerName
    incarnation: str
    counter: int
    installed_index: int


class SetSetting(Struct, frozen=True, gc=False, tag=True):
    name: str
    value: int


class Barrier(Struct, frozen=True, gc=False, tag=True):
    """Changes nothing; whoever saw it applied reads tables that are current."""


# From level 3 on (copies). Whoever changes a volume in its running life says what he took it for: `epoch` and
# `owner`. When it has moved on, apply refuses with Conflict, and nothing changes.


class LeaseStamp(Struct, frozen=True, gc=False, array_like=True):
    """The last renewal of an owner's lease that a manager saw."""

    incarnation: str
    counter: int


class Retire(Struct, frozen=True, gc=False, tag=True):
    """Take copies out of the in-sync set (or out of a resync), since they missed a write. Epoch + 1.
    Rejected (LastCopy) when none would be left in sync."""

    volume: VolumeName
    epoch: int
    owner: ManagerName
    replicas: tuple[LocalName, ...]
    record: str = ""
    """Id of the write-intent record at the remaining copies. A copy that was syncing under another record
    needs a full copy from then on: no record covers all that it missed."""


class BeginResync(Struct, frozen=True, gc=False, tag=True):
    """A stale copy gets all writes from now on, and what it missed. Epoch + 1.

    `record`: of the source. When the tables name another one for this copy, it keeps none (full copy)."""

    volume: VolumeName
    epoch: int
    owner: ManagerName
    replica: LocalName
    record: str = ""


class Promote(Struct, frozen=True, gc=False, tag=True):
    """A syncing copy has everything, flushed in these boots of its stores: it is in sync. Epoch + 1.
    Rejected (OtherBoot) unless each of its managers is named with the boot that the tables have."""

    volume: VolumeName
    epoch: int
    owner: ManagerName
    replica: LocalName
    boots: tuple[tuple[ManagerName, str], ...]


class TakeOver(Struct, frozen=True, gc=False, tag=True):
    """The owner's lease has run out: another manager owns the volume. Epoch + 1. Rejected (Renewed) when
    `stamp` is not the owner's present one (None: it has none), SoleHolder while it may serve without."""

    volume: VolumeName
    epoch: int
    owner: ManagerName
    stamp: LeaseStamp | None
    new_owner: ManagerName


class MoveOwner(Struct, frozen=True, gc=False, tag=True):
    """The owner hands the volume over; proposed by itself only, after it gave its right up. Epoch + 1."""

    volume: VolumeName
    epoch: int
    owner: ManagerName
    new_owner: ManagerName


class LoseUnflushed(Struct, frozen=True, gc=False, tag=True):
    """A flush failed at all copies in sync: what was not flushed before may be gone. Epoch + 1, which is the
    new `lossy_epoch`: whoever owns the volume from now on tells the sessions."""

    volume: VolumeName
    epoch: int
    owner: ManagerName


class Rejoin(Struct, frozen=True, gc=False, tag=True):
    """The stores of `manager` are in `boot`: what was only in the page cache of another one may be gone.

    Its copies leave the in-sync set (or the resync), each volume with epoch + 1; where one is the last, it
    stays, and `lossy_epoch` is the new epoch. The first boot of a manager is taken note of, no more."""

    manager: ManagerName
    boot: str
    records: tuple[tuple[VolumeName, str], ...] = ()
    """Ids of the write-intent records that its stores shared with the other in-sync copies."""


class AddCopy(Struct, frozen=True, gc=False, tag=True):
    """Space for one more copy, stale until it is resynced. Epoch + 1."""

    name: VolumeName
    sites: tuple[SiteName, ...] = ()
    """In priority order; none: those of the volume."""
    volume_class: str = ""
    """Empty: that of the volume."""
    same_site: bool = False
    """It may lie at a site where another copy lies."""


class RemoveCopy(Struct, frozen=True, gc=False, tag=True):
    """Its space waits in a release. Epoch + 1. Never the last one in sync."""

    name: VolumeName
    replica: LocalName


class PauseCopy(Struct, frozen=True, gc=False, tag=True):
    """Resync of a copy is to rest, or to go on. No new epoch: nobody's writes change."""

    name: VolumeName
    replica: LocalName
    paused: bool


class BeginMove(Struct, frozen=True, gc=False, tag=True):
    """Space elsewhere for the segments that an in-sync copy has on one real volume; from now on writes go
    to both. Epoch + 1."""

    volume: VolumeName
    epoch: int
    owner: ManagerName
    replica: LocalName
    storage: StorageAddress
    lun: int
    sites: tuple[SiteName, ...] = ()
    """In priority order; none: the site of the real volume, then those of the volume."""


class MoveSegments(Struct, frozen=True, gc=False, tag=True):
    """The new segments hold the same, flushed in these boots of their stores: they are the copy's, and the
    old ones wait in a release. Epoch + 1."""

    volume: VolumeName
    epoch: int
    owner: ManagerName
    replica: LocalName
    boots: tuple[tuple[ManagerName, str], ...]


class AbortMove(Struct, frozen=True, gc=False, tag=True):
    """The new segments wait in a release. Epoch + 1."""

    volume: VolumeName
    epoch: int
    owner: ManagerName
    replica: LocalName


class ForceLost(Struct, frozen=True, gc=False, tag=True):
    """An operator confirms that a manager's sites are lost and fenced: copies there are `failed` (they stay
    in quarantine), each volume with epoch + 1. Rejected (LastCopy) when volumes would have none in sync
    left. `accept_loss`: the best other copy counts as in sync, lossy; without any, the volume stays as it
    is until the manager returns or the volume is deleted."""

    manager: ManagerName
    accept_loss: bool = False


class SetReadOnly(Struct, frozen=True, gc=False, tag=True):
    """Its owner refuses every write, or takes them again. Epoch + 1: once the owner serves that, none of the
    writes that came before is under way any more."""

    name: VolumeName
    read_only: bool


class SetReadPolicy(Struct, frozen=True, gc=False, tag=True):
    """Which of its copies in sync reads go to. No new epoch: any of them will do."""

    name: VolumeName
    policy: ReadPolicy


class SetHandingOver(Struct, frozen=True, gc=False, tag=True):
    """A volume with one copy is to be handed over (`MoveOwner`), or has been. Epoch + 1."""

    volume: VolumeName
    epoch: int
    owner: ManagerName
    handing_over: bool


class TrashVolume(Struct, frozen=True, gc=False, tag=True):
    """Delete for the time being. The name is free again, the space is not. Its id in the trash is the index
    of this command."""

    name: VolumeName


class RestoreVolume(Struct, frozen=True, gc=False, tag=True):
    """Out of the trash, under its name or another one."""

    trash_id: int
    name: VolumeName = VolumeName("")


class PurgeVolume(Struct, frozen=True, gc=False, tag=True):
    """Delete for good: its space waits in a release."""

    trash_id: int


SINCE_COPIES = (
    Retire,
    BeginResync,
    Promote,
    TakeOver,
    MoveOwner,
    LoseUnflushed,
    Rejoin,
    AddCopy,
    RemoveCopy,
    PauseCopy,
    BeginMove,
    MoveSegments,
    AbortMove,
    ForceLost,
    SetReadOnly,
    SetReadPolicy,
    SetHandingOver,
    TrashVolume,
    RestoreVolume,
    PurgeVolume,
)
"""What level 3 brought."""

Command = (
    FormCluster
    | SetManager
    | RemoveManager
    | SetSite
    | RemoveSite
    | SetStorage
    | RemoveStorage
    | AddRealVolume
    | SetRealVolumeState
    | RemoveRealVolume
    | BuildVolume
    | GrowVolume
    | DeleteVolume
    | ConfirmRelease
    | ReopenVolumes
    | RenewLease
    | SetSetting
    | SetLevel
    | Barrier
    | Retire
    | BeginResync
    | Promote
    | TakeOver
    | MoveOwner
    | LoseUnflushed
    | Rejoin
    | AddCopy
    | RemoveCopy
    | PauseCopy
    | BeginMove
    | MoveSegments
    | AbortMove
    | ForceLost
    | SetReadOnly
    | SetReadPolicy
    | SetHandingOver
    | TrashVolume
    | RestoreVolume
    | PurgeVolume
)


class Request(Struct, frozen=True, gc=False):
    client: ClientId
    sequence: int
    at_ms: int
    """Unix time of the proposer, for people; nothing is decided by it."""
    who: str
    command: Command


class Applied(Struct, frozen=True, gc=False, tag=True):
    index: int
    volume: Volume | None = None
    """The volume built, grown or deleted; None if its map is too long to be remembered for a retry
    (`apply.MAX_OUTCOME_SEGMENTS`): then the tables have it. A plan always has it."""
    real: RealVolume | None = None
    """The real volume added, changed or removed; None likewise if its free list is too long."""


class Rejected(Struct, frozen=True, gc=False, tag=True):
    index: int
    reason: Reason


Outcome = Applied | Rejected
