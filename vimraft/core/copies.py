"""What the commands about copies have in common: finding, comparing, changing one copy, releasing space.

May live here: functions over `Volume` and `Replica` that several `apply_*` modules need. Keeps INV-4: a copy
in sync has no `left_epoch` and no `record`, and only such a copy moves; whatever takes one out passes `left`.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from msgspec.structs import replace

from vimraft.core import checks, replica_states
from vimraft.core.change import holders
from vimraft.core.ids import LocalName, ManagerName, RealId, SiteName, VolumeName
from vimraft.core.reasons import Conflict, CopyState, Invalid, NotFound, OtherBoot, Reason
from vimraft.core.tables import Release, Replica, Segment, State, Volume

MAX_COPIES: Final = 8
"""Of one volume, whatever their state."""
MAX_RECORD_CHARS: Final = 64
MAX_BOOT_CHARS: Final = 128


def find_volume(state: State, name: VolumeName) -> Volume | NotFound:
    volume = state.volumes.get(name)
    if volume is None:
        return NotFound("virtual volume", checks.shown(name), checks.listed(state.volumes.keys()))
    return volume


def present(state: State, name: VolumeName, epoch: int, owner: ManagerName) -> Volume | Reason:
    """The volume, if it is still what the proposer took it for."""
    volume = find_volume(state, name)
    if isinstance(volume, NotFound):
        return volume
    if (volume.epoch, volume.owner) != (epoch, owner):
        return Conflict(volume.name, volume.epoch, volume.owner)
    return volume


def is_copied(volume: Volume) -> bool:
    """The machines of vimraft.protocol serve it: several copies, whatever their state, or one that moves."""
    return len(volume.replicas) > 1 or any(replica.moving for replica in volume.replicas)


def find_replica(volume: Volume, name: LocalName) -> Replica | NotFound:
    for replica in volume.replicas:
        if replica.local_name == name:
            return replica
    return NotFound("copy", checks.shown(name), checks.listed(r.local_name for r in volume.replicas))


def refused(volume: Volume, replica: Replica) -> CopyState:
    return CopyState(volume.name, replica.local_name, replica.state)


def record_invalid(record: str) -> Invalid | None:
    return checks.text_invalid("record", record, MAX_RECORD_CHARS, may_be_empty=True)


def in_sync(volume: Volume) -> list[Replica]:
    return [replica for replica in volume.replicas if replica.state == "in_sync"]


def sole_holder(state: State, volume: Volume) -> bool:
    """Every in-sync segment lies at the owner's own sites: nobody can take the volume over, so its owner
    serves without a lease (and a cut-off site keeps serving its own volumes)."""
    return all(holders(state, replica.segments) <= {volume.owner} for replica in in_sync(volume))


def sites_of(state: State, segments: Iterable[Segment]) -> set[SiteName]:
    return {state.reals[RealId(*key)].site for key in {(s.storage, s.lun) for s in segments}}


def boot_problem(
    state: State, segments: tuple[Segment, ...], boots: Sequence[tuple[ManagerName, str]]
) -> OtherBoot | None:
    """What was flushed in `boots` is still there only if these are the present ones."""
    named = dict(boots)
    for manager in sorted(holders(state, segments)):
        boot = state.boots.get(manager, "")
        if not boot or named.get(manager) != boot:
            return OtherBoot(manager, boot)
    return None


def left(replica: Replica, event: replica_states.Event, epoch: int, record: str) -> Replica:
    """Out of sync, or out of a resync. One that was syncing lacks what it lacked before as well: it keeps
    its epoch, and its record only if that is the one that covers from now on, too. Its move ends: the
    caller releases `replica.moving`."""
    state = replica_states.after(event, replica.state)
    assert state is not None, f"{event} happens to no copy that is {replica.state}"
    if replica.state == "in_sync":
        return replace(replica, state=state, left_epoch=epoch, record=record, moving=())
    kept = replica.record if replica.record == record else ""
    return replace(replica, state=state, record=kept)


def healed(replica: Replica, event: replica_states.Event) -> Replica:
    """In sync again."""
    state = replica_states.after(event, replica.state)
    assert state == "in_sync", f"{event} does not heal a copy that is {replica.state}"
    return replace(replica, state=state, left_epoch=0, record="", paused=False)


def with_replicas(volume: Volume, changed: Iterable[Replica]) -> Volume:
    by_name = {replica.local_name: replica for replica in changed}
    replicas = tuple([by_name.get(r.local_name, r) for r in volume.replicas])
    return replace(volume, replicas=replicas)


def next_epoch(volume: Volume, *changed: Replica) -> Volume:
    """With changed copies, in the epoch after."""
    return replace(with_replicas(volume, changed), epoch=volume.epoch + 1)


def put(state: State, volume: Volume) -> State:
    return state._replace(volumes=state.volumes.set(volume.name, volume))


class Freed(NamedTuple):
    """Segments that a volume gave up in an epoch."""

    volume: Volume
    """As it was when it had them."""
    segments: tuple[Segment, ...]


def release(state: State, freed: Iterable[Freed]) -> State:
    """Their space waits until the owner and every holder have confirmed: they alone can write there."""
    for volume, segments in freed:
        if not segments:
            continue
        row = Release(
            release_id=state.next_release_id,
            volume=volume.name,
            epoch=volume.epoch,
            segments=segments,
            waiting=tuple(sorted({volume.owner} | holders(state, segments))),
        )
        state = state._replace(
            releases=state.releases.set(row.release_id, row), next_release_id=row.release_id + 1
        )
    return state
