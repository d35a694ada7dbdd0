"""Commands about virtual volumes: build, grow, hold read-only, delete, confirm a release, reopen.

May live here: one function per command, (state, command) -> Change | Reason, validation before change.
Keeps: INV-2 (one owner; an epoch is never used twice under one name), INV-5 (a volume's segments tile it,
and space comes back only from releases that everybody confirmed), INV-6 (no overlap; all or nothing).

The first epoch of a volume is the index of the command that built it. Epochs rise by at most one per
command, so they stay below the index, and a volume that is built under the name of a deleted one begins
above all epochs of the old one: no request of an old session, wherever it was delayed, is taken for
one of the new volume, and the floor a store keeps for the name stays valid.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from vimraft.core import checks, levels
from vimraft.core.allocate import Free, Placement, give, place, take_at
from vimraft.core.change import Change, reals_of, unit_sectors, units_of, volume_segments
from vimraft.core.commands import (
    BuildVolume,
    ConfirmRelease,
    DeleteVolume,
    GrowVolume,
    ReopenVolumes,
    SetReadOnly,
)
from vimraft.core.copies import MAX_COPIES, Freed, find_volume, put, release, sites_of
from vimraft.core.ids import SECTOR_BYTES, LocalName, ManagerName, RealId, SiteName, StorageAddress
from vimraft.core.reasons import (
    Exists,
    InUse,
    Invalid,
    NoSpace,
    NoSpaceForCopy,
    NotFound,
    Reason,
    Unsupported,
)
from vimraft.core.space import (
    Pools,
    Wanted,
    lay,
    lists,
    no_space,
    place_copies,
    too_scattered,
    usable,
    with_free,
    without,
)
from vimraft.core.tables import Replica, Run, Segment, State, Volume


def local_name(number: int) -> LocalName:
    """0 → A … 25 → Z, 26 → AA … (bijective base 26)."""
    letters = ""
    number += 1
    while number:
        number, digit = divmod(number - 1, 26)
        letters = chr(ord("A") + digit) + letters
    return LocalName(letters)


def default_sites(state: State, manager: ManagerName) -> tuple[SiteName, ...]:
    """The sites of `manager` by name, then those of their priority orders, each once."""
    own = sorted(name for name, site in state.sites.items() if site.manager == manager)
    further = [name for site in own for name in state.sites[site].priority]
    return tuple(dict.fromkeys([*own, *further]))


def _copies_invalid(state: State, copies: int) -> Reason | None:
    if copies > 1 and state.level < levels.COPIES:
        return Unsupported("more than one copy")
    if copies > MAX_COPIES:
        return Invalid("copies", str(copies), f"is more than {MAX_COPIES}")
    return None


def _build_invalid(state: State, command: BuildVolume) -> Reason | None:
    return (
        checks.name_invalid("volume name", command.name)
        or checks.size_invalid(command.size_sectors)
        or checks.class_invalid(command.volume_class)
        or (Exists("virtual volume", command.name) if command.name in state.volumes else None)
        or (
            Invalid("copies", str(command.copies), "is not positive: the volume itself is the first copy")
            if command.copies < 1
            else None
        )
        or _copies_invalid(state, command.copies)
        or checks.manager_missing(state, command.manager)
        or checks.sites_missing(state, "site", command.sites)
        or checks.full("virtual volume", len(state.volumes), checks.MAX_VOLUMES)
    )


def build(state: State, command: BuildVolume, at_ms: int) -> Change | Reason:
    problem = _build_invalid(state, command)
    if problem is not None:
        return problem
    sites = command.sites or default_sites(state, command.manager)
    found = _build_places(state, command, sites)
    if not isinstance(found, list):
        return found
    scattered = too_scattered(sum([len(placement.placed) for placement in found]))
    if scattered is not None:
        return scattered
    per_unit = unit_sectors(state)
    replicas = [
        Replica(
            local_name(state.next_local_number + number),
            "in_sync",
            tuple(lay(placement.placed, 0, command.size_sectors, per_unit)),
        )
        for number, placement in enumerate(found)
    ]
    first_site = state.reals[found[0].placed[0].real].site
    volume = Volume(
        name=command.name,
        size_sectors=command.size_sectors,
        volume_class=command.volume_class,
        owner=state.sites[first_site].manager,
        epoch=state.index + 1,
        replicas=tuple(replicas),
        sites=sites,
        created_ms=at_ms,
        created_by=command.manager,
    )
    free = {real: runs for placement in found for real, runs in placement.free.items()}
    built = with_free(state, free)._replace(
        volumes=state.volumes.set(volume.name, volume),
        next_local_number=state.next_local_number + len(replicas),
    )
    return Change(built, "built", volume.name, volume=volume)


def _build_places(
    state: State, command: BuildVolume, sites: tuple[SiteName, ...]
) -> list[Placement] | NoSpace | NoSpaceForCopy:
    per_unit = unit_sectors(state)
    if command.copies > 1:
        asked = command.same_site is True
        wanted = Wanted(sites, command.volume_class, command.size_sectors, command.copies, asked)
        return place_copies(state, wanted, per_unit)
    pools = usable(state, sites, command.volume_class)
    found = place(lists(pools), -(-command.size_sectors // per_unit))
    if found is None:
        needed_bytes = command.size_sectors * SECTOR_BYTES
        return no_space(state, sites, command.volume_class, needed_bytes, 0, pools)
    return [found]


def _extend_last(last: Segment, units: int, pools: Pools, per_unit: int) -> tuple[int, Free | None]:
    """How many of `units` are free right behind the last segment on a real volume that may still give
    space, and that real volume's free list without them."""
    for pool in pools:
        for real in pool:
            if real.id == last.real_id:
                held = units_of(last, per_unit)
                taken, free = take_at(real.free, held.first + held.count, units)
                return taken, free if taken else None
    return 0, None


