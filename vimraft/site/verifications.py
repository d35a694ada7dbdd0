"""Comparing the copies of a volume, and repairing them: the job, and its part of the service.

May live here: the job at the manager that was asked, and the step that the owner's manager does for it. The
comparing is the owner's (`vimraft.protocol.verify`); the job asks it again and again how far it is, whoever
owns the volume by then, and remembers the tally, from which a new owner goes on. What was found becomes an
event.
"""

import asyncio
from typing import Final
from urllib.parse import quote

import msgspec
from msgspec.structs import replace

from vimraft.api.errors import ChangedMeanwhile, JobCancelled, ManagerUnreachable, Refused
from vimraft.api.errors_copies import NothingToCompare, SourceNeeded
from vimraft.api.schema import JobReply
from vimraft.api.schema_verify import (
    CopyCompared,
    CopyDifference,
    VerifyReport,
    VerifyRequest,
    VerifyStep,
    VerifyStepReply,
)
from vimraft.core.copies import sites_of
from vimraft.core.ids import LocalName, VolumeName
from vimraft.core.reasons import CopyState, Invalid, NotFound
from vimraft.core.tables import State, Volume
from vimraft.data.feed import VerifyCopies
from vimraft.protocol.comparing import MAJORITY_OF
from vimraft.protocol.maps import REGION_BYTES
from vimraft.protocol.verify import Tally
from vimraft.site.context import SiteContext
from vimraft.site.copies_part import CopiesPart
from vimraft.site.job_records import Verification
from vimraft.site.jobs import Job
from vimraft.site.other_managers import ask
from vimraft.site.record_jobs import RecordJobs

LOOK_S: Final = 0.3
REMEMBER_S: Final = 5.0
"""So often the tally is kept on disk."""
STEP_WAIT_S: Final = 3.0
MAX_KNOWN: Final = 20
MAX_TOLD: Final = 5
"""Ranges in an event."""


class VerifyOperations:
    """The part of vimraft.api.service.Service about comparing copies."""

    site: SiteContext
    records: RecordJobs
    copies_part: CopiesPart

    def needs_copies(self, what: str) -> None:
        raise NotImplementedError

    async def verify(self, name: str, request: VerifyRequest, *, who: str) -> JobReply:
        self.needs_copies("comparing copies")
        volume = _named(await self.site.fresh_state(), name)
        _refuse(volume, request)
        for job_id, known in self.records.running(Verification):
            if (known.volume, known.created_ms, known.request) == (name, volume.created_ms, request):
                return self.resume_verification(job_id, known)
        record = Verification(volume=name, created_ms=volume.created_ms, request=request, who=who)
        return self.resume_verification(await self.records.add(record), record)

    async def verify_step(self, name: str, step: VerifyStep) -> VerifyStepReply:
        wanted = VerifyCopies(step.id, name, step.tally, step.repair, step.source, step.stop)
        try:
            told = await self.copies_part.verify(wanted, STEP_WAIT_S)
        except TimeoutError:
            return VerifyStepReply("moved", step.tally, f"the export of {self.site.me} does not answer")
        return VerifyStepReply(told.state, told.tally, told.message)

    def resume_verification(self, job_id: str, record: Verification) -> JobReply:
        verifying = _Verifying(self, job_id, record)

        async def nothing() -> None:
            """The job itself sees that it was cancelled."""

        verb = "repair" if record.request.repair else "verify"
        return self.records.start(job_id, f"{verb} {record.volume}", verifying.run, on_cancel=nothing)


