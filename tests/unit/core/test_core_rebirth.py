"""A new generation: nothing of the lost time is taken for something of the new one."""

from tests.backup_cases import busy_tables
from tests.core_cases import Tables, build, three_sites
from vimraft.core import levels
from vimraft.core.commands import ConfirmRelease, DeleteVolume, RemoveManager, RemoveRealVolume, RemoveStorage
from vimraft.core.ids import RealId
from vimraft.core.invariants import check
from vimraft.core.reasons import InUse, NoSpace
from vimraft.core.rebirth import GENERATION_STEP, reborn
from vimraft.core.tables import State


def again(state: State) -> Tables:
    after = reborn(state, at_ms=5, who="root", what="recovered")
    assert check(after) == []
    tables = Tables(after)
    tables.sequence = 1_000  # its client has been here before
    return tables


def test_index_and_epochs_are_above_all_of_the_lost_time():
    before = busy_tables().state
    after = again(before).state
    assert after.index == GENERATION_STEP
    assert {v.epoch for v in after.volumes.values()} == {after.index}
    assert again(after).state.index == 2 * GENERATION_STEP
    assert after.history[-1].what == "recovered"
    assert not after.leases


def test_two_that_go_on_from_the_same_tables_share_no_epoch():
    state = busy_tables().state
    one, two = (reborn(state, at_ms=5, who="root", what="recovered", offset=offset) for offset in (7, 10**9))
    assert one.index == GENERATION_STEP + 7
    assert {v.epoch for v in one.volumes.values()}.isdisjoint(v.epoch for v in two.volumes.values())
    following = reborn(two, at_ms=6, who="root", what="recovered", offset=1)
    assert following.index == 2 * GENERATION_STEP + 1


def test_volumes_keep_their_place():
    before = busy_tables().state
    after = again(before).state
    assert {n: v.replicas for n, v in after.volumes.items()} == {
        n: v.replicas for n, v in before.volumes.items()
    }


def test_free_space_is_given_out_only_after_its_manager_has_zeroed_it():
    before = busy_tables().state
    tables = again(before)
    assert isinstance(tables.refused(build("new", 1)), NoSpace)
    mine = [r for r in tables.state.releases.values() if not r.volume and r.waiting == ("m-osaka",)]
    tables.applied(ConfirmRelease("m-osaka", mine[0].release_id))
    assert tables.state.reals[RealId("022a00", 0)].free == before.reals[RealId("022a00", 0)].free
    assert tables.state.history[-1].name == "022a00:0"
    assert tables.applied(build("new", 1)).volume.replicas[0].segments[0].storage == "022a00"


def test_a_real_volume_whose_manager_never_returns_can_go_and_then_the_manager():
    tables = again(three_sites().state)
    assert tables.state.level == levels.LATEST
    assert isinstance(tables.refused(RemoveManager("m-nagoya")), InUse)
    tables.applied(RemoveRealVolume("023a00", 0))
    tables.applied(RemoveStorage("023a00"))
    assert not any("m-nagoya" in r.waiting for r in tables.state.releases.values())


def test_a_real_volume_with_data_stays_although_its_free_space_is_unclean():
    before = busy_tables()
    tables = again(before.state)
    assert isinstance(tables.refused(RemoveRealVolume("021a00", 0)), InUse)
    tables.applied(DeleteVolume("db-main"))
    assert isinstance(tables.refused(RemoveRealVolume("021a00", 0)), InUse)
