"""The life of this manager's stores, told to the tables: `Rejoin` after a reboot, before anything is served.

May live here: when to propose it, and until when the lease waits. Keeps INV-3 and INV-4: what was
acknowledged may have been in the page cache of another boot only, so its copies leave the in-sync set before
this manager can own (or go on owning) anything; its stores wait for the same in the maps
(`CopiesMap.boots`).
"""

import asyncio
import uuid

import structlog

from vimraft.core.change import holders, volume_segments
from vimraft.core.commands import Rejected, Rejoin
from vimraft.core.copies import is_copied
from vimraft.core.ids import ManagerName, VolumeName
from vimraft.core.levels import COPIES
from vimraft.core.tables import State
from vimraft.data.feed import Boot
from vimraft.metadata.port import Log, LogError
from vimraft.site.worker import WokenWorker

log = structlog.get_logger(__name__)

PROPOSE_MS = 5_000
RETRY_S = 0.5


class Rejoiner(WokenWorker):
    def __init__(self, replicated_log: Log, me: ManagerName) -> None:
        super().__init__()
        self._log = replicated_log
        self._me = me
        self._boot: Boot | None = None
        self._looked: tuple[object, object, bool] = (None, None, False)

    def take(self, boot: Boot) -> None:
        """From the store process."""
        self._boot = boot
        self._wake.set()

    def look(self) -> None:
        """The tables have changed."""
        if self._wanted() is not None:
            self._wake.set()

    def ready(self) -> bool:
        """A lease may be granted: no copies lie here, or the tables know the boot of the stores."""
        state = self._log.state
        if not self._keeps_copies(state):
            return True
        return self._boot is not None and state.boots.get(self._me) == self._boot.boot

    def _keeps_copies(self, state: State) -> bool:
        volumes, sites, keeps = self._looked
        if volumes is not state.volumes or sites is not state.sites:
            keeps = any(
                is_copied(volume)
                and (volume.owner == self._me or self._me in holders(state, volume_segments(volume)))
                for volume in state.volumes.values()
            )
            self._looked = (state.volumes, state.sites, keeps)
        return keeps

    def _wanted(self) -> Boot | None:
        state, boot = self._log.state, self._boot
        if boot is None or state.level < COPIES or self._me not in state.managers:
            return None
        return boot if state.boots.get(self._me) != boot.boot else None

    async def _run(self) -> None:
        while True:
            boot = self._wanted()
            if boot is not None and not await self._propose(boot):
                await asyncio.sleep(RETRY_S)
                continue
            await self._sleep(None if boot is None else RETRY_S)

    async def _propose(self, boot: Boot) -> bool:
        records = tuple((VolumeName(volume), record) for volume, record in boot.records)
        command = Rejoin(manager=self._me, boot=boot.boot, records=records)
        try:
            outcome = await self._log.propose(
                command, who=self._me, deadline_ms=PROPOSE_MS, request_id=f"rejoin/{uuid.uuid4().hex}"
            )
        except LogError as error:  # applied twice it changes nothing
            log.info("rejoin.waits", cause=type(error).__name__)
            return False
        if isinstance(outcome, Rejected):
            log.error("rejoin.refused", reason=type(outcome.reason).__name__)
            return False
        log.info("rejoin.applied", boot=boot.boot, index=outcome.index)
        return True