class _Verifying:
    def __init__(self, service: VerifyOperations, job_id: str, record: Verification) -> None:
        self._service = service
        self._site = service.site
        self._id = job_id
        self._known = record
        self._kept_s = 0.0

    async def run(self, job: Job) -> None:
        while True:
            volume = self._volume(await self._site.fresh_state())
            told = await self._step(job, volume)
            await self._remember(told.tally)
            self._show(job, volume, told)
            if told.state == "over":
                await self._tell(told.tally)
                return
            if job.cancelled and told.state != "running":
                if told.tally.differing:
                    await self._tell(told.tally)
                raise JobCancelled(job.what)
            await asyncio.sleep(LOOK_S)

    def _volume(self, state: State) -> Volume:
        volume = state.volumes.get(VolumeName(self._known.volume))
        if volume is None or volume.created_ms != self._known.created_ms:
            raise ChangedMeanwhile(self._known.volume)
        return volume

    async def _step(self, job: Job, volume: Volume) -> VerifyStepReply:
        request = self._known.request
        step = VerifyStep(self._id, self._known.tally, request.repair, request.source, job.cancelled)
        if volume.owner == self._site.me:
            return await self._service.verify_step(volume.name, step)
        owner = self._site.state.managers[volume.owner]
        try:
            path = f"/v1/volumes/{quote(volume.name, safe='')}/verify/step"
            data = await ask(self._site, owner, "POST", path, step)
        except ManagerUnreachable:
            if job.cancelled:  # nobody asks for it any more, so that it ends by itself
                raise JobCancelled(job.what) from None
            raise
        return msgspec.json.decode(data, type=VerifyStepReply)

    async def _remember(self, tally: Tally) -> None:
        now_s = asyncio.get_running_loop().time()
        self._known = replace(self._known, tally=tally)
        if now_s - self._kept_s >= REMEMBER_S:
            self._kept_s = now_s
            await self._service.records.put(self._id, self._known)

    def _show(self, job: Job, volume: Volume, told: VerifyStepReply) -> None:
        tally, size = told.tally, volume.size_bytes
        job.progress(min(tally.done * REGION_BYTES, size), size)
        job.verified = report_of(self._site.state, volume, tally)
        found = f"{tally.differing} regions differ" if tally.differing else ""
        waits = f"waits for {volume.owner}: {told.message}" if told.state in ("moved", "busy") else ""
        job.note = waits or found

    async def _tell(self, tally: Tally) -> None:
        state = self._site.state
        report = report_of(state, self._volume(state), tally)
        name, severity, message = event_of(report)
        await self._site.record(name, report.volume, severity, message)


def event_of(report: VerifyReport) -> tuple[str, str, str]:
    """Name, severity and words of the event that ends a job."""
    left = report.differing - report.repaired
    of = f"{report.volume}: {report.compared} of {report.regions} regions compared"
    ranges = [f"{one.first_byte}-{one.last_byte}" for one in report.differences if not one.repaired]
    if left:
        where = ", ".join(ranges[:MAX_TOLD]) + (" …" if len(ranges) > MAX_TOLD else "")
        return "copies.differ", "error", f"{of}, copies differ in {left} (bytes {where})"
    if report.skipped or not report.clean:
        return "copies.not_compared", "warning", f"{of}, none differs; {report.why or 'not in all copies'}"
    if report.repaired:
        return "copies.repaired", "warning", f"{of}, {report.repaired} differed and were made equal"
    return "copies.verified", "info", f"{of}, all copies are equal"


def report_of(state: State, volume: Volume, tally: Tally) -> VerifyReport:
    copies = tuple(
        CopyCompared(
            replica.local_name,
            tuple(sorted(sites_of(state, replica.segments))),
            replica.state,
            tally.copies.get(replica.local_name, 0),
        )
        for replica in volume.replicas
    )
    differences = tuple(CopyDifference(d.first, d.end - 1, d.groups, d.repaired) for d in tally.differences)
    return VerifyReport(
        volume=volume.name,
        region_bytes=REGION_BYTES,
        regions=tally.regions,
        done=tally.done,
        compared=tally.compared,
        differing=tally.differing,
        repaired=tally.repaired,
        skipped=tally.skipped,
        clean=0 < tally.done == tally.regions and tally.clean,
        copies=copies,
        differences=differences,
        why=tally.why,
    )


def _refuse(volume: Volume, request: VerifyRequest) -> None:
    """Raises Refused and CopyFaults."""
    in_sync = tuple(replica.local_name for replica in volume.replicas if replica.state == "in_sync")
    if len(in_sync) < 2:
        raise NothingToCompare(volume.name, len(volume.replicas))
    if request.source and not request.repair:
        raise Refused(Invalid("source", request.source, "names what a repair takes; this only compares"))
    if request.source:
        found = next((r for r in volume.replicas if r.local_name == request.source), None)
        if found is None:
            known = tuple(replica.local_name for replica in volume.replicas)
            raise Refused(NotFound("copy", request.source[:80], known))
        if found.state != "in_sync":
            raise Refused(CopyState(volume.name, LocalName(request.source), found.state))
    elif request.repair and len(in_sync) < MAJORITY_OF:
        raise SourceNeeded(volume.name, in_sync)


def _named(state: State, name: str) -> Volume:
    volume = state.volumes.get(VolumeName(name))
    if volume is None:
        raise Refused(NotFound("virtual volume", name[:80], tuple(sorted(state.volumes))[:MAX_KNOWN]))
    return volume
