"""Who owns a volume, and managers that went away, came back in another boot, or are lost."""

import pytest

from tests.copies_cases import copies, level_three, two_copies
from tests.core_cases import build
from vimraft.core.commands import (
    AddCopy,
    ForceLost,
    LeaseStamp,
    MoveOwner,
    Rejoin,
    RemoveManager,
    RenewLease,
    ReopenVolumes,
    SetHandingOver,
    TakeOver,
    TrashVolume,
)
from vimraft.core.copies import is_copied
from vimraft.core.reasons import Conflict, Invalid, LastCopy, NotFound, Renewed, SoleHolder, Unsupported

SEEN = LeaseStamp("life", 1)


def test_a_takeover_moves_owner_and_epoch_together():
    tables = two_copies()
    epoch = tables.volume().epoch
    tables.applied(TakeOver(*tables.at(), SEEN, "m-osaka"))
    assert (tables.volume().owner, tables.volume().epoch) == ("m-osaka", epoch + 1)
    assert tables.states() == "A in_sync, B in_sync"
    assert tables.state.history[-1].what == "taken-over"


def test_of_two_takeovers_one_is_refused():
    tables = two_copies()
    at = tables.at()
    tables.applied(TakeOver(*at, SEEN, "m-osaka"))
    assert tables.refused(TakeOver(*at, SEEN, "m-nagoya")) == Conflict("v", at[1] + 1, "m-osaka")


@pytest.mark.parametrize("stamp", [LeaseStamp("life", 0), LeaseStamp("life", 2), LeaseStamp("x", 1), None])
def test_an_owner_that_renewed_its_lease_is_alive(stamp):
    tables = two_copies()
    assert tables.refused(TakeOver(*tables.at(), stamp, "m-osaka")) == Renewed("m-tokyo", "life", 1)


def test_a_renewal_between_the_look_and_the_takeover_refuses_it():
    tables = two_copies()
    tables.applied(RenewLease("m-tokyo", "life", 2, 0))
    assert tables.refused(TakeOver(*tables.at(), SEEN, "m-osaka")) == Renewed("m-tokyo", "life", 2)


def test_a_volume_wholly_at_its_owners_sites_is_taken_over_by_nobody():
    tables = two_copies()
    tables.retire("B")
    assert tables.refused(TakeOver(*tables.at(), SEEN, "m-osaka")) == SoleHolder("v", "m-tokyo")
    tables.resync("B")
    assert tables.refused(TakeOver(*tables.at(), SEEN, "m-osaka")) == SoleHolder("v", "m-tokyo")
    tables.promote("B")
    tables.applied(TakeOver(*tables.at(), SEEN, "m-osaka"))


def test_a_copy_that_spans_another_site_ends_the_sole_holding():
    tables = level_three()
    tables.applied(build("v", 250))
    tables.applied(TakeOver(*tables.at(), SEEN, "m-osaka"))


def test_a_new_owner_is_another_manager_that_exists():
    tables = two_copies()
    for command in (
        TakeOver(*tables.at(), SEEN, "m-tokyo"),
        MoveOwner(*tables.at(), "m-tokyo"),
    ):
        assert isinstance(tables.refused(command), Invalid)
    for command in (TakeOver(*tables.at(), SEEN, "nobody"), MoveOwner(*tables.at(), "nobody")):
        assert isinstance(tables.refused(command), NotFound)


def test_the_owner_hands_over_even_what_it_alone_holds():
    tables = two_copies()
    tables.retire("B")
    epoch = tables.volume().epoch
    tables.applied(MoveOwner(*tables.at(), "m-osaka"))
    assert (tables.volume().owner, tables.volume().epoch) == ("m-osaka", epoch + 1)


def test_a_volume_of_one_copy_is_handed_over_once_the_machines_serve_it() -> None:
    tables = level_three()
    tables.applied(build("v", 250))
    assert isinstance(tables.refused(MoveOwner(*tables.at(), "m-osaka")), Unsupported)
    epoch = tables.volume().epoch
    tables.applied(SetHandingOver(*tables.at(), True))
    tables.applied(SetHandingOver(*tables.at(), True))
    assert (tables.volume().epoch, is_copied(tables.volume())) == (epoch + 1, True)
    stale = tables.at()
    tables.applied(MoveOwner(*tables.at(), "m-osaka"))
    assert isinstance(tables.refused(SetHandingOver(*stale, False)), Conflict)
    tables.applied(SetHandingOver(*tables.at(), False))
    volume = tables.volume()
    assert (volume.owner, volume.epoch, is_copied(volume)) == ("m-osaka", epoch + 3, False)


def test_a_restart_of_an_owner_is_a_new_epoch_and_no_more():
    tables = two_copies()
    epoch = tables.volume().epoch
    tables.applied(ReopenVolumes("m-tokyo", "life"))
    assert tables.volume().epoch == epoch + 1
    assert tables.states() == "A in_sync, B in_sync"


# Boots


def test_the_first_boot_of_a_manager_is_taken_note_of():
    tables = level_three(boots=False)
    tables.applied(copies("v", 10, 2))
    before = tables.volume()
    tables.applied(Rejoin("m-tokyo", "one"))
    assert tables.state.boots["m-tokyo"] == "one"
    assert tables.volume() == before


def test_the_same_boot_again_changes_nothing():
    tables = two_copies()
    before = tables.state
    tables.applied(Rejoin("m-osaka", "one"))
    assert tables.state.volumes is before.volumes
    assert tables.state.history == before.history


