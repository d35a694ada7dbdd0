"""What the API's reads answer: tables as applied here, confirmed by a barrier where there is a quorum.

May live here: one method per read. Without a quorum people still get the tables, marked with their age.
"""

from collections.abc import Callable

import msgspec
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from vimraft import __version__
from vimraft.api.errors import IndexOutOfReach, Refused
from vimraft.api.schema import (
    AsOf,
    EventsReply,
    Heartbeat,
    HistoryReply,
    JobReply,
    MapReply,
    StatusReply,
    StorageStatus,
    TableReply,
    UriReply,
    VolumeReply,
)
from vimraft.core import history, views
from vimraft.core.ids import ManagerName, RealId, SiteName, VolumeName
from vimraft.core.reasons import Invalid, NotFound
from vimraft.core.tables import State, Volume
from vimraft.site.config import split_address
from vimraft.site.context import SiteContext
from vimraft.site.copies_views import holds_by_site, said_by_owner
from vimraft.site.health import Health
from vimraft.site.member_views import membership
from vimraft.site.other_managers import ask
from vimraft.site.render import (
    MAX_REPLY_SEGMENTS,
    real_status,
    release_units,
    reply_of,
    site_status,
    volume_io,
    volume_status,
)
from vimraft.site.trash import trash_by_real

MAX_KNOWN = 20


TABLES: dict[str, Callable[[State, str, int, int], views.Table]] = {
    "real-identifying": views.real_identifying,
    "real-free": views.real_free,
    "virtual-identifying": views.virtual_identifying,
    "virtual-sectors": views.virtual_sectors,
}


