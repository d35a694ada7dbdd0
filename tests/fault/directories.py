"""A node's Raft directory on a disk in memory, made by the product's own journal and recovery.

May live here: writing such a directory step by step, and reading back what a restart would find.
"""

import random
from pathlib import Path
from typing import NamedTuple

from tests.core_cases import real, three_sites
from tests.simulation.disk import SimDisk
from vimraft.core.tables import State
from vimraft.metadata.pysyncobj.config import PySyncObjConfig
from vimraft.metadata.pysyncobj.disk import write_durably
from vimraft.metadata.pysyncobj.recovery import Recovered, recover
from vimraft.metadata.pysyncobj.snapshot_file import SNAPSHOT, Snapshot, encode_snapshot

ADDRESSES = ("127.0.0.1:7001", "127.0.0.1:7002", "127.0.0.1:7003")
CONFIG = PySyncObjConfig(self_address=ADDRESSES[0], members=ADDRESSES, data_dir=Path("/in-memory"))
REGULAR = b"\x00"
"""First byte of a command's entry in PySyncObj's log."""


def _tables(reals: int) -> State:
    """Large enough for a snapshot of several pages."""
    tables = three_sites()
    for lun in range(1, reals):
        tables.applied(real("021a00", lun))
    return tables.state


STATE = _tables(80)


class View(NamedTuple):
    """What a restart goes on with: two that are equal let a node do the same."""

    snapshot_index: int
    entries: tuple[tuple[bytes, int, int], ...]
    """Behind the snapshot."""
    term: int
    voted_for: str | None
    node_id: str
    members: frozenset[str]


class Directory:
    """A node's life as far as its disk is concerned. Raises what the disk raises."""

    def __init__(self, disk: SimDisk) -> None:
        self.disk = disk
        self.found: Recovered = recover(disk, CONFIG)
        self.journal = self.found.journal
        self.snapshot = self.found.snapshot

    def view(self) -> View:
        first = 0 if self.snapshot is None else self.snapshot.index
        return View(
            first,
            tuple(entry for entry in self.journal[:] if entry[1] > first),
            self.journal.getCurrentTerm(),
            self.journal.getVotedForNodeId(),
            self.found.identity.node_id,
            frozenset(self.found.members),
        )

    def add(self, rng: random.Random, count: int) -> None:
        for _ in range(count):
            index = self.journal[-1][1] + 1 if len(self.journal) else 1
            command = REGULAR + rng.randbytes(rng.randrange(1, 300))
            self.journal.add(command, index, self.journal.getCurrentTerm())

    def new_term(self, rng: random.Random) -> None:
        self.journal.setCurrentTerm(self.journal.getCurrentTerm() + 1, rng.choice([None, *ADDRESSES]))

    def replace_tail(self, rng: random.Random) -> None:
        """A new leader's entries in place of some that are not committed."""
        keep = 2 + rng.randrange(max(1, len(self.journal) - 2))
        if keep < len(self.journal) and self.journal[keep][1] > self.journal.getRaftCommitIndex():
            self.journal.deleteEntriesFrom(keep)

    def commit(self) -> None:
        if len(self.journal):
            self.journal.setRaftCommitIndex(self.journal[-1][1])

    def compact(self) -> None:
        """Everything committed goes into a snapshot, then the journal is trimmed. In the node's order."""
        self.journal.sync()
        position = self.journal.getRaftCommitIndex() - self.journal[0][1] if len(self.journal) else 0
        if position < 1:
            return
        previous, last = self.journal[position - 1 : position + 1]
        members = tuple(self.found.members.values())
        identity = self.found.identity
        snapshot = Snapshot(members, previous, last, STATE, identity.cluster, identity.generation)
        write_durably(self.disk, SNAPSHOT, encode_snapshot(snapshot))
        self.snapshot = snapshot
        self.journal.deleteEntriesTo(position - 1)

    def close(self) -> None:
        self.journal.sync()
        self.journal._destroy()


def filled(seed: int, entries: int = 120) -> SimDisk:
    """A closed directory with a snapshot and a journal of several pages, all of it synced."""
    rng = random.Random(seed)
    disk = SimDisk()
    directory = Directory(disk)
    directory.new_term(rng)
    directory.add(rng, entries)
    directory.commit()
    directory.compact()
    directory.add(rng, entries // 2)
    directory.journal.sync()
    directory.new_term(rng)
    directory.add(rng, entries // 2)
    directory.commit()
    directory.close()
    disk.sync_names()
    return disk
