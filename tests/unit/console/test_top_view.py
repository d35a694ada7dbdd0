"""The console without a terminal: keys change the view, and every screen has exactly its size."""

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.console import Console

from tests.fake_site import event, real, site, status, volume
from vimraft.api.schema import AsOf, IoRates
from vimraft.console.top import parse_keys
from vimraft.console.top_view import (
    MIN_HEIGHT,
    MIN_WIDTH,
    PANELS,
    TopData,
    View,
    handle_key,
    screen,
    share_rows,
)

DATA = TopData(
    status=status(), events=tuple(event(n) for n in range(9)), rates=(1.0, 5.0, 3.0), source="http://a"
)
KEYS = [*"qsr/?14dbxé", "tab", "shift-tab", "esc", "enter", "backspace", "up", "down", "pgdn", "pgup", "home"]


def shown(data: TopData, view: View, width: int = 80, height: int = 24) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    console.print(screen(data, view, width, height))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


def press(*keys: str, view: View | None = None) -> View:
    result = view or View()
    for key in keys:
        result = handle_key(result, key)
    return result


def crowd(count: int) -> TopData:
    reply = replace(
        status(),
        sites=tuple(site(f"site-{n:03}") for n in range(count)),
        reals=tuple(real(f"r{n:03}", 0, "tokyo", "ssd", n / max(count, 1)) for n in range(count)),
        volumes=tuple(
            volume(f"vol-{n:03}", n << 30, "tokyo", ("tokyo",), io={"tokyo": IoRates(read_iops=n * 10.0)})
            for n in range(count)
        ),
    )
    return replace(DATA, status=reply)


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (40, 10), (200, 60), (79, 11)])
@pytest.mark.parametrize("count", [0, 3, 50])
def test_every_screen_has_exactly_the_size_of_the_terminal(size: tuple[int, int], count: int) -> None:
    width, height = size
    for focus in range(len(PANELS)):
        lines = shown(crowd(count), View(focus=focus), width, height)
        assert len(lines) == height
        assert max(len(line) for line in lines) <= width


@given(st.lists(st.sampled_from(KEYS), max_size=30), st.integers(MIN_WIDTH, 140), st.integers(MIN_HEIGHT, 50))
def test_no_sequence_of_keys_breaks_the_screen(keys: list[str], width: int, height: int) -> None:
    lines = shown(crowd(7), press(*keys), width, height)
    assert len(lines) == height
    assert max(len(line) for line in lines) <= width


def test_eighty_by_twenty_four_shows_all_four_panels_with_their_rows() -> None:
    lines = shown(DATA, View())
    text = "\n".join(lines)
    for words in ("leader osaka", "as of index 1234", "● ok", "85%", "db-main", "184 µs", "1.5 ms", *PANELS):
        assert words in text
    assert lines[-1].startswith("q quit")


def test_a_terminal_that_is_too_small_is_told_so() -> None:
    assert shown(DATA, View(), 39, 9)[0].startswith("vimraft top needs 40×10")


def order(view: View, data: TopData | None = None) -> list[str]:
    lines = shown(data or crowd(4), view, 120, 40)
    return [line.split()[0] for line in lines if line.startswith("vol-")]


def test_s_cycles_the_order_and_r_reverses_it() -> None:
    assert order(View()) == ["vol-000", "vol-001", "vol-002", "vol-003"]
    assert order(press("s")) == ["vol-003", "vol-002", "vol-001", "vol-000"]
    assert order(press("s", "r")) == ["vol-000", "vol-001", "vol-002", "vol-003"]
    assert press(*["s"] * 5).sort == (0, 0, 0, 0)


def test_sorting_applies_to_the_panel_in_focus() -> None:
    assert press("tab", "s").sort == (0, 0, 0, 0)
    assert press("shift-tab", "s").sort == (0, 1, 0, 0)
    assert press("1", "r").reverse == (True, False, False, False)


def test_a_filter_is_typed_kept_and_cleared() -> None:
    typing = press("/", "0", "0", "2")
    assert (typing.mode, typing.filter) == ("filter", "002")
    assert order(typing) == ["vol-002"]
    assert press("q", view=typing).filter == "002q"
    assert not press("q", view=typing).quit
    kept = press("enter", view=typing)
    assert (kept.mode, kept.filter) == ("normal", "002")
    assert any("1 of 4 match" in line for line in shown(crowd(4), kept))
    assert press("esc", view=kept).filter == ""
    assert press("backspace", view=typing).filter == "00"
    assert press("esc", view=typing) == View()


def test_scrolling_stops_at_both_ends() -> None:
    data = crowd(50)
    first = order(press("up"), data)
    assert first[0] == "vol-000"
    last = order(press(*["pgdn"] * 20), data)
    assert last[-1] == "vol-049"
    assert len(last) == len(first)


def test_help_is_left_with_any_key_and_q_leaves_from_it() -> None:
    helping = press("?")
    assert "another panel" in "\n".join(shown(DATA, helping))
    assert press("x", view=helping) == View()
    assert press("q", view=helping).quit
    assert press("q").quit


def test_old_figures_stay_with_a_warning() -> None:
    lines = shown(replace(DATA, problem="no site manager can be reached", age_s=12.0), View())
    assert "as of index 1234, 12 s ago" in lines[0]
    assert "no site manager can be reached" in lines[1]
    assert any("db-main" in line for line in lines)
    hanging = shown(replace(DATA, age_s=7.0), View())
    assert "as of index 1234, 7.0 s ago" in hanging[0]
    old = replace(status(), as_of=AsOf(index=9, age_seconds=30.0, quorum=False), leader=None)
    lines = shown(replace(DATA, status=old), View())
    assert "leader none" in lines[0]
    assert "as of index 9, 30 s old: no quorum" in lines[0]


def test_before_the_first_answer_it_says_whom_it_asks() -> None:
    lines = shown(TopData(source="http://a:1"), View())
    assert "http://a:1" in lines[0]
    assert "waiting" in lines[1]
    assert "refused" in shown(TopData(source="x", problem="connection refused"), View())[1]


@given(st.integers(0, 60), st.lists(st.integers(0, 99), min_size=4, max_size=4), st.integers(0, 3))
def test_rows_are_shared_out_without_waste_or_excess(available: int, wanted: list[int], focus: int) -> None:
    given_rows = share_rows(available, wanted, focus)
    assert all(0 <= rows <= want for rows, want in zip(given_rows, wanted, strict=True))
    assert sum(given_rows) == min(available, sum(wanted))


@pytest.mark.parametrize(
    ("sent", "keys"),
    [
        (b"q", ["q"]),
        (b"\x1b[A\x1b[B", ["up", "down"]),
        (b"\x1b[5~x\x1b[6~", ["pgup", "x", "pgdn"]),
        (b"\x1b", ["esc"]),
        (b"\x1b[Z\t", ["shift-tab", "tab"]),
        (b"\x1b[99;5uq", ["q"]),
        (b"ab\x7f\r", ["a", "b", "backspace", "enter"]),
        ("é".encode(), ["é"]),
        (b"\xff\xfe", []),
        (b"\x1b[", []),
        (b"\x00\x01s", ["s"]),
    ],
)
def test_what_a_terminal_sends_becomes_keys(sent: bytes, keys: list[str]) -> None:
    assert list(parse_keys(sent)) == keys


@given(st.binary(max_size=64))
def test_no_bytes_hang_or_break_the_key_reader(sent: bytes) -> None:
    keys: list[Any] = list(parse_keys(sent))
    assert len(keys) <= len(sent)
