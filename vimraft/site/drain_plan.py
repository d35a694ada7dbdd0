"""Emptying real volumes: what is to be done next, from the tables alone.

May live here: pure functions. A drain is a real volume in state `draining`, and nothing else: whoever owns a
volume with a copy there moves it (BeginMove), its export copies and switches, and so a drain survives every
restart. A move away from a real volume that is in use again is taken back (AbortMove).

Moves keep every copy's redundancy: the old place stays part of the copy until the new one holds the same.
"""

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from vimraft.core.apply import plan
from vimraft.core.apply_moves import split
from vimraft.core.change import reals_of, unit_sectors, units_of, volume_segments
from vimraft.core.commands import AbortMove, BeginMove, Rejected
from vimraft.core.ids import ManagerName, RealId, SiteName
from vimraft.core.reasons import NoSpaceForCopy, Reason
from vimraft.core.tables import Replica, Segment, State, Volume

MAX_MOVING: Final = 2
"""Volumes of one owner that move at the same time."""
MAX_BLOCKED: Final = 8
"""Reasons that a report goes into."""
IN_USE: Final = ("active", "excluded")


def draining(state: State) -> frozenset[RealId]:
    return frozenset(key for key, real in state.reals.items() if real.state == "draining")


def leaves(replica: Replica) -> set[RealId]:
    """Real volumes that the running move of a copy leaves."""
    return reals_of(split(replica)[1]) if replica.moving else set()


def _taken_back(state: State, replica: Replica) -> bool:
    reals = [state.reals[real] for real in leaves(replica) if real in state.reals]
    return bool(reals) and all(real.state in IN_USE for real in reals)


def begin(state: State, volume: Volume, replica: Replica, real: RealId) -> BeginMove:
    """Where the tables would look by themselves; if there is no room, at the sites that the site of the
    real volume looks at next, too."""
    command = BeginMove(
        volume=volume.name,
        epoch=volume.epoch,
        owner=volume.owner,
        replica=replica.local_name,
        storage=real.storage,
        lun=real.lun,
    )
    outcome = plan(state, command)
    if not isinstance(outcome, Rejected) or not isinstance(outcome.reason, NoSpaceForCopy):
        return command
    home = state.sites[state.reals[real].site]
    known = [site for site in volume.sites if site in state.sites]
    sites: tuple[SiteName, ...] = tuple(dict.fromkeys([home.name, *known, *home.priority]))
    return replace(command, sites=sites)


def _may_begin(state: State, volume: Volume, reals: frozenset[RealId]) -> BeginMove | None:
    for replica in volume.replicas if reals else ():
        if replica.state != "in_sync":
            continue
        for real in sorted(reals & reals_of(replica.segments)):
            command = begin(state, volume, replica, real)
            if not isinstance(plan(state, command), Rejected):
                return command
    return None


def next_moves(state: State, me: ManagerName) -> list[BeginMove | AbortMove]:
    """What the owner `me` proposes now; none of it would be refused by these tables."""
    reals = draining(state)
    moving = 0
    wanted: list[BeginMove | AbortMove] = []
    mine = [state.volumes[name] for name in sorted(state.volumes) if state.volumes[name].owner == me]
    for volume in mine:
        busy = [replica for replica in volume.replicas if replica.moving]
        moving += bool(busy)
        wanted += [
            AbortMove(volume.name, volume.epoch, volume.owner, replica.local_name)
            for replica in busy
            if _taken_back(state, replica)
        ][:1]
    for volume in mine if reals else ():
        if moving >= MAX_MOVING:
            break
        if any(replica.moving for replica in volume.replicas):
            continue
        command = _may_begin(state, volume, reals)
        if command is not None:
            wanted.append(command)
            moving += 1
    return wanted


class Left(Struct, frozen=True):
    """What still lies on a real volume."""

    volume_bytes: int = 0
    trash_bytes: int = 0
    releasing_bytes: int = 0
    volumes: tuple[str, ...] = ()
    trashed: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        return self.volume_bytes + self.trash_bytes + self.releasing_bytes


def left_on(state: State, reals: frozenset[RealId]) -> Left:
    """Space that no volume is known to have held does not count: it goes with the real volume."""
    per_unit, unit_bytes = unit_sectors(state), state.settings.unit_bytes

    def held(segments: tuple[Segment, ...]) -> int:
        return sum(units_of(s, per_unit).count for s in segments if s.real_id in reals) * unit_bytes

    on = {volume.name: held(tuple(volume_segments(volume))) for volume in state.volumes.values()}
    trash = [(volume.name, held(tuple(volume_segments(volume)))) for volume in state.trash.values()]
    return Left(
        volume_bytes=sum(on.values()),
        trash_bytes=sum(size for _, size in trash),
        releasing_bytes=sum(held(r.segments) for r in state.releases.values() if r.volume),
        volumes=tuple(sorted(name for name, size in on.items() if size)),
        trashed=tuple(sorted(name for name, size in trash if size)),
    )


class Blocked(Struct, frozen=True):
    """A copy that cannot leave now: `reason` of the tables, or None: it is in `state`."""

    volume: str
    replica: str
    state: str
    reason: Reason | None = None


def blocked(state: State, reals: frozenset[RealId]) -> list[Blocked]:
    """Copies on these real volumes that no move could begin for."""
    found: list[Blocked] = []
    for name in sorted(state.volumes):
        volume = state.volumes[name]
        for replica in volume.replicas:
            here = sorted(reals & reals_of(replica.segments))
            if not here or replica.moving or len(found) >= MAX_BLOCKED:
                continue
            if replica.state != "in_sync":
                found.append(Blocked(volume.name, replica.local_name, replica.state))
                continue
            outcome = plan(state, begin(state, volume, replica, here[0]))
            if isinstance(outcome, Rejected):
                found.append(Blocked(volume.name, replica.local_name, replica.state, outcome.reason))
    return found
