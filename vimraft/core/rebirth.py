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
- Leases go: each manager must renew before it serves under one.

The level is the newest: whoever is to be a member must join this generation, and can be refused then.
"""

from typing import Final

import msgspec
from immutables import Map

from vimraft.core import levels
from vimraft.core.change import unit_sectors
from vimraft.core.checks import clipped
from vimraft.core.history import kept
from vimraft.core.ids import VolumeName
from vimraft.core.tables import MapChange, RealVolume, Release, Segment, State

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
    volumes = {v.name: msgspec.structs.replace(v, epoch=index) for v in state.volumes.values()}
    managers = {
        m.name: msgspec.structs.replace(m, level=max(m.level, levels.LATEST)) for m in state.managers.values()
    }
    unclean = [state.reals[id_] for id_ in sorted(state.reals) if state.reals[id_].free]
    after = state._replace(
        index=index,
        level=levels.LATEST,
        managers=state.managers.update(managers),
        volumes=state.volumes.update(volumes),
        reals=state.reals.update({real.id: msgspec.structs.replace(real, free=()) for real in unclean}),
        releases=state.releases.update(
            {
                release_id: _release(state, real, release_id)
                for release_id, real in enumerate(unclean, start=state.next_release_id)
            }
        ),
        leases=Map(),
        next_release_id=state.next_release_id + len(unclean),
    )
    change = MapChange(index, at_ms, clipped(who), what, state.cluster_id)
    changes, remembered = kept(after, change)
    return after._replace(history=changes, remembered=remembered)


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
