"""Raft directories for tests: made on a SimDisk by the product's own code, and crashed anywhere."""

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

from tests.simulation.disk import CHANGES, Crashed, SimDisk
from vimraft.core.tables import State
from vimraft.metadata.pysyncobj.config import PySyncObjConfig
from vimraft.metadata.pysyncobj.members import Member, by_address, encode_change
from vimraft.metadata.pysyncobj.recovery import Recovered, recover
from vimraft.metadata.pysyncobj.snapshot import Snapshot, SnapshotExchange

A, B, C, D = (f"127.0.0.1:{port}" for port in (1, 2, 3, 4))
CONFIG: Final = PySyncObjConfig(self_address=A, members=(A, B, C), data_dir=Path("/nowhere"))
Entry = tuple[bytes, int, int]


def at_once(job: Callable[[], None]) -> None:
    job()


def open_directory(disk: SimDisk, config: PySyncObjConfig = CONFIG) -> Recovered:
    """As a node does: with PySyncObj's first entry, and everything synced."""
    found = recover(disk, config)
    if not len(found.journal):
        found.journal.add(b"\x01", 1, 0)
    found.journal.sync()
    return found


def close(found: Recovered) -> None:
    found.journal._destroy()


def fill(found: Recovered, count: int, term: int = 1, size: int = 200) -> list[Entry]:
    """Add entries, the third a membership change, and sync; all entries of the journal."""
    journal = found.journal
    journal.setCurrentTerm(term, A)
    for i in range(count):
        index = journal[-1][1] + 1
        change = encode_change("observe", D, "node-d") if i == 2 else b"\x00" + b"%d" % index * size
        journal.add(change, index, term)
    journal.setRaftCommitIndex(journal[-1][1])
    journal.sync()
    return list(journal[:])


def snapshot_at(found: Recovered, position: int, state: State | None = None) -> Snapshot:
    """That ends with the entry at `position` of the journal."""
    previous, last = found.journal[position - 1 : position + 1]
    members = tuple(found.members.values())
    identity = found.identity
    state = State(index=last[1]) if state is None else state
    return Snapshot(members, previous, last, state, identity.cluster, identity.generation)


def fail(why: str) -> NoReturn:
    raise AssertionError(why)


def exchange(disk: SimDisk, snapshot: Snapshot, **options: Any) -> SnapshotExchange:
    """Writes `snapshot` whenever it is asked to."""
    given: dict[str, Any] = {
        "current": lambda previous, last: snapshot,
        "wanted": lambda received: True,
        "install": lambda received: None,
        "failed": lambda: None,
        "lost": fail,
        "background": at_once,
    }
    return SnapshotExchange(disk, **{**given, **options})


def compact(disk: SimDisk, found: Recovered, position: int) -> None:
    """As PySyncObj does it: the snapshot, then the journal."""
    snapshot = snapshot_at(found, position)
    writer = exchange(disk, snapshot)
    writer.serialize((None, snapshot.last, snapshot.previous, set()), snapshot.previous[1])
    if writer.checkSerializing()[0] == 2:
        found.journal.deleteEntriesTo(position - 1)


def crashes(
    run: Callable[[SimDisk], object], start: SimDisk, seed: int, cuts: int = 2
) -> Iterator[tuple[int, SimDisk]]:
    """`run` on a copy of `start`, ended before (or in) each of its changes of the disk in turn, by the death
    of the process and by `cuts` power cuts; the last one is not ended. Yields (changes, what is left)."""
    at = 0
    while True:
        over = False
        for power in range(cuts + 1):
            disk = start.copy()
            rng = random.Random(f"{seed} {at} {power}")
            disk.on_operation = _End(at, rng.random())
            with contextlib.suppress(Crashed):
                run(disk)
                over = True
            disk.on_operation = None
            if power:
                disk.crash(rng)
            else:
                disk.kill()
            yield at, disk
        if over:
            return
        at += 1


class _End:
    def __init__(self, at: int, part: float) -> None:
        self._left = at
        self._part = part

    def __call__(self, name: str, what: str) -> None:
        if what in CHANGES:
            self._left -= 1
        if self._left < 0:
            raise Crashed(part=self._part)


def members_of(*addresses: str) -> dict[str, Member]:
    return by_address(Member(address) for address in addresses)
