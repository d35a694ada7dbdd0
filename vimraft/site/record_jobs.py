"""Jobs with a record: started under its id, forgotten when they have ended, gone on with after a restart.

May live here: what such jobs have in common. A job that fails for good drops its record, too: its error is
shown as long as the manager runs, and whoever wants it starts it again. A log that cannot be reached, or a
manager that is silent, is no such failure: the job waits.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from vimraft.api.errors import DeviceProblem, ManagerUnreachable
from vimraft.api.schema import JobReply
from vimraft.metadata.port import LogError
from vimraft.site.job_records import MAX_RECORDS, JobRecords, Record, TooManyRecords
from vimraft.site.jobs import Job, Jobs

log = structlog.get_logger(__name__)

RETRY_S: Final = 2.0
R = TypeVar("R")


class RecordJobs:
    def __init__(self, jobs: Jobs, files: JobRecords) -> None:
        self._jobs = jobs
        self._files = files
        self._records: dict[str, Record] = {}

    async def load(self) -> dict[str, Record]:
        self._records.update(await asyncio.to_thread(self._files.load))
        return dict(self._records)

    def running(self, kind: type[R]) -> list[tuple[str, R]]:
        return [(job_id, record) for job_id, record in self._records.items() if isinstance(record, kind)]

    async def add(self, record: Record) -> str:
        """Its job id, once it is on disk. Raises OSError, DeviceProblem."""
        job_id = self._jobs.new_id()
        await self.put(job_id, record)
        return job_id

    async def put(self, job_id: str, record: Record) -> None:
        await asyncio.to_thread(self.put_blocking, job_id, record)

    def put_blocking(self, job_id: str, record: Record) -> None:
        try:
            self._files.put(job_id, record)
        except TooManyRecords:
            problem = f"{MAX_RECORDS} jobs run or wait already; wait until some have ended"
            raise DeviceProblem("any", problem) from None
        self._records[job_id] = record

    def start(
        self,
        job_id: str,
        what: str,
        work: Callable[[Job], Awaitable[None]],
        *,
        on_cancel: Callable[[], Awaitable[None]],
    ) -> JobReply:
        async def until_decided(job: Job) -> None:
            while True:
                try:
                    await work(job)
                except (LogError, ManagerUnreachable) as error:
                    job.note = f"waits: {error or type(error).__name__}"
                    log.info("job.waits", job=job_id, cause=str(error) or type(error).__name__)
                    await asyncio.sleep(RETRY_S)
                except asyncio.CancelledError:  # the manager stops: the next one goes on
                    raise
                except BaseException:
                    await self._forget(job_id)
                    raise
                else:
                    await self._forget(job_id)
                    return

        return self._jobs.start(what, until_decided, job_id=job_id, waits=True, on_cancel=on_cancel)

    async def _forget(self, job_id: str) -> None:
        self._records.pop(job_id, None)
        try:
            await asyncio.to_thread(self._files.drop, job_id)
        except OSError as error:
            log.error("job.record_stays", job=job_id, cause=str(error))
