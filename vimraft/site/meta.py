"""What the API's /v1/meta answers: levels and backups of a running manager.

May live here: these operations and the backup header of this manager. Files and retention are in `backups`;
what a command decides is apply's.
"""

import asyncio
import time

from vimraft import __version__
from vimraft.api.errors import Refused
from vimraft.api.schema_meta import (
    BackupsReply,
    ManagerLevel,
    MetaStatusReply,
    UpgradeReply,
    UpgradeRequest,
)
from vimraft.core import history, levels
from vimraft.core.apply import plan
from vimraft.core.commands import Applied, Command, ReadsLevel, Rejected, SetLevel
from vimraft.core.ids import ManagerName
from vimraft.core.tables import State
from vimraft.metadata.backup import BackupHeader, Kind, encode_backup
from vimraft.metadata.port import LogError
from vimraft.site.backups import DailyBackups
from vimraft.site.context import BARRIER_MS, SiteContext
from vimraft.site.health import Health


def backup_header(
    site: SiteContext, state: State, *, who: str, kind: Kind, quorum: bool, at_ms: int | None = None
) -> BackupHeader:
    raft = site.log.status()
    return BackupHeader(
        cluster_id=state.cluster_id,
        index=state.index,
        level=state.level,
        cluster=raft.cluster,
        generation=raft.generation,
        at_ms=int(time.time() * 1e3) if at_ms is None else at_ms,
        manager=site.me,
        who=who,
        release=__version__,
        kind=kind,
        quorum=quorum,
        members=tuple(sorted({raft.self_address, *(peer.address for peer in raft.peers)})),
    )


class MetaOperations:
    """The part of vimraft.api.service.Service about the tables as a whole. `_commit` comes from
    ChangeOperations."""

    site: SiteContext
    health: Health
    daily_backups: DailyBackups

    async def _commit(self, command: Command, who: str, request_id: str | None) -> Applied:
        raise NotImplementedError

    async def meta_status(self) -> MetaStatusReply:
        state = await self.site.fresh_state()
        raft = self.site.log.status()
        infos = await asyncio.to_thread(self.daily_backups.directory.infos)
        return MetaStatusReply(
            cluster_id=state.cluster_id,
            cluster=raft.cluster,
            generation=raft.generation,
            level=state.level,
            highest_level=levels.LATEST,
            managers=tuple(self._level_of(state, name) for name in sorted(state.managers)),
            answered_by=self.site.me,
            as_of=self.site.as_of(),
            oldest_index=history.oldest_index(state),
            newest_backup=infos[0] if infos else None,
            backup_problem=self.daily_backups.problem,
        )

    def _level_of(self, state: State, name: ManagerName) -> ManagerLevel:
        if name == self.site.me:
            return ManagerLevel(name=name, release=__version__, reads=levels.LATEST, heard=True)
        latest = self.health.latest(name)
        beat = latest[0] if latest is not None else None
        heard = self.health.is_up(name)
        reads: int | None = None
        if state.level >= levels.MANAGERS_SAY_LEVEL:
            reads = state.managers[name].level
        elif beat is not None and heard:
            reads = beat.level
        return ManagerLevel(name=name, release=beat.release if beat else "", reads=reads, heard=heard)

    async def upgrade(self, request: UpgradeRequest, *, who: str, request_id: str | None) -> UpgradeReply:
        """To the highest level that this release reads. Who is not heard now counts as unable."""
        state = await self.site.fresh_state()
        said = [self._level_of(state, name) for name in sorted(state.managers)]
        reported = [ReadsLevel(ManagerName(row.name), row.reads) for row in said if row.reads is not None]
        command = SetLevel(levels.LATEST, tuple(reported))
        if request.plan:
            outcome = plan(state, command)
            if isinstance(outcome, Rejected):
                raise Refused(outcome.reason)
            return UpgradeReply(before=state.level, level=levels.LATEST, planned=True, index=state.index)
        applied = await self._commit(command, who, request_id)
        return UpgradeReply(before=state.level, level=levels.LATEST, planned=False, index=applied.index)

    async def backup(self, *, who: str) -> bytes:
        """Current where there is a quorum; else the tables applied here, which the file says."""
        state, quorum = self.site.state, False
        if self.site.log.status().has_quorum:
            try:
                state, quorum = await self.site.log.barrier(deadline_ms=BARRIER_MS), True
            except LogError:
                state = self.site.state
        header = backup_header(self.site, state, who=who, kind="manual", quorum=quorum)
        return await asyncio.to_thread(encode_backup, header, state)

    async def backups(self) -> BackupsReply:
        directory = self.daily_backups.directory
        return BackupsReply(
            manager=self.site.me,
            directory=str(directory.path),
            backups=await asyncio.to_thread(directory.infos),
            problem=self.daily_backups.problem,
        )
