"""Threads of the shells: crews that do what may take long, and one thread for all timers.

May live here: queues, threads and when they end. Everything is a daemon (another kind hangs the exit).
"""

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

IDLE_S = 1.0
"""A thread of a crew that had nothing to do for so long ends; most jobs come in bursts."""
MAX_JOBS = 65_536
"""Jobs that wait for one crew. Whoever submits is bounded himself; this is where it would show if not."""
LONGEST_SLEEP_S = 0.5
"""Between two looks at CLOCK_BOOTTIME, which runs on while the host sleeps and the waits here do not."""
Job = Callable[[], None]


boottime_ns: Callable[[], int] = partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME)


class Crew:
    """Runs at most `most` jobs at a time, in the order of their coming; `failed` is told what one raises."""

    def __init__(self, name: str, most: int, failed: Callable[[Exception], None]) -> None:
        self._name = name
        self._most = most
        self._failed = failed
        self._changed = threading.Condition(threading.Lock())
        self._jobs: deque[Job] = deque()
        self._threads = 0
        self._idle = 0

    def submit(self, job: Job) -> None:
        with self._changed:
            assert len(self._jobs) < MAX_JOBS, f"{self._name}: {MAX_JOBS} jobs are waiting"
            self._jobs.append(job)
            if self._idle >= len(self._jobs):
                self._changed.notify()
            elif self._threads < self._most:
                self._threads += 1
                threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._jobs:
                    self._idle += 1
                    self._changed.wait(IDLE_S)
                    self._idle -= 1
                if not self._jobs:
                    self._threads -= 1
                    return
                job = self._jobs.popleft()
            try:
                job()
            except Exception as error:  # noqa: BLE001 - told, and it must not cost the other jobs their thread
                self._failed(error)


class Timers:
    """Calls back at a time of CLOCK_BOOTTIME, in one thread: what is called must not wait for anything."""

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._failed = failed
        self._changed = threading.Condition(threading.Lock())
        self._heap: list[tuple[int, int, Job]] = []
        self._numbers = itertools.count()
        self._started = False

    def at(self, at_ns: int, call: Job) -> None:
        with self._changed:
            first = not self._heap or at_ns < self._heap[0][0]
            heapq.heappush(self._heap, (at_ns, next(self._numbers), call))
            if not self._started:
                self._started = True
                threading.Thread(target=self._run, name="timers", daemon=True).start()
            elif first:
                self._changed.notify()

    def after(self, seconds: float, call: Job) -> None:
        self.at(boottime_ns() + int(seconds * 1e9), call)

    def _run(self) -> None:
        while True:
            with self._changed:
                left_s = (self._heap[0][0] - boottime_ns()) / 1e9 if self._heap else LONGEST_SLEEP_S
                if left_s > 0:
                    self._changed.wait(min(left_s, LONGEST_SLEEP_S))
                    continue
                call = heapq.heappop(self._heap)[2]
            try:
                call()
            except Exception as error:  # noqa: BLE001 - the timers of all others go on
                self._failed(error)
