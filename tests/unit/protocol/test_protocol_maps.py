"""What the machines see of the tables."""

import msgspec

from tests.core_cases import three_sites
from tests.unit.protocol.owner_world import OSLO, ROME, A, copy
from vimraft.core.ids import SECTOR_BYTES, VolumeName
from vimraft.core.tables import Replica, Segment, Volume
from vimraft.protocol.maps import Part, map_of, moving_name, regions_of


def test_neighbouring_segments_of_one_manager_are_one_part_and_moving_ones_a_copy_of_their_own() -> None:
    state = three_sites().state
    reals = sorted(state.reals.values(), key=lambda real: real.id)
    first, other = (
        reals[0],
        next(real for real in reals if state.sites[real.site].manager != state.sites[reals[0].site].manager),
    )
    here = [Segment(at * 2048, 2048, first.storage, first.lun, 2048 * (at + 1)) for at in (0, 1)]
    there = Segment(4096, 2048, other.storage, other.lun, 2048)
    row = Replica(A, "in_sync", (*here, there), moving=(msgspec.structs.replace(here[1], real_first=8192),))
    name = VolumeName("v")
    manager = state.sites[first.site].manager
    volume = Volume(name, 6144, "ssd", manager, 7, (row,), (), 0, manager, lossy_epoch=6)
    found = map_of(state._replace(volumes=state.volumes.set(name, volume)), name)
    assert found is not None
    stores = manager, state.sites[other.site].manager
    mib = 2048 * SECTOR_BYTES
    assert found.copies[0].parts == (Part(0, 2 * mib, stores[0]), Part(2 * mib, 3 * mib, stores[1]))
    assert (found.copies[1].name, found.copies[1].moves) == (moving_name(A), A)
    assert found.copies[1].split(0, mib) == []
    assert found.copies[1].split(0, 3 * mib) == [Part(mib, 2 * mib, manager)]
    assert (found.lossy_epoch, found.sole(), found.targets) == (6, False, found.copies)
    assert map_of(state, name) is None


def test_a_range_is_split_where_the_store_changes() -> None:
    spanning = copy(A, ROME, OSLO)
    half = spanning.parts[1].first
    assert spanning.split(half - 512, half + 512) == [
        Part(half - 512, half, ROME),
        Part(half, half + 512, OSLO),
    ]
    assert spanning.split(0, 512) == [Part(0, 512, ROME)]
    assert list(regions_of(0, 1 << 20)) == [0]
    assert list(regions_of((1 << 20) - 1, (1 << 20) + 1)) == [0, 1]
