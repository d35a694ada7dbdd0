"""Commands about volumes that are deleted for the time being.

May live here: one function per command, (state, command) -> Change | Reason, validation before change.
Keeps: INV-2 (an epoch is never used twice under one name: a restored volume begins above all epochs that
anybody could have had under the name meanwhile, as a new one does), INV-6 (a volume in the trash holds its
space).

While it is there nobody serves it, and its epoch rests: what it had when it went, and one more.
"""

from msgspec.structs import replace

from vimraft.core import checks
from vimraft.core.change import Change, volume_segments
from vimraft.core.commands import PurgeVolume, RestoreVolume, TrashVolume
from vimraft.core.copies import Freed, find_volume, put, release
from vimraft.core.reasons import Exists, NotFound, Reason
from vimraft.core.tables import State, Volume


def trash(state: State, command: TrashVolume, at_ms: int) -> Change | Reason:
    volume = find_volume(state, command.name)
    if isinstance(volume, NotFound):
        return volume
    problem = checks.full("trashed volume", len(state.trash), checks.MAX_VOLUMES)
    if problem is not None:
        return problem
    freed = [Freed(volume, replica.moving) for replica in volume.replicas]
    row = replace(
        volume,
        epoch=volume.epoch + 1,
        trashed_ms=max(1, at_ms),
        handing_over=False,
        replicas=tuple([replace(replica, moving=()) for replica in volume.replicas]),
    )
    after = release(state, freed)
    after = after._replace(
        volumes=state.volumes.delete(volume.name), trash=state.trash.set(state.index + 1, row)
    )
    return Change(after, "trashed", volume.name, volume=row)


def _find(state: State, trash_id: int) -> Volume | NotFound:
    row = state.trash.get(trash_id)
    if row is None:
        known = [f"{id_} ({volume.name})" for id_, volume in state.trash.items()]
        return NotFound("trashed volume", str(trash_id), checks.listed(known))
    return row


def restore(state: State, command: RestoreVolume) -> Change | Reason:
    row = _find(state, command.trash_id)
    if isinstance(row, NotFound):
        return row
    name = command.name or row.name
    problem = (
        checks.name_invalid("volume name", name)
        or (Exists("virtual volume", name) if name in state.volumes else None)
        or checks.full("virtual volume", len(state.volumes), checks.MAX_VOLUMES)
    )
    if problem is not None:
        return problem
    volume = replace(row, name=name, epoch=state.index + 1, trashed_ms=0)
    after = put(state, volume)._replace(trash=state.trash.delete(command.trash_id))
    return Change(after, "restored", name, volume=volume)


def purge(state: State, command: PurgeVolume) -> Change | Reason:
    row = _find(state, command.trash_id)
    if isinstance(row, NotFound):
        return row
    after = release(state, [Freed(row, volume_segments(row))])
    after = after._replace(trash=state.trash.delete(command.trash_id))
    return Change(after, "purged", row.name, volume=row)
