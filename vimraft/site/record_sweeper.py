"""Takes away the write-intent records of volumes that are no more.

May live here: when that is safe. A record whose copies nobody has is never needed again: local names are not
given twice. So it goes when

- tables that a quorum has just confirmed name none of its copies, in no volume and not in the trash (tables
  that this manager took from its own disk might be older than what its stores have served);
- both processes here serve these tables, so that no store of the volume will be opened any more;
- nobody holds it (a process that still drains does).

Each record goes by itself and in one step, so that a death in between leaves records, never half of one;
those of earlier lives go at the first look after a start.
"""

import asyncio
from pathlib import Path

import structlog

from vimraft.core.tables import State
from vimraft.data.copies.record_file import RecordError, remove_records
from vimraft.metadata.port import LogError
from vimraft.site.context import PROPOSE_MS, SiteContext
from vimraft.site.worker import WokenWorker

log = structlog.get_logger(__name__)

RETRY_S = 5.0
EVERY_S = 600.0
"""What a process held at the last look goes at a later one."""


def copies_in(state: State) -> frozenset[str]:
    """Local names of all copies, those in the trash as well."""
    volumes = (*state.volumes.values(), *state.trash.values())
    return frozenset(replica.local_name for volume in volumes for replica in volume.replicas)


class RecordSweeper(WokenWorker):
    def __init__(self, site: SiteContext, directory: Path) -> None:
        super().__init__()
        self._site = site
        self._directory = directory

    def tables_changed(self, previous: State, current: State) -> None:
        same = previous.volumes is current.volumes and previous.trash is current.trash
        if not same and copies_in(previous) - copies_in(current):
            self._wake.set()

    async def _run(self) -> None:
        while True:
            swept = await self._sweep()
            await self._sleep(EVERY_S if swept else RETRY_S)

    async def _sweep(self) -> bool:
        """Whether it could look."""
        try:
            state = await self._site.log.barrier(deadline_ms=PROPOSE_MS)
        except LogError:
            return False
        if not state.cluster_id or not await self._installed(state):
            return False
        try:
            removed = await asyncio.to_thread(remove_records, self._directory, copies_in(state))
        except (OSError, RecordError) as error:
            log.info("records.not_swept", cause=str(error))
            return False
        if removed:
            log.info("records.removed", number=removed)
        return True

    async def _installed(self, state: State) -> bool:
        answers = await asyncio.gather(
            *(feeder.wait_installed(state.index, RETRY_S) for feeder in self._site.feeders.values())
        )
        return all(answers)
