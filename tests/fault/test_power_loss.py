"""Audit's test 3: power is lost at every node at once; unsynced pages go, independently in each file.

Real processes are killed, then their directories are made into what a power cut could have left. Before
that the same, at every operation, with the product's journal and recovery on a disk in memory.
"""

import asyncio
import random
from pathlib import Path

import pytest

from tests.fault.directories import Directory, View
from tests.fault.links import PROGRAM
from tests.fault.load import Load
from tests.fault.power_cut import cut_power
from tests.raft_cases import raft_cluster, until
from tests.simulation.disk import CHANGES, Crashed, SimDisk

CUTS = 3


@pytest.mark.cluster
async def test_nothing_acknowledged_is_lost_when_power_fails_everywhere_at_once(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    async with raft_cluster(tmp_path, start=False, compaction_entries=60) as cluster:
        for number, node in enumerate(cluster.nodes):
            node.program = PROGRAM
            node.faults = {"shadow": str(tmp_path / f"shadow{number}")}
        await cluster.start()
        await cluster.form()
        acknowledged: set[int] = set()
        lost_bytes = 0
        for number in range(CUTS):
            load = Load(cluster, first=10_000 * number)
            load.start(12, cluster.nodes)
            enough = rng.randrange(20, 150)
            await until(lambda load=load, enough=enough: len(load.acknowledged) >= enough, 30, "writes")
            await asyncio.gather(*(node.kill() for node in cluster.nodes))
            await load.stop()
            lost_bytes += sum(cut_power(node, rng) for node in cluster.nodes)
            await cluster.start()
            load.acknowledged |= acknowledged
            found = await load.check(cluster.nodes)
            assert found.good, found
            acknowledged = load.acknowledged
        assert lost_bytes > 0, "nothing was unsynced: the cuts had nothing to take"


STEPS = 40
"""Of a node's life between two power cuts."""
LIVES = 6


class _Life:
    """Random steps on a directory in memory; remembers what may be found after a power cut."""

    def __init__(self, disk: SimDisk, rng: random.Random) -> None:
        self.directory = Directory(disk)
        self.may_be_found = [self.directory.view()]
        """What was promised, and what has come since."""
        self._rng = rng

    def step(self) -> None:
        rng, directory = self._rng, self.directory
        what = rng.choice(("add", "add", "sync", "sync", "term", "tail", "write", "compact"))
        if what == "sync":
            directory.commit()
            directory.journal.sync()
            self.may_be_found = [directory.view()]
        elif what == "write":
            directory.journal.write()
        elif what == "compact":
            directory.compact()
            self.may_be_found = [directory.view()]
        else:
            if what == "add":
                directory.add(rng, rng.randrange(1, 12))
            elif what == "term":
                directory.new_term(rng)
            else:
                directory.replace_tail(rng)
            self.may_be_found.append(directory.view())


def _entries(view: View) -> dict[int, tuple[bytes, int, int]]:
    return {entry[1]: entry for entry in view.entries}


def _explained(found: View, life: _Life) -> bool:
    """It is one of those states, or lies between two of them: an append may have got there in part."""
    promised = life.may_be_found[0]
    if found.node_id != promised.node_id or found.members != promised.members:
        return False
    if found.snapshot_index < promised.snapshot_index or found.term < promised.term:
        return False
    if found.term == promised.term and found.voted_for != promised.voted_for:
        return False
    seen = {entry for view in life.may_be_found for entry in view.entries}
    kept, there = _entries(promised), _entries(found)
    return set(found.entries) <= seen and all(
        there.get(index) == entry or index <= found.snapshot_index
        for index, entry in kept.items()
        if _never_replaced(index, life)
    )


def _never_replaced(index: int, life: _Life) -> bool:
    return len({_entries(view).get(index) for view in life.may_be_found}) == 1


@pytest.mark.parametrize("seed", range(150))
def test_a_directory_survives_power_cuts_at_any_operation(seed: int) -> None:
    rng = random.Random(seed)
    disk = SimDisk()
    left = [0]

    def count_down(name: str, operation: str) -> None:
        left[0] -= operation in CHANGES
        if left[0] == 0:
            raise Crashed(part=rng.random())

    life: _Life | None = None
    for _ in range(LIVES):
        left[0] = rng.randrange(1, 60)
        disk.on_operation = count_down
        try:
            begun = _Life(disk, rng)
            if life is not None:
                assert _explained(begun.directory.view(), life), seed
            life = begun
            life.directory.new_term(rng)
            life.may_be_found.append(life.directory.view())
            for _ in range(STEPS):
                life.step()
        except Crashed:
            pass
        disk.on_operation = None
        disk.crash(rng)
    last = Directory(disk)
    assert life is None or _explained(last.view(), life), seed
