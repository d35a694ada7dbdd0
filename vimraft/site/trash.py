"""Deleting for the time being: the trash's operations, and purging what has been there long enough.

May live here: the part of the service about the trash, and the keeper that empties it. What a volume in the
trash is, is apply's business. Keeps: nothing is purged early by a clock that is wrong. The age of a row is
told by wall clocks (of the manager that deleted, and of this one), so the keeper acts only while its clock
agrees with those of all managers that it hears, and believes no step forward of its own since it started.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog
from msgspec.structs import replace

from vimraft.api.errors import ClientsAttached, LevelTooLow, Refused
from vimraft.api.schema import VolumeReply
from vimraft.api.schema_moves import ReadOnlyRequest, RestoreRequest, TrashedVolume, TrashReply
from vimraft.core import levels
from vimraft.core.change import reals_of, unit_sectors, units_of, volume_segments
from vimraft.core.commands import (
    Applied,
    Command,
    DeleteVolume,
    PurgeVolume,
    RestoreVolume,
    SetReadOnly,
    TrashVolume,
)
from vimraft.core.ids import ManagerName, RealId, VolumeName
from vimraft.core.reasons import NotFound
from vimraft.core.tables import State, Volume
from vimraft.metadata.port import LogError
from vimraft.site.context import PROPOSE_MS, SiteContext
from vimraft.site.health import Health
from vimraft.site.render import reply_of

log = structlog.get_logger(__name__)

HOUR_MS: Final = 3_600_000
LOOK_S: Final = 30.0
MAX_PURGES: Final = 16
"""At one look."""
MAX_APART_MS: Final = 60_000
"""More than this between two managers' clocks, and nobody knows how old anything is."""
DETACH_WAIT_S: Final = 3.0
"""A client that has just gone is still in the last heartbeats for so long."""
DETACH_STEP_S: Final = 0.2


def held_bytes(state: State, volume: Volume) -> dict[RealId, int]:
    """Space of a volume on real volumes, whole units, of all its copies."""
    per_unit = unit_sectors(state)
    held: dict[RealId, int] = {}
    for segment in volume_segments(volume):
        taken = units_of(segment, per_unit).count * state.settings.unit_bytes
        held[segment.real_id] = held.get(segment.real_id, 0) + taken
    return held


def trash_by_real(state: State) -> dict[RealId, int]:
    """Bytes of each real volume that volumes in the trash hold."""
    total: dict[RealId, int] = {}
    for volume in state.trash.values():
        for real, held in held_bytes(state, volume).items():
            total[real] = total.get(real, 0) + held
    return total


def attached_at(state: State, health: Health, name: str) -> tuple[ManagerName, ...]:
    """Managers that serve clients of this volume now, as far as they have been heard."""
    serving = []
    for manager in sorted(state.managers):
        latest = health.latest(manager)
        if latest is None or not health.is_up(manager):
            continue
        rates = latest[0].volumes.get(name)
        if rates is not None and rates.connections:
            serving.append(manager)
    return tuple(serving)


def trashed(state: State, trash_id: int, volume: Volume) -> TrashedVolume:
    sites = {state.reals[real].site for real in reals_of(volume_segments(volume)) if real in state.reals}
    return TrashedVolume(
        id=trash_id,
        name=volume.name,
        size_bytes=volume.size_bytes,
        volume_class=volume.volume_class,
        copies=len(volume.replicas),
        held_bytes=sum(held_bytes(state, volume).values()),
        sites=tuple(sorted(sites)),
        owner=volume.owner,
        trashed_ms=volume.trashed_ms,
        purged_ms=volume.trashed_ms + state.settings.trash_keep_h * HOUR_MS,
        read_only=volume.read_only,
    )


