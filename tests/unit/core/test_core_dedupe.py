"""How long the result of a request is remembered."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from immutables import Map

from tests.core_cases import build, three_sites
from vimraft.core import apply as apply_module
from vimraft.core import codec, dedupe, levels
from vimraft.core.apply import apply_request
from vimraft.core.commands import Applied, FormCluster, Request, SetSetting
from vimraft.core.tables import ClientResult, Settings, State

MINUTE_MS = 60_000


def formed(level: int = levels.LATEST) -> State:
    return apply_request(State(), Request("former", 1, 0, "", FormCluster("x", Settings(), level=level)))[0]


def asked(state: State, client: str, at_ms: int = 0, value: int = 4_001) -> State:
    return apply_request(state, Request(client, 1, at_ms, "", SetSetting("lease_ms", value)))[0]


def filled(state: State, count: int, at_ms: int, prefix: str = "c") -> State:
    for number in range(count):
        state = asked(state, f"{prefix}{number}", at_ms)
    return state


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MIN_CLIENTS", 8), ("MAX_CLIENTS", 64), ("LOOK_EVERY", 4)):
        monkeypatch.setattr(dedupe, name, value)


def test_at_level_1_the_oldest_go_first_whatever_the_time() -> None:
    state = filled(formed(levels.FIRST), dedupe.MIN_CLIENTS, at_ms=5)
    assert len(state.clients) == dedupe.MIN_CLIENTS + 1 - dedupe.MIN_CLIENTS // 8
    assert "former" not in state.clients
    assert "c0" not in state.clients
    assert f"c{dedupe.MIN_CLIENTS - 1}" in state.clients
    assert all(row.at_ms == 0 for row in state.clients.values())


def test_a_retry_after_many_others_is_recognised_for_ten_minutes() -> None:
    state = asked(formed(), "first", at_ms=0, value=4_500)
    state = asked(state, "second", at_ms=0, value=5_000)
    state = filled(state, 6_000, at_ms=9 * MINUTE_MS)
    assert asked(state, "first", at_ms=9 * MINUTE_MS, value=4_500).settings.lease_ms == 4_001


def test_old_results_go_once_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    state = filled(formed(), 30, at_ms=0, prefix="old")
    assert len(state.clients) == 31
    state = filled(state, 20, at_ms=10 * MINUTE_MS + 1, prefix="new")
    assert not any(client.startswith("old") for client in state.clients)
    assert sum(client.startswith("new") for client in state.clients) == 20


def test_there_is_a_bound_and_the_oldest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    state = filled(formed(), 64, at_ms=7)
    assert len(state.clients) == 65 - 8
    assert "c6" not in state.clients
    assert "c7" in state.clients


def test_a_fast_clock_leaves_what_level_1_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    state = filled(formed(), 30, at_ms=0)
    state = filled(state, 4, at_ms=1 << 60, prefix="fast")
    assert len(state.clients) >= 8
    assert {f"c{n}" for n in range(26, 30)} <= set(state.clients)


rows = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 40)), max_size=150)


@settings(max_examples=150)
@given(rows, st.integers(1, 5))
def test_what_is_forgotten_is_old_or_beyond_the_bound(sent: list[tuple[int, int]], every: int) -> None:
    """Against a list that is in order, and whatever the order of the map."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("MIN_CLIENTS", 8), ("MAX_CLIENTS", 32), ("LOOK_EVERY", every)):
            patch.setattr(dedupe, name, value)
        clients: dedupe.Clients = Map()
        for index, (who, minute) in enumerate(sent, start=1):
            now_ms = minute * MINUTE_MS
            before = clients
            clients = dedupe.remember(before, f"c{who}", ClientResult(1, index, b"", b"", now_ms), 2)
            gone = sorted((before[name].index, name) for name in before if name not in clients)
            left = sorted(row.index for row in clients.values())
            full = len(before.set(f"c{who}", clients[f"c{who}"]))
            young = [name for _, name in gone if before[name].at_ms >= now_ms - dedupe.WINDOW_MS]
            assert len(clients) <= 32
            assert not gone or len(clients) >= 8
            assert not young or (full > 32 and gone[-1][0] < left[0])
            again = Map(sorted(before.items(), reverse=True))  # another history, another order
            result = ClientResult(1, index, b"", b"", now_ms)
            assert dedupe.remember(again, f"c{who}", result, 2) == clients


def test_many_results_are_cheap_to_keep_and_to_forget() -> None:
    clients: dedupe.Clients = Map(
        (f"req/{n}", ClientResult(1, n + 1, b"x" * 100, b"12345678", n)) for n in range(32_000)
    )
    begun = time.perf_counter()
    for index in range(40_000, 44_096):
        clients = dedupe.remember(clients, f"req/{index}", ClientResult(1, index, b"", b"", 40_000), 2)
    assert (time.perf_counter() - begun) / 4_096 < 0.000_5


def test_at_level_2_results_hold_fewer_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply_module, "MAX_OUTCOME_SEGMENTS_KEPT_LONG", 0)
    state = three_sites().state
    request = Request("c", 1, 0, "", build("small", 10))
    assert apply_request(state, request)[1].volume is not None
    outcome = apply_request(state._replace(level=2), request)[1]
    assert isinstance(outcome, Applied)
    assert outcome.volume is None


def test_times_of_results_survive_the_snapshot() -> None:
    state = asked(formed(), "c", at_ms=77)
    assert codec.decode_state(codec.encode_state(state)) == state
    assert state.clients["c"].at_ms == 77


def test_a_slow_clock_does_not_make_the_newest_results_go(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    now = 60 * MINUTE_MS
    state = filled(formed(), 20, at_ms=now)
    state = asked(state, "slow", at_ms=now - 11 * MINUTE_MS)
    state = filled(state, 6, at_ms=now, prefix="later")
    assert "slow" in state.clients
