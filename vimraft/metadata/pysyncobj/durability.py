"""When the disk has what this node is about to say, do, or has been asked to keep.

May live here: when to sync, what to let go after it, and what a disk that takes nothing means. The node
calls `settle` before and after PySyncObj's part of each round, so that a leader's sync runs while its
followers sync, and one sync serves all commands of a round.

Keeps: a vote or acknowledgement leaves after the sync that covers it (INV-1); while the disk is full none
leaves at all; a failed sync is never repeated, since the kernel may have dropped the pages: the process ends.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, NoReturn

import structlog

from vimraft.metadata.pysyncobj.errors import SyncFailed
from vimraft.metadata.pysyncobj.gate import GatedTransport
from vimraft.metadata.pysyncobj.journal import DurableJournal

log = structlog.get_logger(__name__)

COMMIT_SYNC_S: Final = 0.01
"""A commit index of which nothing else was written since is synced in the first round after this time;
rounds come every 10 ms at least while one is waiting."""
DISK_RETRY_S: Final = 0.5


class Durability:
    def __init__(
        self,
        journal: DurableJournal,
        clock: Callable[[], float],
        *,
        full: Callable[[str], None],
        lost: Callable[[str], NoReturn],
    ) -> None:
        """`full`: the disk takes nothing (why). `lost`: what the disk holds is unknown; does not return."""
        self.gate: GatedTransport | None = None
        """Set once PySyncObj has made it."""
        self.problem = ""
        self._journal = journal
        self._clock = clock
        self._full = full
        self._lost = lost
        self._retry_s = 0.0
        self._commit_since_s: float | None = None
        self._waiting: deque[Callable[[], None]] = deque()
        """Appended by any thread."""

    def when_synced(self, done: Callable[[], None]) -> None:
        """Any thread. `done` is called in the node's once all that is applied now survives a power cut."""
        self._waiting.append(done)

    @property
    def commit_waits(self) -> bool:
        return self._commit_since_s is not None

    def settle(self) -> None:
        """Sync if something waits for it, and let go what it covers."""
        gate = self.gate
        assert gate is not None
        now = self._clock()
        if self.problem and now < self._retry_s:
            gate.drop_held()
            return
        waiting = len(self._waiting)
        if self._must_sync(now):
            if not self._try(self._journal.sync, now):
                return
            self._commit_since_s = None
            if self.problem:
                log.info("raft.disk_takes_data_again", problem=self.problem)
                self.problem = ""
            for _ in range(waiting):  # later ones may speak of more than this sync has covered
                self._waiting.popleft()()
        gate.release()

    def write(self) -> bool:
        """Have the journal in the page cache: what is applied after it survives the death of the process."""
        now = self._clock()
        if self.problem and now < self._retry_s:
            return False
        return self._try(self._journal.write, now)

    def _must_sync(self, now: float) -> bool:
        journal = self._journal
        if journal.urgent or self.problem or self._waiting:
            return True
        if journal.synced_commit >= journal.getRaftCommitIndex():
            self._commit_since_s = None
        elif self._commit_since_s is None:
            self._commit_since_s = now
        else:
            return now - self._commit_since_s >= COMMIT_SYNC_S
        return False

    def _try(self, action: Callable[[], None], now: float) -> bool:
        try:
            action()
        except SyncFailed as error:
            self._lost(str(error))
        except OSError as error:
            self._retry_s = now + DISK_RETRY_S
            if not self.problem:
                # ENOSPC mostly; a quota or a device that is gone for a while are the same to us.
                self.problem = f"disk full: {error.strerror or error}"
                log.error("raft.disk_takes_nothing", problem=self.problem)
                self._full(self.problem)
            return False
        return True
