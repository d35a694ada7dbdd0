"""What the API's changes do: commands into the log, and work on this site's devices.

May live here: one method per change. Placement, uniqueness and all other rules are apply's; this module
only asks, waits until the own data plane serves the result, and records what failed.
"""

import asyncio
import uuid

import msgspec

from vimraft.api.advice import from_reason
from vimraft.api.errors import DeviceProblem, Refused
from vimraft.api.schema import (
    AddRealRequest,
    BuildRequest,
    DoneReply,
    GrowRequest,
    JobReply,
    PriorityRequest,
    SetRealRequest,
    SettingRequest,
    StorageRequest,
    VolumeReply,
)
from vimraft.core.apply import plan
from vimraft.core.commands import (
    AddRealVolume,
    Applied,
    BuildVolume,
    Command,
    GrowVolume,
    Rejected,
    RemoveRealVolume,
    RemoveStorage,
    SetRealVolumeState,
    SetSetting,
    SetSite,
    SetStorage,
)
from vimraft.core.ids import (
    MAX_VOLUME_BYTES,
    SECTOR_BYTES,
    RealId,
    SiteName,
    StorageAddress,
    VolumeName,
)
from vimraft.core.reasons import Invalid, NotFound
from vimraft.core.tables import Storage, Volume
from vimraft.data.prepare import PrepareRequest, prepare
from vimraft.metadata.port import LogError
from vimraft.site import devices
from vimraft.site.context import NO_QUORUM_MS, PROPOSE_MS, SiteContext
from vimraft.site.jobs import Job
from vimraft.site.other_managers import ask
from vimraft.site.render import reply_of

INSTALL_WAIT_S = 2.0
ADD_TRIES = 6
"""How often a prepared device is offered to the log (PROPOSE_MS each) before the job fails."""


