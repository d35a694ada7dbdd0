"""A few threads for work that may take long: opening, flushing and closing real volumes.

May live here: the queue and its threads. They are daemons, and are there only while there
is work.
"""

import threading
from collections import deque
from collections.abc import Callable

Job = Callable[[], None]


class Workers:
    """Runs at most `most` jobs at a time; `failed` is told what a job raises."""

    def __init__(self, name: str, most: int, failed: Callable[[Exception], None]) -> None:
        self._name = name
        self._most = most
        self._failed = failed
        self._lock = threading.Lock()
        self._queue: deque[Job] = deque()
        self._threads = 0

    def submit(self, job: Job, *, urgent: bool) -> None:
        """Urgent jobs go before all that wait. The caller bounds how many it submits."""
        with self._lock:
            if urgent:
                self._queue.appendleft(job)
            else:
                self._queue.append(job)
            if self._threads < self._most:
                self._threads += 1
                threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._threads -= 1
                    return
                job = self._queue.popleft()
            try:
                job()
            except Exception as error:  # noqa: BLE001 - told, and it must not cost the other jobs their thread
                self._failed(error)
