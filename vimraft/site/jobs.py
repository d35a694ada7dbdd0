"""Things that take time and run in a thread: preparing a real volume, zeroing what was released.

May live here: job bookkeeping (bounded), and the release worker. A job belongs to the manager that runs it;
its id begins with the manager's name, so that any manager can ask for it.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable

import structlog

from vimraft.api.advice import from_exception
from vimraft.api.errors import DeviceProblem
from vimraft.api.schema import ErrorReply, JobReply

log = structlog.get_logger(__name__)

MAX_JOBS = 200
MAX_RUNNING = 4
MAX_QUEUED = 50


class Job:
    """Progress is written by the working thread, read by the loop (plain ints)."""

    def __init__(self, job_id: str, what: str) -> None:
        self.id = job_id
        self.what = what
        self.state: str = "running"
        self.done_bytes = 0
        self.total_bytes = 0
        self.started_ms = int(time.time() * 1e3)
        self.error: ErrorReply | None = None
        self.cancelled = False

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        self.done_bytes, self.total_bytes = done_bytes, total_bytes

    def reply(self) -> JobReply:
        return JobReply(
            id=self.id,
            what=self.what,
            state="running" if self.state == "running" else "done" if self.state == "done" else "failed",
            done_bytes=self.done_bytes,
            total_bytes=self.total_bytes,
            started_ms=self.started_ms,
            error=self.error,
        )


class Jobs:
    def __init__(self, manager: str) -> None:
        self._manager = manager
        self._jobs: dict[str, Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(MAX_RUNNING)

    def is_running(self, what: str) -> bool:
        return any(job.what == what and job.state == "running" for job in self._jobs.values())

    def start(self, what: str, work: Callable[[Job], Awaitable[None]]) -> JobReply:
        if sum(job.state == "running" for job in self._jobs.values()) >= MAX_QUEUED:
            raise DeviceProblem(what, f"{MAX_QUEUED} jobs run or wait already; wait until some have ended")
        job = Job(f"{self._manager}.{uuid.uuid4().hex[:12]}", what)
        self._forget_old()
        self._jobs[job.id] = job
        task = asyncio.create_task(self._run(job, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job.reply()

    def get(self, job_id: str) -> JobReply | None:
        job = self._jobs.get(job_id)
        return job.reply() if job else None

    async def stop(self) -> None:
        for job in self._jobs.values():
            job.cancelled = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, job: Job, work: Callable[[Job], Awaitable[None]]) -> None:
        async with self._slots:
            try:
                await work(job)
            except asyncio.CancelledError:
                job.cancelled, job.state = True, "failed"
                raise
            except Exception as error:  # noqa: BLE001 - a job's fault becomes its result, whatever it is
                job.error, job.state = from_exception(error).reply, "failed"
                log.warning("job.failed", job=job.id, what=job.what, cause=job.error.message)
            else:
                job.state = "done"

    def _forget_old(self) -> None:
        ended = [job_id for job_id, job in self._jobs.items() if job.state != "running"]
        for job_id in ended[: max(0, len(self._jobs) - MAX_JOBS + 1)]:
            del self._jobs[job_id]
