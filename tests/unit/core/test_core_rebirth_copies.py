"""A new generation of volumes with copies: nobody knows which were in sync at the end of the lost time."""

from tests.copies_cases import CopyTables, copies, level_three, two_copies
from tests.core_cases import Tables, build
from vimraft.core.commands import BeginMove, Rejoin, RestoreVolume, TrashVolume
from vimraft.core.invariants import check
from vimraft.core.rebirth import reborn


def again(tables: CopyTables) -> CopyTables:
    after = reborn(tables.state, at_ms=5, who="root", what="recovered")
    assert check(after) == []
    return CopyTables(after)


def test_one_copy_stays_and_the_others_need_everything():
    tables = two_copies()
    tables.applied(copies("w", 10, 3))
    tables.retire("B", record="r1")
    after = again(tables)
    assert after.states() == "A in_sync, B stale"
    assert after.copy("B").record == ""
    assert after.states("w") == "C in_sync, D stale, E stale"
    assert after.volume("w").lossy_epoch == after.volume("w").epoch == after.state.index


def test_a_volume_of_one_copy_is_as_before():
    tables = level_three()
    tables.applied(build("v", 10))
    before = tables.volume()
    after = again(tables).volume()
    assert (after.replicas, after.lossy_epoch) == (before.replicas, 0)


def test_moves_of_copies_that_leave_end_and_boots_are_forgotten():
    tables = two_copies()
    tables.applied(BeginMove(*tables.at(), "B", "022a00", 0))
    (target,) = tables.copy("B").moving
    after = again(tables)
    assert after.copy("B").moving == ()
    assert any(target in release.segments for release in after.state.releases.values())
    assert not after.state.boots


def test_the_trash_is_restored_above_all_epochs():
    tables = two_copies()
    trash_id = tables.applied(TrashVolume("v")).index
    after = Tables(again(tables).state)  # nobody looks back behind a new generation
    after.sequence = 1_000
    after.applied(Rejoin("m-tokyo", "two"))
    restored = after.applied(RestoreVolume(trash_id)).volume
    assert restored.epoch == after.state.index
    assert [r.state for r in restored.replicas] == ["in_sync", "stale"]
