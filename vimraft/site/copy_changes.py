"""What the API's changes of copies and owners do.

May live here: one method per change. The rules are apply's; a hand-over is the work of the owner's export.
"""

import asyncio
from urllib.parse import quote

import msgspec

from vimraft.api.errors import LevelTooLow, Refused
from vimraft.api.errors_copies import AnswersStill, MoveUndecided, NotMoved, OneCopyOnly
from vimraft.api.schema import DoneReply, VolumeReply
from vimraft.api.schema_copies import (
    AddCopyRequest,
    ForceLostRequest,
    MoveOwnerRequest,
    PauseCopyRequest,
    ReadPolicyRequest,
)
from vimraft.core import levels
from vimraft.core.commands import (
    AddCopy,
    Applied,
    Command,
    ForceLost,
    PauseCopy,
    RemoveCopy,
    SetHandingOver,
    SetReadPolicy,
)
from vimraft.core.copies import is_copied
from vimraft.core.ids import LocalName, ManagerName, SiteName, VolumeName
from vimraft.core.reasons import NotFound
from vimraft.core.tables import State, Volume
from vimraft.site.context import SiteContext
from vimraft.site.copies_part import CopiesPart
from vimraft.site.hand_over import can_own, wait_served
from vimraft.site.health import Health
from vimraft.site.other_managers import ask
from vimraft.site.render import reply_of

MOVE_WAIT_S = 20.0
"""Less than another manager waits for this one."""
APPLY_WAIT_S = 5.0
MAX_KNOWN = 20


class CopyOperations:
    """The part of vimraft.api.service.Service about copies."""

    site: SiteContext
    health: Health
    copies_part: CopiesPart

    async def _commit(self, command: Command, who: str, request_id: str | None) -> Applied:
        raise NotImplementedError

    async def _volume_done(self, applied: Applied, name: str, before: Volume | None) -> VolumeReply:
        raise NotImplementedError

    async def _changed(self, command: Command, name: str, who: str, request_id: str | None) -> VolumeReply:
        return await self._volume_done(await self._commit(command, who, request_id), name, None)

    async def add_copy(
        self, name: str, request: AddCopyRequest, *, who: str, request_id: str | None
    ) -> VolumeReply:
        command = AddCopy(
            name=VolumeName(name),
            sites=tuple(SiteName(site) for site in request.sites),
            volume_class=request.volume_class,
            same_site=request.same_site,
        )
        return await self._changed(command, name, who, request_id)

    async def remove_copy(self, name: str, copy: str, *, who: str, request_id: str | None) -> VolumeReply:
        command = RemoveCopy(name=VolumeName(name), replica=LocalName(copy))
        return await self._changed(command, name, who, request_id)

    async def pause_copy(
        self, name: str, copy: str, request: PauseCopyRequest, *, who: str, request_id: str | None
    ) -> VolumeReply:
        command = PauseCopy(name=VolumeName(name), replica=LocalName(copy), paused=request.paused)
        return await self._changed(command, name, who, request_id)

    async def set_read_policy(
        self, name: str, request: ReadPolicyRequest, *, who: str, request_id: str | None
    ) -> VolumeReply:
        if self.site.state.level < levels.COPIES:
            raise LevelTooLow("a read policy", self.site.state.level, levels.COPIES)
        command = SetReadPolicy(name=VolumeName(name), policy=request.policy)
        return await self._changed(command, name, who, request_id)

    async def move_owner(self, name: str, request: MoveOwnerRequest, *, who: str) -> VolumeReply:
        state = await self.site.fresh_state()
        volume = _volume(state, name)
        new_owner = ManagerName(request.manager)
        if new_owner not in state.managers:
            raise Refused(
                NotFound("manager", request.manager[:80], tuple(sorted(state.managers))[:MAX_KNOWN])
            )
        if volume.owner == new_owner:  # also for who asks again
            return reply_of(state, volume, {}, index=state.index)
        if len(volume.replicas) == 1 and not can_own(state, volume, new_owner):
            raise OneCopyOnly(name, new_owner)
        if volume.owner != self.site.me:
            owner = state.managers[volume.owner]
            data = await ask(self.site, owner, "POST", f"/v1/volumes/{quote(name, safe='')}/owner", request)
            return msgspec.json.decode(data, type=VolumeReply)
        if name in self.site.moving_owner:
            raise NotMoved(name, "another move is under way")
        self.site.moving_owner.add(name)
        try:
            async with asyncio.timeout(MOVE_WAIT_S):
                await self._prepare(volume, who)
                done = await self.copies_part.move_owner(name, new_owner, MOVE_WAIT_S)
        except TimeoutError:
            raise MoveUndecided(name) from None
        finally:
            self.site.moving_owner.discard(name)
        await self.site.record(
            "volume.owner_moved" if done.moved else "volume.owner_not_moved",
            name,
            "info" if done.moved else "warning",
            f"{name}: asked by {who} to hand it to {new_owner}"
            + (f": {done.message}" if done.message else ""),
        )
        if not done.moved:
            raise NotMoved(name, done.message)
        return await self._after_it(name)

    async def _prepare(self, volume: Volume, who: str) -> None:
        if is_copied(volume):
            return
        if self.site.state.level < levels.COPIES:
            raise LevelTooLow("handing a volume over", self.site.state.level, levels.COPIES)
        command = SetHandingOver(volume.name, volume.epoch, volume.owner, True)
        applied = await self._commit(command, who, None)
        epoch = applied.volume.epoch if applied.volume is not None else volume.epoch + 1
        await wait_served(self.site, volume.name, epoch)

    async def _after_it(self, name: str) -> VolumeReply:
        """By current tables, once both processes here go by them."""
        state = await self.site.log.barrier(deadline_ms=int(APPLY_WAIT_S * 1e3))
        volume = _volume(state, name)
        await asyncio.gather(
            *(feeder.wait_installed(state.index, APPLY_WAIT_S) for feeder in self.site.feeders.values())
        )
        return reply_of(state, volume, {}, index=state.index)

    async def force_lost(self, request: ForceLostRequest, *, who: str, request_id: str | None) -> DoneReply:
        state = await self.site.fresh_state()
        manager = ManagerName(request.name)
        site = state.sites.get(SiteName(request.name))
        if manager not in state.managers and site is not None:
            manager = site.manager
        if manager not in state.managers:
            known = tuple(sorted({*state.managers, *state.sites}))[:MAX_KNOWN]
            raise Refused(NotFound("manager", request.name[:80], known))
        if manager == self.site.me or self.health.is_up(manager):
            raise AnswersStill(manager)
        command = ForceLost(manager=manager, accept_loss=request.accept_loss)
        return DoneReply(index=(await self._commit(command, who, request_id)).index)


def _volume(state: State, name: str) -> Volume:
    volume = state.volumes.get(VolumeName(name))
    if volume is None:
        raise Refused(NotFound("virtual volume", name[:80], tuple(sorted(state.volumes))[:MAX_KNOWN]))
    return volume
