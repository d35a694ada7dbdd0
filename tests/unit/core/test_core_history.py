"""Looking back: bounds of what is remembered, and what the tables show of earlier indices."""

from msgspec.structs import replace

from tests.core_cases import SITES, UNIT, Tables, build, manager, three_sites
from vimraft.core import codec, history, levels
from vimraft.core.commands import (
    ConfirmRelease,
    DeleteVolume,
    GrowVolume,
    ReadsLevel,
    ReopenVolumes,
    SetLevel,
    SetManager,
    SetSetting,
)
from vimraft.core.history import OutOfReach, oldest_index, tables_at
from vimraft.core.tables import State


def risen(units: int = 100) -> Tables:
    tables = three_sites(units=units)
    said = tuple(ReadsLevel(f"m-{site}", levels.LATEST) for site in SITES)
    tables.applied(SetLevel(levels.LATEST, said))
    return tables


def at(tables: Tables, index: int) -> State:
    found = tables_at(tables.state, index)
    assert isinstance(found, State), found
    return found


def test_a_deleted_volume_is_seen_as_it_was():
    tables = risen()
    built = tables.applied(build("v", 150))
    tables.applied(DeleteVolume("v"))
    for name in ("m-tokyo", "m-osaka"):
        tables.applied(ConfirmRelease(name, 1))
    assert not tables.state.volumes
    assert at(tables, built.index).volumes["v"] == built.volume
    assert "v" not in at(tables, built.index - 1).volumes
    assert at(tables, built.index - 1).reals == tables.state.reals


def test_growing_remembers_only_what_it_replaced():
    tables = risen()
    tables.applied(build("v", 10))
    tables.applied(GrowVolume("v", 20 * UNIT))
    before = tables.state.history[-1].before
    assert before is not None
    assert [len(part.gone) for part in before.volumes[0].segments] == [1]
    assert history.weight(tables.state.history[-1]) <= 5


def test_restarts_of_a_manager_are_undone_without_remembering_its_volumes():
    tables = risen()
    for number in range(20):
        tables.applied(build(f"v{number}", 1))
    was = tables.state
    reopened = tables.applied(ReopenVolumes("m-tokyo", "life"))
    assert history.weight(tables.state.history[-1]) == 1
    assert at(tables, reopened.index - 1).volumes == was.volumes


def test_rows_of_managers_and_settings_come_back():
    tables = risen()
    was = tables.state
    moved = replace(manager("m-tokyo", 8), level=levels.LATEST)
    tables.applied(SetManager(moved))
    tables.applied(SetSetting("lease_ms", 9_000))
    found = at(tables, was.index)
    assert (found.managers, found.settings) == (was.managers, was.settings)


def test_nothing_is_known_from_before_the_cluster_rose():
    tables = risen()
    rise = tables.state.index
    assert oldest_index(tables.state) == rise
    assert tables_at(tables.state, rise - 1) == OutOfReach(rise, rise)
    assert tables_at(tables.state, rise + 1) == OutOfReach(rise, rise)


def test_changes_that_left_the_history_cannot_be_undone():
    tables = risen()
    tables.applied(SetSetting("history_changes", 2))
    for number in range(4):
        tables.applied(build(f"v{number}", 1))
    first = tables.state.history[0]
    assert oldest_index(tables.state) == first.index - 1
    assert set(at(tables, first.index - 1).volumes) == {"v0", "v1"}
    tables.applied(SetSetting("history_changes", 0))
    assert oldest_index(tables.state) == tables.state.index


def test_the_oldest_changes_forget_what_they_replaced_when_it_is_too_much(monkeypatch):
    monkeypatch.setattr(history, "MAX_REMEMBERED", 80)
    tables = risen()
    for number in range(60):
        tables.applied(build(f"v{number}", 1))
    assert len(tables.state.history) > 60
    assert 50 <= tables.state.remembered <= 80
    assert tables.state.history[-1].before is not None
    oldest = oldest_index(tables.state)
    assert len(at(tables, oldest).volumes) == 60 - (tables.state.index - oldest)


def test_what_is_remembered_survives_a_snapshot():
    tables = risen()
    tables.applied(build("v", 10))
    tables.applied(DeleteVolume("v"))
    restored = codec.decode_state(codec.encode_state(tables.state))
    assert restored == tables.state
    assert tables_at(restored, restored.index - 1) == tables_at(tables.state, restored.index - 1)
