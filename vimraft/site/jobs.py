"""Things that take time: preparing a real volume, draining one, migrating, saving.

May live here: job bookkeeping (bounded). A job belongs to the manager that runs it; its id begins with the
manager's name, so that any manager can ask for it. What must go on after a restart is started again under
the same id, by whoever knows it from the tables or from `job_records`.
"""

import asyncio
import contextlib
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable

import structlog

from vimraft.api.advice import from_exception
from vimraft.api.errors import DeviceProblem, NotCancellable
from vimraft.api.schema import ErrorReply, JobReply
from vimraft.api.schema_verify import VerifyReport

log = structlog.get_logger(__name__)

MAX_JOBS = 200
MAX_RUNNING = 4
MAX_QUEUED = 50
MAX_SAMPLES = 40
SAMPLE_S = 0.5
"""The rate is that of the last MAX_SAMPLES * SAMPLE_S seconds."""


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
        self.note = ""
        self.verified: VerifyReport | None = None
        """What a comparison of copies has found so far."""
        self.on_cancel: Callable[[], Awaitable[None]] | None = None
        """What is to be done so that it stops; None: it cannot be cancelled."""
        self._samples: deque[tuple[float, int]] = deque(maxlen=MAX_SAMPLES)

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        self.done_bytes, self.total_bytes = done_bytes, total_bytes
        now_s = time.monotonic()
        if not self._samples or now_s - self._samples[-1][0] >= SAMPLE_S:
            self._samples.append((now_s, done_bytes))

    def rate_bytes_s(self) -> float:
        """Over the samples kept; 0 when nothing moved, or there are too few."""
        samples = tuple(self._samples)
        if self.state != "running" or len(samples) < 2:
            return 0.0
        (t0, first), (t1, last) = samples[0], samples[-1]
        return max(0.0, (last - first) / max(t1 - t0, 1e-3))

    def reply(self) -> JobReply:
        rate = self.rate_bytes_s()
        left = self.total_bytes - self.done_bytes
        return JobReply(
            id=self.id,
            what=self.what,
            state="running" if self.state == "running" else "done" if self.state == "done" else "failed",
            done_bytes=self.done_bytes,
            total_bytes=self.total_bytes,
            started_ms=self.started_ms,
            error=self.error,
            note=self.note if self.state == "running" else "",
            bytes_s=round(rate, 1),
            eta_seconds=round(left / rate, 1) if rate > 0 and left >= 0 else None,
            cancellable=self.state == "running" and self.on_cancel is not None,
            verified=self.verified,
        )


class Jobs:
    def __init__(self, manager: str) -> None:
        self._manager = manager
        self._jobs: dict[str, Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(MAX_RUNNING)

    def is_running(self, what: str) -> bool:
        return any(job.what == what and job.state == "running" for job in self._jobs.values())

    def start(
        self,
        what: str,
        work: Callable[[Job], Awaitable[None]],
        *,
        job_id: str = "",
        waits: bool = False,
        on_cancel: Callable[[], Awaitable[None]] | None = None,
    ) -> JobReply:
        """`job_id`: of one that may run already; then that is the answer. `waits`: it only looks on, and
        needs no place among those that work."""
        running = self._jobs.get(job_id)
        if running is not None and running.state == "running":
            return running.reply()
        if sum(job.state == "running" for job in self._jobs.values()) >= MAX_QUEUED:
            raise DeviceProblem(what, f"{MAX_QUEUED} jobs run or wait already; wait until some have ended")
        job = Job(job_id or self.new_id(), what)
        job.on_cancel = on_cancel
        self._forget_old()
        self._jobs.pop(job.id, None)
        self._jobs[job.id] = job
        task = asyncio.create_task(self._run(job, work, contextlib.nullcontext() if waits else self._slots))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job.reply()

    def new_id(self) -> str:
        return f"{self._manager}.{uuid.uuid4().hex[:12]}"

    def all(self) -> list[JobReply]:
        return [job.reply() for job in self._jobs.values()]

    async def cancel(self, job_id: str) -> JobReply | None:
        """Its last state; it ends soon. None: there is none here. Raises NotCancellable."""
        job = self._jobs.get(job_id)
        if job is None:
            return None
        if job.state != "running" or job.on_cancel is None:
            raise NotCancellable(job.what)
        job.cancelled = True
        await job.on_cancel()
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

    async def _run(
        self,
        job: Job,
        work: Callable[[Job], Awaitable[None]],
        place: contextlib.AbstractAsyncContextManager[object],
    ) -> None:
        async with place:
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
