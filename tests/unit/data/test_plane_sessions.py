"""Sessions of peers: the newest generation of the newest life, and no other."""

import pytest

from tests.plane import eventually
from tests.plane_fakes import FakeSite, in_thread, simple_volume
from vimraft.data import sessions
from vimraft.data.errors import OpenError
from vimraft.data.handle import Handle
from vimraft.data.remote import Vitals, describe, parse_description
from vimraft.data.sessions import SessionTable, parse_peer_export


def name_of(slot: int = 0, generation: int = 1, life: str = "one", manager: str = "b") -> sessions.PeerExport:
    return parse_peer_export(f".forward/v/1/{manager}~{life}~{slot}/{generation}")


@pytest.fixture
def site() -> FakeSite:
    site = FakeSite()
    site.install(simple_volume())
    return site


def new_handle(site: FakeSite) -> Handle:
    return site.plane.open("v")[0]


def test_a_newer_generation_waits_until_the_older_ones_request_has_finished(site: FakeSite) -> None:
    table = SessionTable()
    older, newer = new_handle(site), new_handle(site)
    table.enter(name_of(generation=1), older, 1.0)
    older.busy = 1
    thread, outcome = in_thread(lambda: table.enter(name_of(generation=2), newer, 5.0))
    eventually(lambda: older.superseded, "the older is turned away")
    assert not outcome
    older.busy = 0
    thread.join(5)
    assert outcome == [None]


def test_a_drain_that_takes_too_long_refuses_the_newer(site: FakeSite) -> None:
    table = SessionTable()
    older, newer = new_handle(site), new_handle(site)
    table.enter(name_of(generation=1), older, 1.0)
    older.busy = 1
    with pytest.raises(OpenError, match="still running"):
        table.enter(name_of(generation=2), newer, 0.05)


def test_generations_are_remembered_after_a_close(site: FakeSite) -> None:
    table = SessionTable()
    handle = new_handle(site)
    table.enter(name_of(generation=7), handle, 1.0)
    table.leave(name_of(generation=7), handle)
    with pytest.raises(OpenError):
        table.enter(name_of(generation=6), new_handle(site), 1.0)
    table.enter(name_of(generation=8), new_handle(site), 1.0)


def test_a_new_life_supersedes_all_slots_of_the_former_and_of_no_other_manager(site: FakeSite) -> None:
    table = SessionTable()
    mine = [new_handle(site) for _ in range(3)]
    for slot, handle in enumerate(mine):
        table.enter(name_of(slot, 5), handle, 1.0)
    foreign = new_handle(site)
    table.enter(name_of(0, 5, manager="c"), foreign, 1.0)
    table.enter(name_of(0, 1, life="two"), new_handle(site), 1.0)
    assert all(handle.superseded for handle in mine)
    assert not foreign.superseded
    with pytest.raises(OpenError, match="has ended"):
        table.enter(name_of(9, 9, life="one"), new_handle(site), 1.0)


def test_closed_slots_are_forgotten_first_and_open_ones_never(
    site: FakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 4)
    table = SessionTable()
    handles = [new_handle(site) for _ in range(4)]
    for slot, handle in enumerate(handles):
        table.enter(name_of(slot), handle, 1.0)
    table.leave(name_of(2), handles[2])
    table.enter(name_of(4), new_handle(site), 1.0)
    with pytest.raises(OpenError, match="more than 4"):
        table.enter(name_of(5), new_handle(site), 1.0)
    with pytest.raises(OpenError):
        table.enter(name_of(0), new_handle(site), 1.0)


def test_the_description_goes_there_and_back() -> None:
    assert parse_description(describe("b-1", "i", 3)) == Vitals("b-1", "3")
    assert parse_description(describe("?", "i", 0)) is None
    assert parse_description("anything else") is None
    assert parse_description("") is None
