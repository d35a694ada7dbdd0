"""What each data-plane process is told, computed from the tables."""

from tests.core_cases import MIB, Tables, build, three_sites
from vimraft.core.commands import DeleteVolume, SetRealVolumeState, SetSite
from vimraft.core.tables import Site
from vimraft.data.feed import MapUpdate
from vimraft.site.plane_maps import EMPTY_VIEW, update, view


def built(tables: Tables, name: str, mib: int, sites: tuple[str, ...]) -> None:
    tables.applied(build(name, mib, sites=sites))


def test_the_owner_gets_every_segment_and_the_others_only_where_to_forward() -> None:
    tables = three_sites(units=8)
    built(tables, "beta", 12, ("tokyo", "osaka"))
    owner = view(tables.state, "m-tokyo", "export", None).volumes["beta"]
    other = view(tables.state, "m-nagoya", "export", None).volumes["beta"]
    assert owner.owned
    assert sum(s.length for s in owner.segments) == 12 * MIB
    assert {s.manager for s in owner.segments} == {"", "m-osaka"}
    assert not other.owned
    assert other.owner == "m-tokyo"
    assert other.segments == ()


def test_a_store_gets_only_the_segments_at_its_site_at_their_virtual_offsets() -> None:
    tables = three_sites(units=8)
    built(tables, "beta", 12, ("tokyo", "osaka"))
    (at_osaka,) = view(tables.state, "m-osaka", "store", None).volumes["beta"].segments
    assert at_osaka.offset == 8 * MIB
    assert at_osaka.length == 4 * MIB
    assert at_osaka.manager == ""
    assert view(tables.state, "m-nagoya", "store", None).volumes == {}


def test_a_volume_at_its_owners_sites_needs_no_lease_and_one_that_spills_does() -> None:
    tables = three_sites(units=8)
    built(tables, "alpha", 2, ("tokyo",))
    built(tables, "beta", 12, ("tokyo", "osaka"))
    volumes = view(tables.state, "m-tokyo", "export", None).volumes
    assert not volumes["alpha"].needs_lease
    assert volumes["beta"].needs_lease


def test_the_first_update_is_full_and_the_next_holds_only_what_changed() -> None:
    tables = three_sites(units=8)
    built(tables, "alpha", 1, ("tokyo",))
    first = view(tables.state, "m-tokyo", "export", None)
    full = update(None, first, index=1, io_timeout_ms=5)
    assert full is not None
    assert full.full
    assert [v.name for v in full.volumes] == ["alpha"]
    before = tables.state
    built(tables, "gamma", 1, ("tokyo",))
    second = view(tables.state, "m-tokyo", "export", (before, first))
    delta = update(first, second, index=2, io_timeout_ms=5)
    assert delta == MapUpdate(index=2, full=False, io_timeout_ms=5, volumes=(second.volumes["gamma"],))
    before = tables.state
    tables.applied(DeleteVolume("alpha"))
    third = view(tables.state, "m-tokyo", "export", (before, second))
    gone = update(second, third, index=3, io_timeout_ms=5)
    assert gone is not None
    assert gone.removed_volumes == ("alpha",)


def test_nothing_changed_means_no_message() -> None:
    tables = three_sites(units=8)
    now = view(tables.state, "m-tokyo", "store", None)
    assert (
        update(now, view(tables.state, "m-tokyo", "store", (tables.state, now)), index=9, io_timeout_ms=5)
        is None
    )


def test_unchanged_volumes_are_not_computed_again() -> None:
    tables = three_sites(units=8)
    built(tables, "alpha", 1, ("tokyo",))
    first = view(tables.state, "m-tokyo", "export", None)
    before = tables.state
    built(tables, "gamma", 1, ("tokyo",))
    second = view(tables.state, "m-tokyo", "export", (before, first))
    assert second.volumes["alpha"] is first.volumes["alpha"]


def test_a_site_that_moves_to_another_manager_moves_its_segments_with_it() -> None:
    tables = three_sites(units=8)
    built(tables, "beta", 12, ("tokyo", "osaka"))
    before = tables.state
    first = view(before, "m-tokyo", "export", None)
    outcome = tables.do(SetSite(Site("osaka", "m-nagoya")))
    second = view(tables.state, "m-tokyo", "export", (before, first))
    holders = {s.manager for s in second.volumes["beta"].segments}
    moved = tables.state.sites["osaka"].manager == "m-nagoya"
    assert holders == ({"", "m-nagoya"} if moved else {"", "m-osaka"}), outcome


def test_a_failed_real_volume_reaches_the_processes_with_its_reason() -> None:
    tables = three_sites(units=8)
    key = next(key for key, real in tables.state.reals.items() if real.site == "tokyo")
    tables.applied(SetRealVolumeState(key.storage, key.lun, "failed", "label: gone"))
    spec = view(tables.state, "m-tokyo", "export", None).backends[str(key)]
    assert spec.failed == "label: gone"
    assert str(key) not in view(tables.state, "m-osaka", "export", None).backends


def test_an_empty_view_and_an_empty_state_agree() -> None:
    tables = Tables()
    assert view(tables.state, "m-tokyo", "export", None) == EMPTY_VIEW
