"""Records of volumes that are no more are taken away, and no others."""

import asyncio
from pathlib import Path

from tests.copies_cases import two_copies
from vimraft.core.commands import PurgeVolume, RestoreVolume, TrashVolume
from vimraft.core.tables import State
from vimraft.data.copies.record_file import open_record
from vimraft.metadata.port import Unavailable
from vimraft.site.record_sweeper import RecordSweeper


class Feeder:
    def __init__(self) -> None:
        self.installs = True

    async def wait_installed(self, _index: int, _timeout_s: float) -> bool:
        return self.installs


class Site:
    """A volume v with copies A and B, whose record is here."""

    def __init__(self, directory: Path) -> None:
        self.tables = two_copies()
        self.names = [replica.local_name for replica in self.tables.volume().replicas]
        self.store = Feeder()
        self.feeders = {"export": Feeder(), "store": self.store}
        self.log = self
        self.quorum = True
        self.record = open_record(directory, "v", self.names)
        self.path = self.record.path
        self.sweeper = RecordSweeper(self, directory)  # type: ignore[arg-type]

    async def barrier(self, *, deadline_ms: int) -> State:
        assert deadline_ms
        if not self.quorum:
            raise Unavailable("no quorum")
        return self.tables.state

    def sweep(self) -> bool:
        return asyncio.run(self.sweeper._sweep())

    def changed(self, command: object) -> bool:
        """Whether the sweeper wakes up for it."""
        before = self.tables.state
        self.tables.applied(command)
        self.sweeper._wake.clear()
        self.sweeper.tables_changed(before, self.tables.state)
        return self.sweeper._wake.is_set()


def test_the_record_of_a_volume_goes_when_the_volume_is_purged_and_not_before(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.record.close()
    assert not site.changed(TrashVolume("v"))
    trash_id = site.tables.state.index
    assert site.sweep()
    assert site.path.exists(), "it may be restored"
    assert not site.changed(RestoreVolume(trash_id, "w"))
    assert site.sweep()
    assert site.path.exists(), "it is called w now"
    assert not site.changed(TrashVolume("w"))
    assert site.changed(PurgeVolume(site.tables.state.index))
    assert site.sweep()
    assert not site.path.exists()


def test_a_record_that_a_store_holds_stays_until_it_is_given_up(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.changed(TrashVolume("v"))
    site.changed(PurgeVolume(site.tables.state.index))
    assert site.sweep()
    assert site.path.exists()
    site.record.close()
    assert site.sweep()
    assert not site.path.exists()


def test_without_confirmed_tables_or_with_a_process_behind_nothing_goes(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.record.close()
    site.changed(TrashVolume("v"))
    site.changed(PurgeVolume(site.tables.state.index))
    site.quorum = False
    assert not site.sweep()
    site.quorum, site.store.installs = True, False
    assert not site.sweep()
    assert site.path.exists()
