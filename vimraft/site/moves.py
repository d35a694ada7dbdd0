"""Trash, drains, migrations and saves as one part of a site manager.

May live here: what ties them together, the operations on jobs of all kinds, and going on with jobs after a
restart.
"""

import asyncio
from typing import Any

import msgspec
import structlog

from vimraft.api.errors import ManagerUnreachable, PassedOn, Refused
from vimraft.api.schema import JobReply
from vimraft.api.schema_moves import JobsReply
from vimraft.core.ids import ManagerName
from vimraft.core.reasons import Invalid
from vimraft.core.tables import Manager, State
from vimraft.site.drain_plan import draining
from vimraft.site.drains import DrainOperations, Mover
from vimraft.site.job_records import Migration, Save, SiteDrain, Verification
from vimraft.site.migrations import MigrateOperations
from vimraft.site.other_managers import ask
from vimraft.site.saves import SaveOperations
from vimraft.site.trash import TrashKeeper, TrashOperations
from vimraft.site.verifications import VerifyOperations

log = structlog.get_logger(__name__)


class MovesOperations(TrashOperations, DrainOperations, MigrateOperations, SaveOperations, VerifyOperations):
    """That part of vimraft.api.service.Service."""

    async def jobs(self, *, passed: bool) -> JobsReply:
        mine = tuple(self.site.jobs.all())
        if passed:
            return JobsReply(jobs=mine)
        others = [m for m in self.site.state.managers.values() if m.name != self.site.me]
        answers = await asyncio.gather(*(self._jobs_of(manager) for manager in others))
        silent = [m.name for m, jobs in zip(others, answers, strict=True) if jobs is None]
        found = [job for jobs in answers if jobs for job in jobs]
        every = sorted((*mine, *found), key=lambda job: (job.started_ms, job.id))
        return JobsReply(jobs=tuple(every), silent=tuple(sorted(silent)))

    async def _jobs_of(self, manager: Manager) -> tuple[JobReply, ...] | None:
        try:
            data = await ask(self.site, manager, "GET", "/v1/jobs?passed=true")
        except (ManagerUnreachable, PassedOn):
            return None
        return msgspec.json.decode(data, type=JobsReply).jobs

    async def cancel_job(self, job_id: str, *, who: str) -> JobReply:
        found = await self.site.jobs.cancel(job_id)
        if found is not None:
            log.info("job.cancelled", job=job_id, who=who)
            return found
        manager = self.site.state.managers.get(ManagerName(job_id.rpartition(".")[0]))
        if manager is None or manager.name == self.site.me:
            raise Refused(Invalid("job", job_id, "is not known; its manager may have been restarted"))
        data = await ask(self.site, manager, "DELETE", f"/v1/jobs/{job_id}")
        return msgspec.json.decode(data, type=JobReply)


class MovesPart:
    """Their background work. `tables_changed` at every change; `works` are to be run for ever."""

    def __init__(self, operations: MovesOperations) -> None:
        self._operations = operations
        self._mover = Mover(operations.site)
        self._keeper = TrashKeeper(operations.site, operations.health)

    def works(self) -> tuple[Any, ...]:
        return self._mover.run(), self._keeper.run(), self._go_on()

    def tables_changed(self, previous: State, current: State) -> None:
        if previous.volumes is not current.volumes or previous.reals is not current.reals:
            self._mover.look()
        if previous.reals is not current.reals and draining(current):
            self._operations.look_on_all()

    async def _go_on(self) -> None:
        """With what an earlier life of this manager began."""
        operations = self._operations
        for job_id, record in (await operations.records.load()).items():
            log.info("job.goes_on", job=job_id, kind=type(record).__name__)
            match record:
                case SiteDrain():
                    operations.resume_site_drain(job_id, record)
                case Migration():
                    operations.resume_migration(job_id, record)
                case Save():
                    operations.resume_save(job_id, record)
                case Verification():
                    operations.resume_verification(job_id, record)
        operations.look_on_all()
