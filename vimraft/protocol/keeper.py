"""What a store keeps on its disk: changes of its record go there in batches, and who waits for which.

May live here: the record and the two batches, the one being written and the one that collects. Keeps: changes
reach the disk in the order in which they reached the memory, so that the disk holds a beginning of what the
memory went through. Whatever must be durable before something else waits for its batch.
"""

from vimraft.protocol.effects import Keep
from vimraft.protocol.regions import Change, StoreRecord
from vimraft.protocol.store_requests import Op


class Keeper:
    def __init__(self, record: StoreRecord) -> None:
        self.record = record
        self.failed = False
        """The disk refused a batch: nothing can be promised until the store restarts."""
        self.kept = 0
        """Number of the newest batch that is durable; they count from 1."""
        self.waiting = 0
        """Requests that wait for a batch."""
        self._writing: list[Change] | None = None
        self._collecting: list[Change] = []
        self._waiters: dict[int, list[Op]] = {}

    @property
    def newest(self) -> int:
        """The batch that has the last change; it is durable when `kept` has reached it."""
        return self.kept + (self._writing is not None) + bool(self._collecting)

    def add(self, change: Change) -> int:
        """The memory has it now; returns the batch that the disk gets it with."""
        self.record.add(change)
        self._collecting.append(change)
        return self.newest

    def wait(self, op: Op, batch: int) -> None:
        assert batch > self.kept, f"batch {batch} is durable already"
        self._waiters.setdefault(batch, []).append(op)
        self.waiting += 1

    def waiters(self) -> list[Op]:
        return [op for waiters in self._waiters.values() for op in waiters]

    def begin(self) -> Keep | None:
        """The next batch, if none is being written."""
        if self._writing is not None or not self._collecting or self.failed:
            return None
        self._writing, self._collecting = self._collecting, []
        return Keep(self.kept + 1, tuple(self._writing))

    def persisted(self, token: int, ok: bool) -> tuple[list[Change], list[Op]]:
        """What is durable now, and who waited for it; if it failed: everybody who waits."""
        if self._writing is None or token != self.kept + 1:
            return [], []
        if not ok:
            self.failed = True
            ops, self._waiters, self.waiting = self.waiters(), {}, 0
            return [], ops
        changes, self._writing = self._writing, None
        self.kept += 1
        ops = self._waiters.pop(self.kept, [])
        self.waiting -= len(ops)
        return changes, ops
