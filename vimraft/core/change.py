"""What a command does to the tables, as a value: the result type of every `apply_*` function.

May live here: `Change`, and the questions that several subjects ask of the tables.
"""

from collections.abc import Iterator

from msgspec import Struct

from vimraft.core.commands import LeaseStamp
from vimraft.core.ids import SECTOR_BYTES, ManagerName, RealId
from vimraft.core.tables import RealVolume, Run, Segment, State, Volume


class Change(Struct, frozen=True, gc=False):
    """The new tables (their index, history and dedupe are `apply`'s to set), and what to tell.

    `what` and `name` go into the history; an empty `what` means that nothing worth keeping happened.
    """

    state: State
    what: str = ""
    name: str = ""
    volume: Volume | None = None
    real: RealVolume | None = None


def unit_sectors(state: State) -> int:
    return state.settings.unit_bytes // SECTOR_BYTES


def units_of(segment: Segment, sectors_per_unit: int) -> Run:
    """The allocation units that a segment holds; the tail of its last one may be unused."""
    return Run(
        segment.real_first // sectors_per_unit,
        (segment.sectors + sectors_per_unit - 1) // sectors_per_unit,
    )


def volume_segments(volume: Volume) -> tuple[Segment, ...]:
    """All that it holds: the segments of all replicas, and those that they are moving to."""
    if len(volume.replicas) == 1 and not volume.replicas[0].moving:
        return volume.replicas[0].segments
    return tuple([segment for r in volume.replicas for part in (r.segments, r.moving) for segment in part])


def reals_of(segments: tuple[Segment, ...]) -> set[RealId]:
    return {RealId(storage, lun) for storage, lun in {(s.storage, s.lun) for s in segments}}


def holders(state: State, segments: tuple[Segment, ...]) -> set[ManagerName]:
    """The managers of the sites where segments lie."""
    return {state.sites[state.reals[real].site].manager for real in reals_of(segments)}


def stamp_of(state: State, manager: ManagerName) -> LeaseStamp | None:
    """Of its last renewal; None: it had no lease yet."""
    lease = state.leases.get(manager)
    return None if lease is None else LeaseStamp(lease.incarnation, lease.counter)


def users_of(state: State, reals: set[RealId]) -> Iterator[str]:
    """Volumes and releases with segments on any of `reals`, as people call them.

    Looks through every segment: only for refusals, where time matters less than names.
    """
    for volume in state.volumes.values():
        if not reals.isdisjoint(reals_of(volume_segments(volume))):
            yield f"virtual volume {volume.name}"
    for trash_id, volume in state.trash.items():
        if not reals.isdisjoint(reals_of(volume_segments(volume))):
            yield f"volume {volume.name} in the trash ({trash_id})"
    for release in state.releases.values():
        if not reals.isdisjoint(reals_of(release.segments)):
            yield f"release {release.release_id} of {release.volume or 'space to be zeroed again'}"
