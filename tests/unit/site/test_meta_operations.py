"""Levels and looking back, as a manager answers: who counts as able to read, which tables are shown."""

from types import SimpleNamespace

import pytest

from tests.backup_cases import busy_tables
from tests.core_cases import three_sites
from vimraft.api.errors import IndexOutOfReach, Refused
from vimraft.api.schema import AsOf, Heartbeat, Pids
from vimraft.api.schema_meta import UpgradeRequest
from vimraft.core import levels
from vimraft.core.apply import apply_request
from vimraft.core.commands import Applied, Command, Rejected, Request
from vimraft.core.ids import ClientId
from vimraft.core.reasons import CannotRead, NotFound
from vimraft.core.tables import State
from vimraft.metadata.backup import decode_backup
from vimraft.metadata.port import LogStatus, Unavailable
from vimraft.site.backups import BackupDirectory
from vimraft.site.config import BackupConfig
from vimraft.site.meta import MetaOperations
from vimraft.site.reads import ReadOperations


class FakeLog:
    def __init__(self, state: State, *, quorum: bool = True) -> None:
        self.state, self.quorum = state, quorum

    def status(self) -> LogStatus:
        return LogStatus("127.0.0.1:1001", None, False, self.quorum, 1, 1, 1, 1, cluster="c", generation=3)

    async def barrier(self, *, deadline_ms: int) -> State:
        if not self.quorum:
            raise Unavailable("no leader")
        return self.state


class FakeHealth:
    def __init__(self, **reads: int) -> None:
        self.reads = reads

    def latest(self, name: str):
        if name not in self.reads:
            return None
        beat = Heartbeat(name, "life", 1, Pids(1, 2, 3), "", 0, release="0.1.0", level=self.reads[name])
        return beat, 0.5

    def is_up(self, name: str) -> bool:
        return name in self.reads


class Manager(MetaOperations, ReadOperations):
    def __init__(self, tmp_path, state: State, *, quorum: bool = True, **reads: int) -> None:
        log = FakeLog(state, quorum=quorum)
        self.site = SimpleNamespace(  # type: ignore[assignment]
            log=log,
            me="m-tokyo",
            state=state,
            fresh_state=self._fresh,
            as_of=lambda: AsOf(index=state.index, age_seconds=0.0, quorum=quorum),
        )
        self.health = FakeHealth(**{name.replace("_", "-"): level for name, level in reads.items()})  # type: ignore[assignment]
        self.daily_backups = SimpleNamespace(  # type: ignore[assignment]
            directory=BackupDirectory(tmp_path, BackupConfig()), problem=""
        )
        self.state = state

    async def _fresh(self) -> State:
        return self.state

    async def _commit(self, command: Command, who: str, request_id: str | None) -> Applied:
        self.state, outcome = apply_request(self.state, Request(ClientId("c"), 9_999, 0, who, command))
        if isinstance(outcome, Rejected):
            raise Refused(outcome.reason)
        return outcome


async def test_a_cluster_of_level_one_rises_when_all_are_heard_and_able(tmp_path):
    manager = Manager(tmp_path, three_sites().state, m_osaka=levels.LATEST, m_nagoya=levels.LATEST)
    planned = await manager.upgrade(UpgradeRequest(plan=True), who="me", request_id=None)
    assert (planned.before, planned.level, planned.planned) == (1, levels.LATEST, True)
    assert manager.state.level == 1
    await manager.upgrade(UpgradeRequest(), who="me", request_id=None)
    assert manager.state.level == levels.LATEST


@pytest.mark.parametrize("plan", [True, False])
async def test_one_that_is_silent_or_of_an_older_release_holds_the_level(tmp_path, plan):
    manager = Manager(tmp_path, three_sites().state, m_osaka=1)
    with pytest.raises(Refused) as refused:
        await manager.upgrade(UpgradeRequest(plan=plan), who="me", request_id=None)
    assert refused.value.reason == CannotRead(levels.LATEST, ("m-nagoya", "m-osaka"))
    status = await manager.meta_status()
    assert {row.name: row.reads for row in status.managers} == {
        "m-nagoya": None,
        "m-osaka": 1,
        "m-tokyo": levels.LATEST,
    }


async def test_a_backup_says_whether_a_quorum_confirmed_it(tmp_path):
    state = busy_tables().state
    for quorum in (True, False):
        manager = Manager(tmp_path, state, quorum=quorum)
        header, tables = decode_backup(await manager.backup(who="root@here"), "b")
        assert tables == state
        assert (header.quorum, header.generation, header.who) == (quorum, 3, "root@here")


async def test_tables_and_maps_of_an_earlier_index(tmp_path):
    state = busy_tables().state
    deleted = next(change for change in state.history if change.what == "deleted")
    manager = Manager(tmp_path, state)
    old = await manager.volume_map("old", at=deleted.index - 1)
    assert old.table.as_of.index == deleted.index - 1
    assert old.replicas[0].segments
    with pytest.raises(Refused) as refused:
        await manager.volume_map("old", at=deleted.index)
    assert isinstance(refused.value.reason, NotFound)
    rows = (
        await manager.table("virtual-identifying", name=None, offset=0, limit=9, at=deleted.index - 1)
    ).rows
    assert [row[0] for row in rows] == ["db-main", "old"]
    history = await manager.history(limit=100)
    assert all(change.before is None for change in history.changes)
    for index in (history.oldest_index - 1, state.index + 1):
        with pytest.raises(IndexOutOfReach):
            await manager.volume_map("db-main", at=index)
