"""Backups that a manager takes by itself: when, how many, and what a full disk does."""

import os

import pytest

from tests.backup_cases import AT_MS, busy_tables, header_of
from vimraft.core.levels import LATEST
from vimraft.core.tables import State
from vimraft.metadata.backup import decode_backup
from vimraft.metadata.pysyncobj import offline
from vimraft.site import upgrade
from vimraft.site.backups import BackupDirectory, DailyBackups, read_last_run, remember_run
from vimraft.site.config import BackupConfig, Config, NetworkConfig, SiteConfig

DAY_MS = 24 * 3_600_000


@pytest.fixture(scope="module")
def state() -> State:
    return busy_tables().state


def directory(tmp_path, **given) -> BackupDirectory:
    return BackupDirectory(tmp_path, BackupConfig(**given))


def test_the_newest_of_each_kind_are_kept(tmp_path, state):
    kept = directory(tmp_path, keep_daily=3, keep_before_upgrade=2)
    for day in range(5):
        kept.take(header_of(state, kind="daily", at_ms=AT_MS + day * DAY_MS), state)
        kept.take(header_of(state, kind="before-upgrade", at_ms=AT_MS + day * DAY_MS), state)
    kinds = [(info.kind, (info.at_ms - AT_MS) // DAY_MS) for info in kept.infos()]
    assert [day for kind, day in kinds if kind == "daily"] == [4, 3, 2]
    assert [day for kind, day in kinds if kind == "before-upgrade"] == [4, 3]


def test_files_of_others_stay_and_rests_go(tmp_path, state):
    kept = directory(tmp_path)
    kept.path.mkdir()
    (kept.path / "notes.txt").write_text("mine")
    (kept.path / "old.vimraft-backup.new").write_text("torn")
    path = kept.take(header_of(state, kind="daily"), state)
    assert sorted(os.listdir(kept.path)) == sorted([path.name, "notes.txt"])
    assert decode_backup(path.read_bytes(), "b").state == state
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("hours", "due"), [(0, False), (23, False), (24, True), (100, True), (-5, True)], ids=str
)
def test_one_is_due_a_day_after_the_newest_or_when_the_clock_went_back(tmp_path, state, hours, due):
    kept = directory(tmp_path)
    assert kept.daily_due(AT_MS / 1000)
    kept.take(header_of(state, kind="daily"), state)
    assert kept.daily_due(AT_MS / 1000 + hours * 3600) == due


class Manager:
    """What DailyBackups needs of one."""

    def __init__(self, tmp_path, state: State) -> None:
        self.ready = True
        self.events: list[tuple[str, str]] = []
        self.now_s = AT_MS / 1000
        self.directory = directory(tmp_path)
        self.daily = DailyBackups(
            self.directory,
            ready=lambda: self.ready,
            header=lambda kind: (header_of(state, kind=kind, at_ms=int(self.now_s * 1000)), state),
            record=lambda name, severity, message: self.events.append((name, severity)),
            clock=lambda: self.now_s,
        )


async def test_nothing_is_taken_before_there_are_tables(tmp_path, state):
    manager = Manager(tmp_path, state)
    manager.ready = False
    await manager.daily.look()
    assert not manager.events
    assert not manager.directory.path.exists()


async def test_one_at_start_and_one_a_day(tmp_path, state):
    manager = Manager(tmp_path, state)
    for hours in (0, 1, 23, 24, 25, 49):
        manager.now_s = AT_MS / 1000 + hours * 3600
        await manager.daily.look()
    assert len(manager.directory.infos()) == 3
    assert manager.events == [("backup.taken", "info")] * 3


async def test_a_failure_is_one_event_and_a_problem_until_it_works_again(tmp_path, state):
    manager = Manager(tmp_path, state)
    manager.directory.path.write_text("a file where the directory should be")
    await manager.daily.look()
    await manager.daily.look()
    assert manager.events == [("backup.failed", "error")]
    assert str(manager.directory.path) in manager.daily.problem
    manager.directory.path.unlink()
    await manager.daily.look()
    assert manager.daily.problem == ""
    assert manager.events[-1] == ("backup.taken", "info")


# Before another release


def config(tmp_path) -> Config:
    return Config(
        manager="m-tokyo",
        data_dir=tmp_path,
        network=NetworkConfig(
            raft="127.0.0.1:1001",
            api="127.0.0.1:1",
            nbd="127.0.0.1:2",
            peer="127.0.0.1:3",
            allow_plaintext=True,
        ),
        sites=(SiteConfig(name="tokyo"),),
    )


def with_log(tmp_path, state: State) -> Config:
    offline.write_generation(
        tmp_path / "raft", state, self_address="127.0.0.1:1001", cluster="c", generation=1, after=None
    )
    return config(tmp_path)


def test_a_log_that_another_release_left_is_backed_up_once(tmp_path, state):
    found = with_log(tmp_path, state)
    assert upgrade.backup_before_upgrade(found) == ""
    infos = BackupDirectory(tmp_path, found.backup).infos()
    assert [(info.kind, info.index) for info in infos] == [("before-upgrade", state.index)]
    remember_run(tmp_path, LATEST)
    (tmp_path / "backups" / infos[0].name).unlink()
    assert upgrade.backup_before_upgrade(found) == ""
    assert BackupDirectory(tmp_path, found.backup).infos() == ()


def test_another_release_or_an_unreadable_note_counts_as_another(tmp_path, state):
    found = with_log(tmp_path, state)
    remember_run(tmp_path, LATEST)
    assert read_last_run(tmp_path) is not None
    remember_run(tmp_path, LATEST - 1)
    assert upgrade.backup_before_upgrade(found) == ""
    assert len(BackupDirectory(tmp_path, found.backup).infos()) == 1
    (tmp_path / "last-run.json").write_text("{")
    assert read_last_run(tmp_path) is None


def test_a_new_directory_needs_no_backup(tmp_path):
    assert upgrade.backup_before_upgrade(config(tmp_path)) == ""
    assert not (tmp_path / "backups").exists()


def test_a_backup_that_cannot_be_written_is_said_and_stops_nothing(tmp_path, state):
    found = with_log(tmp_path, state)
    (tmp_path / "backups").write_text("in the way")
    assert "no backup before the upgrade" in upgrade.backup_before_upgrade(found)
