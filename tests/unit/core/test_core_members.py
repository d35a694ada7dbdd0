"""Managers, sites, settings, leases."""

import msgspec
import pytest

from tests.core_cases import build, manager, three_sites
from vimraft.core.commands import (
    ConfirmRelease,
    DeleteVolume,
    RemoveManager,
    RemoveSite,
    RemoveStorage,
    RenewLease,
    SetManager,
    SetSetting,
    SetSite,
)
from vimraft.core.reasons import InUse, Invalid, NotFound, Outdated, Unsupported
from vimraft.core.tables import Lease, Site

ESCAPE = "a\x1b[31mb"


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("name", "", "manager name"),
        ("name", ".hidden", "manager name"),
        ("name", "x" * 64, "manager name"),
        ("name", ESCAPE, "manager name"),
        ("raft_address", "", "raft address"),
        ("raft_address", "nohost", "raft address"),
        ("raft_address", ":1", "raft address"),
        ("raft_address", "h:0", "raft address"),
        ("raft_address", "h:65536", "raft address"),
        ("raft_address", "h:" + "9" * 200, "raft address"),
        ("raft_address", "h:٣", "raft address"),
        ("raft_address", "h" * 300 + ":1", "raft address"),
        ("nbd_address", "a b:1", "NBD address"),
        ("peer_address", "a\n:1", "peer address"),
        ("api_url", "127.0.0.1:80", "API URL"),
        ("api_url", "ftp://127.0.0.1:80", "API URL"),
        ("api_url", "http://127.0.0.1", "API address"),
    ],
)
def test_a_manager_with_an_impossible_field_is_refused(field, value, named):
    reason = three_sites().refused(SetManager(msgspec.structs.replace(manager("new", 9), **{field: value})))
    assert isinstance(reason, Invalid)
    assert reason.field == named
    assert len(reason.value) <= 90
    assert reason.value.isprintable()


@pytest.mark.parametrize("field", ["raft_address", "nbd_address", "peer_address", "api_url"])
def test_two_managers_cannot_listen_at_one_address(field):
    theirs = manager("m-tokyo", 1)
    clash = msgspec.structs.replace(manager("new", 9), **{field: getattr(theirs, field)})
    reason = three_sites().refused(SetManager(clash))
    assert isinstance(reason, Invalid)
    assert reason.problem == "is used by manager m-tokyo already"


def test_a_manager_cannot_listen_twice_at_one_address():
    twice = msgspec.structs.replace(manager("new", 9), peer_address="127.0.0.1:1009")
    assert (
        three_sites().refused(SetManager(twice)).problem
        == "is used by another address of manager new already"
    )


def test_a_manager_may_change_its_addresses():
    tables = three_sites()
    tables.applied(SetManager(manager("m-tokyo", 50)))
    assert tables.state.managers["m-tokyo"].nbd_address == "10.0.0.50:10809"
    assert tables.state.history[-1].what == "manager-changed"


def test_an_ipv6_address_is_an_address():
    six = msgspec.structs.replace(manager("six", 9), nbd_address="[::1]:10809")
    three_sites().applied(SetManager(six))


def test_managers_are_bounded():
    tables = three_sites()
    for number in range(10, 71):
        tables.applied(SetManager(manager(f"m{number}", number)))
    assert tables.refused(SetManager(manager("one-too-many", 99))) == Unsupported("more than 64 managers")
    tables.applied(SetManager(manager("m10", 100)))


def test_a_manager_with_sites_volumes_or_releases_stays():
    tables = three_sites()
    tables.applied(build("v", 3))
    reason = tables.refused(RemoveManager("m-tokyo"))
    assert reason == InUse("manager", "m-tokyo", ("site tokyo", "virtual volume v"))
    tables.applied(DeleteVolume("v"))
    reason = tables.refused(RemoveManager("m-tokyo"))
    assert reason.users == ("release 1 of v", "site tokyo")


def test_a_manager_without_duties_goes_with_its_lease():
    tables = three_sites()
    tables.applied(SetManager(manager("spare", 9)))
    tables.applied(RenewLease("spare", "life-1", 1, 0))
    tables.applied(RemoveManager("spare"))
    assert "spare" not in tables.state.managers
    assert "spare" not in tables.state.leases
    assert tables.refused(RemoveManager("spare")) == NotFound(
        "manager", "spare", ("m-nagoya", "m-osaka", "m-tokyo")
    )


