"""Sessions of peers: the newest generation of the newest life, and no other."""

import threading

import pytest

from tests.plane import eventually, volume
from tests.plane_fakes import FakeSite, in_thread, simple_volume
from vimraft.core.ids import LABEL_BYTES
from vimraft.data import sessions
from vimraft.data.errors import OpenError
from vimraft.data.feed import PeerSpec, PlaneSegment
from vimraft.data.handle import Handle
from vimraft.data.remote import Vitals, describe, parse_description
from vimraft.data.sessions import NotPresentLife, SessionTable, parse_peer_export


def name_of(
    slot: int = 0, generation: int = 1, life: str = "one", manager: str = "b", ticket: str = ""
) -> sessions.PeerExport:
    session = f"{manager}~{life}~{slot}" + (f"~{ticket}" if ticket else "")
    return parse_peer_export(f".forward/v/1/{session}/{generation}")


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


def test_a_drain_that_takes_too_long_refuses_the_newer_and_every_one_after_it(site: FakeSite) -> None:
    """A newer open that gave up waiting must not hide the request that it waited for."""
    table = SessionTable()
    older = new_handle(site)
    table.enter(name_of(generation=1), older, 1.0)
    older.busy = 1
    for generation in (2, 3, 4):
        with pytest.raises(OpenError, match="still running"):
            table.enter(name_of(generation=generation), new_handle(site), 0.02)
    older.busy = 0
    table.enter(name_of(generation=5), new_handle(site), 1.0)


def test_a_write_that_stalls_in_the_store_never_lands_on_one_that_was_acknowledged_later() -> None:
    """Its client is told EIO and repeats it, twice, through newer generations."""
    site = FakeSite(io_timeout_ms=50)
    site.plane.role = "store"
    v = volume("v", 1, PlaneSegment(0, 4096, "s:1", LABEL_BYTES, ""), size_bytes=4096)
    site.install(v, peers=(PeerSpec("b", "", ""),))
    stalled, go_on = threading.Event(), threading.Event()

    def stall() -> None:
        stalled.set()
        assert go_on.wait(10)

    site.backends["s:1"].entered = stall
    first, _ = site.plane.open(".segments/v/1/b~life~0/1")
    writing, _ = in_thread(lambda: first.write(memoryview(b"L" * 4096), 0, 0))
    assert stalled.wait(5)
    for generation in (2, 3):
        with pytest.raises(OpenError, match="still running"):
            site.plane.open(f".segments/v/1/b~life~0/{generation}")
    site.backends["s:1"].entered = lambda: None
    go_on.set()
    writing.join(5)
    last, _ = site.plane.open(".segments/v/1/b~life~0/4")
    last.write(memoryview(b"n" * 4096), 0, 0)
    buffer = bytearray(4096)
    last.read(memoryview(buffer), 0)
    assert buffer == b"n" * 4096


def test_a_generation_that_comes_while_another_waits_waits_for_the_same_request(site: FakeSite) -> None:
    table = SessionTable()
    first, second, third = (new_handle(site) for _ in range(3))
    table.enter(name_of(generation=1), first, 1.0)
    first.busy = 1
    waiting, outcome = in_thread(lambda: table.enter(name_of(generation=2), second, 5.0))
    eventually(lambda: first.superseded, "the second waits")
    with pytest.raises(OpenError, match="still running"):
        table.enter(name_of(generation=3), third, 0.05)
    waiting.join(5)
    assert isinstance(outcome[0], OpenError), "the second is not let in after the third has come"
    first.busy = 0


def test_a_handle_that_is_closed_while_its_request_runs_is_waited_for(site: FakeSite) -> None:
    table = SessionTable()
    older = new_handle(site)
    table.enter(name_of(generation=1), older, 1.0)
    older.busy = 1
    table.leave(name_of(generation=1), older)
    with pytest.raises(OpenError, match="still running"):
        table.enter(name_of(generation=2), new_handle(site), 0.02)


def test_generations_are_remembered_after_a_close(site: FakeSite) -> None:
    table = SessionTable()
    handle = new_handle(site)
    table.enter(name_of(generation=7), handle, 1.0)
    table.leave(name_of(generation=7), handle)
    with pytest.raises(OpenError):
        table.enter(name_of(generation=6), new_handle(site), 1.0)
    table.enter(name_of(generation=8), new_handle(site), 1.0)


def ticket_for(table: SessionTable, name: sessions.PeerExport, handle: Handle) -> str:
    with pytest.raises(NotPresentLife) as raised:
        table.enter(name, handle, 1.0)
    return raised.value.ticket


