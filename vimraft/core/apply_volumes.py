"""Commands about virtual volumes: build, grow, delete, confirm a release, reopen.

May live here: one function per command, (state, command) -> Change | Reason, validation before change.
Keeps: INV-2 (one owner; an epoch is never used twice under one name), INV-5 (a volume's segments tile it,
and space comes back only from releases that everybody confirmed), INV-6 (no overlap; all or nothing).

The first epoch of a volume is the index of the command that built it. Epochs rise by at most one per
command, so they stay below the index, and a volume that is built under the name of a deleted one begins
above all epochs of the old one: no request of an old session, wherever it was delayed, is taken for
one of the new volume, and the floor a store keeps for the name stays valid.
"""

from collections.abc import Sequence

import msgspec

from vimraft.core import checks
from vimraft.core.allocate import Free, Placed, free_units, give, place, take_at
from vimraft.core.change import Change, holders, unit_sectors, units_of, volume_segments
from vimraft.core.commands import BuildVolume, ConfirmRelease, DeleteVolume, GrowVolume, ReopenVolumes
from vimraft.core.ids import (
    SECTOR_BYTES,
    LocalName,
    ManagerName,
    RealId,
    SiteName,
    StorageAddress,
    VolumeName,
)
from vimraft.core.reasons import Exists, Invalid, NoSpace, NotFound, Reason, SiteFree, Unsupported
from vimraft.core.tables import RealVolume, Release, Replica, Run, Segment, State, Volume

Pools = list[list[RealVolume]]
"""Usable real volumes, per site in priority order."""


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


def usable(state: State, sites: Sequence[SiteName], volume_class: str) -> Pools:
    pools: dict[SiteName, list[RealVolume]] = {site: [] for site in sites}
    for real in state.reals.values():
        if real.state == "active" and real.volume_class == volume_class and real.site in pools:
            pools[real.site].append(real)
    return [sorted(pool, key=lambda real: (real.storage, real.lun)) for pool in pools.values()]


def _no_space(
    state: State, sites: Sequence[SiteName], volume_class: str, needed_bytes: int, held_bytes: int
) -> NoSpace:
    """`held_bytes`: what a volume that grows has already, the unused end of its last unit included."""
    unit_bytes = state.settings.unit_bytes
    free = [
        (site, sum(free_units(real.free) for real in pool) * unit_bytes)
        for site, pool in zip(sites, usable(state, sites, volume_class), strict=True)
    ]
    classes = {r.volume_class for r in state.reals.values() if r.state == "active" and r.site in sites}
    return NoSpace(
        volume_class=volume_class,
        needed_bytes=needed_bytes,
        largest_bytes=held_bytes + sum(free_bytes for _, free_bytes in free),
        sites=tuple([SiteFree(site, free_bytes) for site, free_bytes in free]),
        known_classes=checks.listed(classes),
    )


def _segments(
    placed: Sequence[Placed], virtual_first: int, end_sector: int, sectors_per_unit: int
) -> list[Segment]:
    """Segments from `virtual_first` up to `end_sector`; the last one is cut there."""
    segments: list[Segment] = []
    at = virtual_first
    for real, run in placed:
        sectors = min(run[1] * sectors_per_unit, end_sector - at)
        segments.append(Segment(at, sectors, real[0], real[1], run[0] * sectors_per_unit))
        at += sectors
    return segments


def _with_free(state: State, free: dict[RealId, Free]) -> State:
    reals = state.reals.mutate()
    for id_, runs in free.items():
        reals[id_] = msgspec.structs.replace(reals[id_], free=runs)
    return state._replace(reals=reals.finish())


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
        or (Unsupported("more than one copy") if command.copies > 1 else None)
        or checks.manager_missing(state, command.manager)
        or checks.sites_missing(state, "site", command.sites)
        or checks.full("virtual volume", len(state.volumes), checks.MAX_VOLUMES)
    )


def _too_scattered(segments: int) -> Unsupported | None:
    limit = checks.MAX_VOLUME_SEGMENTS
    return Unsupported(f"more than {limit} segments in one volume") if segments > limit else None


