"""Building, growing, deleting and reopening virtual volumes."""

import pytest

from tests.core_cases import MIB, UNIT, build, manager, real, three_sites
from vimraft.core.apply_volumes import local_name
from vimraft.core.commands import (
    BuildVolume,
    ConfirmRelease,
    DeleteVolume,
    GrowVolume,
    RemoveSite,
    ReopenVolumes,
    SetManager,
    SetRealVolumeState,
    SetSite,
)
from vimraft.core.reasons import Exists, Invalid, NoSpace, NotFound, SiteFree, Unsupported
from vimraft.core.tables import Run, Segment, Site


def segments(tables, name):
    return tables.state.volumes[name].replicas[0].segments


def test_a_volume_is_built_at_the_first_site_and_owned_there():
    tables = three_sites()
    volume = tables.applied(build("v", 3), at_ms=99).volume
    assert volume == tables.state.volumes["v"]
    assert volume.replicas[0].segments == (Segment(0, 3 * UNIT, "021a00", 0, UNIT),)
    assert (volume.owner, volume.sites) == ("m-tokyo", ("tokyo", "osaka", "nagoya"))
    assert (volume.created_ms, volume.created_by) == (99, "m-tokyo")
    assert volume.replicas[0].state == "in_sync"
    assert tables.free("021a00") == (Run(4, 97),)


def test_sizes_are_exact_while_units_are_whole():
    tables = three_sites()
    volume = tables.applied(build("v", 2, sectors=1)).volume
    assert volume.size_sectors == 2 * UNIT + 1
    assert segments(tables, "v")[-1].virtual_end == volume.size_sectors
    assert tables.free("021a00") == (Run(4, 97),)