def test_a_new_life_supersedes_all_slots_of_the_former_and_of_no_other_manager(site: FakeSite) -> None:
    table = SessionTable()
    mine = [new_handle(site) for _ in range(3)]
    for slot, handle in enumerate(mine):
        table.enter(name_of(slot, 5), handle, 1.0)
    foreign = new_handle(site)
    table.enter(name_of(0, 5, manager="c"), foreign, 1.0)
    ticket = ticket_for(table, name_of(0, 1, life="two"), new_handle(site))
    assert not any(handle.superseded for handle in mine), "asking changes nothing"
    table.enter(name_of(0, 2, life="two", ticket=ticket), new_handle(site), 1.0)
    assert all(handle.superseded for handle in mine)
    assert not foreign.superseded
    table.enter(name_of(1, 3, life="two"), new_handle(site), 1.0)
    ticket_for(table, name_of(9, 9, life="one"), new_handle(site))


def test_every_slot_of_a_new_life_waits_for_what_still_runs_of_the_former_ones(site: FakeSite) -> None:
    table = SessionTable()
    old = new_handle(site)
    table.enter(name_of(life="one"), old, 1.0)
    old.busy = 1
    for life in ("two", "three"):
        ticket = ticket_for(table, name_of(life=life), new_handle(site))
        for slot in range(3):
            with pytest.raises(OpenError, match="still running"):
                table.enter(name_of(slot, slot + 1, life, ticket=ticket), new_handle(site), 0.02)
    old.busy = 0
    table.enter(name_of(0, 9, "three"), new_handle(site), 1.0)


def test_a_late_open_of_an_earlier_life_does_not_shut_the_present_one_out(site: FakeSite) -> None:
    table = SessionTable()
    stale = ticket_for_second_life(table, site)
    present = new_handle(site)
    table.enter(name_of(0, 3, life="two", ticket=stale), present, 1.0)
    for late in (name_of(0, 1, life="one"), name_of(0, 9, life="zero", ticket=stale)):
        ticket_for(table, late, new_handle(site))
    assert not present.superseded
    table.enter(name_of(0, 4, life="two"), new_handle(site), 1.0)


def ticket_for_second_life(table: SessionTable, site: FakeSite) -> str:
    table.enter(name_of(0, 1, life="one"), new_handle(site), 1.0)
    return ticket_for(table, name_of(0, 1, life="two"), new_handle(site))


def test_a_life_that_was_pushed_aside_comes_back(site: FakeSite) -> None:
    """Whoever opens a made-up session in its name cannot keep it out."""
    table = SessionTable()
    table.enter(name_of(0, 1, life="real"), new_handle(site), 1.0)
    ticket = ticket_for(table, name_of(0, 1, life="x"), new_handle(site))
    table.enter(name_of(0, 9, life="x", ticket=ticket), new_handle(site), 1.0)
    ticket = ticket_for(table, name_of(0, 2, life="real"), new_handle(site))
    table.enter(name_of(0, 3, life="real", ticket=ticket), new_handle(site), 1.0)


def test_managers_that_left_are_turned_away_and_what_still_runs_of_them_is_remembered(site: FakeSite) -> None:
    table = SessionTable()
    idle, busy, other = (new_handle(site) for _ in range(3))
    table.enter(name_of(0, 1), idle, 1.0)
    table.enter(name_of(1, 1), busy, 1.0)
    table.enter(name_of(0, 1, manager="c"), other, 1.0)
    busy.busy = 1
    table.retain({"c"})
    assert (idle.superseded, busy.superseded, other.superseded) == (True, True, False)
    with pytest.raises(OpenError, match="still running"):
        table.enter(name_of(0, 2), new_handle(site), 0.02)
    busy.busy = 0
    table.retain({"c"})
    assert list(table._lives) == ["c"]


def test_strangers_are_refused_and_leave_nothing_behind(site: FakeSite) -> None:
    for number in range(100):
        with pytest.raises(OpenError, match="know no manager"):
            site.plane.open(f".forward/v/1/m{number}~x~0/1")
    assert not site.plane.sessions._lives
    assert not site.plane.sessions._slots


def test_a_refused_open_leaves_no_slot_behind(site: FakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 1)
    table = SessionTable()
    only = new_handle(site)
    table.enter(name_of(0), only, 1.0)
    with pytest.raises(OpenError, match="more than 1 "):
        table.enter(name_of(1), new_handle(site), 1.0)
    assert len(table._slots) == 1
    table.leave(name_of(0), only)
    table.enter(name_of(1), new_handle(site), 1.0)


def test_a_slot_of_which_a_request_may_still_run_is_not_forgotten(
    site: FakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 1)
    table = SessionTable()
    older, newer = new_handle(site), new_handle(site)
    table.enter(name_of(0, 1), older, 1.0)
    older.busy = 1
    with pytest.raises(OpenError, match="still running"):
        table.enter(name_of(0, 2), newer, 0.02)
    with pytest.raises(OpenError, match="more than 1 "):
        table.enter(name_of(1), new_handle(site), 1.0)


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
