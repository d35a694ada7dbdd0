"""What each data-plane process must know, computed from the tables: pure functions.

May live here: State → VolumeMap / BackendSpec / PeerSpec for one manager and role, and the difference
between two such views as one MapUpdate. Whether an owner needs a lease is said here.

A volume with copies gets a `CopiesMap` in the owner's export and in every store that has segments of any copy
(the owner's own store process too: it knows by `owned` that the export keeps its record). Other exports
forward, as ever. Its `map.index` is that of the tables in which it changed last, or newer.
"""

import msgspec
from msgspec import Struct

from vimraft.core.change import holders, volume_segments
from vimraft.core.copies import is_copied, sole_holder
from vimraft.core.ids import SECTOR_BYTES, ManagerName, RealId, SiteName
from vimraft.core.tables import RealVolume, Replica, Segment, State, Volume
from vimraft.data.feed import BackendSpec, CopiesMap, MapUpdate, PeerSpec, PlaneSegment, Role, VolumeMap
from vimraft.protocol import maps


class PlaneView(Struct, frozen=True):
    volumes: dict[str, VolumeMap]
    backends: dict[str, BackendSpec]
    peers: dict[str, PeerSpec]


EMPTY_VIEW = PlaneView({}, {}, {})


def sites_of(state: State, manager: str) -> frozenset[SiteName]:
    return frozenset(site.name for site in state.sites.values() if site.manager == manager)


def holder_of(state: State, real: RealId) -> ManagerName:
    """The manager responsible for the site where this real volume lies."""
    return state.sites[state.reals[real].site].manager


def _plane_segments(
    state: State, manager: str, segments: tuple[Segment, ...], *, local_only: bool
) -> tuple[PlaneSegment, ...]:
    holders: dict[RealId, str] = {}
    result = []
    for segment in segments:
        real = segment.real_id
        holder = holders.get(real)
        if holder is None:
            holder = holders[real] = holder_of(state, real)
        if local_only and holder != manager:
            continue
        result.append(
            PlaneSegment(
                offset=segment.virtual_first * SECTOR_BYTES,
                length=segment.sectors * SECTOR_BYTES,
                real=str(real),
                real_offset=segment.real_first * SECTOR_BYTES,
                manager="" if holder == manager else holder,
            )
        )
    return tuple(result)


def serving_replica(volume: Volume) -> Replica | None:
    """The replica that I/O goes to: the first in-sync one."""
    return next((replica for replica in volume.replicas if replica.state == "in_sync"), None)


def volume_map(state: State, manager: str, role: Role, volume: Volume) -> VolumeMap | None:
    """None: this process has nothing to do with the volume."""
    owned = volume.owner == manager
    replica = serving_replica(volume)
    segments: tuple[PlaneSegment, ...] = ()
    copies: CopiesMap | None = None
    copied = is_copied(volume)
    if copied:
        held_by = holders(state, volume_segments(volume))
        if role == "store" and ManagerName(manager) not in held_by:
            return None
        if role == "store" or owned:
            copies = _copies_map(state, manager, volume, held_by)
    else:
        if replica is not None and (owned or role == "store"):
            segments = _plane_segments(state, manager, replica.segments, local_only=role == "store")
        if role == "store" and not segments:
            return None
    return VolumeMap(
        name=volume.name,
        size_bytes=volume.size_bytes,
        epoch=volume.epoch,
        owner=volume.owner,
        owned=owned,
        needs_lease=owned and not sole_holder(state, volume),
        read_only=volume.read_only,
        local_name=replica.local_name if replica is not None else "",
        segments=segments,
        copies=copies,
        copy_names=tuple(r.local_name for r in volume.replicas) if copied else (),
    )


