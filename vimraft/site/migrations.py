"""Moving a volume to another class or other sites while it is used.

May live here: what is to be done next for one volume (pure), the job, its part of the service.

By copies, not by moves: for each copy that does not lie as asked, one is added that does; it is resynced
under I/O like any other; when it is in sync, the old one is removed. `BeginMove` keeps a copy's class and
goes real volume by real volume; this way a copy goes as a whole, and at no time has the volume fewer copies
in sync than before. The price is the space of one more copy, and that it is read once.

What is next follows from the tables and the request alone; the job's record adds which copies were there
before, so that a cancelled job takes away only what it brought.
"""

import asyncio
from typing import Final

from msgspec import Struct

from vimraft.api.errors import ChangedMeanwhile, JobCancelled, Refused
from vimraft.api.schema import JobReply
from vimraft.api.schema_moves import MigrateRequest
from vimraft.core.apply import plan
from vimraft.core.commands import AddCopy, Applied, Command, Rejected, RemoveCopy
from vimraft.core.copies import sites_of
from vimraft.core.ids import SECTOR_BYTES, LocalName, SiteName, VolumeName
from vimraft.core.reasons import Invalid, NotFound
from vimraft.core.tables import Replica, State, Volume
from vimraft.site.context import SiteContext
from vimraft.site.copies_views import said_by_owner
from vimraft.site.health import Health
from vimraft.site.job_records import Migration
from vimraft.site.jobs import Job
from vimraft.site.record_jobs import RecordJobs

LOOK_S: Final = 0.5


class Next(Struct, frozen=True):
    """`command` None: wait for `waits_for` (a copy's name); both empty: done."""

    command: AddCopy | RemoveCopy | None = None
    waits_for: str = ""


def lies_as_asked(state: State, volume: Volume, replica: Replica, request: MigrateRequest) -> bool:
    volume_class = replica.volume_class or volume.volume_class
    if request.volume_class and volume_class != request.volume_class:
        return False
    sites: set[str] = set(sites_of(state, replica.segments))
    return not request.sites or sites <= set(request.sites)


def _add(state: State, volume: Volume, old: Replica, request: MigrateRequest) -> AddCopy:
    """Apart from the others; it may share a site with the one that it replaces, which goes."""
    asked = request.sites or tuple(sorted(sites_of(state, old.segments)))
    others: set[SiteName] = set()
    for replica in volume.replicas:
        if replica is not old and not request.same_site:
            others |= sites_of(state, replica.segments)
    sites = tuple([SiteName(site) for site in asked if site not in others])
    return AddCopy(
        name=volume.name,
        sites=sites or tuple([SiteName(site) for site in asked]),
        volume_class=request.volume_class or old.volume_class,
        same_site=bool(sites),
    )


def next_step(state: State, volume: Volume, request: MigrateRequest, before: tuple[str, ...]) -> Next:
    old = [r for r in volume.replicas if not lies_as_asked(state, volume, r, request)]
    new = [r for r in volume.replicas if r not in old]
    if not old:
        return Next()
    waiting = next((r for r in new if r.state != "in_sync" and r.local_name not in before), None)
    if waiting is not None:
        return Next(waits_for=waiting.local_name)
    if len(volume.replicas) > len(before):
        goes = min(old, key=lambda replica: replica.state == "in_sync")
        return Next(RemoveCopy(volume.name, goes.local_name))
    return Next(_add(state, volume, old[0], request))


class MigrateOperations:
    """The part of vimraft.api.service.Service about migrating."""

    site: SiteContext
    health: Health
    records: RecordJobs

    async def _commit(self, command: Command, who: str, request_id: str | None) -> Applied:
        raise NotImplementedError

    def needs_copies(self, what: str) -> None:
        raise NotImplementedError

    async def migrate(self, name: str, request: MigrateRequest, *, who: str) -> JobReply:
        self.needs_copies("migrating a volume")
        if not request.volume_class and not request.sites:
            raise Refused(Invalid("migration", name, "names neither a class nor sites to go to"))
        state = await self.site.fresh_state()
        volume = _named(state, name)
        for job_id, known in self.records.running(Migration):
            if (known.volume, known.created_ms, known.request) == (name, volume.created_ms, request):
                return self.resume_migration(job_id, known)
        step = next_step(state, volume, request, tuple(r.local_name for r in volume.replicas))
        if step.command is not None:
            outcome = plan(state, step.command)
            if isinstance(outcome, Rejected):
                raise Refused(outcome.reason)
        record = Migration(
            volume=name,
            created_ms=volume.created_ms,
            request=request,
            before=tuple(replica.local_name for replica in volume.replicas),
            who=who,
        )
        return self.resume_migration(await self.records.add(record), record)

    def resume_migration(self, job_id: str, record: Migration) -> JobReply:
        async def work(job: Job) -> None:
            await self._migrate(job, record)

        async def nothing() -> None:
            """The job itself sees that it was cancelled."""

        return self.records.start(job_id, f"migrate {record.volume}", work, on_cancel=nothing)

    async def _migrate(self, job: Job, record: Migration) -> None:
        while True:
            state = await self.site.fresh_state()
            volume = state.volumes.get(VolumeName(record.volume))
            if volume is None or volume.created_ms != record.created_ms:
                raise ChangedMeanwhile(record.volume)
            if job.cancelled:
                await self._take_away(volume, record)
                raise JobCancelled(job.what)
            step = next_step(state, volume, record.request, record.before)
            self._show(job, volume, record, step)
            if step.command is not None:
                await self._commit(step.command, record.who, None)
            elif step.waits_for:
                await asyncio.sleep(LOOK_S)
            else:
                return

    def _show(self, job: Job, volume: Volume, record: Migration, step: Next) -> None:
        """One volume size for each copy that goes; of the one under way as much as its owner tells."""
        size = volume.size_sectors * SECTOR_BYTES
        here = {replica.local_name for replica in volume.replicas}
        gone = sum(name not in here for name in record.before)
        said = said_by_owner(self.health, volume.owner, volume.name) if step.waits_for else None
        copied = sum(c.copied_bytes for c in said.copies if c.name == step.waits_for) if said else 0
        job.progress(min((gone * size) + copied, len(record.before) * size), len(record.before) * size)
        replica = next((r for r in volume.replicas if r.local_name == step.waits_for), None)
        paused = ", and paused (vimraft copy pause)" if replica is not None and replica.paused else ""
        job.note = f"copy {step.waits_for} is {replica.state}{paused}" if replica is not None else ""

    async def _take_away(self, volume: Volume, record: Migration) -> None:
        for replica in volume.replicas:
            if replica.local_name not in record.before and replica.state != "in_sync":
                await self._commit(RemoveCopy(volume.name, LocalName(replica.local_name)), record.who, None)


def _named(state: State, name: str) -> Volume:
    volume = state.volumes.get(VolumeName(name))
    if volume is None:
        raise Refused(NotFound("virtual volume", name[:80], tuple(sorted(state.volumes))[:20]))
    return volume
