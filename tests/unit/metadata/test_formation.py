"""Who has to be met before a cluster may elect its first leader."""

import pytest

from vimraft.metadata.pysyncobj.formation import Formation

A, B, C = "a:1", "b:1", "c:1"


class Place:
    """Where what was met is kept."""

    def __init__(self) -> None:
        self.kept: frozenset[str] = frozenset()
        self.full = False
        self.over = False

    def open(self) -> Formation:
        formation = Formation(A, (A, B, C), self.kept, over=lambda: self.over, save=self.save)
        self.formation = formation
        return formation

    def save(self) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self.kept = self.formation.met


@pytest.fixture
def place() -> Place:
    return Place()


def test_it_waits_until_each_first_member_has_been_met(place: Place) -> None:
    formation = place.open()
    assert formation.waits_for() == [B, C]
    formation.meet(C)
    assert "waits for the first contact with b:1" in formation.problem
    formation.meet("stranger:1")
    formation.meet(B)
    assert not formation.waits_for()
    assert not formation.problem


def test_whom_it_met_it_knows_after_a_restart(place: Place) -> None:
    place.open().meet(B)
    assert place.open().waits_for() == [C]


def test_nobody_counts_as_met_who_could_be_forgotten(place: Place) -> None:
    formation = place.open()
    place.full = True
    formation.meet(B)
    assert formation.waits_for() == [B, C]
    place.full = False
    formation.settle()
    assert formation.waits_for() == [C]
    assert place.kept == {B}


def test_once_the_log_names_the_members_it_is_over(place: Place) -> None:
    formation = place.open()
    place.over = True
    assert not formation.waits_for()


def test_one_alone_waits_for_nobody() -> None:
    assert not Formation(A, (A,), (), over=lambda: False, save=lambda: None).waits_for()
    assert not Formation(A, (), (), over=lambda: False, save=lambda: None).waits_for()


def test_it_says_that_other_members_in_the_configuration_are_not_read() -> None:
    def formation(*configured: str) -> Formation:
        return Formation(A, (A, B), (), over=lambda: False, save=lambda: None, configured=configured)

    assert "very first start" not in formation(A, B).problem
    assert f"differ by {B}, {C}" in formation(A, C).problem
