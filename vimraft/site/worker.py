"""A part of the site manager that is one task from start to stop.

May live here: starting it, ending it, and waiting until there is work for it.
"""

import asyncio
import contextlib
from abc import ABC, abstractmethod


class Worker(ABC):
    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @abstractmethod
    async def _run(self) -> None: ...


class WokenWorker(Worker):
    """Sleeps until somebody sets `_wake`."""

    def __init__(self) -> None:
        super().__init__()
        self._wake = asyncio.Event()

    async def _sleep(self, at_most_s: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(at_most_s):
                await self._wake.wait()
        self._wake.clear()
