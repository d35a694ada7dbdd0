"""Commands that empty a real volume under I/O: space elsewhere, then the switch.

May live here: one function per command, (state, command) -> Change | Reason, validation before change.
Between `BeginMove` and `MoveSegments` writes go to both places, and reads to the old one. Keeps: INV-4 (the
switch compares the boots of the new segments' stores), INV-5 (the copy is tiled before and after), INV-6
(both places are held; the one that is given up waits in a release), INV-7 (apart from the other copies).
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from vimraft.core import checks
from vimraft.core.allocate import Placed, Placement, place
from vimraft.core.change import Change, reals_of, unit_sectors, units_of, volume_segments
from vimraft.core.commands import AbortMove, BeginMove, MoveSegments
from vimraft.core.copies import (
    Freed,
    boot_problem,
    find_replica,
    next_epoch,
    present,
    put,
    refused,
    release,
    sites_of,
)
from vimraft.core.ids import SECTOR_BYTES, RealId, SiteName
from vimraft.core.reasons import InUse, NoSpaceForCopy, NotFound, Reason
from vimraft.core.space import lists, no_space, too_scattered, usable, with_free, without
from vimraft.core.tables import Replica, Run, Segment, State, Volume

Found = tuple[Volume, Replica]


def _find(state: State, command: BeginMove | MoveSegments | AbortMove) -> Found | Reason:
    volume = present(state, command.volume, command.epoch, command.owner)
    if not isinstance(volume, Volume):
        return volume
    replica = find_replica(volume, command.replica)
    return replica if isinstance(replica, NotFound) else (volume, replica)


def _find_moving(state: State, command: MoveSegments | AbortMove) -> Found | Reason:
    found = _find(state, command)
    if isinstance(found, tuple) and not found[1].moving:
        return NotFound("copy", f"{found[1].local_name} on the move")
    return found


def _laid(segments: Iterable[Segment], placed: Sequence[Placed], per_unit: int) -> list[Segment]:
    """The virtual sectors of `segments` on the runs of `placed`, which are as many units."""
    runs = [(one.real, Run(*one.run)) for one in reversed(placed)]
    made: list[Segment] = []
    for segment in segments:
        at = segment.virtual_first
        while at < segment.virtual_end:
            real, run = runs.pop()
            sectors = min(run.count * per_unit, segment.virtual_end - at)
            made.append(Segment(at, sectors, real.storage, real.lun, run.first * per_unit))
            at += sectors
            used = -(-sectors // per_unit)
            if used < run.count:
                runs.append((real, Run(run.first + used, run.count - used)))
    return made


def _place(
    state: State, volume: Volume, replica: Replica, command: BeginMove, going: Sequence[Segment]
) -> Placement | NoSpaceForCopy:
    real = state.reals[RealId(command.storage, command.lun)]
    others = tuple([s for r in volume.replicas if r is not replica for s in (*r.segments, *r.moving)])
    taken = sites_of(state, others) - sites_of(state, replica.segments)
    known = [site for site in volume.sites if site in state.sites]
    order: tuple[SiteName, ...] = command.sites or tuple(dict.fromkeys([real.site, *known]))
    sites = [site for site in order if site not in taken]
    volume_class = replica.volume_class or volume.volume_class
    pools = without(usable(state, sites, volume_class), reals_of(others) | {real.id})
    per_unit = unit_sectors(state)
    units = sum([units_of(segment, per_unit).count for segment in going])
    found = place(lists(pools), units)
    if found is not None:
        return found
    needed_bytes = units * per_unit * SECTOR_BYTES
    number = volume.replicas.index(replica) + 1
    space = no_space(state, sites, volume_class, needed_bytes, 0, pools)
    return NoSpaceForCopy(number, len(volume.replicas), space)


def begin_move(state: State, command: BeginMove) -> Change | Reason:
    found = _find(state, command)
    if not isinstance(found, tuple):
        return found
    volume, replica = found
    if replica.state != "in_sync":
        return refused(volume, replica)
    if replica.moving:
        return InUse("copy", replica.local_name, ("another move",))
    problem = checks.sites_missing(state, "site", command.sites)
    if problem is not None:
        return problem
    real = RealId(command.storage, command.lun)
    going = [segment for segment in replica.segments if segment.real_id == real]
    if not going:
        known = checks.listed(reals_of(replica.segments))
        return NotFound("real volume", checks.shown(str(real)), known)
    placement = _place(state, volume, replica, command, going)
    if isinstance(placement, NoSpaceForCopy):
        return placement
    moving = tuple(_laid(going, placement.placed, unit_sectors(state)))
    scattered = too_scattered(len(volume_segments(volume)) + len(moving))
    if scattered is not None:
        return scattered
    after = replace(
        next_epoch(volume, replace(replica, moving=moving)),
        sites=tuple(dict.fromkeys([*volume.sites, *command.sites])),
    )
    begun = put(with_free(state, placement.free), after)
    return Change(begun, "move-begun", volume.name, volume=after)


def split(replica: Replica) -> tuple[tuple[Segment, ...], tuple[Segment, ...]]:
    """The segments after the move, and those that it gives up. A move takes whole segments."""
    starts = [segment.virtual_first for segment in replica.moving]

    def goes(segment: Segment) -> bool:
        at = bisect_right(starts, segment.virtual_first) - 1
        return at >= 0 and segment.virtual_first < replica.moving[at].virtual_end

    stay = [segment for segment in replica.segments if not goes(segment)]
    gone = tuple([segment for segment in replica.segments if goes(segment)])
    return tuple(sorted([*stay, *replica.moving], key=lambda segment: segment.virtual_first)), gone


def move_segments(state: State, command: MoveSegments) -> Change | Reason:
    found = _find_moving(state, command)
    if not isinstance(found, tuple):
        return found
    volume, replica = found
    problem = boot_problem(state, replica.moving, command.boots)
    if problem is not None:
        return problem
    segments, gone = split(replica)
    after = next_epoch(volume, replace(replica, segments=segments, moving=()))
    moved = put(release(state, [Freed(volume, gone)]), after)
    return Change(moved, "moved", volume.name, volume=after)


def abort_move(state: State, command: AbortMove) -> Change | Reason:
    found = _find_moving(state, command)
    if not isinstance(found, tuple):
        return found
    volume, replica = found
    after = next_epoch(volume, replace(replica, moving=()))
    freed = Freed(volume, replica.moving)
    return Change(put(release(state, [freed]), after), "move-aborted", volume.name, volume=after)