@pytest.mark.parametrize(
    ("site", "kind"),
    [
        (Site("", "m-tokyo"), Invalid),
        (Site("kyoto", "nobody"), NotFound),
        (Site("kyoto", "m-tokyo", ("atlantis",)), NotFound),
        (Site("kyoto", "m-tokyo", ("tokyo", "tokyo")), Invalid),
        (Site("kyoto", "m-tokyo", ("kyoto",)), Invalid),
        (Site("kyoto", "m-tokyo", ("tokyo",) * 300), Invalid),
    ],
)
def test_an_impossible_site_is_refused(site, kind):
    assert isinstance(three_sites().refused(SetSite(site)), kind)


def test_an_unknown_site_in_a_priority_order_is_named_with_the_known_ones():
    reason = three_sites().refused(SetSite(Site("tokyo", "m-tokyo", ("atlantis",))))
    assert reason == NotFound("site", "atlantis", ("nagoya", "osaka", "tokyo"))


def test_a_site_with_segments_keeps_its_manager():
    tables = three_sites()
    tables.applied(build("v", 3))
    assert tables.refused(SetSite(Site("tokyo", "m-osaka"))) == InUse("site", "tokyo", ("virtual volume v",))
    tables.applied(DeleteVolume("v"))
    assert tables.refused(SetSite(Site("tokyo", "m-osaka"))).users == ("release 1 of v",)
    tables.applied(ConfirmRelease("m-tokyo", 1))
    tables.applied(SetSite(Site("tokyo", "m-osaka")))


def test_a_site_that_others_build_on_stays():
    tables = three_sites()
    assert tables.refused(RemoveSite("osaka")).users == ("priority order of site tokyo", "storage 022a00")
    assert isinstance(tables.refused(RemoveSite("atlantis")), NotFound)


def test_an_empty_site_goes():
    tables = three_sites()
    tables.applied(SetSite(Site("kyoto", "m-tokyo")))
    tables.applied(RemoveSite("kyoto"))
    assert "kyoto" not in tables.state.sites
    assert isinstance(tables.refused(RemoveStorage("kyoto")), NotFound)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lease_ms", 499),
        ("lease_ms", 60_001),
        ("io_timeout_ms", 999),
        ("history_changes", -1),
        ("history_changes", 100_001),
        ("unit_bytes", 1 << 19),
        ("unit_bytes", (1 << 20) + 512),
        ("unit_bytes", -(1 << 63)),
    ],
)
def test_a_setting_out_of_bounds_is_refused(name, value):
    reason = three_sites().refused(SetSetting(name, value))
    assert isinstance(reason, Invalid)
    assert (reason.field, reason.value) == (name, str(value))


def test_an_unknown_setting_is_named_with_the_known_ones():
    reason = three_sites().refused(SetSetting("colour", 3))
    assert reason == NotFound(
        "setting", "colour", ("unit_bytes", "lease_ms", "io_timeout_ms", "history_changes")
    )


def test_a_setting_changes():
    tables = three_sites()
    tables.applied(SetSetting("io_timeout_ms", 5_000))
    assert tables.state.settings.io_timeout_ms == 5_000


def test_the_allocation_unit_is_fixed_once_there_are_real_volumes():
    reason = three_sites().refused(SetSetting("unit_bytes", 4 << 20))
    assert isinstance(reason, InUse)
    assert len(reason.users) == 3


def test_a_lease_is_renewed_only_forward_within_an_incarnation():
    tables = three_sites()
    tables.applied(RenewLease("m-tokyo", "life-1", 5, 10))
    assert tables.refused(RenewLease("m-tokyo", "life-1", 4, 10)) == Outdated("manager", "m-tokyo")
    tables.applied(RenewLease("m-tokyo", "life-1", 5, 99))
    assert tables.state.leases["m-tokyo"] == Lease("m-tokyo", "life-1", 5, 10)
    tables.applied(RenewLease("m-tokyo", "life-2", 1, 11))
    assert tables.state.leases["m-tokyo"] == Lease("m-tokyo", "life-2", 1, 11)


@pytest.mark.parametrize(
    "command",
    [RenewLease("nobody", "life", 1, 1), RenewLease("m-tokyo", "", 1, 1), RenewLease("", "l", 1, 1)],
)
def test_a_lease_of_nobody_is_refused(command):
    assert isinstance(three_sites().refused(command), NotFound | Invalid)
