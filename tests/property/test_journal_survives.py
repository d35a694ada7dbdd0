"""The journal against a plain list: after any crash it holds what some moment since the last sync held."""

import contextlib
import os
import random
from typing import Final, NamedTuple

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.simulation.disk import CHANGES, Crashed, SimDisk
from vimraft.metadata.pysyncobj.journal import DurableJournal, open_journal

EXAMPLES: Final = int(os.environ.get("VIMRAFT_EXAMPLES", "600"))
STAMP: Final = b"s" * 16
KINDS: Final = (
    "add",
    "add",
    "add",
    "cut",
    "trim",
    "term",
    "commit",
    "write",
    "sync",
    "sync",
    "restart",
    "load",
)
OPERATIONS: Final = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 9)), min_size=4, max_size=40)


class Moment(NamedTuple):
    entries: tuple[tuple[bytes, int, int], ...]
    term: int
    voted_for: str | None
    commit: int


def moment(journal: DurableJournal) -> Moment:
    return Moment(
        tuple(journal[:]), journal.getCurrentTerm(), journal.getVotedForNodeId(), journal.getRaftCommitIndex()
    )


class Life:
    """One life of the process: the journal, and all moments that a crash may fall back to."""

    def __init__(self, journal: DurableJournal, rng: random.Random) -> None:
        self.journal = journal
        self.rng = rng
        self.moments = [moment(journal)]
        self.written = 0
        """Number of the moment that the page cache has: the death of the process keeps it."""
        self.synced = 0
        """Number of the moment that was on stable storage when `sync` last returned."""

    def do(self, kind: str, size: int) -> None:
        journal = self.journal
        getattr(self, f"_{kind}")(size)
        if kind in ("write", "sync", "trim", "restart"):
            self.written = len(self.moments) - 1
        if kind in ("sync", "trim", "restart"):
            self.synced = len(self.moments) - 1
            assert not journal.dirty
            assert journal.synced_index == (journal[-1][1] if len(journal) else 0)
            assert journal.synced_commit == journal.getRaftCommitIndex()

    def _step(self) -> None:
        self.moments.append(moment(self.journal))

    def _entry(self, index: int, size: int) -> tuple[bytes, int, int]:
        return self.rng.randbytes(size * size * size * 8), index, self.journal.getCurrentTerm()

    def _add(self, size: int) -> None:
        for _ in range(size % 4 + 1):
            index = self.journal[-1][1] + 1 if len(self.journal) else 1
            self.journal.add(*self._entry(index, size))
            self._step()

    def _cut(self, size: int) -> None:
        keep = max(0, len(self.journal) - size)
        if not keep or self.journal[keep - 1][1] < self.journal.getRaftCommitIndex():
            return
        self.journal.deleteEntriesFrom(keep)
        self._step()

    def _trim(self, size: int) -> None:
        # Until the new file is in force, the old one is, which holds the whole of it.
        self.journal.deleteEntriesTo(min(size + 1, max(0, len(self.journal) - 2)))
        if self.journal.dirty:
            self.journal.sync()
        self._step()

    def _term(self, size: int) -> None:
        self.journal.setCurrentTerm(self.journal.getCurrentTerm() + 1, None if size < 3 else f"node {size}")
        self._step()

    def _commit(self, size: int) -> None:
        if len(self.journal):
            first, last = self.journal[0][1], self.journal[-1][1]
            self.journal.setRaftCommitIndex(max(first, last - size, self.journal.getRaftCommitIndex()))
            self._step()

    def _write(self, _: int) -> None:
        self.journal.write()

    def _sync(self, _: int) -> None:
        self.journal.sync()

    def _ahead(self, size: int) -> int:
        return (self.journal[-1][1] if len(self.journal) else 1) + size + 2

    def _restart(self, size: int) -> None:
        index = self._ahead(size)
        self.moments.extend(self._loading(self._entry(index - 1, 1), self._entry(index, 1)))
        last = self.moments[-1].entries
        self.journal.restart(*last)
        if self.journal.dirty:
            self.journal.sync()
        self._step()

    def _load(self, size: int) -> None:
        """As PySyncObj does it when a snapshot was received."""
        index = self._ahead(size)
        self.journal.clear()
        self._step()
        for number in (index - 1, index):
            self.journal.add(*self._entry(number, 1))
            self._step()

    def _loading(self, previous: tuple[bytes, int, int], last: tuple[bytes, int, int]) -> list[Moment]:
        """What a crash inside `restart` may leave."""
        now = moment(self.journal)
        steps = [now._replace(entries=entries) for entries in ((), (previous,), (previous, last))]
        return [*steps]

    def allows(self, found: Moment, first: int) -> bool:
        return any(_same(found, wanted) for wanted in self.moments[first:])


