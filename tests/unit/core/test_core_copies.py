"""Copies: built apart, retired, resynced, promoted, added, removed, grown."""

import pytest
from msgspec.structs import replace

from tests.copies_cases import copies, level_three, spread, two_copies
from tests.core_cases import UNIT, build, real, three_sites
from vimraft.core import codec
from vimraft.core.apply import apply, plan
from vimraft.core.commands import (
    AddCopy,
    BeginResync,
    BuildVolume,
    ConfirmRelease,
    DeleteVolume,
    GrowVolume,
    LoseUnflushed,
    PauseCopy,
    Promote,
    Rejected,
    Rejoin,
    RemoveCopy,
    Request,
    Retire,
    TrashVolume,
)
from vimraft.core.copies import MAX_COPIES
from vimraft.core.reasons import (
    Conflict,
    CopyState,
    Invalid,
    LastCopy,
    Malformed,
    NoSpaceForCopy,
    NotFound,
    OtherBoot,
    Unsupported,
)

# Building


def test_copies_lie_at_the_first_sites_that_hold_one_whole():
    tables = level_three()
    volume = tables.applied(copies("v", 10, 3)).volume
    assert [r.local_name for r in volume.replicas] == ["A", "B", "C"]
    assert [tables.sites_of(name) for name in "ABC"] == [["tokyo"], ["osaka"], ["nagoya"]]
    assert volume.owner == "m-tokyo"
    assert tables.state.next_local_number == 3


def test_a_copy_goes_past_a_site_that_cannot_hold_it_whole():
    tables = level_three()
    tables.applied(build("filler", 195, sites=("tokyo",)))
    tables.applied(copies("v", 10, 2))
    assert [tables.sites_of(name) for name in "BC"] == [["osaka"], ["nagoya"]]
    assert tables.volume().owner == "m-osaka"


def test_a_copy_spans_sites_when_no_site_holds_it_whole():
    tables = level_three()
    tables.applied(copies("v", 250, 1))
    assert tables.sites_of("A") == ["osaka", "tokyo"]
    reason = tables.refused(AddCopy("v"))
    assert isinstance(reason, NoSpaceForCopy)
    assert (reason.copy, reason.copies) == (2, 2)
    assert [site.site for site in reason.space.sites] == ["nagoya"]


def test_copies_never_share_a_real_volume_even_where_they_may_share_a_site():
    tables = level_three()
    assert isinstance(tables.refused(copies("v", 10, 2, "tokyo")), NoSpaceForCopy)
    tables.applied(copies("v", 10, 2, "tokyo", same_site=True))
    assert [r.segments[0].lun for r in tables.volume().replicas] == [0, 1]
    assert isinstance(tables.refused(copies("w", 10, 3, "tokyo", same_site=True)), NoSpaceForCopy)


def test_copies_that_may_share_a_site_lie_apart_where_they_can():
    tables = level_three()
    tables.applied(copies("v", 10, 2, "tokyo", "osaka", same_site=True))
    assert [tables.sites_of(name) for name in "AB"] == [["tokyo"], ["osaka"]]


def test_too_few_sites_name_the_copy_that_has_no_place_and_take_nothing():
    tables = level_three()
    before = spread(tables.state)
    reason = tables.refused(copies("v", 10, 3, "tokyo", "osaka"))
    assert isinstance(reason, NoSpaceForCopy)
    assert (reason.copy, reason.copies, reason.space.sites) == (3, 3, ())
    assert spread(tables.state) == before


def test_a_single_copy_is_built_as_at_the_levels_before():
    old, new = three_sites(), level_three()
    for tables in (old, new):
        tables.applied(build("v", 150, sectors=7))
    assert old.state.volumes["v"].replicas[0].segments[0] == new.state.volumes["v"].replicas[0].segments[0]


def test_more_copies_than_the_bound_are_refused():
    assert isinstance(level_three().refused(copies("v", 1, MAX_COPIES + 1)), Invalid)


def test_below_level_three_copies_are_refused_and_their_commands_mean_nothing():
    tables = three_sites()
    tables.applied(build("v", 3))
    assert tables.refused(replace(build("w", 3), copies=2, same_site=True)) == Unsupported(
        "more than one copy"
    )
    for command in (TrashVolume("v"), AddCopy("v"), Rejoin("m-tokyo", "one"), RemoveCopy("v", "A")):
        assert isinstance(tables.refused(command), Malformed)
        outcome = plan(tables.state, command)
        assert isinstance(outcome, Rejected)
        assert isinstance(outcome.reason, Malformed)


def test_what_was_asked_about_sites_is_in_the_bytes_only_when_it_was():
    plain = BuildVolume("v", 8, "ssd", "m-tokyo")
    assert codec.command_digest(plain) != codec.command_digest(replace(plain, same_site=True))
    tables = three_sites()
    tables.applied(replace(plain, same_site=True))
    other = three_sites()
    other.applied(plain)
    assert codec.encode_state(tables.state) == codec.encode_state(other.state)


# Out of sync and back


