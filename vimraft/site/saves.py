"""Deleting a volume after its data have been copied to another one.

May live here: the job and its part of the service; the copying itself is `saving`'s.

The source is held read-only in the tables first, and copied when its owner's export serves that map: by then
every write that came before has ended, and none is acknowledged after. So what is copied is one state of the
volume, the last; and its clients may go on reading. (Draining the export would take the reads as well, and
would last only as long as the export.) It is copied, flushed, then all of it is read back and compared; only
then is the source deleted: into the trash, unless asked otherwise. What fails or is cancelled before that
lets the source go again.

Keeps: no source is deleted of which a writable moment is known after it was held (`history` tells), nor one
that has another one's name.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog
from msgspec.structs import replace

from vimraft.api.errors import (
    ChangedMeanwhile,
    JobCancelled,
    Refused,
    SavedDiffers,
    TargetNotEmptied,
    TargetTooSmall,
    VolumeIo,
)
from vimraft.api.schema import JobReply
from vimraft.api.schema_moves import SaveRequest
from vimraft.core.apply import plan
from vimraft.core.commands import (
    Applied,
    BuildVolume,
    Command,
    DeleteVolume,
    Rejected,
    SetReadOnly,
    TrashVolume,
)
from vimraft.core.ids import SiteName, VolumeName
from vimraft.core.reasons import Exists, Invalid, NotFound
from vimraft.core.tables import State, Volume
from vimraft.data.backends.base import BackendError
from vimraft.metadata.port import LogError
from vimraft.site import saving
from vimraft.site.context import SiteContext
from vimraft.site.health import Health
from vimraft.site.job_records import Save
from vimraft.site.jobs import Job
from vimraft.site.record_jobs import RecordJobs

log = structlog.get_logger(__name__)

LOOK_S: Final = 0.2
INSTALL_S: Final = 10.0
MAX_LOSSES: Final = 5
"""So often the copying goes on from the last durable place, before the job fails."""


class SaveOperations:
    """The part of vimraft.api.service.Service about deleting with a copy."""

    site: SiteContext
    health: Health
    records: RecordJobs
    open_export: Callable[..., saving.Disk] = staticmethod(saving.open_export)

    async def _commit(self, command: Command, who: str, request_id: str | None) -> Applied:
        raise NotImplementedError

    async def none_attached(self, name: str) -> None:
        raise NotImplementedError

    def needs_copies(self, what: str) -> None:
        raise NotImplementedError

    async def save(self, name: str, request: SaveRequest, *, who: str) -> JobReply:
        self.needs_copies("deleting with a copy")
        state = await self.site.fresh_state()
        volume = state.volumes.get(VolumeName(name))
        if volume is None:
            raise Refused(NotFound("virtual volume", name[:80], tuple(sorted(state.volumes))[:20]))
        for job_id, known in self.records.running(Save):
            if (known.volume, known.created_ms) == (name, volume.created_ms):
                return self.resume_save(job_id, known)
        self._refuse(state, volume, request)
        if not request.force:
            await self.none_attached(name)
        record = Save(
            volume=name,
            created_ms=volume.created_ms,
            request=request,
            who=who,
            was_read_only=volume.read_only,
        )
        return self.resume_save(await self.records.add(record), record)

    def _refuse(self, state: State, volume: Volume, request: SaveRequest) -> None:
        """What can be known before anything is done."""
        if request.target == volume.name:
            raise Refused(Invalid("target", request.target, "is the volume itself"))
        target = state.volumes.get(VolumeName(request.target))
        if target is not None:
            _check_target(target, volume, request)
            return
        outcome = plan(state, self._building(volume, request))
        if isinstance(outcome, Rejected):
            raise Refused(outcome.reason)

    def _building(self, volume: Volume, request: SaveRequest) -> BuildVolume:
        sites = tuple([SiteName(site) for site in request.sites])
        return BuildVolume(
            name=VolumeName(request.target),
            size_sectors=volume.size_sectors,
            volume_class=request.volume_class or volume.volume_class,
            manager=self.site.me,
            sites=sites or tuple([site for site in volume.sites if site in self.site.state.sites]),
            copies=request.copies,
        )

    def resume_save(self, job_id: str, record: Save) -> JobReply:
        async def work(job: Job) -> None:
            await _Saving(self, job, record).run()

        async def nothing() -> None:
            """The job itself sees that it was cancelled."""

        what = f"save {record.volume} to {record.request.target}"
        return self.records.start(job_id, what, work, on_cancel=nothing)


def _check_target(target: Volume, source: Volume, request: SaveRequest) -> None:
    if not request.overwrite:
        raise TargetNotEmptied(target.name)
    if target.size_bytes < source.size_bytes:
        raise TargetTooSmall(target.name, target.size_bytes, source.size_bytes)
    if target.read_only:
        raise Refused(Invalid("target", target.name, "is held read-only"))


class _Saving:
    """One run of the job; the record says how far earlier ones came."""

    def __init__(self, service: SaveOperations, job: Job, record: Save) -> None:
        self._service = service
        self._site = service.site
        self._job = job
        self._known = dict(service.records.running(Save)).get(job.id, record)
        self._held_index = 0

    async def _remember(self, **changes: object) -> None:
        self._known = replace(self._known, **changes)
        await self._service.records.put(self._job.id, self._known)

    def _source(self) -> Volume | None:
        volume = self._site.state.volumes.get(VolumeName(self._known.volume))
        return volume if volume is not None and volume.created_ms == self._known.created_ms else None

    async def run(self) -> None:
        await self._site.fresh_state()
        if self._known.trashing:
            await self._delete()
            return
        try:
            source = await self._hold()
            target = await self._target(source)
            await self._copy_and_verify(source, target)
            await self._still_held()
            self._stop_if_cancelled()
        except (LogError, asyncio.CancelledError):
            raise  # it goes on later
        except BaseException:
            await self._let_go()
            raise
        await self._remember(trashing=True)
        await self._delete()

    def _stop_if_cancelled(self) -> None:
        if self._job.cancelled:
            raise JobCancelled(self._job.what)

    # the source

    async def _hold(self) -> Volume:
        """Read-only, and its owner serves it so."""
        source = self._source()
        if source is None:
            raise ChangedMeanwhile(self._known.volume)
        applied = await self._service._commit(SetReadOnly(source.name, True), self._known.who, None)
        self._held_index = applied.index
        while True:
            self._stop_if_cancelled()
            source = self._source()
            if source is None:
                raise ChangedMeanwhile(self._known.volume)
            if self._serves(source.owner) >= applied.index:
                return source
            self._job.note = f"waits until {source.owner} serves {source.name} read-only"
            await asyncio.sleep(LOOK_S)

    def _serves(self, manager: str) -> int:
        if manager == self._site.me:
            return self._site.installed_index()
        latest = self._service.health.latest(manager)
        return latest[0].installed_index if latest is not None else -1

    async def _still_held(self) -> None:
        state = await self._site.fresh_state()
        source = self._source()
        let_go = any(
            change.what == "writable" and change.name == self._known.volume
            for change in state.history
            if change.index > self._held_index
        )
        if source is None or not source.read_only or let_go:
            raise ChangedMeanwhile(self._known.volume)

    async def _let_go(self) -> None:
        source = self._source()
        if source is not None and source.read_only and not self._known.was_read_only:
            await self._service._commit(SetReadOnly(source.name, False), self._known.who, None)
        if self._job.cancelled and self._known.fresh:
            target = self._target_row()
            if target is not None:
                await self._service._commit(DeleteVolume(target.name), self._known.who, None)

    async def _delete(self) -> None:
        source = self._source()
        if source is None:
            return  # by an earlier try
        at_once = self._known.request.purge or not self._site.state.settings.trash_keep_h
        command: Command = DeleteVolume(source.name) if at_once else TrashVolume(source.name)
        try:
            await self._service._commit(command, self._known.who, None)
        except Refused as refused:
            if not isinstance(refused.reason, NotFound):
                raise

    # the target

    def _target_row(self) -> Volume | None:
        row = self._site.state.volumes.get(VolumeName(self._known.request.target))
        return row if row is not None and row.created_ms == self._known.target_created_ms else None

    async def _target(self, source: Volume) -> Volume:
        if not self._known.target_created_ms:
            await self._make_target(source)
        target = self._target_row()
        if target is None:
            raise ChangedMeanwhile(self._known.request.target)
        index = self._site.state.index
        await asyncio.gather(
            *(feeder.wait_installed(index, INSTALL_S) for feeder in self._site.feeders.values())
        )
        return target

    async def _make_target(self, source: Volume) -> None:
        request = self._known.request
        command = self._service._building(source, request)
        try:
            await self._service._commit(command, self._known.who, f"save/{self._job.id}")
            fresh = True
        except Refused as refused:
            if not isinstance(refused.reason, Exists):
                raise
            fresh = False
        target = self._site.state.volumes.get(VolumeName(request.target))
        if target is None:
            raise ChangedMeanwhile(request.target)
        if not fresh:
            _check_target(target, source, request)
        await self._remember(target_created_ms=target.created_ms, fresh=fresh)

    # the data

    async def _copy_and_verify(self, source: Volume, target: Volume) -> None:
        size = source.size_bytes
        self._job.progress(self._known.copied_bytes, 2 * size)
        stopping = [False]

        def durable(copied_bytes: int) -> None:
            self._known = replace(self._known, copied_bytes=copied_bytes)
            self._service.records.put_blocking(self._job.id, self._known)

        def work() -> int | None:
            return self._blocking(source, target, durable, lambda: stopping[0] or self._job.cancelled)

        try:
            differs = await asyncio.shield(asyncio.to_thread(work))
        except asyncio.CancelledError:
            stopping[0] = True
            raise
        except saving.Stopped:
            raise JobCancelled(self._job.what) from None
        except (OSError, BackendError) as error:
            raise VolumeIo(source.name, f"saving it to {target.name} failed: {error}") from None
        if differs is not None:
            raise SavedDiffers(source.name, target.name, differs)

    def _blocking(
        self,
        source: Volume,
        target: Volume,
        durable: Callable[[int], None],
        stopped: Callable[[], bool],
    ) -> int | None:
        """In a thread. Where they differ."""
        size, job = source.size_bytes, self._job
        address = self._site.state.managers[self._site.me].nbd_address
        disks: list[saving.Disk] = []
        try:
            disks.append(self._service.open_export(f"nbd://{address}/{source.name}", read_only=True))
            disks.append(self._service.open_export(f"nbd://{address}/{target.name}", read_only=False))
            job.note = "copying"
            for tries_left in reversed(range(MAX_LOSSES)):
                try:
                    saving.copy(
                        disks[0],
                        disks[1],
                        size,
                        start=self._known.copied_bytes,
                        fresh=self._known.fresh,
                        copied=lambda done: job.progress(done, 2 * size),
                        durable=durable,
                        stopped=stopped,
                    )
                    break
                except saving.Lost:
                    if not tries_left:
                        raise
                    time.sleep(LOOK_S)
            job.note = "verifying"
            return saving.first_difference(
                disks[0],
                disks[1],
                size,
                compared=lambda done: job.progress(size + done, 2 * size),
                stopped=stopped,
            )
        finally:
            for disk in disks:
                disk.close()