def _same(found: Moment, wanted: Moment) -> bool:
    if found[1:3] != wanted[1:3]:
        return False
    last = found.entries[-1][1] if found.entries else None
    if found.commit != (wanted.commit if last is None else min(wanted.commit, last)):
        return False
    return found.entries == wanted.entries


class Crashing:
    """A hook that ends the process at its n-th change of the disk, sometimes in the middle of a write."""

    def __init__(self, at: int, part: float) -> None:
        self.left = at
        self.part = part

    def __call__(self, name: str, what: str) -> None:
        if what in CHANGES:
            self.left -= 1
        if self.left < 0:
            raise Crashed(part=self.part)


def reopen(disk: SimDisk, rng: random.Random, power: bool) -> DurableJournal:
    """After two more crashes at some moments while it is being opened."""
    for _ in range(2):
        disk.on_operation = Crashing(rng.randrange(12), rng.random())
        with contextlib.suppress(Crashed):
            open_journal(disk, STAMP)
        disk.on_operation = None
        if power and rng.random() < 0.5:
            disk.crash(rng)
        else:
            disk.kill()
    return open_journal(disk, STAMP)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    lives=st.lists(st.tuples(OPERATIONS, st.integers(0, 60), st.booleans()), min_size=1, max_size=3),
    seed=st.integers(0, 1 << 32),
)
@example(
    # Killed between the renaming of a new file and the sync of its name; then a power cut.
    lives=[([("add", 0)] * 3 + [("trim", 0)], 5, False), ([("add", 0)] * 4, 0, True)],
    seed=1,
)
def test_after_any_crash_it_holds_a_moment_since_the_last_sync(
    lives: list[tuple[list[tuple[str, int]], int, bool]], seed: int
) -> None:
    rng = random.Random(seed)
    disk = SimDisk()
    journal = DurableJournal(disk, stamp=STAMP)
    for operations, crash_at, power in lives:
        life = Life(journal, rng)
        disk.on_operation = Crashing(crash_at, rng.random())
        try:
            for kind, size in operations:
                life.do(kind, size)
        except Crashed:
            pass
        disk.on_operation = None
        if power:
            disk.crash(rng)
        else:
            disk.kill()
        journal = reopen(disk, rng, power)
        found = moment(journal)
        first = life.synced if power else life.written
        if crashed_in_step(life, found):
            continue
        assert life.allows(found, first), (found, life.moments[first:])


def crashed_in_step(life: Life, found: Moment) -> bool:
    """The crash came before the step was noted: the memory of the dead process tells what it was at."""
    return _same(found, moment(life.journal))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(operations=OPERATIONS, room=st.integers(0, 12_000), seed=st.integers(0, 1 << 32))
def test_a_full_disk_loses_nothing_and_the_next_write_goes_on(
    operations: list[tuple[str, int]], room: int, seed: int
) -> None:
    rng = random.Random(seed)
    disk = SimDisk()
    life = Life(DurableJournal(disk, stamp=STAMP), rng)
    disk.capacity_bytes = disk.used_bytes() + room
    for kind, size in operations:
        try:
            life.do(kind, size)
        except OSError:
            life._step()
            if rng.random() < 0.3:
                disk.capacity_bytes += rng.randrange(20_000)
    expected = moment(life.journal)
    if rng.random() < 0.5:
        disk.capacity_bytes = None
        life.journal.sync()
        first = len(life.moments)
        life.moments.append(expected)
    else:
        first = life.synced
    disk.crash(rng)
    disk.capacity_bytes = None
    found = moment(open_journal(disk, STAMP))
    # A file that could not be trimmed begins earlier than memory did.
    held = {index for _, index, _ in found.entries}
    assert any(
        found[1:3] == wanted[1:3]
        and found.entries[len(found.entries) - len(wanted.entries) :] == wanted.entries
        for wanted in life.moments[first:]
    ), (found, life.moments[first:])
    assert len(held) == len(found.entries)