def test_a_volume_spills_over_in_priority_order():
    tables = three_sites()
    tables.applied(build("v", 250))
    assert [(s.storage, s.sectors // UNIT) for s in segments(tables, "v")] == [
        ("021a00", 100),
        ("022a00", 100),
        ("023a00", 50),
    ]


def test_named_sites_are_used_in_the_order_given_and_no_others():
    tables = three_sites()
    volume = tables.applied(build("v", 150, sites=("nagoya", "osaka"))).volume
    assert [s.storage for s in segments(tables, "v")] == ["023a00", "022a00"]
    assert volume.owner == "m-nagoya"
    reason = tables.refused(build("w", 51, sites=("nagoya", "osaka")))
    assert reason == NoSpace(
        "ssd", 51 * MIB, 50 * MIB, (SiteFree("nagoya", 0), SiteFree("osaka", 50 * MIB)), ("ssd",)
    )


def test_lack_of_space_says_what_would_fit_and_allocates_nothing():
    tables = three_sites()
    reason = tables.refused(build("v", 301))
    assert reason.largest_bytes == 300 * MIB
    assert [site.site for site in reason.sites] == ["tokyo", "osaka", "nagoya"]
    tables.applied(build("v", 300))


def test_an_unknown_class_says_which_there_are():
    tables = three_sites()
    tables.applied(real("022a00", 1, volume_class="nvme"))
    reason = tables.refused(build("v", 1, volume_class="tape"))
    assert (reason.largest_bytes, reason.known_classes) == (0, ("nvme", "ssd"))


def test_a_hole_that_fits_the_whole_volume_is_preferred():
    tables = three_sites()
    for name in ("a", "b", "c", "d"):
        tables.applied(build(name, 25))
    for release, name in enumerate(("b", "d"), start=1):
        tables.applied(DeleteVolume(name))
        tables.applied(ConfirmRelease("m-tokyo", release))
    tables.applied(real("021a00", 1, units=40))
    tables.applied(build("e", 30))
    assert [(s.lun, s.real_first // UNIT) for s in segments(tables, "e")] == [(1, 1)]
    tables.applied(build("f", 55))
    assert [(s.lun, s.real_first // UNIT, s.sectors // UNIT) for s in segments(tables, "f")] == [
        (0, 26, 25),
        (0, 76, 25),
        (1, 31, 5),
    ]


@pytest.mark.parametrize(
    ("command", "field"),
    [
        (BuildVolume("", 8, "ssd", "m-tokyo"), "volume name"),
        (BuildVolume(".forward", 8, "ssd", "m-tokyo"), "volume name"),
        (BuildVolume("a/b", 8, "ssd", "m-tokyo"), "volume name"),
        (BuildVolume("v\n", 8, "ssd", "m-tokyo"), "volume name"),
        (BuildVolume("x" * 100_000, 8, "ssd", "m-tokyo"), "volume name"),
        (BuildVolume("v", 0, "ssd", "m-tokyo"), "size"),
        (BuildVolume("v", -8, "ssd", "m-tokyo"), "size"),
        (BuildVolume("v", 1 << 54, "ssd", "m-tokyo"), "size"),
        (BuildVolume("v", (1 << 64) - 1, "ssd", "m-tokyo"), "size"),
        (BuildVolume("v", 8, "", "m-tokyo"), "class"),
        (BuildVolume("v", 8, "ssd", "m-tokyo", ("osaka", "osaka")), "site"),
        (BuildVolume("v", 8, "ssd", "m-tokyo", copies=0), "copies"),
        (BuildVolume("v", 8, "ssd", "m-tokyo", copies=-1), "copies"),
    ],
)
def test_impossible_conditions_are_refused(command, field):
    reason = three_sites().refused(command)
    assert isinstance(reason, Invalid)
    assert reason.field == field
    assert len(reason.value) < 100


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (BuildVolume("v", 8, "ssd", "m-tokyo", copies=2), Unsupported("more than one copy")),
        (BuildVolume("v", 8, "ssd", "x"), NotFound("manager", "x", ("m-nagoya", "m-osaka", "m-tokyo"))),
        (
            BuildVolume("v", 8, "ssd", "m-tokyo", ("atlantis",)),
            NotFound("site", "atlantis", ("nagoya", "osaka", "tokyo")),
        ),
    ],
)
def test_conditions_that_cannot_be_met_are_named(command, reason):
    assert three_sites().refused(command) == reason


def test_the_largest_legal_size_is_a_matter_of_space_only():
    reason = three_sites().refused(BuildVolume("v", (1 << 54) - 1, "ssd", "m-tokyo"))
    assert isinstance(reason, NoSpace)


def test_a_name_is_taken_once():
    tables = three_sites()
    tables.applied(build("v", 1))
    assert tables.refused(build("v", 1)) == Exists("virtual volume", "v")


def test_a_manager_without_sites_has_nowhere_to_build():
    tables = three_sites()
    tables.applied(SetManager(manager("spare", 9)))
    assert tables.refused(BuildVolume("v", 8, "ssd", "spare")) == NoSpace("ssd", 4096, 0, (), ())


@pytest.mark.parametrize(
    ("number", "name"), [(0, "A"), (25, "Z"), (26, "AA"), (27, "AB"), (701, "ZZ"), (702, "AAA")]
)
def test_local_names_follow_the_alphabet(number, name):
    assert local_name(number) == name


def test_local_names_are_given_once_in_the_cluster():
    tables = three_sites()
    tables.applied(build("v", 1))
    tables.applied(DeleteVolume("v"))
    assert tables.applied(build("v", 1)).volume.replicas[0].local_name == "B"


def test_growing_uses_the_rest_of_the_last_unit_first():
    tables = three_sites()
    first = tables.applied(build("v", 1, sectors=5)).volume
    before = tables.free("021a00")
    volume = tables.applied(GrowVolume("v", 2 * UNIT)).volume
    assert tables.free("021a00") == before
    assert segments(tables, "v") == (Segment(0, 2 * UNIT, "021a00", 0, UNIT),)
    assert volume.epoch == first.epoch + 1


def test_growing_goes_on_right_behind_the_last_segment():
    tables = three_sites()
    tables.applied(build("v", 1, sectors=5))
    tables.applied(GrowVolume("v", 10 * UNIT + 7))
    assert segments(tables, "v") == (Segment(0, 10 * UNIT + 7, "021a00", 0, UNIT),)
    assert tables.free("021a00") == (Run(12, 89),)


def test_growing_takes_new_space_where_the_neighbour_is_taken():
    tables = three_sites()
    tables.applied(build("v", 1, sectors=5))
    tables.applied(build("wall", 1))
    tables.applied(GrowVolume("v", 4 * UNIT))
    assert segments(tables, "v") == (
        Segment(0, 2 * UNIT, "021a00", 0, UNIT),
        Segment(2 * UNIT, 2 * UNIT, "021a00", 0, 4 * UNIT),
    )


def test_growing_spills_over_like_building():
    tables = three_sites()
    tables.applied(build("v", 90))
    tables.applied(GrowVolume("v", 150 * UNIT))
    assert [(s.storage, s.sectors // UNIT) for s in segments(tables, "v")] == [
        ("021a00", 100),
        ("022a00", 50),
    ]


def test_growing_beyond_all_space_changes_nothing_and_says_what_would_fit():
    tables = three_sites()
    tables.applied(build("v", 90, sectors=1))
    reason = tables.refused(GrowVolume("v", 301 * UNIT))
    assert (reason.needed_bytes, reason.largest_bytes) == (301 * MIB, 300 * MIB)
    tables.applied(GrowVolume("v", 300 * UNIT))


def test_an_excluded_real_volume_lends_growth_no_more_than_its_last_unit():
    tables = three_sites()
    tables.applied(build("v", 1, sectors=5))
    tables.applied(SetRealVolumeState("021a00", 0, "excluded"))
    tables.applied(GrowVolume("v", 3 * UNIT))
    assert segments(tables, "v") == (
        Segment(0, 2 * UNIT, "021a00", 0, UNIT),
        Segment(2 * UNIT, UNIT, "022a00", 0, UNIT),
    )


def test_growth_looks_only_at_sites_that_still_exist():
    tables = three_sites()
    tables.applied(SetSite(Site("kyoto", "m-tokyo")))
    tables.applied(build("v", 1, sites=("tokyo", "kyoto")))
    tables.applied(RemoveSite("kyoto"))
    assert [s.site for s in tables.refused(GrowVolume("v", 500 * UNIT)).sites] == ["tokyo"]


@pytest.mark.parametrize("size_sectors", [0, -1, 5, UNIT + 5, 1 << 60])
def test_a_volume_only_grows(size_sectors):
    tables = three_sites()
    tables.applied(build("v", 1, sectors=5))
    reason = tables.refused(GrowVolume("v", size_sectors))
    assert isinstance(reason, Invalid)
    assert reason.field == "size"


@pytest.mark.parametrize("command", [GrowVolume("x", 1), DeleteVolume("x")])
def test_an_unknown_volume_is_named_with_the_known_ones(command):
    tables = three_sites()
    tables.applied(build("v", 1))
    assert tables.refused(command) == NotFound("virtual volume", "x", ("v",))


def test_space_of_a_deleted_volume_waits_for_owner_and_holders():
    tables = three_sites()
    tables.applied(build("v", 150))
    volume = tables.applied(DeleteVolume("v")).volume
    assert volume.name == "v"
    assert tables.state.releases[1].waiting == ("m-osaka", "m-tokyo")
    assert tables.free("021a00") == ()
    tables.applied(ConfirmRelease("m-tokyo", 1))
    tables.applied(ConfirmRelease("m-tokyo", 1))
    tables.applied(ConfirmRelease("m-nagoya", 1))
    assert tables.state.releases[1].waiting == ("m-osaka",)
    assert tables.free("021a00") == ()
    tables.applied(ConfirmRelease("m-osaka", 1))
    assert len(tables.state.releases) == 0
    assert tables.free("021a00") == tables.free("022a00") == (Run(1, 100),)
    assert tables.state.history[-1].what == "released"


def test_confirming_what_is_unknown_harms_nobody():
    tables = three_sites()
    tables.applied(ConfirmRelease("m-tokyo", -5))
    assert isinstance(tables.refused(ConfirmRelease("nobody", 1)), NotFound)


def test_a_volume_under_an_old_name_begins_above_all_epochs_of_the_old_one():
    tables = three_sites()
    tables.applied(build("v", 1))
    for _ in range(5):
        tables.applied(ReopenVolumes("m-tokyo", "life"))
    old = tables.applied(DeleteVolume("v")).volume
    assert tables.applied(build("v", 1)).volume.epoch > old.epoch


def test_a_restart_is_a_new_epoch_for_what_the_manager_owns():
    tables = three_sites()
    mine = tables.applied(build("mine", 1)).volume
    theirs = tables.applied(build("theirs", 1, sites=("osaka",))).volume
    tables.applied(ReopenVolumes("m-tokyo", "life-2"))
    assert tables.state.volumes["mine"].epoch == mine.epoch + 1
    assert tables.state.volumes["theirs"] == theirs
    assert (tables.state.history[-1].what, tables.state.history[-1].name) == ("reopened", "m-tokyo")


@pytest.mark.parametrize(
    ("command", "kind"), [(ReopenVolumes("x", "life"), NotFound), (ReopenVolumes("m-tokyo", ""), Invalid)]
)
def test_a_reopen_by_nobody_is_refused(command, kind):
    assert isinstance(three_sites().refused(command), kind)