class ReadOperations:
    """The reading half of vimraft.api.service.Service."""

    site: SiteContext
    health: Health

    async def status(self) -> StatusReply:
        state = self.site.state
        raft = self.site.log.status()
        beats = [self.health.latest(name) for name in state.managers]
        newest = max([state.index, *(beat[0].index for beat in beats if beat)])
        members = membership(state, raft, self.health, self.site.me)
        releasing: dict[RealId, int] = {}
        for release in state.releases.values():
            for real, units in release_units(state, release).items():
                releasing[real] = releasing.get(real, 0) + units
        in_trash = trash_by_real(state)
        leader = next(
            (m.name for m in state.managers.values() if m.raft_address == raft.leader_address), None
        )
        return StatusReply(
            cluster_id=state.cluster_id,
            answered_by=self.site.me,
            leader=leader,
            as_of=self.site.as_of(),
            sites=tuple(
                site_status(state, self.health, state.sites[name], members, newest)
                for name in sorted(state.sites)
            ),
            reals=tuple(
                real_status(state, self.health, state.reals[key], releasing.get(key, 0), in_trash.get(key, 0))
                for key in sorted(state.reals)
            ),
            volumes=tuple(
                volume_status(
                    state,
                    state.volumes[name],
                    volume_io(state, self.health, name),
                    said_by_owner(self.health, state.volumes[name].owner, name),
                    holds_by_site(state, self.health, name),
                )
                for name in sorted(state.volumes)
            ),
            settings=state.settings,
            version=__version__,
            storages=tuple(
                StorageStatus(address=storage.address, site=storage.site, uri=storage.uri)
                for _, storage in sorted(state.storages.items())
            ),
            membership=members,
            trashed=len(state.trash),
            trashed_bytes=sum(in_trash.values()),
        )

    async def table(
        self, which: str, *, name: str | None, offset: int, limit: int, at: int | None = None
    ) -> TableReply:
        make = TABLES.get(which)
        if make is None:
            raise Refused(Invalid("table", which, f"is none of {', '.join(TABLES)}"))
        state, as_of = await self._tables(at)
        table = make(state, name or "", offset, limit)
        return TableReply(
            title=table.title,
            columns=table.columns,
            rows=tuple(table.rows),
            as_of=as_of,
            version=state.history[-1].index if state.history else state.index,
        )

    async def volume(self, name: str) -> VolumeReply:
        state, volume = await self._find(name)
        io, said = volume_io(state, self.health, name), said_by_owner(self.health, volume.owner, name)
        holds = holds_by_site(state, self.health, name)
        return reply_of(state, volume, io, index=state.index, said=said, holds=holds)

    async def _tables(self, at: int | None) -> tuple[State, AsOf]:
        """The newest tables, or those after command `at`. Raises IndexOutOfReach."""
        state = await self.site.fresh_state()
        if at is None:
            return state, self.site.as_of()
        found = history.tables_at(state, at)
        if isinstance(found, history.OutOfReach):
            raise IndexOutOfReach(at, found.oldest, found.newest)
        return found, AsOf(index=at, age_seconds=0.0, quorum=True)  # what was does not get old

    async def volume_map(self, name: str, at: int | None = None) -> MapReply:
        if at is None:
            state, volume = await self._find(name)
            as_of = self.site.as_of()
        else:
            state, as_of = await self._tables(at)
            volume = _named(state, name)
        table = views.virtual_sectors(state, name, 0, MAX_REPLY_SEGMENTS)
        return MapReply(
            name=volume.name,
            size_bytes=volume.size_bytes,
            epoch=volume.epoch,
            owner=volume.owner,
            replicas=volume.replicas,
            table=TableReply(title=table.title, columns=table.columns, rows=tuple(table.rows), as_of=as_of),
        )

    async def volume_uri(self, name: str, site: str | None) -> UriReply:
        state, volume = await self._find(name)
        if site is None:
            manager = state.managers[self.site.me]
            where = self.site.first_site()
        else:
            found = state.sites.get(SiteName(site))
            if found is None:
                raise Refused(NotFound("site", site, tuple(sorted(state.sites))[:MAX_KNOWN]))
            manager, where = state.managers[ManagerName(found.manager)], site
        host, port = split_address(manager.nbd_address)
        shown = f"[{host}]" if ":" in host else host
        return UriReply(
            uri=f"nbd://{shown}:{port}/{volume.name}",
            site=where,
            host=host,
            port=port,
            export=volume.name,
            size_bytes=volume.size_bytes,
        )

    async def job(self, job_id: str) -> JobReply:
        found = self.site.jobs.get(job_id)
        if found is not None:
            return found
        holder = job_id.rpartition(".")[0]
        manager = self.site.state.managers.get(ManagerName(holder))
        if manager is None or manager.name == self.site.me:
            raise Refused(Invalid("job", job_id, "is not known; its manager may have been restarted"))
        data = await ask(self.site, manager, "GET", f"/v1/jobs/{job_id}")
        return msgspec.json.decode(data, type=JobReply)

    async def events(self, *, after: int, limit: int) -> EventsReply:
        return EventsReply(events=await self.site.catalogue.events(after=after, limit=limit))

    async def history(self, *, limit: int) -> HistoryReply:
        state = await self.site.fresh_state()
        changes = tuple([msgspec.structs.replace(c, before=None) for c in state.history[-limit:]])
        return HistoryReply(
            changes=changes, as_of=self.site.as_of(), oldest_index=history.oldest_index(state)
        )

    async def heartbeat(self, beat: Heartbeat) -> None:
        if beat.manager != self.site.me:
            self.health.hear(beat)

    def metrics(self) -> bytes:
        """Made for each scrape from what is known anyway; nothing is counted twice."""
        registry = CollectorRegistry()
        state, raft = self.site.state, self.site.log.status()
        for name, text, value in (
            ("vimraft_applied_index", "Commands applied here", state.index),
            ("vimraft_has_quorum", "1 while a majority of the voters is reachable", raft.has_quorum),
            ("vimraft_is_leader", "1 while this manager leads", raft.is_leader),
            ("vimraft_log_entries", "Raft log entries since the last snapshot", raft.log_entries),
            ("vimraft_virtual_volumes", "Virtual volumes", len(state.volumes)),
        ):
            Gauge(name, text, registry=registry).set(value)
        free = Gauge(
            "vimraft_real_free_bytes", "Free space of a real volume", ["real", "site"], registry=registry
        )
        for real in state.reals.values():
            free.labels(str(real.id), real.site).set(real.free_units * state.settings.unit_bytes)
        rates = {
            "read_iops": Gauge(
                "vimraft_volume_read_iops", "Reads/s served here", ["volume"], registry=registry
            ),
            "write_iops": Gauge(
                "vimraft_volume_write_iops", "Writes/s served here", ["volume"], registry=registry
            ),
        }
        for volume, io in self.site.volume_rates.rates().items():
            for key, gauge in rates.items():
                gauge.labels(volume).set(getattr(io, key))
        return bytes(generate_latest(registry))

    async def _find(self, name: str) -> tuple[State, Volume]:
        state = self.site.state
        volume = state.volumes.get(VolumeName(name))
        if volume is None or self.site.log.status().has_quorum:
            state = await self.site.fresh_state()
            volume = state.volumes.get(VolumeName(name))
        return state, _named(state, name)


def _named(state: State, name: str) -> Volume:
    volume = state.volumes.get(VolumeName(name))
    if volume is None:
        raise Refused(NotFound("virtual volume", name[:80], tuple(sorted(state.volumes))[:MAX_KNOWN]))
    return volume
