"""Storages and real volumes."""

import msgspec
import pytest

from tests.core_cases import build, real, three_sites
from vimraft.core.commands import (
    ConfirmRelease,
    DeleteVolume,
    RemoveRealVolume,
    RemoveStorage,
    SetRealVolumeState,
    SetSite,
    SetStorage,
)
from vimraft.core.reasons import Exists, InUse, Invalid, NotFound
from vimraft.core.tables import Run, Site, Storage


def test_a_real_volume_enters_with_all_but_the_label_free():
    tables = three_sites()
    outcome = tables.applied(real("021a00", 1, units=7))
    assert outcome.real == tables.state.reals["021a00", 1]
    assert outcome.real.free == (Run(1, 7),)
    assert outcome.real.site == "tokyo"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"lun": -1}, "LUN"),
        ({"lun": 65_536}, "LUN"),
        ({"volume_class": ""}, "class"),
        ({"volume_class": "ssd\n"}, "class"),
        ({"volume_class": " ssd"}, "class"),
        ({"volume_class": "x" * 64}, "class"),
        ({"uri": ""}, "URI"),
        ({"uri": "file:///" + "x" * 2_000}, "URI"),
        ({"uri": "file:///\x00"}, "URI"),
        ({"label_id": ""}, "label id"),
        ({"label_id": "label-021a00-0"}, "label id"),
        ({"capacity_units": 0}, "capacity"),
        ({"capacity_units": -5}, "capacity"),
        ({"capacity_units": 1 << 43}, "capacity"),
        ({"uri": "file:///021a00/0"}, "URI"),
    ],
)
def test_an_impossible_real_volume_is_refused(change, field):
    reason = three_sites().refused(msgspec.structs.replace(real("021a00", 5), **change))
    assert isinstance(reason, Invalid)
    assert reason.field == field


def test_a_lun_is_added_once():
    assert three_sites().refused(real("021a00", 0)) == Exists("real volume", "021a00:0")


def test_a_real_volume_needs_its_storage():
    reason = three_sites().refused(real("nowhere"))
    assert reason == NotFound("storage", "nowhere", ("021a00", "022a00", "023a00"))


def test_two_hosts_may_use_the_same_path():
    three_sites().applied(msgspec.structs.replace(real("022a00", 5), uri="file:///021a00/0"))


def test_an_excluded_real_volume_gives_no_more_space():
    tables = three_sites()
    tables.applied(build("before", 10))
    tables.applied(SetRealVolumeState("021a00", 0, "excluded", "old"))
    segments = tables.applied(build("after", 10)).volume.replicas[0].segments
    assert segments[0].storage == "022a00"
    assert tables.state.volumes["before"].replicas[0].segments[0].storage == "021a00"


def test_a_failed_real_volume_says_why_until_it_is_active_again():
    tables = three_sites()
    tables.applied(SetRealVolumeState("021a00", 0, "failed", "no label\x07" + "x" * 5_000))
    failed = tables.state.reals["021a00", 0]
    assert failed.reason.startswith("no label ")
    assert len(failed.reason) == 200
    assert tables.state.history[-1].what == "real-failed"
    tables.applied(SetRealVolumeState("021a00", 0, "active", "ignored"))
    assert tables.state.reals["021a00", 0].reason == ""


def test_the_same_state_again_is_no_change():
    tables = three_sites()
    tables.applied(SetRealVolumeState("021a00", 0, "draining", "moving out"))
    before = tables.state.history
    tables.applied(SetRealVolumeState("021a00", 0, "draining", "moving out"))
    assert tables.state.history == before


@pytest.mark.parametrize("command", [SetRealVolumeState("021a00", 9, "failed"), RemoveRealVolume("zz", 0)])
def test_an_unknown_real_volume_is_named_with_the_known_ones(command):
    reason = three_sites().refused(command)
    assert isinstance(reason, NotFound)
    assert reason.known == ("021a00:0", "022a00:0", "023a00:0")


def test_a_real_volume_goes_only_when_every_unit_is_free_again():
    tables = three_sites()
    tables.applied(build("v", 3))
    assert tables.refused(RemoveRealVolume("021a00", 0)).users == ("virtual volume v",)
    tables.applied(DeleteVolume("v"))
    assert tables.refused(RemoveRealVolume("021a00", 0)).users == ("release 1 of v",)
    tables.applied(ConfirmRelease("m-tokyo", 1))
    tables.applied(RemoveRealVolume("021a00", 0))
    assert ("021a00", 0) not in tables.state.reals


def test_the_users_named_are_those_of_this_real_volume():
    tables = three_sites()
    tables.applied(build("here", 3))
    tables.applied(build("elsewhere", 3, sites=("osaka",)))
    assert tables.refused(RemoveRealVolume("022a00", 0)) == InUse(
        "real volume", "022a00:0", ("virtual volume elsewhere",)
    )


@pytest.mark.parametrize(
    ("storage", "kind"),
    [
        (Storage("0:2", "tokyo", ""), Invalid),
        (Storage("", "tokyo", ""), Invalid),
        (Storage("024a00", "atlantis", ""), NotFound),
        (Storage("024a00", "tokyo", "x" * 2_000), Invalid),
        (Storage("024a00", "tokyo", "a\tb"), Invalid),
    ],
)
def test_an_impossible_storage_is_refused(storage, kind):
    assert isinstance(three_sites().refused(SetStorage(storage)), kind)


def test_a_storage_with_real_volumes_stays_at_its_site():
    tables = three_sites()
    users = ("real volume 021a00:0",)
    assert tables.refused(SetStorage(Storage("021a00", "osaka", ""))) == InUse("storage", "021a00", users)
    assert tables.refused(RemoveStorage("021a00")) == InUse("storage", "021a00", users)
    tables.applied(SetStorage(Storage("021a00", "tokyo", "file:///new")))
    assert tables.state.storages["021a00"].uri == "file:///new"


def test_an_empty_storage_moves_and_goes():
    tables = three_sites()
    tables.applied(SetSite(Site("kyoto", "m-tokyo")))
    tables.applied(SetStorage(Storage("024a00", "kyoto", "")))
    tables.applied(SetStorage(Storage("024a00", "osaka", "")))
    tables.applied(RemoveStorage("024a00"))
    assert "024a00" not in tables.state.storages