def _copies_map(state: State, manager: str, volume: Volume, held_by: set[ManagerName]) -> CopiesMap:
    by_copy = maps.map_of(state, volume.name)
    assert by_copy is not None, f"volume {volume.name} is in the tables"
    parts: dict[str, tuple[Segment, ...]] = {}
    for replica in volume.replicas:
        parts[replica.local_name] = replica.segments
        if replica.moving:
            parts[maps.moving_name(replica.local_name)] = replica.moving
    local = {
        name: _plane_segments(state, manager, segments, local_only=True) for name, segments in parts.items()
    }
    return CopiesMap(
        map=by_copy,
        segments={name: segments for name, segments in local.items() if segments},
        boots={str(name): state.boots[name] for name in sorted(held_by) if name in state.boots},
    )


def backend_spec(state: State, real: RealVolume) -> BackendSpec:
    """What it takes to open a real volume and to know it by its label."""
    return BackendSpec(
        real=str(real.id),
        uri=real.uri,
        label_id=real.label_id,
        cluster_id=state.cluster_id,
        capacity_bytes=real.capacity_units * state.settings.unit_bytes,
        failed=(real.reason or "failed") if real.state == "failed" else "",
    )


def _backends(state: State, manager: str) -> dict[str, BackendSpec]:
    mine = sites_of(state, manager)
    return {str(real.id): backend_spec(state, real) for real in state.reals.values() if real.site in mine}


def _placement(state: State) -> dict[RealId, SiteName]:
    """What a volume's view depends on besides the volume: where each real volume is."""
    return {key: real.site for key, real in state.reals.items()}


def view(state: State, manager: str, role: Role, before: tuple[State, PlaneView] | None) -> PlaneView:
    """The view of one process. With the view of an earlier state, unchanged volumes are not redone:
    building one volume must not cost a pass over the segments of all others."""
    reusable: PlaneView | None = None
    if before is not None:
        old_state, old = before
        same_boots = old_state.boots is state.boots
        if old_state.sites is state.sites and same_boots and _placement(old_state) == _placement(state):
            reusable = old
    volumes: dict[str, VolumeMap] = {}
    for name, volume in state.volumes.items():
        if reusable is not None and before is not None and before[0].volumes.get(name) is volume:
            known = reusable.volumes.get(name)
        else:
            known = volume_map(state, manager, role, volume)
            known = _unless_only_newer(known, before[1].volumes.get(name) if before else None)
        if known is not None:
            volumes[name] = known
    peers = {
        str(m.name): PeerSpec(manager=m.name, nbd_address=m.nbd_address, peer_address=m.peer_address)
        for m in state.managers.values()
        if m.name != manager
    }
    return PlaneView(volumes, _backends(state, manager), peers)


def _unless_only_newer(new: VolumeMap | None, old: VolumeMap | None) -> VolumeMap | None:
    """The old one, if nothing but the index differs: it need not be sent again."""
    if new is None or old is None or new.copies is None or old.copies is None:
        return new
    index = old.copies.map.index
    same = msgspec.structs.replace(
        new,
        copies=msgspec.structs.replace(new.copies, map=msgspec.structs.replace(new.copies.map, index=index)),
    )
    return old if same == old else new


def update(old: PlaneView | None, new: PlaneView, *, index: int, io_timeout_ms: int) -> MapUpdate | None:
    """The message that takes a process from `old` (None: whatever it had) to `new`; None: nothing to say."""
    base = old or EMPTY_VIEW
    message = MapUpdate(
        index=index,
        full=old is None,
        io_timeout_ms=io_timeout_ms,
        volumes=tuple(v for k, v in new.volumes.items() if base.volumes.get(k) != v),
        removed_volumes=tuple(k for k in base.volumes if k not in new.volumes),
        backends=tuple(v for k, v in new.backends.items() if base.backends.get(k) != v),
        removed_backends=tuple(k for k in base.backends if k not in new.backends),
        peers=tuple(v for k, v in new.peers.items() if base.peers.get(k) != v),
        removed_peers=tuple(k for k in base.peers if k not in new.peers),
    )
    changes = (
        message.volumes,
        message.removed_volumes,
        message.backends,
        message.removed_backends,
        message.peers,
        message.removed_peers,
    )
    return message if old is None or any(changes) else None