class TrashOperations:
    """The trash's part of vimraft.api.service.Service."""

    site: SiteContext
    health: Health

    async def _commit(self, command: Command, who: str, request_id: str | None) -> Applied:
        raise NotImplementedError

    async def _volume_done(self, applied: Applied, name: str, before: Volume | None) -> VolumeReply:
        raise NotImplementedError

    def needs_copies(self, what: str) -> None:
        """Raises LevelTooLow."""
        level = self.site.state.level
        if level < levels.COPIES:
            raise LevelTooLow(what, level, levels.COPIES)

    async def none_attached(self, name: str) -> None:
        """Raises ClientsAttached."""
        deadline_s = time.monotonic() + DETACH_WAIT_S
        while managers := attached_at(self.site.state, self.health, name):
            if time.monotonic() > deadline_s:
                raise ClientsAttached(name, managers)
            await asyncio.sleep(DETACH_STEP_S)

    async def delete(
        self, name: str, *, purge: bool, force: bool, who: str, request_id: str | None
    ) -> VolumeReply:
        """Below level 3 there is no trash, and it is as it always was: at once, whoever is attached."""
        state = self.site.state
        before = state.volumes.get(VolumeName(name))
        command: Command = DeleteVolume(name=VolumeName(name))
        if state.level >= levels.COPIES:
            if before is not None and not force:
                await self.none_attached(name)
            if not purge and state.settings.trash_keep_h:
                command = TrashVolume(name=VolumeName(name))
        applied = await self._commit(command, who, request_id)
        reply = await self._volume_done(applied, name, before)
        in_trash = isinstance(command, TrashVolume)
        return replace(reply, trash_id=applied.index) if in_trash else reply

    async def trash(self) -> TrashReply:
        state = await self.site.fresh_state()
        keeps = state.level >= levels.COPIES
        rows = tuple(trashed(state, trash_id, state.trash[trash_id]) for trash_id in sorted(state.trash))
        return TrashReply(
            volumes=rows,
            held_bytes=sum(row.held_bytes for row in rows),
            keep_h=state.settings.trash_keep_h if keeps else 0,
            as_of=self.site.as_of(),
        )

    async def restore(
        self, trash_id: int, request: RestoreRequest, *, who: str, request_id: str | None
    ) -> VolumeReply:
        self.needs_copies("the trash")
        row = self.site.state.trash.get(trash_id)
        command = RestoreVolume(trash_id=trash_id, name=VolumeName(request.name))
        applied = await self._commit(command, who, request_id)
        name = request.name or (row.name if row is not None else "")
        return await self._volume_done(applied, name, None)

    async def purge(self, trash_id: int, *, who: str, request_id: str | None) -> VolumeReply:
        self.needs_copies("the trash")
        row = self.site.state.trash.get(trash_id)
        applied = await self._commit(PurgeVolume(trash_id=trash_id), who, request_id)
        volume = applied.volume or row
        if volume is None:  # purged by an earlier try of this very request
            raise Refused(NotFound("trashed volume", str(trash_id)))
        return reply_of(self.site.state, volume, {}, index=applied.index)

    async def set_read_only(
        self, name: str, request: ReadOnlyRequest, *, who: str, request_id: str | None
    ) -> VolumeReply:
        self.needs_copies("holding a volume read-only")
        command = SetReadOnly(name=VolumeName(name), read_only=request.read_only)
        applied = await self._commit(command, who, request_id)
        return await self._volume_done(applied, name, None)


def purger_of(state: State, health: Health, volume: Volume) -> str | None:
    """Who purges it: its owner; while that is silent, the first of those that are not."""
    if volume.owner in state.managers and health.is_up(volume.owner):
        return volume.owner
    return next((name for name in sorted(state.managers) if health.is_up(name)), None)


class TrashKeeper:
    """`run` goes on for ever."""

    def __init__(
        self,
        site: SiteContext,
        health: Health,
        *,
        wall_ms: Callable[[], int] = lambda: int(time.time() * 1e3),
        monotonic_ms: Callable[[], int] = lambda: int(time.monotonic() * 1e3),
    ) -> None:
        self._site = site
        self._health = health
        self._wall_ms = wall_ms
        self._monotonic_ms = monotonic_ms
        self._offset_ms = wall_ms() - monotonic_ms()

    async def run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    def _now_ms(self) -> int:
        """A clock that was set back is believed; one that leapt forward since the start is not."""
        self._offset_ms = min(self._offset_ms, self._wall_ms() - self._monotonic_ms())
        return self._monotonic_ms() + self._offset_ms

    def _clocks_agree(self, state: State) -> bool:
        wall_ms = self._wall_ms()
        for name in state.managers:
            latest = self._health.latest(name)
            if latest is None or name == self._site.me or not self._health.is_up(name):
                continue
            beat, age_s = latest
            if abs(beat.sent_ms + age_s * 1e3 - wall_ms) > MAX_APART_MS:
                log.warning("trash.clocks_apart", manager=name)
                return False
        return True

    def due(self) -> list[int]:
        """Ids in the trash that this manager is to purge now."""
        state, now_ms = self._site.state, self._now_ms()
        keep_ms = state.settings.trash_keep_h * HOUR_MS
        old = [
            trash_id
            for trash_id in sorted(state.trash)
            if now_ms - state.trash[trash_id].trashed_ms >= keep_ms
            and purger_of(state, self._health, state.trash[trash_id]) == self._site.me
        ]
        return old[:MAX_PURGES] if old and self._clocks_agree(state) else []

    async def look(self) -> None:
        if not self._site.log.status().has_quorum:
            return
        for trash_id in self.due():
            try:
                await self._site.log.propose(
                    PurgeVolume(trash_id=trash_id), who=f"trash@{self._site.me}", deadline_ms=PROPOSE_MS
                )
            except LogError as error:
                log.info("trash.not_purged", trash=trash_id, cause=type(error).__name__)
                return
            log.info("trash.purged", trash=trash_id)
