"""Directories that the first release left on disk become ours, whatever interrupts it."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.raft_directories import CONFIG, close, crashes
from tests.simulation.disk import SimDisk
from vimraft.core.apply import apply
from vimraft.core.codec import state_digest
from vimraft.core.tables import State
from vimraft.metadata.pysyncobj import legacy
from vimraft.metadata.pysyncobj.config import PySyncObjConfig
from vimraft.metadata.pysyncobj.errors import CorruptData
from vimraft.metadata.pysyncobj.recovery import Recovered, recover

FIXTURES = Path(__file__).parents[2] / "fixtures" / "format1" / "raft"
CASES = [(name, node) for name in ("young", "compacted") for node in (0, 3)]


def load(name: str, node: int) -> tuple[SimDisk, PySyncObjConfig, dict[str, Any]]:
    facts = json.loads((FIXTURES / name / "facts.json").read_text())
    disk = SimDisk()
    for path in (FIXTURES / name / str(node)).iterdir():
        disk.put(path.name, path.read_bytes())
    config = PySyncObjConfig(self_address=facts["addresses"][node], data_dir=CONFIG.data_dir)
    return disk, config, facts


def state_of(found: Recovered) -> State:
    state = State() if found.snapshot is None else found.snapshot.state
    applied = 0 if found.snapshot is None else found.snapshot.index
    for command, index, _ in found.journal[:]:
        if index > applied and command[:1] == b"\0":
            state, _ = apply(state, command[1:])
    return state


@pytest.mark.parametrize(("name", "node"), CASES)
def test_tables_members_term_and_vote_are_taken_over(name: str, node: int) -> None:
    disk, config, facts = load(name, node)
    before = legacy.read_contents(disk)
    found = recover(disk, config)
    assert (found.snapshot is None) == (name == "young")
    assert set(found.members) == set(facts["addresses"])
    assert all(member.voter for member in found.members.values())
    assert found.initial_members == tuple(sorted(facts["addresses"][:3]))
    expected = state_of(found).cluster_id  # the same at all, though their first lists differ
    assert (found.identity.cluster, found.identity.generation) == (expected, 1)
    assert found.journal.getCurrentTerm() == before.term >= facts["term"]
    assert found.journal.getVotedForNodeId() == before.voted_for
    assert found.journal.getRaftCommitIndex() == before.commit > 50
    kept = [(legacy.unpickled(command), *place) for command, *place in before.entries]
    assert found.journal[:] == kept[-len(found.journal) :]
    assert b"\x02\x80" not in {command[:2] for command, _, _ in found.journal[:]}
    assert state_digest(state_of(found)) == facts["digest"]
    assert len(state_of(found).storages) == facts["storages"]
    close(found)
    again = recover(disk, config)
    assert again.identity == found.identity
    assert not {"journal.meta", "lock"} & set(disk.names())


@pytest.mark.parametrize(("name", "node"), CASES)
def test_a_conversion_that_is_interrupted_anywhere_is_finished(name: str, node: int) -> None:
    start, config, _ = load(name, node)
    whole = recover(start.copy(), config)
    for at, disk in crashes(lambda disk: recover(disk, config), start, 5):
        for _ in range(3):
            found = recover(disk, config)
            assert found.journal[:] == whole.journal[:], at
            assert found.journal.getCurrentTerm() == whole.journal.getCurrentTerm()
            assert found.journal.getVotedForNodeId() == whole.journal.getVotedForNodeId()
            assert found.journal.getRaftCommitIndex() == whole.journal.getRaftCommitIndex()
            assert found.members == whole.members
            assert found.snapshot == whole.snapshot
            close(found)
            disk.crash(random.Random(at))
        assert not disk.exists("journal.meta")


@pytest.mark.parametrize("name", ["journal.meta", "members.json"])
@pytest.mark.parametrize("damage", ["lost", "torn"])
def test_a_lost_or_torn_vote_or_member_list_stops_the_start(name: str, damage: str) -> None:
    disk, config, _ = load("young", 0)
    if damage == "lost":
        disk.remove(name)
    else:
        disk.put(name, (disk.contents(name) or b"")[:30])
    with pytest.raises(CorruptData, match=name):
        recover(disk, config)
    assert legacy.present(disk)


def test_a_torn_journal_stops_the_start() -> None:
    whole, config, _ = load("young", 0)
    data = whole.contents("journal") or b""
    for position in (36, 40, 500, 3000):
        disk = whole.copy()
        disk.put("journal", data[:position] + b"\xff\xff\xff\xff" + data[position + 4 :])
        with pytest.raises(CorruptData, match="journal"):
            recover(disk, config)


def test_one_that_had_only_begun_is_a_first_start() -> None:
    disk, config, facts = load("young", 0)
    for name in ("journal", "journal.meta"):
        disk.remove(name)
    found = recover(disk, config)
    assert found.members.keys() == set(facts["addresses"][:3])
    assert len(found.journal) == 0
