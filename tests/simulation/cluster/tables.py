"""The tables that a run begins with, made by the real commands.

May live here: names of sites and managers, and what is built for a choice of settings. Each copy has a class
of real volumes of its own, so that it lies where the settings want it; one more LUN of the class is there to
move segments to.
"""

from tests.core_cases import UNIT, Tables, manager, real
from tests.simulation.cluster.settings import Settings, VolumeWanted
from vimraft.core import levels
from vimraft.core.commands import (
    AddCopy,
    BuildVolume,
    FormCluster,
    ReadsLevel,
    Rejoin,
    SetLevel,
    SetManager,
    SetSite,
    SetStorage,
)
from vimraft.core.ids import ManagerName, SiteName, StorageAddress, VolumeName
from vimraft.core.tables import Settings as TableSettings
from vimraft.core.tables import Site, State, Storage

NAMES = ("oslo", "rome", "bern", "kiel")


def manager_of(number: int) -> ManagerName:
    return ManagerName(NAMES[number])


def first_boot(number: int) -> str:
    return f"{NAMES[number]}.1"


def first_tables(settings: Settings) -> State:
    tables = Tables()
    wanted = TableSettings(lease_ms=settings.lease_ms, io_timeout_ms=int(settings.io_timeout_s * 1000))
    tables.applied(FormCluster("simulated", wanted))
    for number in range(settings.sites):
        name = NAMES[number]
        row = manager(name, number)
        tables.applied(SetManager(row))
        tables.applied(SetSite(Site(SiteName(name), ManagerName(name))))
        tables.applied(SetStorage(Storage(StorageAddress(f"{name}-a"), SiteName(name), "")))
    known = tuple(ReadsLevel(manager_of(number), levels.LATEST) for number in range(settings.sites))
    tables.applied(SetLevel(levels.LATEST, known))
    for number in range(settings.sites):
        tables.applied(Rejoin(manager_of(number), first_boot(number)))
    luns = dict.fromkeys(range(settings.sites), 0)
    for volume in settings.volumes:
        _build(tables, volume, luns)
    return tables.state


def _build(tables: Tables, volume: VolumeWanted, luns: dict[int, int]) -> None:
    for number, sites in enumerate(volume.copies):
        volume_class = f"{volume.name}-{number}"
        names = tuple(SiteName(NAMES[site]) for site in sites)
        for at, site in enumerate(sites):
            # a unit of each is the label's; what does not fit on the first one spills over to the second
            share = -(-volume.regions // len(sites)) if at == 0 else volume.regions
            tables.applied(_lun(site, luns, share + 1, volume_class))
        if number == 0:
            size = volume.regions * UNIT
            owner = manager_of(sites[0])
            tables.applied(BuildVolume(VolumeName(volume.name), size, volume_class, owner, names))
        else:
            tables.applied(AddCopy(VolumeName(volume.name), names, volume_class))
        tables.applied(_lun(sites[0], luns, volume.regions + 1, volume_class))


def _lun(site: int, luns: dict[int, int], units: int, volume_class: str) -> object:
    luns[site] += 1
    return real(f"{NAMES[site]}-a", luns[site], units=units, volume_class=volume_class)