def build(state: State, command: BuildVolume, at_ms: int) -> Change | Reason:
    problem = _build_invalid(state, command)
    if problem is not None:
        return problem
    sites = command.sites or default_sites(state, command.manager)
    per_unit = unit_sectors(state)
    units = -(-command.size_sectors // per_unit)
    pools = usable(state, sites, command.volume_class)
    found = place([[(real.id, real.free) for real in pool] for pool in pools], units)
    if found is None:
        return _no_space(state, sites, command.volume_class, command.size_sectors * SECTOR_BYTES, 0)
    scattered = _too_scattered(len(found.placed))
    if scattered is not None:
        return scattered
    segments = _segments(found.placed, 0, command.size_sectors, per_unit)
    first_site = state.reals[found.placed[0].real].site
    volume = Volume(
        name=command.name,
        size_sectors=command.size_sectors,
        volume_class=command.volume_class,
        owner=state.sites[first_site].manager,
        epoch=state.index + 1,
        replicas=(Replica(local_name(state.next_local_number), "in_sync", tuple(segments)),),
        sites=sites,
        created_ms=at_ms,
        created_by=command.manager,
    )
    built = _with_free(state, found.free)._replace(
        volumes=state.volumes.set(volume.name, volume), next_local_number=state.next_local_number + 1
    )
    return Change(built, "built", volume.name, volume=volume)


def _find(state: State, name: VolumeName) -> Volume | NotFound:
    volume = state.volumes.get(name)
    if volume is None:
        return NotFound("virtual volume", checks.shown(name), checks.listed(state.volumes.keys()))
    return volume


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


def _grown_segments(
    state: State, volume: Volume, sites: Sequence[SiteName], size_sectors: int
) -> tuple[tuple[Segment, ...], dict[RealId, Free]] | Reason:
    """The longer map: the unused end of the last unit, then what follows it, then the build flow."""
    per_unit = unit_sectors(state)
    old = volume.replicas[0].segments
    last = old[-1]
    held_sectors = volume.size_sectors - last.sectors + units_of(last, per_unit).count * per_unit
    units = max(0, -(-(size_sectors - held_sectors) // per_unit))
    pools = usable(state, sites, volume.volume_class)
    free: dict[RealId, Free] = {}
    taken, rest = _extend_last(last, units, pools, per_unit) if units else (0, None)
    if rest is not None:
        free[last.real_id] = rest
    end = min(held_sectors + taken * per_unit, size_sectors)
    longer = msgspec.structs.replace(last, sectors=end - last.virtual_first)
    more: list[Segment] = []
    if units > taken:
        lists = [[(real.id, free.get(real.id, real.free)) for real in pool] for pool in pools]
        found = place(lists, units - taken)
        if found is None:
            return _no_space(
                state,
                sites,
                volume.volume_class,
                size_sectors * SECTOR_BYTES,
                held_sectors * SECTOR_BYTES,
            )
        free |= found.free
        more = _segments(found.placed, end, size_sectors, per_unit)
    scattered = _too_scattered(len(old) + len(more))
    return scattered or ((*old[:-1], longer, *more), free)


def grow(state: State, command: GrowVolume) -> Change | Reason:
    volume = _find(state, command.name)
    if isinstance(volume, NotFound):
        return volume
    problem = checks.size_invalid(command.size_sectors)
    if problem is not None:
        return problem
    if command.size_sectors <= volume.size_sectors:
        value = f"{command.size_sectors * SECTOR_BYTES} bytes"
        return Invalid("size", value, f"is not more than the present size, {volume.size_bytes} bytes")
    sites = tuple([site for site in volume.sites if site in state.sites])
    grown = _grown_segments(state, volume, sites, command.size_sectors)
    if not isinstance(grown, tuple):
        return grown
    segments, free = grown
    volume = msgspec.structs.replace(
        volume,
        size_sectors=command.size_sectors,
        epoch=volume.epoch + 1,
        replicas=(msgspec.structs.replace(volume.replicas[0], segments=segments),),
    )
    after = _with_free(state, free)._replace(volumes=state.volumes.set(volume.name, volume))
    return Change(after, "grown", volume.name, volume=volume)


def delete(state: State, command: DeleteVolume) -> Change | Reason:
    """The space waits in a release until the owner and every holder of a segment have confirmed:
    they alone can write there (others forward to the owner)."""
    volume = _find(state, command.name)
    if isinstance(volume, NotFound):
        return volume
    segments = volume_segments(volume)
    release = Release(
        release_id=state.next_release_id,
        volume=volume.name,
        epoch=volume.epoch,
        segments=segments,
        waiting=tuple(sorted({volume.owner} | holders(state, segments))),
    )
    after = state._replace(
        volumes=state.volumes.delete(volume.name),
        releases=state.releases.set(release.release_id, release),
        next_release_id=release.release_id + 1,
    )
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
    after = _with_free(state, free)._replace(releases=state.releases.delete(release.release_id))
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