class _Growing(NamedTuple):
    """One copy that gets longer, and where it may take space."""

    old_sectors: int
    segments: tuple[Segment, ...]
    volume_class: str
    sites: Sequence[SiteName]
    pools: Pools


def _grown_segments(
    state: State, growing: _Growing, size_sectors: int
) -> tuple[tuple[Segment, ...], dict[RealId, Free]] | NoSpace:
    """The longer map: the unused end of the last unit, then what follows it, then the build flow."""
    per_unit = unit_sectors(state)
    old = growing.segments
    last = old[-1]
    held_sectors = growing.old_sectors - last.sectors + units_of(last, per_unit).count * per_unit
    units = max(0, -(-(size_sectors - held_sectors) // per_unit))
    free: dict[RealId, Free] = {}
    taken, rest = _extend_last(last, units, growing.pools, per_unit) if units else (0, None)
    if rest is not None:
        free[last.real_id] = rest
    end = min(held_sectors + taken * per_unit, size_sectors)
    longer = msgspec.structs.replace(last, sectors=end - last.virtual_first)
    more: list[Segment] = []
    if units > taken:
        found = place(lists(growing.pools, free), units - taken)
        if found is None:
            needed_bytes, held_bytes = size_sectors * SECTOR_BYTES, held_sectors * SECTOR_BYTES
            return no_space(
                state, growing.sites, growing.volume_class, needed_bytes, held_bytes, growing.pools
            )
        free |= found.free
        more = lay(found.placed, end, size_sectors, per_unit)
    return (*old[:-1], longer, *more), free


def _growing(state: State, volume: Volume, replicas: Sequence[Replica], number: int) -> _Growing:
    """Copy `number` of a volume whose earlier copies have grown already. It keeps off the real volumes of
    all others, and off their sites but for those where it lies already, which come first."""
    replica = replicas[number]
    volume_class = replica.volume_class or volume.volume_class
    sites = [site for site in volume.sites if site in state.sites]
    others = [segment for other in replicas if other is not replica for segment in other.segments]
    if others:
        own, taken = sites_of(state, replica.segments), sites_of(state, others)
        sites = [s for s in sites if s in own] + [s for s in sites if s not in own and s not in taken]
    pools = without(usable(state, sites, volume_class), reals_of(tuple(others)))
    return _Growing(volume.size_sectors, replica.segments, volume_class, sites, pools)


def _grow_invalid(volume: Volume, command: GrowVolume) -> Reason | None:
    problem = checks.size_invalid(command.size_sectors)
    if problem is not None:
        return problem
    if command.size_sectors <= volume.size_sectors:
        value = f"{command.size_sectors * SECTOR_BYTES} bytes"
        return Invalid("size", value, f"is not more than the present size, {volume.size_bytes} bytes")
    moves = [f"the move of copy {r.local_name}" for r in volume.replicas if r.moving]
    return InUse("virtual volume", volume.name, tuple(moves)) if moves else None


def grow(state: State, command: GrowVolume) -> Change | Reason:
    """Every copy, whatever its state: space that was never written reads as zeros in all of them."""
    volume = find_volume(state, command.name)
    if isinstance(volume, NotFound):
        return volume
    problem = _grow_invalid(volume, command)
    if problem is not None:
        return problem
    replicas, free = list(volume.replicas), dict[RealId, Free]()
    for number, replica in enumerate(replicas):
        growing = _growing(state, volume, replicas, number)
        grown = _grown_segments(state, growing, command.size_sectors)
        if isinstance(grown, NoSpace):
            return grown if len(replicas) == 1 else NoSpaceForCopy(number + 1, len(replicas), grown)
        replicas[number] = msgspec.structs.replace(replica, segments=grown[0])
        free |= grown[1]
    scattered = too_scattered(sum([len(replica.segments) for replica in replicas]))
    if scattered is not None:
        return scattered
    volume = msgspec.structs.replace(
        volume, size_sectors=command.size_sectors, epoch=volume.epoch + 1, replicas=tuple(replicas)
    )
    return Change(put(with_free(state, free), volume), "grown", volume.name, volume=volume)


def set_read_only(state: State, command: SetReadOnly) -> Change | Reason:
    volume = find_volume(state, command.name)
    if isinstance(volume, NotFound):
        return volume
    if volume.read_only == command.read_only:
        return Change(state, volume=volume)
    after = msgspec.structs.replace(volume, read_only=command.read_only, epoch=volume.epoch + 1)
    what = "read-only" if command.read_only else "writable"
    return Change(put(state, after), what, volume.name, volume=after)


def delete(state: State, command: DeleteVolume) -> Change | Reason:
    """The space waits in a release until the owner and every holder of a segment have confirmed:
    they alone can write there (others forward to the owner)."""
    volume = find_volume(state, command.name)
    if isinstance(volume, NotFound):
        return volume
    after = release(state, [Freed(volume, volume_segments(volume))])
    after = after._replace(volumes=state.volumes.delete(volume.name))
    return Change(after, "deleted", volume.name, volume=volume)


def confirm_release(state: State, command: ConfirmRelease) -> Change | Reason:
    """A second confirmation, or one of a release that is done, changes nothing."""
    missing = checks.manager_missing(state, command.manager)
    if missing is not None:
        return missing
    release = state.releases.get(command.release_id)
    if release is None or command.manager not in release.waiting:
        return Change(state)
    waiting = tuple([name for name in release.waiting if name != command.manager])
    if waiting:
        release = msgspec.structs.replace(release, waiting=waiting)
        return Change(state._replace(releases=state.releases.set(release.release_id, release)))
    per_unit = unit_sectors(state)
    back: dict[tuple[StorageAddress, int], list[Run]] = {}
    for segment in release.segments:
        back.setdefault((segment.storage, segment.lun), []).append(units_of(segment, per_unit))
    free: dict[RealId, Free] = {}
    for (storage, lun), runs in back.items():
        real = state.reals[RealId(storage, lun)]
        free[real.id] = give(real.free, runs)
    after = with_free(state, free)._replace(releases=state.releases.delete(release.release_id))
    name = release.volume or ", ".join(sorted({str(segment.real_id) for segment in release.segments}))
    return Change(after, "released", name)


def reopen(state: State, command: ReopenVolumes) -> Change | Reason:
    """A restart is a new epoch: what the former export still has on its way is refused (INV-2)."""
    missing = checks.manager_missing(state, command.manager) or checks.text_invalid(
        "incarnation", command.incarnation, checks.MAX_TEXT_CHARS
    )
    if missing is not None:
        return missing
    owned = [volume for volume in state.volumes.values() if volume.owner == command.manager]
    if not owned:
        return Change(state)
    volumes = state.volumes.mutate()
    for volume in owned:
        volumes[volume.name] = msgspec.structs.replace(volume, epoch=volume.epoch + 1)
    return Change(state._replace(volumes=volumes.finish()), "reopened", command.manager)