def test_a_copy_whose_stores_rebooted_leaves_the_set():
    tables = two_copies()
    epoch = tables.volume().epoch
    tables.applied(Rejoin("m-osaka", "two", (("v", "r1"),)))
    assert tables.states() == "A in_sync, B stale"
    assert (tables.copy("B").left_epoch, tables.copy("B").record) == (epoch, "r1")
    assert (tables.volume().epoch, tables.volume().lossy_epoch) == (epoch + 1, 0)


def test_without_a_record_the_copy_needs_everything():
    tables = two_copies()
    tables.applied(Rejoin("m-osaka", "two"))
    assert tables.copy("B").record == ""


def test_the_last_copy_stays_and_says_that_it_may_have_lost_something():
    tables = two_copies()
    tables.retire("B")
    epoch = tables.volume().epoch
    tables.applied(Rejoin("m-tokyo", "two"))
    assert tables.states() == "A in_sync, B stale"
    assert (tables.volume().epoch, tables.volume().lossy_epoch) == (epoch + 1, epoch + 1)


def test_of_copies_that_all_rebooted_one_stays():
    tables = level_three()
    tables.applied(copies("v", 10, 2, "tokyo", same_site=True))
    tables.applied(Rejoin("m-tokyo", "two", (("v", "r1"),)))
    assert tables.states() == "A in_sync, B stale"
    assert tables.volume().lossy_epoch == tables.volume().epoch


def test_power_lost_everywhere_is_noticed_whoever_comes_back_first():
    tables = two_copies()
    tables.applied(Rejoin("m-osaka", "two"))
    tables.applied(Rejoin("m-tokyo", "two"))
    assert tables.states() == "A in_sync, B stale"
    assert tables.volume().lossy_epoch == tables.volume().epoch


def test_a_resync_to_stores_that_rebooted_begins_again():
    tables = two_copies()
    tables.retire("B", record="r1")
    left_epoch = tables.copy("B").left_epoch
    tables.resync("B", record="r1")
    epoch = tables.volume().epoch
    tables.applied(Rejoin("m-osaka", "two"))
    assert tables.states() == "A in_sync, B stale"
    assert (tables.copy("B").left_epoch, tables.copy("B").record) == (left_epoch, "r1")
    assert tables.volume().epoch == epoch + 1


def test_volumes_elsewhere_do_not_notice_a_reboot():
    tables = two_copies()
    before = tables.volume()
    tables.applied(Rejoin("m-nagoya", "two"))
    assert tables.volume() is before


def test_a_volume_in_the_trash_notices_a_reboot():
    tables = two_copies()
    trash_id = tables.applied(TrashVolume("v")).index
    epoch = tables.state.trash[trash_id].epoch
    tables.applied(Rejoin("m-osaka", "two"))
    assert [r.state for r in tables.state.trash[trash_id].replicas] == ["in_sync", "stale"]
    assert tables.state.trash[trash_id].epoch == epoch


def test_boots_are_text_of_managers_that_exist():
    tables = two_copies()
    assert isinstance(tables.refused(Rejoin("nobody", "two")), NotFound)
    assert isinstance(tables.refused(Rejoin("m-tokyo", "")), Invalid)
    assert isinstance(tables.refused(Rejoin("m-tokyo", "two", (("v", "x" * 99),))), Invalid)


# Lost for good


def test_copies_of_a_lost_manager_stay_in_quarantine():
    tables = two_copies()
    tables.applied(ForceLost("m-osaka"))
    assert tables.states() == "A in_sync, B failed"
    tables.applied(Rejoin("m-osaka", "two"))
    assert tables.states() == "A in_sync, B failed"


def test_after_the_loss_of_an_owner_another_takes_over():
    tables = two_copies()
    tables.applied(ForceLost("m-tokyo"))
    assert tables.states() == "A failed, B in_sync"
    tables.applied(TakeOver(*tables.at(), SEEN, "m-osaka"))


def test_the_loss_of_the_last_copy_has_to_be_accepted():
    tables = two_copies()
    tables.retire("B")
    assert tables.refused(ForceLost("m-tokyo")) == LastCopy(("v",))
    tables.applied(ForceLost("m-tokyo", accept_loss=True))
    assert tables.states() == "A failed, B in_sync"
    assert tables.volume().lossy_epoch == tables.volume().epoch
    tables.applied(TakeOver(*tables.at(), SEEN, "m-osaka"))


def test_of_several_others_the_one_that_left_last_stands_in():
    tables = level_three()
    tables.applied(copies("v", 10, 3))
    tables.retire("B")
    tables.retire("C")
    tables.applied(ForceLost("m-tokyo", accept_loss=True))
    assert tables.states() == "A failed, B stale, C in_sync"


def test_a_copy_that_never_was_in_sync_does_not_stand_in():
    tables = level_three()
    tables.applied(build("v", 10))
    tables.applied(AddCopy("v"))
    before = tables.volume()
    assert tables.refused(ForceLost("m-tokyo")) == LastCopy(("v",))
    tables.applied(ForceLost("m-tokyo", accept_loss=True))
    assert tables.volume() is before


def test_the_boot_of_a_manager_goes_with_it():
    tables = level_three()
    tables.state = tables.state._replace(sites=tables.state.sites.delete("nagoya"))
    reals = {id_: row for id_, row in tables.state.reals.items() if row.site != "nagoya"}
    tables.state = tables.state._replace(
        reals=type(tables.state.reals)(reals), storages=tables.state.storages.delete("023a00")
    )
    site = tables.state.sites["tokyo"]
    tables.state = tables.state._replace(
        sites=tables.state.sites.set("tokyo", type(site)(site.name, site.manager, ("osaka",)))
    )
    tables.applied(RemoveManager("m-nagoya"))
    assert "m-nagoya" not in tables.state.boots