def test_a_retired_copy_says_since_when_and_under_which_record():
    tables = two_copies()
    epoch = tables.volume().epoch
    tables.retire("B", record="r1")
    assert tables.states() == "A in_sync, B stale"
    assert (tables.copy("B").left_epoch, tables.copy("B").record) == (epoch, "r1")
    assert tables.volume().epoch == epoch + 1
    assert tables.state.history[-1].what == "retired"


def test_what_a_failed_flush_lost_is_in_the_tables_like_what_a_reboot_lost():
    tables = two_copies()
    tables.retire("B")
    before = tables.volume()
    after = tables.applied(LoseUnflushed(*tables.at())).volume
    assert after == replace(before, epoch=before.epoch + 1, lossy_epoch=before.epoch + 1)
    assert tables.volume() == after
    assert tables.state.history[-1].what == "lost-unflushed"


def test_the_last_copy_in_sync_is_never_retired():
    tables = two_copies()
    assert tables.refused(Retire(*tables.at(), ("A", "B"))) == LastCopy(("v",))
    tables.retire("A")
    assert tables.refused(Retire(*tables.at(), ("B",))) == LastCopy(("v",))


@pytest.mark.parametrize(
    ("names", "kind"),
    [((), Invalid), (("A", "A"), Invalid), (("Q",), NotFound)],
    ids=["none", "twice", "other"],
)
def test_what_names_no_copies_is_refused(names, kind):
    tables = two_copies()
    assert isinstance(tables.refused(Retire(*tables.at(), names)), kind)


def test_a_stale_copy_cannot_be_retired_again():
    tables = two_copies()
    tables.retire("B")
    assert tables.refused(Retire(*tables.at(), ("B",))) == CopyState("v", "B", "stale")


def test_commands_for_another_epoch_or_owner_are_refused_with_the_present_ones():
    tables = two_copies()
    name, epoch, owner = tables.at()
    expected = Conflict(name, epoch, owner)
    for at in ((name, epoch - 1, owner), (name, epoch + 1, owner), (name, epoch, "m-osaka")):
        assert tables.refused(Retire(*at, ("B",))) == expected
        assert tables.refused(BeginResync(*at, "B")) == expected
        assert tables.refused(Promote(*at, "B", ())) == expected
        assert tables.refused(LoseUnflushed(*at)) == expected
    assert isinstance(tables.refused(Retire("none", 1, "m-tokyo", ("B",))), NotFound)


def test_a_copy_comes_back_through_a_resync_and_a_promotion():
    tables = two_copies()
    tables.retire("B")
    tables.resync("B")
    assert tables.states() == "A in_sync, B syncing"
    assert tables.copy("B").record == "r1"
    epoch = tables.volume().epoch
    tables.promote("B")
    assert tables.states() == "A in_sync, B in_sync"
    assert (tables.copy("B").left_epoch, tables.copy("B").record) == (0, "")
    assert tables.volume().epoch == epoch + 1


def test_another_record_at_the_source_means_a_full_copy():
    tables = two_copies()
    tables.retire("B", record="r1")
    tables.resync("B", record="r2")
    assert tables.copy("B").record == ""
    tables.retire("B", record="r2")
    assert tables.copy("B").record == ""


def test_a_copy_retired_during_its_resync_lacks_what_it_lacked_before():
    tables = two_copies()
    tables.retire("B", record="r1")
    left_epoch = tables.copy("B").left_epoch
    tables.resync("B", record="r1")
    tables.retire("B", record="r1")
    assert (tables.copy("B").left_epoch, tables.copy("B").record) == (left_epoch, "r1")


def test_only_a_syncing_copy_is_promoted_and_only_a_stale_one_resynced():
    tables = two_copies()
    assert isinstance(tables.refused(Promote(*tables.at(), "B", tables.boots())), CopyState)
    assert isinstance(tables.refused(BeginResync(*tables.at(), "B")), CopyState)
    tables.retire("B")
    assert isinstance(tables.refused(Promote(*tables.at(), "B", tables.boots())), CopyState)


@pytest.mark.parametrize("boots", [(), (("m-osaka", "two"),), (("m-tokyo", "one"),), (("m-osaka", ""),)])
def test_a_promotion_needs_the_present_boot_of_each_of_its_stores(boots):
    tables = two_copies()
    tables.retire("B")
    tables.resync("B")
    assert tables.refused(Promote(*tables.at(), "B", boots)) == OtherBoot("m-osaka", "one")


def test_a_store_whose_boot_nobody_knows_is_in_no_boot():
    tables = level_three(boots=False)
    tables.applied(copies("v", 10, 2))
    tables.retire("B")
    tables.resync("B")
    assert tables.refused(Promote(*tables.at(), "B", (("m-osaka", ""),))) == OtherBoot("m-osaka", "")


def test_a_paused_copy_is_not_resynced_until_it_goes_on():
    tables = two_copies()
    assert isinstance(tables.refused(PauseCopy("v", "B", True)), CopyState)
    tables.retire("B")
    epoch = tables.volume().epoch
    tables.applied(PauseCopy("v", "B", True))
    assert tables.volume().epoch == epoch
    assert tables.refused(BeginResync(*tables.at(), "B")) == CopyState("v", "B", "paused")
    tables.applied(PauseCopy("v", "B", False))
    tables.resync("B")


