"""Commands: everything that can change the tables, and the outcome of each.

May live here: frozen, tagged structs only. Time, ids and randomness enter inside them (house rule);
`apply` (vimraft.core.apply) is total over them. A command travels inside a `Request`, whose
(client, sequence) makes a retry harmless (INV-8).
"""

from msgspec import Struct

from vimraft.core.ids import ClientId, ManagerName, SiteName, StorageAddress, VolumeName
from vimraft.core.reasons import Reason
from vimraft.core.tables import Manager, RealState, RealVolume, Settings, Site, Storage, Volume


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
