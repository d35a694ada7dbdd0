"""Finding space for volumes: usable real volumes, and the search for several copies apart from one another.

May live here: pure functions over the tables that find space and lay segments on it; `allocate` has the lists
underneath, the `apply_*` modules decide who asks. Keeps INV-6 (what is found is taken off the free lists) and
INV-7: copies of a volume never share a real volume, and no site unless asked.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from vimraft.core import checks
from vimraft.core.allocate import Free, Placed, Placement, free_units, place
from vimraft.core.ids import SECTOR_BYTES, RealId, SiteName
from vimraft.core.reasons import NoSpace, NoSpaceForCopy, SiteFree, Unsupported
from vimraft.core.tables import RealVolume, Segment, State

Pools = list[list[RealVolume]]
"""Usable real volumes, per site in priority order."""


def usable(state: State, sites: Sequence[SiteName], volume_class: str) -> Pools:
    pools: dict[SiteName, list[RealVolume]] = {site: [] for site in sites}
    for real in state.reals.values():
        if real.state == "active" and real.volume_class == volume_class and real.site in pools:
            pools[real.site].append(real)
    return [sorted(pool, key=lambda real: (real.storage, real.lun)) for pool in pools.values()]


def without(pools: Pools, reals: set[RealId]) -> Pools:
    return [[real for real in pool if real.id not in reals] for pool in pools] if reals else pools


def lists(pools: Pools, free: Mapping[RealId, Free] | None = None) -> list[list[tuple[RealId, Free]]]:
    """As `allocate.place` takes them; `free`: lists that were taken from already."""
    taken = free or {}
    return [[(real.id, taken.get(real.id, real.free)) for real in pool] for pool in pools]


def no_space(
    state: State,
    sites: Sequence[SiteName],
    volume_class: str,
    needed_bytes: int,
    held_bytes: int,
    pools: Pools,
) -> NoSpace:
    """`held_bytes`: what a volume that grows has already, the unused end of its last unit included."""
    unit_bytes = state.settings.unit_bytes
    free = [
        (site, sum(free_units(real.free) for real in pool) * unit_bytes)
        for site, pool in zip(sites, pools, strict=True)
    ]
    classes = {r.volume_class for r in state.reals.values() if r.state == "active" and r.site in sites}
    return NoSpace(
        volume_class=volume_class,
        needed_bytes=needed_bytes,
        largest_bytes=held_bytes + sum(free_bytes for _, free_bytes in free),
        sites=tuple([SiteFree(site, free_bytes) for site, free_bytes in free]),
        known_classes=checks.listed(classes),
    )


def too_scattered(segments: int) -> Unsupported | None:
    limit = checks.MAX_VOLUME_SEGMENTS
    return Unsupported(f"more than {limit} segments in one volume") if segments > limit else None


def lay(
    placed: Iterable[Placed], virtual_first: int, end_sector: int, sectors_per_unit: int
) -> list[Segment]:
    """Segments from `virtual_first` up to `end_sector`; the last one is cut there."""
    segments: list[Segment] = []
    at = virtual_first
    for real, run in placed:
        sectors = min(run[1] * sectors_per_unit, end_sector - at)
        segments.append(Segment(at, sectors, real[0], real[1], run[0] * sectors_per_unit))
        at += sectors
    return segments


def with_free(state: State, free: Mapping[RealId, Free]) -> State:
    reals = state.reals.mutate()
    for id_, runs in free.items():
        reals[id_] = msgspec.structs.replace(reals[id_], free=runs)
    return state._replace(reals=reals.finish())


# Copies apart from one another


class Wanted(NamedTuple):
    """Space for `copies` copies of `size_sectors` each, beside those that there are."""

    sites: Sequence[SiteName]
    volume_class: str
    size_sectors: int
    copies: int
    same_site: bool = False
    used_reals: frozenset[RealId] = frozenset()
    used_sites: frozenset[SiteName] = frozenset()
    there: int = 0
    """Copies that there are."""


def place_copies(state: State, wanted: Wanted, sectors_per_unit: int) -> list[Placement] | NoSpaceForCopy:
    """All or nothing. A copy that lies at one site fails with that site only, so each is sought whole at the
    first site that can hold it; if that does not work out, site after site in the order given. Sites are
    shared only when asked, and when nothing else works."""
    pools = dict(zip(wanted.sites, usable(state, wanted.sites, wanted.volume_class), strict=True))
    units = -(-wanted.size_sectors // sectors_per_unit)
    found: list[Placement] | NoSpaceForCopy = []
    for apart in (True, False) if wanted.same_site else (True,):
        for whole in (True, False):
            found = _search(state, wanted, pools, units, apart=apart, whole=whole)
            if isinstance(found, list):
                return found
    return found


def _search(
    state: State,
    wanted: Wanted,
    pools: dict[SiteName, list[RealVolume]],
    units: int,
    *,
    apart: bool,
    whole: bool,
) -> list[Placement] | NoSpaceForCopy:
    reals = set(wanted.used_reals)
    sites = set(wanted.used_sites) if apart else set()
    found: list[Placement] = []
    for number in range(wanted.there + 1, wanted.there + wanted.copies + 1):
        open_sites = [site for site in pools if site not in sites]
        left = without([pools[site] for site in open_sites], reals)
        tries = [[pool] for pool in left] if whole else [left]
        placed = next(filter(None, (place(lists(one), units) for one in tries)), None)
        if placed is None:
            needed_bytes = wanted.size_sectors * SECTOR_BYTES
            space = no_space(state, open_sites, wanted.volume_class, needed_bytes, 0, left)
            return NoSpaceForCopy(number, wanted.there + wanted.copies, space)
        found.append(placed)
        here = {one.real for one in placed.placed}
        reals |= here
        if apart:
            sites |= {state.reals[real].site for real in here}
    return found