# More and fewer


def test_a_new_copy_lies_apart_and_needs_a_full_copy():
    tables = two_copies()
    epoch = tables.volume().epoch
    tables.applied(AddCopy("v"))
    copy = tables.copy("C")
    assert tables.sites_of("C") == ["nagoya"]
    assert (copy.state, copy.left_epoch, copy.record) == ("stale", 0, "")
    assert tables.volume().epoch == epoch + 1
    assert isinstance(tables.refused(AddCopy("v")), NoSpaceForCopy)
    tables.applied(AddCopy("v", same_site=True))
    assert len({s.real_id for r in tables.volume().replicas for s in r.segments}) == 4


def test_the_number_of_copies_is_bounded():
    tables = level_three()
    for lun in (2, 3, 4):
        tables.applied(real("021a00", lun))
    tables.applied(copies("v", 1, 3))
    for _ in range(3, MAX_COPIES):
        tables.applied(AddCopy("v", same_site=True))
    assert isinstance(tables.refused(AddCopy("v", same_site=True)), Unsupported)


def test_a_copy_goes_to_sites_and_classes_that_exist():
    tables = two_copies()
    assert isinstance(tables.refused(AddCopy("v", ("atlantis",))), NotFound)
    assert isinstance(tables.refused(AddCopy("v", volume_class="\n")), Invalid)
    assert isinstance(tables.refused(AddCopy("v", volume_class="tape")), NoSpaceForCopy)


def test_the_space_of_a_removed_copy_waits_for_its_holder_and_the_owner():
    tables = two_copies()
    before = spread(tables.state)
    name, epoch, _ = tables.at()
    tables.applied(RemoveCopy("v", "B"))
    (release,) = tables.state.releases.values()
    assert (release.volume, release.epoch, release.waiting) == (name, epoch, ("m-osaka", "m-tokyo"))
    assert tables.states() == "A in_sync"
    assert spread(tables.state) == before
    for manager in release.waiting:
        tables.applied(ConfirmRelease(manager, release.release_id))
    assert spread(tables.state)["022a00:0"] == 100


def test_the_last_copy_in_sync_is_never_removed():
    tables = two_copies()
    tables.retire("B")
    assert tables.refused(RemoveCopy("v", "A")) == LastCopy(("v",))
    tables.applied(RemoveCopy("v", "B"))
    assert tables.refused(RemoveCopy("v", "A")) == LastCopy(("v",))


def test_a_volume_that_moved_to_another_site_and_class_grows_there():
    tables = level_three()
    tables.applied(real("022a00", 2, volume_class="nvme"))
    tables.applied(build("v", 10, sites=("tokyo",)))
    tables.applied(AddCopy("v", ("osaka",), "nvme"))
    assert tables.copy("B").volume_class == "nvme"
    tables.resync("B")
    tables.promote("B")
    tables.applied(RemoveCopy("v", "A"))
    assert tables.volume().sites == ("osaka", "tokyo")
    assert (tables.volume().volume_class, tables.copy("B").volume_class) == ("nvme", "")
    tables.applied(GrowVolume("v", 20 * UNIT))
    assert {s.lun for s in tables.copy("B").segments} == {2}


def test_every_copy_grows_where_it_lies_and_apart_from_the_others():
    tables = two_copies()
    tables.retire("B")
    tables.applied(GrowVolume("v", 150 * UNIT))
    assert tables.volume().size_sectors == 150 * UNIT
    assert [tables.sites_of(name) for name in "AB"] == [["tokyo"], ["osaka"]]
    before = tables.state
    reason = tables.refused(GrowVolume("v", 320 * UNIT))
    assert isinstance(reason, NoSpaceForCopy)
    assert reason.copy == 2
    assert tables.state.reals == before.reals


def test_all_copies_of_a_deleted_volume_go():
    tables = two_copies()
    tables.applied(DeleteVolume("v"))
    (release,) = tables.state.releases.values()
    assert {s.storage for s in release.segments} == {"021a00", "022a00"}


def test_copies_come_back_from_their_bytes():
    tables = two_copies()
    tables.retire("B")
    tables.applied(AddCopy("v"))
    tables.applied(TrashVolume("v"))
    assert codec.decode_state(codec.encode_state(tables.state)) == tables.state
    assert b"".join(codec.encode_state_pieces(tables.state)) == codec.encode_state(tables.state)


def test_a_retry_of_a_retirement_gives_its_outcome_and_does_nothing():
    state = two_copies().state
    volume = state.volumes["v"]
    command = Retire("v", volume.epoch, volume.owner, ("B",), "r1")
    request = codec.encode_request(Request("owner", 1, 0, "m-tokyo", command), state.level)
    once, outcome = apply(state, request)
    twice, again = apply(once, request)
    assert again == outcome
    assert twice == once._replace(index=once.index + 1)
