"""The count of losses goes on over a restart of the process, and begins anew with the host."""

from pathlib import Path

from vimraft.data.losses import LossBook


def test_a_life_goes_on_where_the_former_one_ended(tmp_path: Path) -> None:
    book = LossBook(tmp_path / "losses", "boot")
    assert book.known("v") == 0
    book.note("v", 2)
    book.note("v", 1)
    assert LossBook(tmp_path / "losses", "boot").known("v") == 2


def test_another_boot_begins_anew(tmp_path: Path) -> None:
    LossBook(tmp_path / "losses", "boot").note("v", 2)
    assert LossBook(tmp_path / "losses", "another").known("v") == 0


def test_a_damaged_file_and_a_disk_that_refuses_are_survived(tmp_path: Path) -> None:
    (tmp_path / "losses").write_text("[]")
    told: list[str] = []
    book = LossBook(tmp_path / "losses", "boot", lambda event, **_fields: told.append(event))
    (tmp_path / "losses.part").mkdir()
    book.note("v", 1)
    assert book.known("v") == 1
    assert told == ["losses.not_read", "losses.not_kept"]
