"""Rates over cumulative counters, and events from changes of the tables."""

from tests.copies_cases import two_copies
from tests.core_cases import build, three_sites
from vimraft.core.commands import DeleteVolume, LoseUnflushed, SetReadPolicy, SetRealVolumeState
from vimraft.data.feed import IoCounters
from vimraft.site.changes_to_events import events_between
from vimraft.site.rates import IDLE, RateBoard, RateWindow, combine


def test_rates_are_differences_over_the_window() -> None:
    window = RateWindow()
    assert window.rates() == IDLE
    window.add(0.0, IoCounters())
    window.add(2.0, IoCounters(reads=200, read_bytes=819_200, read_ns=20_000_000, in_flight=3))
    rates = window.rates()
    assert rates.read_iops == 100
    assert rates.read_bytes_s == 409_600
    assert rates.read_latency_us == 100
    assert rates.in_flight == 3
    assert rates.write_latency_us == 0


def test_old_samples_leave_the_window() -> None:
    window = RateWindow()
    for second in range(60):
        window.add(float(second), IoCounters(reads=1000 if second >= 1 else 0))
    assert window.rates().read_iops == 0


def test_a_process_that_began_anew_does_not_give_negative_rates() -> None:
    window = RateWindow()
    window.add(0.0, IoCounters(reads=1_000_000))
    window.add(1.0, IoCounters(reads=10))
    assert window.rates() == IDLE


def test_names_no_longer_reported_are_forgotten() -> None:
    board = RateBoard()
    board.add(0.0, {"a": IoCounters(), "b": IoCounters()})
    board.add(1.0, {"b": IoCounters(writes=5)})
    assert set(board.rates()) == {"b"}


def test_combined_latency_is_weighted_by_operations() -> None:
    window = RateWindow()
    window.add(0, IoCounters())
    window.add(1, IoCounters(reads=300, read_ns=300 * 100_000))
    other = RateWindow()
    other.add(0, IoCounters())
    other.add(1, IoCounters(reads=100, read_ns=100 * 500_000))
    both = combine(window.rates(), other.rates())
    assert both.read_iops == 400
    assert both.read_latency_us == 200


def test_map_changes_become_events_that_a_second_sight_does_not_repeat() -> None:
    tables = three_sites()
    before = tables.state
    tables.applied(build("alpha", 3))
    tables.applied(DeleteVolume("alpha"))
    events = events_between(before, tables.state, 5)
    assert [(e.name, e.subject) for e in events] == [("map.built", "alpha"), ("map.deleted", "alpha")]
    assert len({e.dedupe for e in events}) == 2
    assert events_between(tables.state, tables.state, 5) == []


def test_a_failed_real_volume_is_an_error_with_its_reason() -> None:
    tables = three_sites()
    before = tables.state
    key = next(iter(before.reals))
    tables.applied(SetRealVolumeState(key.storage, key.lun, "failed", "label: missing"))
    (event,) = [e for e in events_between(before, tables.state, 5) if e.name == "real.failed"]
    assert event.severity == "error"
    assert "label: missing" in event.message


def test_what_a_volume_may_have_lost_is_an_error_told_once() -> None:
    tables = two_copies()
    tables.retire("B")
    before = tables.state
    tables.applied(LoseUnflushed(*tables.at()))
    (event,) = [e for e in events_between(before, tables.state, 5) if e.name == "volume.lossy"]
    assert (event.subject, event.severity) == ("v", "error")
    assert "flush" in event.message
    before = tables.state
    tables.applied(SetReadPolicy("v", "local"))
    assert [e for e in events_between(before, tables.state, 5) if e.name == "volume.lossy"] == []
