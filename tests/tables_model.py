"""A naive model of the tables: one dict entry per allocation unit, saying who holds it.

It knows nothing of runs, segments, free lists or coalescing, and searches for space unit by unit.
"""

from vimraft.core.commands import (
    AddRealVolume,
    Applied,
    BuildVolume,
    ConfirmRelease,
    DeleteVolume,
    GrowVolume,
    RemoveManager,
    RemoveRealVolume,
    RemoveSite,
    RemoveStorage,
    ReopenVolumes,
    SetManager,
    SetRealVolumeState,
    SetSite,
    SetStorage,
)
from vimraft.core.ids import RealId
from vimraft.core.tables import State

UNIT = 2048
FREE = None


class Model:
    def __init__(self) -> None:
        self.managers: set[str] = set()
        self.sites: dict[str, tuple[str, tuple[str, ...]]] = {}
        self.storages: dict[str, str] = {}
        self.classes: dict[RealId, str] = {}
        self.active: set[RealId] = set()
        self.units: dict[tuple[RealId, int], object] = {}
        self.volumes: dict[str, dict] = {}
        self.releases: dict[int, tuple[set[str], str]] = {}
        self.released = 0

    # What must be free or held, naively

    def site_of(self, real: RealId) -> str:
        return self.storages[real.storage]

    def default_sites(self, manager: str) -> list[str]:
        own = sorted(name for name, (of, _) in self.sites.items() if of == manager)
        order: list[str] = []
        for site in [*own, *(further for name in own for further in self.sites[name][1])]:
            if site not in order:
                order.append(site)
        return order

    def pool(self, site: str, volume_class: str) -> list[RealId]:
        return sorted(
            real for real in self.active if self.site_of(real) == site and self.classes[real] == volume_class
        )

    def free_on(self, real: RealId, taken: set) -> list[int]:
        return sorted(
            unit
            for (id_, unit), holder in self.units.items()
            if id_ == real and holder is FREE and (real, unit) not in taken
        )

    def search(self, sites, volume_class, count, taken) -> list[tuple[RealId, int]] | None:
        """Units in virtual order, or None. `taken`: units already given to the same command."""
        found: list[tuple[RealId, int]] = []
        for site in sites:
            missing = count - len(found)
            if missing == 0:
                break
            free = {real: self.free_on(real, taken) for real in self.pool(site, volume_class)}
            for real, units in free.items():
                starts = [u for u in units if all(u + k in set(units) for k in range(missing))]
                if starts:
                    return [*found, *((real, starts[0] + k) for k in range(missing))]
            found += [(real, unit) for real, units in free.items() for unit in units][:missing]
        return found if len(found) == count else None

    def placement(self, command: BuildVolume) -> list[tuple[RealId, int]] | None:
        sites = command.sites or self.default_sites(command.manager)
        return self.search(sites, command.volume_class, -(-command.size_sectors // UNIT), set())

    def growth(self, command: GrowVolume) -> list[tuple[RealId, int]] | None:
        """All units of the grown volume, or None."""
        volume = self.volumes[command.name]
        units = list(volume["units"])
        count = -(-command.size_sectors // UNIT)
        sites = [site for site in volume["sites"] if site in self.sites]
        usable = {real for site in sites for real in self.pool(site, volume["class"])}
        real, last = units[-1]
        while len(units) < count and real in usable and self.units.get((real, last + 1), "end") is FREE:
            last += 1
            units.append((real, last))
        more = self.search(sites, volume["class"], count - len(units), set(units))
        return None if more is None else [*units, *more]

    # Effects

    def follow(self, command: object, outcome: Applied) -> None:
        """Do what an applied command must have done."""
        method = getattr(self, f"_{type(command).__name__}", None)
        if method is not None:
            method(command, outcome)

    def _SetManager(self, command: SetManager, _: Applied) -> None:
        self.managers.add(command.manager.name)

    def _RemoveManager(self, command: RemoveManager, _: Applied) -> None:
        self.managers.remove(command.name)
        assert all(of != command.name for of, _ in self.sites.values())
        assert all(volume["owner"] != command.name for volume in self.volumes.values())
        assert all(command.name not in waiting for waiting, _ in self.releases.values())

    def _SetSite(self, command: SetSite, _: Applied) -> None:
        self.sites[command.site.name] = (command.site.manager, command.site.priority)

    def _RemoveSite(self, command: RemoveSite, _: Applied) -> None:
        del self.sites[command.name]
        assert command.name not in self.storages.values()

    def _SetStorage(self, command: SetStorage, _: Applied) -> None:
        self.storages[command.storage.address] = command.storage.site

    def _RemoveStorage(self, command: RemoveStorage, _: Applied) -> None:
        del self.storages[command.address]
        assert all(real.storage != command.address for real in self.classes)

    def _AddRealVolume(self, command: AddRealVolume, _: Applied) -> None:
        real = RealId(command.storage, command.lun)
        assert real not in self.classes
        self.classes[real] = command.volume_class
        self.active.add(real)
        for unit in range(1, command.capacity_units + 1):
            self.units[real, unit] = FREE

    def _SetRealVolumeState(self, command: SetRealVolumeState, _: Applied) -> None:
        real = RealId(command.storage, command.lun)
        (self.active.add if command.state == "active" else self.active.discard)(real)

    def _RemoveRealVolume(self, command: RemoveRealVolume, _: Applied) -> None:
        real = RealId(command.storage, command.lun)
        mine = [key for key in self.units if key[0] == real]
        assert all(self.units.pop(key) is FREE for key in mine)
        del self.classes[real]
        self.active.discard(real)

    def _BuildVolume(self, command: BuildVolume, outcome: Applied) -> None:
        units = self.placement(command)
        assert units is not None, "built although there is no space"
        assert command.name not in self.volumes
        for key in units:
            self.units[key] = f"volume {command.name}"
        self.volumes[command.name] = {
            "units": units,
            "size": command.size_sectors,
            "class": command.volume_class,
            "sites": list(command.sites or self.default_sites(command.manager)),
            "owner": self.sites[self.site_of(units[0][0])][0],
            "epoch": outcome.index,
        }

    def _GrowVolume(self, command: GrowVolume, _: Applied) -> None:
        units = self.growth(command)
        assert units is not None, "grown although there is no space"
        for key in units:
            self.units[key] = f"volume {command.name}"
        volume = self.volumes[command.name]
        volume.update(units=units, size=command.size_sectors, epoch=volume["epoch"] + 1)

    def _DeleteVolume(self, command: DeleteVolume, _: Applied) -> None:
        volume = self.volumes.pop(command.name)
        self.released += 1
        holder = f"release {self.released}"
        for key in volume["units"]:
            self.units[key] = holder
        waiting = {self.sites[self.site_of(real)][0] for real, _ in volume["units"]} | {volume["owner"]}
        self.releases[self.released] = (waiting, holder)

    def _ConfirmRelease(self, command: ConfirmRelease, _: Applied) -> None:
        waiting, holder = self.releases.get(command.release_id, (set(), ""))
        waiting.discard(command.manager)
        if holder and not waiting:
            del self.releases[command.release_id]
            for key, value in self.units.items():
                if value == holder:
                    self.units[key] = FREE

    def _ReopenVolumes(self, command: ReopenVolumes, _: Applied) -> None:
        for volume in self.volumes.values():
            volume["epoch"] += volume["owner"] == command.manager

    # Comparison

    def compare(self, state: State) -> None:
        """Every unit is held by whom the model says, and every volume is made of the same units."""
        assert set(state.managers) == self.managers
        assert {name: (s.manager, s.priority) for name, s in state.sites.items()} == self.sites
        assert {address: s.site for address, s in state.storages.items()} == self.storages
        assert {id_ for id_, real in state.reals.items() if real.state == "active"} == self.active
        assert {id_: real.volume_class for id_, real in state.reals.items()} == self.classes
        assert {id_: set(r.waiting) for id_, r in state.releases.items()} == {
            id_: waiting for id_, (waiting, _) in self.releases.items()
        }
        free = {
            (id_, unit)
            for id_, real in state.reals.items()
            for run in real.free
            for unit in range(run.first, run.first + run.count)
        }
        assert free == {key for key, holder in self.units.items() if holder is FREE}
        assert set(state.volumes) == set(self.volumes)
        for name, expected in self.volumes.items():
            volume = state.volumes[name]
            units = [
                (segment.real_id, (segment.real_first + sector) // UNIT)
                for segment in volume.replicas[0].segments
                for sector in range(0, segment.sectors, UNIT)
            ]
            assert units == expected["units"]
            assert (volume.size_sectors, volume.owner, volume.epoch) == (
                expected["size"],
                expected["owner"],
                expected["epoch"],
            )
