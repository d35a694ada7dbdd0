"""Putting another Raft directory in place: interrupted anywhere, the old or the new one is in force."""

import os

import pytest

from tests.unit.site.test_automatic_backups import config
from vimraft.site import directory
from vimraft.site.directory import locked, put_in_place, settle


class PowerFails(Exception):
    pass


def build(path):
    path.mkdir()
    (path / "log").write_text("new")


def old(data_dir):
    (data_dir / "raft").mkdir()
    (data_dir / "raft" / "log").write_text("old")


def in_force(data_dir) -> str:
    return (data_dir / "raft" / "log").read_text()


def test_the_old_one_is_kept_aside(tmp_path):
    old(tmp_path)
    kept = put_in_place(tmp_path, build, "raft.before-generation-2")
    assert in_force(tmp_path) == "new"
    assert kept == tmp_path / "raft.before-generation-2"
    assert (kept / "log").read_text() == "old"
    again = put_in_place(tmp_path, build, "raft.before-generation-2")
    assert again == tmp_path / "raft.before-generation-2-2"


def test_without_an_old_one_nothing_is_kept(tmp_path):
    assert put_in_place(tmp_path, build, "aside") is None
    assert in_force(tmp_path) == "new"


@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize("had_one", [True, False])
def test_an_interruption_at_any_step_leaves_one_in_force(tmp_path, monkeypatch, step, had_one):
    """Renames are the steps; the power fails before number `step` (or while building, step 0)."""
    if had_one:
        old(tmp_path)
    done = 0
    rename = os.rename

    def fails(source, target):
        nonlocal done
        done += 1
        if done == step:
            raise PowerFails
        rename(source, target)

    def interrupted(path):
        build(path)
        if step == 0:
            raise PowerFails

    monkeypatch.setattr(directory.os, "rename", fails)
    renames = 3 if had_one else 2
    if step <= renames:
        with pytest.raises(PowerFails):
            put_in_place(tmp_path, interrupted, "aside")
    else:
        put_in_place(tmp_path, interrupted, "aside")
    monkeypatch.setattr(directory.os, "rename", rename)
    settle(tmp_path)
    assert not (tmp_path / "raft.building").exists()
    assert not (tmp_path / "raft.new").exists()
    if had_one:
        assert in_force(tmp_path) == ("old" if step < 3 else "new")
        if in_force(tmp_path) == "new":
            assert (tmp_path / "aside" / "log").read_text() == "old"
    else:
        assert not (tmp_path / "raft").exists() if step < 2 else in_force(tmp_path) == "new"


def test_whoever_takes_the_lock_settles_first(tmp_path):
    build(tmp_path / "raft.new")
    with locked(config(tmp_path)):
        assert in_force(tmp_path) == "new"
