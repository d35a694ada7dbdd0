"""Who the members are as the log changes, when a leader accepts a change, and who may speak."""

from collections.abc import Callable

import pytest

from vimraft.metadata.pysyncobj.members import Change, Member, by_address, encode_change, voters_at
from vimraft.metadata.pysyncobj.membership import (
    CAUGHT_UP_ENTRIES,
    MAX_MEMBERS,
    Acquaintances,
    Configuration,
    Progress,
    refusal,
)

A, B, C, D = "a:1", "b:1", "c:1", "d:1"
THREE = voters_at((A, B, C))


def entry(index: int, command: bytes = b"\x00x") -> tuple[bytes, int, int]:
    return command, index, 1


def configuration(*commands: bytes, named: bool = False) -> Configuration:
    return Configuration(THREE, [entry(10 + i, c) for i, c in enumerate(commands)], named=named)


def test_a_change_is_in_force_from_the_moment_it_is_in_the_log() -> None:
    held = configuration(b"\x01", b"\x00x")
    held.append(12, encode_change("observe", D, "id-d"))
    assert held.members[D] == Member(D, "id-d", voter=False)
    assert held.voters() == {A, B, C}
    held.append(13, encode_change("add", D))
    assert held.members[D] == Member(D, "id-d", voter=True)
    assert held.last_change == 13


def test_a_cut_tail_takes_its_changes_with_it() -> None:
    held = configuration(encode_change("observe", D), encode_change("rem", B), encode_change("add", D))
    held.cut(11)
    assert held.voters() == {A, B, C}
    assert not held.members[D].voter
    assert held.last_change == 10
    held.cut(1)
    assert held.members == THREE


def test_a_removal_that_is_cut_gives_the_member_back_as_it_was() -> None:
    held = configuration(encode_change("add", B, "id-b"), encode_change("rem", B))
    assert B not in held.members
    held.cut(11)
    assert held.members[B] == Member(B, "id-b")


def test_compaction_changes_nothing_that_is_in_force() -> None:
    held = configuration(encode_change("observe", D), b"\x00x", encode_change("rem", C))
    assert held.at(11).keys() == {A, B, C, D}
    before = dict(held.members)
    held.compact(11)
    assert held.members == before
    held.cut(12)
    assert held.members.keys() == {A, B, C, D}
    held.restart({A: Member(A)})
    assert held.members == {A: Member(A)}
    assert held.last_change == 0


def test_members_that_only_the_first_list_knows_are_to_be_named_in_the_log() -> None:
    held = configuration(encode_change("add", A, "id-a"), encode_change("rem", C))
    assert [member.address for member in held.unlisted()] == [B]
    held.compact(11)
    assert not held.unlisted()
    assert not configuration(named=True).unlisted()


def test_members_whose_id_the_log_does_not_hold_are_unnamed_until_it_does() -> None:
    held = configuration(encode_change("add", A, "id-a"), encode_change("add", B), named=True)
    assert [member.address for member in held.unnamed()] == [B, C]
    held.compact(11)
    held.append(12, encode_change("add", B, "id-b"))
    held.append(13, encode_change("add", C, "id-c"))
    assert not held.unnamed()


# --- what a leader accepts --------------------------------------------------------------------------

WITH_OBSERVER = {**THREE, D: Member(D, "id-d", voter=False)}


def progress(behind: int | None = 0, *, undecided: bool = False) -> Progress:
    return Progress(A, undecided, lambda address: behind)


@pytest.mark.parametrize(
    ("change", "behind", "why"),
    [
        (Change("observe", "e:1"), 0, ""),
        (Change("observe", B), 0, "member already"),
        (Change("add", "e:1"), 0, "observer first"),
        (Change("add", B), 0, "voter already"),
        (Change("add", D), CAUGHT_UP_ENTRIES, ""),
        (Change("add", D), CAUGHT_UP_ENTRIES + 1, "not caught up"),
        (Change("add", D), None, "not answered"),
        (Change("add", D, "other"), 0, "another identity"),
        (Change("observe", D, "other"), 0, "another identity"),
        (Change("rem", B), None, ""),
        (Change("rem", D), None, ""),
        (Change("rem", "e:1"), 0, "no member"),
        (Change("rem", A), 0, "step aside"),
    ],
)
def test_a_leader_accepts_only_what_keeps_the_cluster_safe(
    change: Change, behind: int | None, why: str
) -> None:
    found = refusal(change, WITH_OBSERVER, progress(behind))
    assert (why in found) if why else not found


def test_nothing_is_accepted_while_a_change_is_undecided() -> None:
    assert "under way" in refusal(Change("observe", "e:1"), THREE, progress(undecided=True))


def test_the_last_voter_stays_and_members_have_a_bound() -> None:
    members = {B: Member(B), D: Member(D, voter=False)}
    assert "last voter" in refusal(Change("rem", B), members, progress())
    many = voters_at(f"m{i}:1" for i in range(MAX_MEMBERS))
    assert refusal(Change("observe", "e:1"), many, progress())


# --- who may speak ----------------------------------------------------------------------------------


class Saved:
    def __init__(self) -> None:
        self.node_ids: dict[str, str] = {}
        self.full = False

    def __call__(self, node_ids: dict[str, str]) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self.node_ids = node_ids


@pytest.fixture
def saved() -> Saved:
    return Saved()


Make = Callable[..., Acquaintances]


@pytest.fixture
def make(saved: Saved) -> Make:
    def acquaintances(*members: Member, **node_ids: str) -> Acquaintances:
        return Acquaintances(node_ids, lambda: by_address(members), saved)

    return acquaintances


def test_who_is_met_first_is_remembered_and_nobody_else_speaks_there(make: Make, saved: Saved) -> None:
    known = make(Member(B))
    assert known.knows(B, "id-b")
    assert saved.node_ids == {B: "id-b"}
    assert known.knows(B, "id-b")
    assert not known.knows(B, "wiped")
    assert not known.knows(B, "")
    assert not known.knows("stranger:1", "id-b")


def test_the_log_has_the_last_word_on_an_identity(make: Make) -> None:
    known = make(Member(B, "id-b"))
    assert not known.knows(B, "other")
    assert known.knows(B, "id-b")
    assert known.named(B, "id-b")
    assert not known.named(B, "other")
    assert not make(Member(B)).named(B, "id-b")


def test_nobody_is_accepted_whom_the_disk_cannot_remember(make: Make, saved: Saved) -> None:
    known = make(Member(B))
    saved.full = True
    assert not known.knows(B, "id-b")
    saved.full = False
    assert known.knows(B, "id-c")  # nothing was promised to the first one


def test_after_its_removal_another_node_may_come_to_the_address(make: Make, saved: Saved) -> None:
    known = make(Member(B))
    assert known.knows(B, "id-b")
    known.forget(B)
    assert saved.node_ids == {}
    assert known.knows(B, "id-new")
