"""Emptying a real volume: space elsewhere, then the switch."""

from tests.copies_cases import copies, level_three, spread, two_copies
from tests.core_cases import UNIT, build
from vimraft.core import codec
from vimraft.core.commands import (
    AbortMove,
    BeginMove,
    ConfirmRelease,
    DeleteVolume,
    GrowVolume,
    MoveSegments,
    Rejoin,
    RemoveRealVolume,
    SetRealVolumeState,
    TrashVolume,
)
from vimraft.core.reasons import Conflict, CopyState, InUse, NoSpaceForCopy, NotFound, OtherBoot


def drained():
    """Volume v: copy A at tokyo on LUN 0, which is to be emptied; copy B at osaka."""
    tables = two_copies()
    tables.applied(SetRealVolumeState("021a00", 0, "draining", "old"))
    return tables


def begun():
    tables = drained()
    tables.applied(BeginMove(*tables.at(), "A", "021a00", 0))
    return tables


def test_a_move_takes_space_at_its_site_and_keeps_the_copy_where_it_is():
    tables = begun()
    (target,) = tables.copy("A").moving
    assert (target.virtual_first, target.sectors) == (0, 10 * UNIT)
    assert target.real_id == ("021a00", 1)
    assert tables.copy("A").segments[0].lun == 0
    assert spread(tables.state)["021a00:1"] == 90


def test_the_switch_gives_the_old_segments_up():
    tables = begun()
    epoch = tables.volume().epoch
    tables.applied(MoveSegments(*tables.at(), "A", tables.boots()))
    assert [s.lun for s in tables.copy("A").segments] == [1]
    assert tables.copy("A").moving == ()
    assert tables.volume().epoch == epoch + 1
    (release,) = tables.state.releases.values()
    assert (release.epoch, release.waiting) == (epoch, ("m-tokyo",))
    tables.applied(ConfirmRelease("m-tokyo", release.release_id))
    tables.applied(RemoveRealVolume("021a00", 0))


def test_only_what_lies_on_the_real_volume_moves():
    tables = level_three(units=20)
    tables.applied(build("v", 30, sectors=7, sites=("tokyo",)))
    old = tables.copy("A").segments
    assert [s.lun for s in old] == [0, 1]
    tables.applied(BeginMove(*tables.at(), "A", "021a00", 1, ("nagoya",)))
    tables.applied(MoveSegments(*tables.at(), "A", tables.boots()))
    assert tables.copy("A").segments[0] == old[0]
    assert tables.sites_of("A") == ["nagoya", "tokyo"]
    assert tables.volume().sites[-1] == "nagoya"


def test_a_move_is_split_over_the_runs_that_are_free():
    tables = level_three(units=20)
    tables.applied(build("v", 15, sectors=7, sites=("osaka",)))
    tables.applied(build("filler", 12, sites=("tokyo",)))
    tables.applied(BeginMove(*tables.at(), "A", "022a00", 0, ("tokyo", "nagoya")))
    tables.applied(MoveSegments(*tables.at(), "A", tables.boots()))
    assert sum(s.sectors for s in tables.copy("A").segments) == 15 * UNIT + 7
    assert "osaka" not in tables.sites_of("A")


def test_a_move_keeps_apart_from_the_other_copies():
    tables = drained()
    tables.applied(build("filler", 100, sites=("tokyo",)))
    tables.applied(BeginMove(*tables.at(), "A", "021a00", 0, ("tokyo", "osaka", "nagoya")))
    assert {s.storage for s in tables.copy("A").moving} == {"023a00"}


def test_a_move_without_space_names_the_copy():
    tables = drained()
    tables.applied(build("filler", 100, sites=("tokyo",)))
    reason = tables.refused(BeginMove(*tables.at(), "A", "021a00", 0, ("tokyo", "osaka")))
    assert isinstance(reason, NoSpaceForCopy)
    assert (reason.copy, reason.copies) == (1, 2)


