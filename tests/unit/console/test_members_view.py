"""Voters, observers, lag and contact, as people see them."""

import pytest
from msgspec.structs import replace

from tests.fake_site import member, membership, site, status
from tests.unit.console.test_render import text_of
from tests.unit.console.test_top_view import DATA, shown
from vimraft.api.advice_members import refused_advice
from vimraft.api.schema import AsOf
from vimraft.console import render, render_members
from vimraft.console.top_view import View

REFUSED = refused_advice("tokyo", ("osaka", "nagoya"), "refused by it as changed-identity: " + "x" * 200)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_managers_fit_the_terminal_and_lose_nothing(width: int) -> None:
    bad = member(
        "kyoto", connected=False, last_contact_ms=12_300, problem="refused: changed-identity; remove it"
    )
    reply = replace(membership(), members=(*membership().members, bad))
    text = text_of(render_members.membership_view(reply), width)
    assert max(len(line) for line in text.splitlines()) <= width
    flat = " ".join(text.split())
    for words in ("observer", "leader", "42 ms", "12 s", "voters 3 of 3 up, 2 needed", "observers 1",
                  "term 7", "generation 1"):  # fmt: skip
        assert words in flat


def test_a_member_that_cannot_be_reached_is_red() -> None:
    assert render_members.contact_text(False, 30).style == render.BAD
    assert render_members.contact_text(False, None).plain == "never"
    assert render_members.contact_text(True, 42).style == ""
    assert render_members.contact_text(True, 2_000).style == render.WARN


def test_too_few_voters_are_red_and_one_lost_is_a_warning() -> None:
    styles = [
        str(render_members.quorum_line(replace(membership(), voters_reachable=n)).spans[1].style)
        for n in (3, 2, 1)
    ]
    assert styles == [render.GOOD, render.WARN, render.BAD]


def test_the_console_shows_the_vote_of_each_manager_and_those_without_a_site() -> None:
    sites = (site("osaka", "leader"), site("tokyo"), site("kyoto", vote="observer", contact_ms=1_500))
    data = replace(DATA, status=replace(status(), sites=sites))
    for width in (80, 120):
        lines = shown(data, View(), width, 30)
        text = "\n".join(lines)
        assert "voters 3 of 3 up, 2 needed  observers 1  term 7  generation 1" in lines[2]
        assert any("kyoto" in line and "observer" in line and "1.5 s" in line for line in lines)
        assert any("(sendai)" in line and "observer" in line for line in lines)
        assert "voter" in text


def test_a_manager_that_is_refused_shows_the_command_that_helps_in_full() -> None:
    reply = replace(
        status(),
        leader=None,
        as_of=AsOf(index=9, age_seconds=30.0, quorum=False),
        membership=replace(membership(), voters_reachable=1, advice=(REFUSED,)),
    )
    lines = shown(replace(DATA, status=reply), View(), 80, 24)
    assert "as of index 9, 30 s old: no quorum" in lines[0]
    assert "--replace tokyo --config FILE --via URL --token-file FILE" in " ".join(lines[3:6])
    assert len(lines) == 24


def test_a_short_terminal_keeps_its_rows_for_the_panels() -> None:
    assert not any("voters" in line for line in shown(DATA, View(), 80, 12))


def test_a_manager_of_the_first_release_says_nothing_about_members() -> None:
    old = replace(status(), membership=None, sites=(site("tokyo", vote="", contact_ms=None),))
    lines = shown(replace(DATA, status=old), View(), 80, 24)
    assert any("tokyo" in line and "follower" in line for line in lines)