class ChangeOperations:
    """The changing half of vimraft.api.service.Service."""

    site: SiteContext

    async def _commit(self, command: Command, who: str, request_id: str | None) -> Applied:
        # Without a quorum: long enough for an election, not so long that a person wonders.
        deadline_ms = PROPOSE_MS if self.site.log.status().has_quorum else NO_QUORUM_MS
        outcome = await self.site.log.propose(
            command, who=who, deadline_ms=deadline_ms, request_id=request_id
        )
        match outcome:
            case Applied():
                return outcome
            case Rejected(reason=reason):
                raise Refused(reason)

    async def _done(self, command: Command, who: str, request_id: str | None) -> DoneReply:
        return DoneReply(index=(await self._commit(command, who, request_id)).index)

    async def _serve_it(self, index: int) -> None:
        """So that a client that attaches right after the answer finds the new map here."""
        await asyncio.gather(
            *(feeder.wait_installed(index, INSTALL_WAIT_S) for feeder in self.site.feeders.values())
        )

    # volumes

    async def build(self, request: BuildRequest, *, who: str, request_id: str | None) -> VolumeReply:
        command = BuildVolume(
            name=VolumeName(request.name),
            size_sectors=_sectors(request.size_bytes),
            volume_class=request.volume_class,
            manager=self.site.me,
            sites=tuple(SiteName(s) for s in request.sites),
            copies=request.copies,
            same_site=request.same_site or msgspec.UNSET,
        )
        if request.plan:
            state = await self.site.fresh_state()
            outcome = plan(state, command)
            if isinstance(outcome, Rejected):
                raise Refused(outcome.reason)
            assert outcome.volume is not None, "a plan always shows its volume"
            return reply_of(state, outcome.volume, {}, index=outcome.index, planned=True)
        try:
            applied = await self._commit(command, who, request_id)
        except Refused as refused:
            await self.site.record(
                "volume.build_failed", request.name, "warning", from_reason(refused.reason).reply.message
            )
            raise
        return await self._volume_done(applied, request.name, None)

    async def grow(self, name: str, request: GrowRequest, *, who: str, request_id: str | None) -> VolumeReply:
        command = GrowVolume(name=VolumeName(name), size_sectors=_sectors(request.size_bytes))
        applied = await self._commit(command, who, request_id)
        return await self._volume_done(applied, name, None)

    async def _volume_done(self, applied: Applied, name: str, before: Volume | None) -> VolumeReply:
        """An outcome leaves out a volume of very many segments: then the tables (for one that was
        deleted: those of before) have it."""
        await self._serve_it(applied.index)
        volume = applied.volume or self.site.state.volumes.get(VolumeName(name)) or before
        if volume is None:  # deleted by an earlier try of this very request
            raise Refused(NotFound("virtual volume", name))
        return reply_of(self.site.state, volume, {}, index=applied.index)

    # storages and real volumes

    async def set_storage(self, request: StorageRequest, *, who: str, request_id: str | None) -> DoneReply:
        storage = Storage(
            address=StorageAddress(request.address), site=SiteName(request.site), uri=request.uri
        )
        return await self._done(SetStorage(storage=storage), who, request_id)

    async def remove_storage(self, address: str, *, who: str, request_id: str | None) -> DoneReply:
        return await self._done(RemoveStorage(address=StorageAddress(address)), who, request_id)

    async def add_real(self, request: AddRealRequest, *, who: str) -> JobReply:
        """Prepares the device (create, check, zero, label) at the site where it is, then adds it."""
        state = await self.site.fresh_state()
        storage = state.storages.get(StorageAddress(request.storage))
        if storage is None:
            raise Refused(NotFound("storage", request.storage, tuple(sorted(state.storages))[:20]))
        holder = self.site.manager_of_site(storage.site)
        if holder is not None and holder.name != self.site.me:
            data = await ask(self.site, holder, "POST", "/v1/reals", request)
            return msgspec.json.decode(data, type=JobReply)
        real = RealId(storage.address, request.lun)
        uri = request.uri or devices.default_uri(storage.uri, request.lun)
        if not uri:
            raise Refused(Invalid("uri", "", "is missing, and the storage has none to derive it from"))
        self._check_addition(request, real, uri)
        what = f"prepare {uri}"
        if self.site.jobs.is_running(what):
            raise DeviceProblem(str(real), f"{uri} is being prepared already")

        async def work(job: Job) -> None:
            self._check_addition(request, real, uri)  # it may have waited
            await self._prepare_and_add(request, real, uri, who, job)

        return self.site.jobs.start(what, work)

    def _check_addition(self, request: AddRealRequest, real: RealId, uri: str) -> None:
        """All that the tables would refuse is refused before the device is touched."""
        outcome = plan(
            self.site.state,
            AddRealVolume(
                storage=real.storage,
                lun=real.lun,
                volume_class=request.volume_class,
                uri=uri,
                label_id=uuid.uuid4().hex,
                capacity_units=1,
            ),
        )
        if isinstance(outcome, Rejected):
            raise Refused(outcome.reason)

    async def _prepare_and_add(
        self, request: AddRealRequest, real: RealId, uri: str, who: str, job: Job
    ) -> None:
        label_id = uuid.uuid4().hex
        state = self.site.state
        prepared = await asyncio.to_thread(
            prepare,
            PrepareRequest(
                uri=uri,
                storage=real.storage,
                lun=real.lun,
                cluster_id=state.cluster_id,
                label_id=label_id,
                size_bytes=request.size_bytes,
                preallocate=request.preallocate,
                force=request.force,
            ),
            state.settings.unit_bytes,
            job.progress,
            lambda: job.cancelled,
        )
        command = AddRealVolume(
            storage=real.storage,
            lun=real.lun,
            volume_class=request.volume_class,
            uri=uri,
            label_id=label_id,
            capacity_units=prepared.capacity_units,
        )
        for tries_left in reversed(range(ADD_TRIES)):
            try:
                await self._commit(command, who, f"real/{label_id}")
            except LogError:
                if not tries_left:
                    raise
            else:
                return

    async def set_real(
        self, storage: str, lun: int, request: SetRealRequest, *, who: str, request_id: str | None
    ) -> DoneReply:
        real = self.site.state.reals.get(RealId(StorageAddress(storage), lun))
        if real is None:
            raise Refused(NotFound("real volume", f"{storage}:{lun}", _known_reals(self.site)))
        if request.state == "active" and real.state == "failed":
            holder = self.site.manager_of_site(real.site)
            if holder is not None and holder.name != self.site.me:
                data = await ask(
                    self.site, holder, "PUT", f"/v1/reals/{storage}/{lun}", request, request_id=request_id
                )
                return msgspec.json.decode(data, type=DoneReply)
            problem = await asyncio.to_thread(devices.problem_of, self.site.state, real)
            if problem:
                raise DeviceProblem(str(real.id), problem)
        command = SetRealVolumeState(storage=real.storage, lun=lun, state=request.state)
        return await self._done(command, who, request_id)

    async def remove_real(self, storage: str, lun: int, *, who: str, request_id: str | None) -> DoneReply:
        command = RemoveRealVolume(storage=StorageAddress(storage), lun=lun)
        return await self._done(command, who, request_id)

    # cluster

    async def set_priority(
        self, site: str, request: PriorityRequest, *, who: str, request_id: str | None
    ) -> DoneReply:
        found = self.site.state.sites.get(SiteName(site))
        if found is None:
            raise Refused(NotFound("site", site, tuple(sorted(self.site.state.sites))[:20]))
        new = msgspec.structs.replace(found, priority=tuple(SiteName(s) for s in request.priority))
        return await self._done(SetSite(site=new), who, request_id)

    async def set_setting(
        self, name: str, request: SettingRequest, *, who: str, request_id: str | None
    ) -> DoneReply:
        return await self._done(SetSetting(name=name, value=request.value), who, request_id)


def _sectors(size_bytes: int) -> int:
    """Raises Refused; whatever integer a caller may have sent."""
    if not 0 < size_bytes <= MAX_VOLUME_BYTES:
        problem = (
            "is not positive" if size_bytes <= 0 else "is more than a volume may have: 8 EiB - 512 bytes"
        )
        raise Refused(Invalid("size", f"{size_bytes} bytes", problem))
    if size_bytes % SECTOR_BYTES:
        raise Refused(
            Invalid("size", f"{size_bytes} bytes", f"is not a multiple of {SECTOR_BYTES} bytes (a sector)")
        )
    return size_bytes // SECTOR_BYTES


def _known_reals(site: SiteContext) -> tuple[str, ...]:
    return tuple(str(real) for real in sorted(site.state.reals))[:20]