def test_the_switch_needs_the_present_boots_of_the_new_stores():
    tables = drained()
    tables.applied(BeginMove(*tables.at(), "A", "021a00", 0, ("nagoya",)))
    assert tables.refused(MoveSegments(*tables.at(), "A", (("m-tokyo", "one"),))) == OtherBoot(
        "m-nagoya", "one"
    )
    tables.applied(Rejoin("m-nagoya", "two"))
    assert tables.copy("A").moving == ()
    assert tables.states() == "A in_sync, B in_sync"
    (release,) = tables.state.releases.values()
    assert release.segments[0].storage == "023a00"


def test_an_aborted_move_gives_the_new_segments_up():
    tables = begun()
    tables.applied(AbortMove(*tables.at(), "A"))
    assert tables.copy("A").moving == ()
    assert [s.lun for s in tables.state.releases[1].segments] == [1]
    assert isinstance(tables.refused(AbortMove(*tables.at(), "A")), NotFound)
    assert isinstance(tables.refused(MoveSegments(*tables.at(), "A", tables.boots())), NotFound)


def test_a_copy_that_leaves_the_set_moves_no_more():
    tables = begun()
    tables.retire("A")
    assert tables.copy("A").moving == ()
    assert [s.lun for s in tables.state.releases[1].segments] == [1]
    assert isinstance(tables.refused(BeginMove(*tables.at(), "A", "021a00", 0)), CopyState)


def test_one_move_at_a_time_and_no_growth_meanwhile():
    tables = begun()
    assert isinstance(tables.refused(BeginMove(*tables.at(), "A", "021a00", 0)), InUse)
    assert isinstance(tables.refused(GrowVolume("v", 20 * UNIT)), InUse)


def test_what_is_to_move_must_be_there():
    tables = drained()
    assert tables.refused(BeginMove(*tables.at(), "A", "022a00", 0)) == NotFound(
        "real volume", "022a00:0", ("021a00:0",)
    )
    name, epoch, owner = tables.at()
    assert isinstance(tables.refused(BeginMove(name, epoch - 1, owner, "A", "021a00", 0)), Conflict)
    assert isinstance(tables.refused(BeginMove(*tables.at(), "Q", "021a00", 0)), NotFound)
    assert isinstance(tables.refused(BeginMove(*tables.at(), "A", "021a00", 0, ("atlantis",))), NotFound)


def test_a_volume_deleted_on_the_move_gives_both_places_up():
    tables = begun()
    tables.applied(DeleteVolume("v"))
    assert {(s.storage, s.lun) for s in tables.state.releases[1].segments} == {
        ("021a00", 0),
        ("021a00", 1),
        ("022a00", 0),
    }


def test_a_volume_in_the_trash_does_not_move():
    tables = begun()
    trash_id = tables.applied(TrashVolume("v")).index
    assert tables.state.trash[trash_id].replicas[0].moving == ()
    assert len(tables.state.releases) == 1


def test_moves_come_back_from_their_bytes():
    tables = begun()
    assert codec.decode_state(codec.encode_state(tables.state)) == tables.state
    assert b"".join(codec.encode_state_pieces(tables.state)) == codec.encode_state(tables.state)


def test_all_segments_of_several_volumes_leave_a_real_volume():
    tables = level_three()
    for name in ("v", "w"):
        tables.applied(copies(name, 10, 1, "tokyo"))
    tables.applied(SetRealVolumeState("021a00", 0, "draining"))
    for name, copy in (("v", "A"), ("w", "B")):
        tables.applied(BeginMove(*tables.at(name), copy, "021a00", 0))
        tables.applied(MoveSegments(*tables.at(name), copy, tables.boots()))
    for release_id in (1, 2):
        tables.applied(ConfirmRelease("m-tokyo", release_id))
    assert spread(tables.state)["021a00:0"] == 100
