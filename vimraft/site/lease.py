"""The manager's lease: its right to serve as owner, renewed through the log.

Counted on CLOCK_BOOTTIME from before the *first* proposal of a stamp: a retry does not restart the count,
and a new incarnation starts with none. The deadline goes down the feed; the export enforces it itself.
"""

import asyncio
import time
from collections.abc import Callable

import structlog

from vimraft.core.commands import Applied, Rejected, RenewLease
from vimraft.core.ids import ManagerName
from vimraft.metadata.port import Log, LogError
from vimraft.site.worker import Worker

log = structlog.get_logger(__name__)

RENEWALS_PER_LEASE = 3


def boottime_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class LeaseKeeper(Worker):
    """`life` numbers the life of the export that may hold a lease; 0: none may yet (its volumes are not
    reopened). `installed_index` is what export and store serve; `granted(deadline_ns)` gets each
    extension."""

    def __init__(
        self,
        replicated_log: Log,
        manager: str,
        incarnation: str,
        *,
        life: Callable[[], int],
        installed_index: Callable[[], int],
        granted: Callable[[int], None],
    ) -> None:
        super().__init__()
        self._log = replicated_log
        self._manager = manager
        self._incarnation = incarnation
        self._life = life
        self._installed_index = installed_index
        self._granted = granted
        self._counter = 0

    async def _run(self) -> None:
        while True:
            lease_ms = self._log.state.settings.lease_ms
            period_s = lease_ms / 1e3 / RENEWALS_PER_LEASE
            began = time.monotonic()
            if self._life() and ManagerName(self._manager) in self._log.state.managers:
                await self._renew(lease_ms)
            await asyncio.sleep(max(0.05, period_s - (time.monotonic() - began)))

    async def _renew(self, lease_ms: int) -> None:
        self._counter += 1
        life = self._life()
        since_ns = boottime_ns()
        try:
            outcome = await self._log.propose(
                RenewLease(
                    manager=ManagerName(self._manager),
                    incarnation=self._incarnation,
                    counter=self._counter,
                    installed_index=self._installed_index(),
                ),
                who=self._manager,
                deadline_ms=lease_ms,
            )
        except LogError as error:
            log.warning("lease.not_renewed", cause=str(error) or type(error).__name__)
            return
        match outcome:
            case Applied() if self._life() != life:
                log.info("lease.not_given", cause="another life of the export has begun")
            case Applied():
                self._granted(since_ns + lease_ms * 1_000_000)
            case Rejected(reason=reason):
                log.error("lease.refused", reason=type(reason).__name__)
