"""Whether two maps of one name are of one volume: clients go on, or are turned away."""

from tests.plane import volume
from vimraft.data.volume import same_volume


def test_a_volume_of_which_every_copy_was_replaced_is_the_same() -> None:
    before = volume("v", 1, copy_names=("A", "B"), local_name="A", created_ms=7)
    after = volume("v", 1, copy_names=("C", "D"), local_name="C", created_ms=7)
    assert same_volume(before, after)


def test_another_one_under_its_name_is_not() -> None:
    before = volume("v", 1, copy_names=("A", "B"), local_name="A", created_ms=7)
    assert not same_volume(before, volume("v", 1, copy_names=("C", "D"), local_name="C", created_ms=8))


def test_a_manager_of_an_older_release_is_understood_by_local_names() -> None:
    before = volume("v", 1, copy_names=("A", "B"), local_name="A")
    assert same_volume(before, volume("v", 1, copy_names=("B", "C"), local_name="B", created_ms=8))
    assert not same_volume(before, volume("v", 1, copy_names=("C", "D"), local_name="C", created_ms=8))
