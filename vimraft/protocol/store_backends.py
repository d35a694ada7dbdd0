"""What is under way in the backends of a store, and what of it is older than what is served now.

May live here: tokens, the two counts of what must drain, and rounds of flushes. Keeps: an outcome that is not
known counts as under way until the backend says it; a copy has one flush under way, and the ones who asked
meanwhile share the next one, since a flush that failed must fail for all that come after it.
"""

from collections.abc import Iterable

from vimraft.protocol.asks import READS
from vimraft.protocol.effects import BackendFlush, BackendIo, IoKind
from vimraft.protocol.maps import regions_of
from vimraft.protocol.store_copies import CopyHere
from vimraft.protocol.store_requests import Op, StoreCounters


class Flush:
    """One at a backend, for everybody who asked before it began."""

    __slots__ = ("copy", "era", "install", "riders", "sequence")

    def __init__(self, copy: CopyHere, riders: list[Op], sequence: int, era: int, install: int) -> None:
        self.copy = copy
        self.riders = riders
        self.sequence = sequence
        """It covers the writes that ended until this one."""
        self.era = era
        self.install = install


class Backends:
    def __init__(self, counters: StoreCounters) -> None:
        self.ops: dict[int, Op] = {}
        self.flushes: dict[int, Flush] = {}
        self.reads = 0
        self.sequence = 0
        """Of the writes that ended."""
        self.older = 0
        """Of a life or session of the owner, or an epoch, that was replaced: what is newer waits for them."""
        self.of_older_maps = 0
        """Whoever frees segments waits for them."""
        self._era = 0
        self._install = 0
        self._tokens = 0
        self._counters = counters

    def __len__(self) -> int:
        return len(self.ops) + len(self.flushes)

    def replaced(self) -> None:
        """Whatever is under way is older than what comes."""
        self._era += 1
        self.older = len(self)

    def installed(self) -> None:
        """Whatever is under way went by an older map."""
        self._install += 1
        self.of_older_maps = len(self)

    def send(self, op: Op, copy: CopyHere, kind: IoKind) -> BackendIo:
        self._tokens = token = self._tokens + 1
        op.copy, op.era, op.install, op.token = copy, self._era, self._install, token
        self.ops[token] = op
        request, counters = op.request, self._counters
        if kind in READS:
            self.reads += 1
            counters.reads += 1
            counters.read += request.end - request.first
        else:
            counters.writes += 1
            counters.written += request.end - request.first
        return BackendIo(token, kind, request.copy, request.first, request.end, request.data, request.fua)

    def flush(self, copy: CopyHere, riders: list[Op]) -> BackendFlush:
        assert not copy.flushing, f"{copy.name} has a flush under way"
        self._tokens += 1
        copy.flushing = True
        self._counters.flushes += 1
        self.flushes[self._tokens] = Flush(copy, riders, self.sequence, self._era, self._install)
        return BackendFlush(self._tokens, copy.name)

    def ended(self, op: Op) -> None:
        """Its outcome is known."""
        del self.ops[op.token]
        request = op.request
        if request.kind in READS:
            self.reads -= 1
        else:
            self.sequence += 1
            op.copy.ended(request.first, request.end, self.sequence)
        self._count(op.era, op.install)

    def flush_ended(self, token: int) -> Flush:
        flush = self.flushes.pop(token)
        flush.copy.flushing = False
        self._count(flush.era, flush.install)
        return flush

    def _count(self, era: int, install: int) -> None:
        if self.older and era != self._era:
            self.older -= 1
        if self.of_older_maps and install != self._install:
            self.of_older_maps -= 1

    def writes_at(self, copy: CopyHere, regions: Iterable[int]) -> set[int]:
        """Those of the regions on which something is under way."""
        wanted, found = set(regions), set()
        for op in self.ops.values():
            if op.copy is copy and op.request.kind not in READS:
                found |= wanted.intersection(regions_of(op.request.first, op.request.end))
        return found

    def waiters(self) -> list[Op]:
        return [*self.ops.values(), *(op for flush in self.flushes.values() for op in flush.riders)]
