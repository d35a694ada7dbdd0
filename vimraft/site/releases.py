"""Gives released space back: drain here, zero what lies here, confirm in the log.

A release waits for every manager that could still write there (owner and holders). This worker confirms
for its own manager, only after both data-plane processes have installed tables without these segments (their
installation drains) and its own ones read as zeros, durably (INV-5). The volume may still exist: it gave up a
copy, or moved segments. Tables that have the release have no volume on its space (INV-6), so the processes
must serve those, or newer ones.
"""

import asyncio

import msgspec
import structlog

from vimraft.core.commands import ConfirmRelease
from vimraft.core.tables import Release, State
from vimraft.data.backends.base import BackendError
from vimraft.metadata.port import LogError
from vimraft.site import devices
from vimraft.site.context import PROPOSE_MS, SiteContext
from vimraft.site.worker import WokenWorker

log = structlog.get_logger(__name__)

RETRY_S = 5.0


class ReleaseWorker(WokenWorker):
    def __init__(self, site: SiteContext) -> None:
        super().__init__()
        self._site = site
        self._cancelled = False

    async def stop(self) -> None:
        self._cancelled = True
        await super().stop()

    def look(self) -> None:
        """Tables or installed maps have changed."""
        self._wake.set()

    async def _run(self) -> None:
        while True:
            waiting = [r for r in self._site.state.releases.values() if self._site.me in r.waiting]
            pending = False
            for release in waiting:
                pending |= not await self._confirm(release)
            await self._sleep(RETRY_S if pending else None)

    async def _confirm(self, release: Release) -> bool:
        state = self._site.state
        if release.release_id not in state.releases:
            return True  # its real volume has left the pool since
        if self._site.installed_index() < state.index and not await self._installed(state):
            return False
        mine = self._own_part(state, release)
        try:
            await asyncio.to_thread(devices.zero_released, state, mine, lambda: self._cancelled)
        except (BackendError, OSError, devices.Interrupted) as error:
            log.warning("release.not_zeroed", volume=release.volume, cause=str(error))
            return False
        try:
            # After the confirmation others are given this space. A power loss must not bring back tables
            # here that still map it to the volume.
            await self._site.log.persist(deadline_ms=PROPOSE_MS)
            await self._site.log.propose(
                ConfirmRelease(manager=self._site.me, release_id=release.release_id),
                who=self._site.me,
                deadline_ms=PROPOSE_MS,
            )
        except LogError as error:
            log.info("release.not_confirmed", volume=release.volume, cause=type(error).__name__)
            return False
        log.info("release.confirmed", volume=release.volume, release=release.release_id)
        return True

    async def _installed(self, state: State) -> bool:
        answers = await asyncio.gather(
            *(feeder.wait_installed(state.index, RETRY_S) for feeder in self._site.feeders.values())
        )
        return all(answers)

    def _own_part(self, state: State, release: Release) -> Release:
        mine = set(self._site.my_sites())
        segments = tuple(s for s in release.segments if state.reals[s.real_id].site in mine)
        return msgspec.structs.replace(release, segments=segments)
