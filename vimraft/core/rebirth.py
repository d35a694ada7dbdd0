"""The tables of a new generation: a cluster made anew from one survivor, or from a backup.

May live here: `reborn`, a pure function. The changes after these tables, if there were any, are lost for
good; but devices, data-plane processes and managers elsewhere may have seen them. So that nothing of the lost
time is ever taken for something of the new one:

- The index jumps to the next multiple of GENERATION_STEP, above any index of the lost time, and every
  epoch with it: requests, maps and floors of the lost time are older than all that follows (INV-2, INV-5).
  A random offset is added, since two survivors may do this independently: an epoch of the one is then
  none of the other.
- Space that is free in these tables may hold data of volumes built in the lost time. It goes back to the pool
  as a deleted volume's does: through a release, which the manager of its site confirms once it reads as
  zeros (INV-5). Such a release names no volume. A real volume whose manager never returns can be removed
  with it.
- Leases and boots go: each manager must renew before it serves under one, and name its boot.
- Which copies were in sync at the end of the lost time nobody knows. One of a volume stays, so that what is
  read is at least always the same, and says that it may have lost something; the others get full copies
  (INV-4).

The level is the newest: whoever is to be a member must join this generation, and can be refused then.
"""

from typing import Final

import msgspec
from immutables import Map

from vimraft.core import levels
from vimraft.core.change import unit_sectors
from vimraft.core.checks import clipped
from vimraft.core.copies import Freed, left, release
from vimraft.core.history import kept
from vimraft.core.ids import VolumeName
from vimraft.core.tables import MapChange, RealVolume, Release, Replica, Segment, State, Volume

GENERATION_STEP: Final = 10**12
"""More commands than any cluster applies in a generation (six years at 5,000 a second)."""
OFFSETS: Final = 10**11
NO_VOLUME: Final = VolumeName("")
"""In a release: space of no volume known here."""


def reborn(state: State, *, at_ms: int, who: str, what: str, offset: int = 0) -> State:
    """`state` as the first tables of a generation; `what` goes into the history. `offset`: random, of
    OFFSETS."""
    assert 0 <= offset < OFFSETS
    index = (state.index // GENERATION_STEP + 1) * GENERATION_STEP + offset
    volumes = {v.name: _one_in_sync(v, index) for v in state.volumes.values()}
    trash = {id_: _one_in_sync(v, v.epoch) for id_, v in state.trash.items()}
    managers = {
        m.name: msgspec.structs.replace(m, level=max(m.level, levels.LATEST)) for m in state.managers.values()
    }
    unclean = [state.reals[id_] for id_ in sorted(state.reals) if state.reals[id_].free]
    after = state._replace(
        index=index,
        level=levels.LATEST,
        managers=state.managers.update(managers),
        volumes=state.volumes.update(volumes),
        trash=state.trash.update(trash),
        reals=state.reals.update({real.id: msgspec.structs.replace(real, free=()) for real in unclean}),
        releases=state.releases.update(
            {
                release_id: _release(state, real, release_id)
                for release_id, real in enumerate(unclean, start=state.next_release_id)
            }
        ),
        leases=Map(),
        boots=Map(),
        next_release_id=state.next_release_id + len(unclean),
    )
    for name in sorted(volumes):
        after = release(after, _moves_ended(state.volumes[name], volumes[name]))
    change = MapChange(index, at_ms, clipped(who), what, state.cluster_id)
    changes, remembered = kept(after, change)
    return after._replace(history=changes, remembered=remembered)


def _one_in_sync(volume: Volume, epoch: int) -> Volume:
    """In its new epoch. The move of the copy that stays goes on; those of others are over."""
    first = next(r for r in volume.replicas if r.state == "in_sync")
    if len(volume.replicas) == 1:
        return msgspec.structs.replace(volume, epoch=epoch)
    replicas = tuple([r if r is first else _out_of_sync(r, volume.epoch) for r in volume.replicas])
    return msgspec.structs.replace(volume, epoch=epoch, replicas=replicas, lossy_epoch=epoch)


def _out_of_sync(replica: Replica, epoch: int) -> Replica:
    """No record of the lost time is believed."""
    if replica.state in ("in_sync", "syncing"):
        return left(replica, "retire", epoch, "")
    return msgspec.structs.replace(replica, record="")


def _moves_ended(before: Volume, after: Volume) -> list[Freed]:
    pairs = zip(before.replicas, after.replicas, strict=True)
    return [Freed(before, old.moving) for old, new in pairs if old.moving and not new.moving]


def _release(state: State, real: RealVolume, release_id: int) -> Release:
    per_unit = unit_sectors(state)
    segments, at = [], 0
    for run in real.free:
        sectors = run.count * per_unit
        segments.append(Segment(at, sectors, real.storage, real.lun, run.first * per_unit))
        at += sectors
    return Release(
        release_id=release_id,
        volume=NO_VOLUME,
        epoch=state.index,
        segments=tuple(segments),
        waiting=(state.sites[real.site].manager,),
    )
