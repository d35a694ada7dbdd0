"""What people see: bars, sparklines, tables that fit and lose nothing."""

import io

import pytest
from msgspec.structs import replace
from rich.console import Console, RenderableType

from tests.fake_site import event, real, site, status, volume
from vimraft.api.schema import AsOf, IoRates, TableReply
from vimraft.console import render
from vimraft.console.status_view import status_view
from vimraft.core.views import VIRTUAL_SECTORS

AS_OF = AsOf(index=7, age_seconds=0.0, quorum=True)


def text_of(renderable: RenderableType, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize(
    ("fraction", "shown"),
    [(0.0, "░░░░░░░░"), (0.5, "████░░░░"), (1.0, "████████"), (0.45, "███▋░░░░"), (-1, "░░░░░░░░"),
     (9, "████████")],
)  # fmt: skip
def test_bars_fill_in_eighths_and_stay_in_their_width(fraction: float, shown: str) -> None:
    assert render.bar(fraction, 8).plain == shown


def test_bars_warn_when_they_fill_up() -> None:
    styles = [str(render.bar(f, 8).spans[0].style) for f in (0.5, 0.85, 0.97)]
    assert styles == [render.GOOD, render.WARN, render.BAD]


def test_sparklines_scale_to_their_highest_value() -> None:
    assert render.sparkline([0, 5, 10], 5).plain == "  ▁▅█"
    assert render.sparkline([0, 0], 2).plain == "▁▁"
    assert render.sparkline(range(8), 4).plain == "▅▆▇█"
    assert render.sparkline([], 3).plain == "   "


def test_rates_add_up_and_latencies_are_weighted() -> None:
    total = render.sum_rates(
        [IoRates(read_iops=100, read_latency_us=100), IoRates(read_iops=300, read_latency_us=500), IoRates()]
    )
    assert (total.read_iops, total.read_latency_us, total.write_latency_us) == (400, 400, 0)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_status_never_grows_wider_than_the_terminal_nor_loses_a_name(width: int) -> None:
    long = replace(
        status(),
        sites=(site("a-site-with-a-rather-long-name", "down"),),
        volumes=(volume("v" * 40, 1 << 40, "a-site-with-a-rather-long-name", ("one", "two", "three")),),
    )
    shown = text_of(status_view(long), width)
    assert max(len(line) for line in shown.splitlines()) <= width
    for words in ("a-site-with-a-rather-long-name", "✖ down: no heartbeat", "v" * 40, "one, two, three"):
        wanted = words.replace(" ", "")
        assert any(wanted in "".join(column.split()) for column in columns_of(shown)), words


def columns_of(shown: str) -> list[str]:
    """What stands between two fixed places, read from the top down: folded cells come whole again."""
    lines = [line.ljust(130) for line in shown.splitlines()]
    return [
        "".join(line[first:last] for line in lines) for first in range(100) for last in range(first + 5, 130)
    ]


def test_a_sectors_table_folds_its_header_before_its_cells() -> None:
    row = ("archive", "0–1048575999", "volume A", "021a00", 3, "2048–1048578047")
    shown = text_of(render.table_reply(TableReply("t", VIRTUAL_SECTORS, (row,), AS_OF)))
    line = next(line for line in shown.splitlines() if "archive" in line)
    assert line.split("  ")[-1].strip() == "2048–1048578047"
    assert len(shown.splitlines()) == 7


def test_byte_columns_are_shown_in_units_and_rounded_down() -> None:
    reply = TableReply("t", ("storage address", "LUN", "free capacity"), (("a", 10, (1 << 30) - 1),), AS_OF)
    assert "1023 MiB" in text_of(render.table_reply(reply))


def test_an_empty_table_still_says_as_of_when() -> None:
    shown = text_of(render.table_reply(TableReply("t", ("a",), (), AsOf(9, 3.25, False))))
    assert "(no rows)" in shown
    assert "as of index 9, 3.2 seconds old: no quorum" in shown


def test_states_that_need_a_look_stand_out() -> None:
    assert render.health_text(site("x", "down")).plain == "✖ down: no heartbeat for 12 s"
    assert (
        render.health_text(site("x", healthy=False, problem="export restarts")).plain == "▲ export restarts"
    )
    assert render.health_text(site("x")).plain == "● ok"
    stale = replace(status().volumes[0].replicas[0], state="stale")
    both = volume(
        "v", 1, "tokyo", ("tokyo",), replicas=(status().volumes[0].replicas[0], stale), read_only=True
    )
    assert render.volume_state(both).plain == "stale ro"


def test_a_failed_real_volume_says_why() -> None:
    shown = text_of(
        render.reals_table([real("t1", 0, "tokyo", "ssd", 0.5, state="failed", reason="label")]), 100
    )
    assert "failed: label" in shown


def test_event_lines_hold_time_site_and_message() -> None:
    line = render.event_line(event(3, "error", "it broke"), date=False).plain
    assert line.endswith("✖ tokyo volume.built it broke")
