"""Volumes that are deleted for the time being."""

from msgspec.structs import replace

from tests.copies_cases import level_three, spread, two_copies
from tests.core_cases import build, three_sites
from vimraft.core import views
from vimraft.core.codec import decode_request, encode_request, encode_state
from vimraft.core.commands import (
    ConfirmRelease,
    DeleteVolume,
    FormCluster,
    PurgeVolume,
    RemoveManager,
    RemoveRealVolume,
    Request,
    RestoreVolume,
    SetReadOnly,
    SetSetting,
    TrashVolume,
)
from vimraft.core.reasons import Exists, InUse, Invalid, NotFound
from vimraft.core.tables import Settings


def trashed():
    tables = two_copies()
    return tables, tables.applied(TrashVolume("v"), at_ms=77).index


def test_a_volume_in_the_trash_keeps_its_space_and_gives_its_name_back():
    tables = two_copies()
    before, volume = spread(tables.state), tables.volume()
    trash_id = tables.applied(TrashVolume("v"), at_ms=77).index
    row = tables.state.trash[trash_id]
    assert (row.trashed_ms, row.epoch, row.replicas) == (77, volume.epoch + 1, volume.replicas)
    assert "v" not in tables.state.volumes
    assert spread(tables.state) == before
    tables.applied(build("v", 3))


def test_a_restored_volume_is_as_it_was_above_all_epochs_of_the_name():
    tables, trash_id = trashed()
    tables.applied(build("v", 3))
    later = tables.volume().epoch
    tables.applied(DeleteVolume("v"))
    restored = tables.applied(RestoreVolume(trash_id)).volume
    assert restored.epoch == tables.state.index > later
    assert (restored.name, restored.trashed_ms) == ("v", 0)
    assert tables.states() == "A in_sync, B in_sync"
    assert not tables.state.trash


def test_a_volume_is_restored_under_another_name_when_its_own_is_taken():
    tables, trash_id = trashed()
    tables.applied(build("v", 3))
    assert tables.refused(RestoreVolume(trash_id)) == Exists("virtual volume", "v")
    assert isinstance(tables.refused(RestoreVolume(trash_id, "a b")), Invalid)
    tables.applied(RestoreVolume(trash_id, "old-v"))
    assert tables.volume("old-v").name == "old-v"


def test_several_of_one_name_lie_in_the_trash():
    tables, first = trashed()
    tables.applied(build("v", 3))
    second = tables.applied(TrashVolume("v")).index
    assert set(tables.state.trash) == {first, second}
    tables.applied(RestoreVolume(first))
    assert tables.states() == "A in_sync, B in_sync"


def test_a_purged_volume_gives_its_space_back_through_a_release():
    tables, trash_id = trashed()
    tables.applied(PurgeVolume(trash_id))
    (release,) = tables.state.releases.values()
    for manager in release.waiting:
        tables.applied(ConfirmRelease(manager, release.release_id))
    assert set(spread(tables.state).values()) == {100}


def test_what_is_not_in_the_trash_is_not_found():
    tables, trash_id = trashed()
    expected = NotFound("trashed volume", "7", (f"{trash_id} (v)",))
    assert tables.refused(RestoreVolume(7)) == expected
    assert tables.refused(PurgeVolume(7)) == expected
    assert isinstance(tables.refused(TrashVolume("v")), NotFound)


def test_what_the_trash_needs_stays():
    tables, trash_id = trashed()
    user = f"volume v in the trash ({trash_id})"
    assert tables.refused(RemoveRealVolume("021a00", 0)) == InUse("real volume", "021a00:0", (user,))
    reason = tables.refused(RemoveManager("m-tokyo"))
    assert isinstance(reason, InUse)
    assert user in reason.users


def test_the_trash_is_shown_on_its_real_volumes():
    tables = level_three()
    tables.applied(build("v", 3))
    shown = views.real_identifying(tables.state, "021a00:0").rows
    tables.applied(TrashVolume("v"))
    assert views.real_identifying(tables.state, "021a00:0").rows == shown
    assert views.virtual_identifying(tables.state).rows == ()


def test_a_volume_is_held_read_only_and_let_go_in_epochs_of_their_own() -> None:
    tables = two_copies()
    before = tables.volume()
    held = tables.applied(SetReadOnly("v", True)).volume
    assert held is not None
    assert (held.read_only, held.epoch) == (True, before.epoch + 1)
    assert tables.applied(SetReadOnly("v", True)).volume == held
    assert tables.applied(SetReadOnly("v", False)).volume == replace(before, epoch=before.epoch + 2)
    assert tables.refused(SetReadOnly("w", True)) == NotFound("virtual volume", "w", ("v",))


def test_how_long_the_trash_is_kept_is_a_setting_of_level_3() -> None:
    tables = level_three()
    tables.applied(SetSetting("trash_keep_h", 5))
    assert tables.state.settings.trash_keep_h == 5
    assert isinstance(tables.refused(SetSetting("trash_keep_h", -1)), Invalid)
    before = three_sites()
    reason = before.refused(SetSetting("trash_keep_h", 5))
    assert isinstance(reason, NotFound)
    assert "trash_keep_h" not in reason.known


def test_below_level_3_no_bytes_speak_of_the_trash() -> None:
    formed = FormCluster("c", Settings(trash_keep_h=5), level=2)
    for level in (1, 2):
        command = replace(formed, level=level)
        request = decode_request(encode_request(Request("me", 1, 1, "me", command), level))
        assert request.command == FormCluster("c", Settings(), level=level)
    assert b"trash" not in encode_state(three_sites().state)
