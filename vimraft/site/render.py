"""Tables and plans as replies of the API: no I/O, no waiting.

May live here: State and context → structs of vimraft.api.schema.
"""

from itertools import islice

from vimraft.api.schema import (
    IoRates,
    Membership,
    Pids,
    RealStatus,
    ReplicaStatus,
    SegmentReply,
    SiteStatus,
    VolumeReply,
    VolumeStatus,
)
from vimraft.api.schema_copies import HoldReport, VolumeProgress
from vimraft.core.ids import SECTOR_BYTES, RealId
from vimraft.core.tables import RealVolume, Release, Segment, Site, State, Volume
from vimraft.protocol.maps import moving_name
from vimraft.site.context import SiteContext
from vimraft.site.copies_views import longest_of
from vimraft.site.health import Health
from vimraft.site.rates import IDLE, combine

MAX_REPLY_SEGMENTS = 10_000


def _site_of(state: State, segment: Segment) -> str:
    real = state.reals.get(segment.real_id)
    return real.site if real is not None else "?"


def _sites_of_segments(state: State, segments: tuple[Segment, ...]) -> tuple[str, ...]:
    reals = {segment.real_id: segment for segment in segments}
    return tuple(sorted({_site_of(state, segment) for segment in reals.values()}))


def volume_status(
    state: State,
    volume: Volume,
    io: dict[str, IoRates],
    said: VolumeProgress | None = None,
    holds: dict[str, HoldReport] | None = None,
) -> VolumeStatus:
    """`said`: by the owner, of a volume with copies. `holds`: by site."""
    progress = {copy.name: copy for copy in said.copies} if said is not None else {}
    hold = longest_of(holds or {})
    replicas = tuple(
        ReplicaStatus(
            local_name=replica.local_name,
            state=replica.state,
            sites=_sites_of_segments(state, replica.segments),
            segments=len(replica.segments),
            paused=replica.paused,
            moving=bool(replica.moving),
            progress=progress.get(moving_name(replica.local_name) if replica.moving else replica.local_name),
        )
        for replica in volume.replicas
    )
    return VolumeStatus(
        name=volume.name,
        size_bytes=volume.size_bytes,
        volume_class=volume.volume_class,
        owner=volume.owner,
        epoch=volume.epoch,
        read_only=volume.read_only,
        replicas=replicas,
        sites=tuple(sorted({site for replica in replicas for site in replica.sites})),
        created_ms=volume.created_ms,
        io=io,
        takeover=said.takeover if said is not None else "",
        hold_ms=hold.last_ms,
        longest_hold_ms=hold.longest_ms,
        p99_hold_ms=hold.p99_ms,
        map_changes=hold.changes,
        holds=holds or {},
        read_policy=volume.read_policy,
        read_switches=said.switches if said is not None else 0,
        lossy_epoch=volume.lossy_epoch,
    )


def segment_replies(state: State, volume: Volume) -> list[SegmentReply]:
    every = (
        SegmentReply(
            virtual_first=segment.virtual_first,
            virtual_last=segment.virtual_end - 1,
            local_name=replica.local_name,
            storage=segment.storage,
            lun=segment.lun,
            real_first=segment.real_first,
            real_last=segment.real_first + segment.sectors - 1,
            site=_site_of(state, segment),
        )
        for replica in volume.replicas
        for segment in replica.segments
    )
    return list(islice(every, MAX_REPLY_SEGMENTS))


def reply_of(
    state: State,
    volume: Volume,
    io: dict[str, IoRates],
    *,
    index: int,
    planned: bool = False,
    said: VolumeProgress | None = None,
    holds: dict[str, HoldReport] | None = None,
) -> VolumeReply:
    segments = segment_replies(state, volume)
    total = sum(len(replica.segments) for replica in volume.replicas)
    return VolumeReply(
        volume=volume_status(state, volume, io, said, holds),
        segments=tuple(segments),
        segments_left_out=total - len(segments),
        planned=planned,
        index=index,
    )


def volume_io(state: State, health: Health, name: str) -> dict[str, IoRates]:
    """Per site that serves clients of this volume now."""
    result: dict[str, IoRates] = {}
    for manager in state.managers:
        latest = health.latest(manager)
        if latest is None or not health.is_up(manager):
            continue
        rates = latest[0].volumes.get(name)
        if rates is not None and rates != IDLE:
            sites = sorted(s.name for s in state.sites.values() if s.manager == manager)
            result[sites[0] if sites else manager] = rates
    return result


def real_status(
    state: State, health: Health, real: RealVolume, releasing_units: int, trashed_bytes: int = 0
) -> RealStatus:
    unit = state.settings.unit_bytes
    holder = state.sites[real.site].manager
    latest = health.latest(holder)
    io = latest[0].reals.get(str(real.id), IDLE) if latest and health.is_up(holder) else IDLE
    return RealStatus(
        id=str(real.id),
        storage=real.storage,
        lun=real.lun,
        site=real.site,
        volume_class=real.volume_class,
        uri=real.uri,
        capacity_bytes=real.capacity_units * unit,
        free_bytes=real.free_units * unit,
        releasing_bytes=releasing_units * unit,
        state=real.state,
        reason=real.reason,
        io=io,
        trashed_bytes=trashed_bytes,
    )


def site_status(state: State, health: Health, site: Site, members: Membership, newest: int) -> SiteStatus:
    manager = state.managers[site.manager]
    latest = health.latest(site.manager)
    up = health.is_up(site.manager)
    member = next((m for m in members.members if m.raft_address == manager.raft_address), None)
    leads = member is not None and member.role == "leader"
    if latest is None:
        problem = "not heard from yet"
    elif not up:
        problem = f"not heard from for {latest[1]:.0f} s"
    else:
        problem = latest[0].problem
    return SiteStatus(
        name=site.name,
        manager=site.manager,
        role="down" if not up else "leader" if leads else "follower",
        healthy=problem == "",
        problem=problem,
        pid=latest[0].pid if latest else Pids(None, None, None),
        lag=max(0, newest - latest[0].index) if latest else newest,
        last_seen_seconds=round(latest[1], 1) if latest else -1.0,
        api_url=manager.api_url,
        nbd_address=manager.nbd_address,
        priority=site.priority,
        incarnation=latest[0].incarnation if latest else "",
        installed_index=latest[0].installed_index if latest else -1,
        vote="" if member is None else "voter" if leads else member.role,
        contact_ms=member.last_contact_ms if member else None,
    )


def release_units(state: State, release: Release) -> dict[RealId, int]:
    """Allocation units that a deleted volume still keeps, by real volume."""
    unit_sectors = state.settings.unit_bytes // SECTOR_BYTES
    units: dict[RealId, int] = {}
    for segment in release.segments:
        end = -(-(segment.real_first + segment.sectors) // unit_sectors)
        units[segment.real_id] = units.get(segment.real_id, 0) + end - segment.real_first // unit_sectors
    return units


def my_reals(context: SiteContext) -> dict[str, IoRates]:
    """Rates of this manager's real volumes over both processes."""
    export, store = (context.real_rates[role].rates() for role in ("export", "store"))
    return {
        name: combine(export.get(name, IDLE), store.get(name, IDLE)) for name in export.keys() | store.keys()
    }
