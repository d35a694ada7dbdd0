"""When a node may stand, whom it helps, and which votes count."""

from typing import Any

import pytest

from vimraft.metadata.pysyncobj.elections import PRE_VOTE, Elections, Standing

VOTERS = frozenset({"a", "b", "c"})
OWN = Standing(term=5, last_log_index=100, last_log_term=4)
MIN_S = 0.4


def elections(own: str = "a") -> Elections:
    return Elections(own, MIN_S)


class Asked:
    def __init__(self) -> None:
        self.messages: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, peer: str, message: dict[str, Any]) -> None:
        self.messages.append((peer, message))


def stands(node: Elections, own: Standing = OWN, voters: frozenset[str] = VOTERS, now: float = 10.0) -> bool:
    return node.deadline_passed(now, own, voters, Asked())


def test_before_it_stands_it_asks_every_other_voter_about_the_next_term() -> None:
    asked = Asked()
    assert not elections().deadline_passed(10.0, OWN, VOTERS, asked)
    message = {"type": PRE_VOTE, "term": 6, "last_log_index": 100, "last_log_term": 4}
    assert asked.messages == [("b", message), ("c", message)]


def test_a_majority_of_voters_lets_it_stand_once() -> None:
    node = elections()
    stands(node)
    assert node.granted("b", 6, OWN, VOTERS)
    assert stands(node)
    assert not stands(node)  # the next time it asks again


def test_the_same_voter_counts_once_and_others_not_at_all() -> None:
    five = frozenset("abcde")
    node = elections()
    stands(node, voters=five)
    assert not node.granted("b", 6, OWN, five)
    assert not node.granted("b", 6, OWN, five)
    assert not node.granted("observer", 6, OWN, five)
    assert node.granted("c", 6, OWN, five)


def test_a_grant_for_another_term_is_worth_nothing() -> None:
    node = elections()
    stands(node)
    assert not node.granted("b", 5, OWN, VOTERS)
    later = OWN._replace(term=6)  # it has seen a newer term since
    assert not node.granted("b", 6, later, VOTERS)
    assert not node.granted("c", 7, later, VOTERS)


def test_a_grant_won_in_an_older_term_does_not_let_it_stand_in_a_newer_one() -> None:
    node = elections()
    stands(node)
    assert node.granted("b", 6, OWN, VOTERS)
    assert not stands(node, OWN._replace(term=6))


def test_who_hears_a_leader_again_stands_no_more() -> None:
    node = elections()
    stands(node)
    node.heard_leader(10.1)
    assert not node.granted("b", 6, OWN, VOTERS)
    assert not stands(node, now=11.0)


@pytest.mark.parametrize("voters", [frozenset("bc"), frozenset()])
def test_who_is_no_voter_never_stands_and_asks_nobody(voters: frozenset[str]) -> None:
    asked = Asked()
    node = elections()
    assert not node.deadline_passed(10.0, OWN, voters, asked)
    assert not asked.messages
    assert not node.granted("b", 6, OWN, voters)


def test_a_voter_alone_stands_at_once() -> None:
    assert stands(elections(), voters=frozenset("a"))


# --- being asked ------------------------------------------------------------------------------------

EQUAL = Standing(term=6, last_log_index=100, last_log_term=4)


def grants(
    node: Elections, asked: Standing = EQUAL, now: float = 10.0, peer: str = "b", leading: bool = False
) -> bool:
    return node.grant(now, peer, asked, OWN, leading=leading)


def test_who_hears_a_live_leader_grants_nothing() -> None:
    node = elections()
    node.heard_leader(9.7)
    assert not grants(node)
    assert grants(node, now=9.7 + MIN_S)
    assert not grants(elections(), leading=True)


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        (EQUAL, True),
        (EQUAL._replace(last_log_index=99), False),
        (EQUAL._replace(last_log_index=101), True),
        (EQUAL._replace(last_log_term=3, last_log_index=900), False),
        (EQUAL._replace(last_log_term=5, last_log_index=1), True),
        (EQUAL._replace(term=5), False),  # a term that we are in already
        (EQUAL._replace(term=9), True),
    ],
)
def test_it_grants_to_logs_as_new_as_its_own_in_newer_terms(asked: Standing, granted: bool) -> None:
    assert grants(elections(), asked) is granted


def test_of_two_who_ask_at_once_exactly_one_goes_on() -> None:
    a, b = elections("a"), elections("b")
    stands(a)
    stands(b)
    assert grants(a, peer="b")
    assert not grants(b, peer="a")
    assert not a.granted("c", 6, OWN, VOTERS)  # it has given way
    assert b.granted("a", 6, OWN, VOTERS)


def test_of_two_who_ask_at_once_the_newer_log_goes_on() -> None:
    node = elections("b")
    stands(node)
    assert grants(node, EQUAL._replace(last_log_index=101), peer="a")


def test_a_round_of_its_own_that_is_over_hinders_nobody() -> None:
    node = elections("b")
    stands(node, now=10.0)
    assert grants(node, peer="a", now=10.01 + MIN_S / 2)


# --- votes ------------------------------------------------------------------------------------------


def test_a_vote_counts_once_for_its_term_from_a_voter() -> None:
    node = elections()
    assert node.counts("b", 6, 6, VOTERS)
    assert not node.counts("b", 6, 6, VOTERS)
    assert not node.counts("observer", 6, 6, VOTERS)
    assert not node.counts("c", 5, 6, VOTERS)
    assert node.counts("c", 6, 6, VOTERS)
    assert node.counts("b", 7, 7, VOTERS)
