"""The manager's lease: its right to serve as owner, renewed through the log.

Counted on CLOCK_BOOTTIME from before the *first* proposal of a stamp: a retry does not restart the count,
and a new incarnation starts with none. The deadline goes down the feed; the export enforces it itself.

A renewal also tells which tables the export has installed, and owners wait for that before they acknowledge
or serve in a new epoch of a volume. So one goes out as soon as such tables are installed, not only when it is
due. (The store process does not count: it serves nobody but owners, who say by which epoch they ask. One that
stands still keeps its lease, and nobody would ever go on.)

An export that stands still, or is gone, gets no renewal: others take its volumes over when the lease is out.
"""

import asyncio
import time
from collections.abc import Callable

import structlog

from vimraft.core.commands import Applied, Rejected, RenewLease
from vimraft.core.ids import ManagerName
from vimraft.metadata.port import Log, LogError
from vimraft.site.worker import WokenWorker

log = structlog.get_logger(__name__)

RENEWALS_PER_LEASE = 3
LEAST_PAUSE_S = 0.02
"""Between two renewals, however many epochs there are."""
LOOK_EVERY_S = 0.25
"""While no export may hold a lease."""


def boottime_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class LeaseKeeper(WokenWorker):
    """`life` numbers the life of the export that may hold a lease; 0: none may now (its volumes are not
    reopened, or it says nothing). `installed_index` is what it serves; `granted(deadline_ns,
    index)` gets each extension, which the tables of that index have: it counts for nobody who goes by older
    ones."""

    def __init__(
        self,
        replicated_log: Log,
        manager: str,
        incarnation: str,
        *,
        life: Callable[[], int],
        installed_index: Callable[[], int],
        granted: Callable[[int, int], None],
    ) -> None:
        super().__init__()
        self._log = replicated_log
        self._manager = manager
        self._incarnation = incarnation
        self._life = life
        self._installed_index = installed_index
        self._granted = granted
        self._counter = 0
        self._wanted_index = 0
        """Tables that brought the newest epoch."""
        self._told_index = 0

    def epoch_begins(self, index: int) -> None:
        """In the tables of this index a volume with copies has a new epoch."""
        self._wanted_index = max(self._wanted_index, index)
        self.look()

    def look(self) -> None:
        """Perhaps they are installed by now."""
        if self._told_index < self._wanted_index <= self._installed_index():
            self._wake.set()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            lease_ms = self._log.state.settings.lease_ms
            period_s = lease_ms / 1e3 / RENEWALS_PER_LEASE
            began = time.monotonic()
            if self._life() and ManagerName(self._manager) in self._log.state.managers:
                await self._renew(lease_ms)
            else:
                period_s = LOOK_EVERY_S
            await asyncio.sleep(LEAST_PAUSE_S)
            await self._sleep(max(LEAST_PAUSE_S, period_s - (time.monotonic() - began)))

    async def _renew(self, lease_ms: int) -> None:
        self._counter += 1
        life, installed_index = self._life(), self._installed_index()
        since_ns = boottime_ns()
        try:
            outcome = await self._log.propose(
                RenewLease(
                    manager=ManagerName(self._manager),
                    incarnation=self._incarnation,
                    counter=self._counter,
                    installed_index=installed_index,
                ),
                who=self._manager,
                deadline_ms=lease_ms,
            )
        except LogError as error:
            log.warning("lease.not_renewed", cause=str(error) or type(error).__name__)
            return
        if isinstance(outcome, Applied):
            self._told_index = installed_index
        match outcome:
            case Applied() if self._life() != life:
                log.info("lease.not_given", cause="another life of the export has begun")
            case Applied(index=index):
                self._granted(since_ns + lease_ms * 1_000_000, index)
            case Rejected(reason=reason):
                log.error("lease.refused", reason=type(reason).__name__)
