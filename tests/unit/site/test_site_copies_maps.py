"""What the two processes are told of a volume with copies."""

from tests.copies_cases import copies, level_three, two_copies
from tests.core_cases import MIB, build
from vimraft.core.commands import BeginMove, Rejoin, RenewLease
from vimraft.site.plane_maps import update, view


def test_the_owner_gets_all_copies_and_only_its_own_segments() -> None:
    tables = two_copies()
    volume = view(tables.state, "m-tokyo", "export", None).volumes["v"]
    assert volume.copies is not None
    assert volume.segments == ()
    assert [(c.name, c.state, c.stores) for c in volume.copies.map.copies] == [
        ("A", "in_sync", ("m-tokyo",)),
        ("B", "in_sync", ("m-osaka",)),
    ]
    assert set(volume.copies.segments) == {"A"}
    assert sum(s.length for s in volume.copies.segments["A"]) == 10 * MIB
    assert volume.copies.boots == {"m-tokyo": "one", "m-osaka": "one"}
    assert volume.needs_lease, "another manager could take it over"


def test_stores_get_their_segments_and_other_exports_where_to_forward() -> None:
    tables = two_copies()
    at_osaka = view(tables.state, "m-osaka", "store", None).volumes["v"]
    assert at_osaka.copies is not None
    assert set(at_osaka.copies.segments) == {"B"}
    assert not at_osaka.owned
    own_store = view(tables.state, "m-tokyo", "store", None).volumes["v"]
    assert own_store.owned
    assert own_store.copies is not None
    forwards = view(tables.state, "m-osaka", "export", None).volumes["v"]
    assert forwards.copies is None
    assert forwards.owner == "m-tokyo"
    assert "v" not in view(tables.state, "m-nagoya", "store", None).volumes


def test_a_volume_of_one_copy_goes_the_way_it_went() -> None:
    tables = level_three()
    tables.applied(build("alpha", 3))
    for role in ("export", "store"):
        volume = view(tables.state, "m-tokyo", role, None).volumes["alpha"]
        assert volume.copies is None
        assert sum(s.length for s in volume.segments) == 3 * MIB


def test_segments_that_a_copy_moves_to_are_a_copy_of_their_own() -> None:
    tables = level_three()
    tables.applied(build("v", 4))
    segment = tables.copy("A").segments[0]
    tables.applied(BeginMove(*tables.at(), "A", segment.storage, segment.lun, ("osaka",)))
    owner = view(tables.state, "m-tokyo", "export", None).volumes["v"]
    assert owner.copies is not None
    assert [c.name for c in owner.copies.map.copies] == ["A", "A+"]
    assert set(owner.copies.segments) == {"A"}
    target = view(tables.state, "m-osaka", "store", None).volumes["v"]
    assert target.copies is not None
    assert set(target.copies.segments) == {"A+"}


def test_another_boot_reaches_who_compares_it_and_a_renewal_sends_nothing() -> None:
    tables = two_copies()
    before = tables.state
    first = view(before, "m-tokyo", "export", None)
    tables.applied(RenewLease("m-osaka", "life", 2, 0))
    same = view(tables.state, "m-tokyo", "export", (before, first))
    assert update(first, same, index=9, io_timeout_ms=5) is None
    tables.applied(Rejoin("m-osaka", "two"))
    after = view(tables.state, "m-tokyo", "export", (before, first)).volumes["v"]
    assert after.copies is not None
    assert after.copies.boots["m-osaka"] == "two"
    assert after.epoch == first.volumes["v"].epoch + 1


def test_a_boot_elsewhere_does_not_send_what_is_unchanged_again() -> None:
    tables = two_copies()
    before = tables.state
    first = view(before, "m-tokyo", "export", None)
    tables.applied(Rejoin("m-nagoya", "two"))
    second = view(tables.state, "m-tokyo", "export", (before, first))
    assert second.volumes["v"] is first.volumes["v"]


def test_copies_at_one_site_are_all_in_its_store() -> None:
    tables = level_three()
    tables.applied(copies("v", 4, 2, "osaka", same_site=True))
    store = view(tables.state, "m-osaka", "store", None).volumes["v"]
    assert store.copies is not None
    assert set(store.copies.segments) == {"A", "B"}
