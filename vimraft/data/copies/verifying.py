"""Comparing the copies of one volume in the life of one owner, as its manager asks for it.

May live here: which run there is, what is told of it, when it is given up. One at a time; the machine is
`vimraft.protocol.verify`. The manager asks again and again: whoever is not asked for `PATIENCE_S` stops,
since the job that wanted it may have gone with its manager.
"""

import threading
from typing import NamedTuple

from vimraft.core.ids import LocalName
from vimraft.data.copies.owner_side import OwnerSide
from vimraft.data.copies.workers import boottime_ns
from vimraft.data.feed import VerifyCopies, VerifyState, VerifyTold
from vimraft.protocol.comparing import Mending
from vimraft.protocol.verify import Phase, Verify

PATIENCE_S = 60
_STATES: dict[Phase, VerifyState] = {
    "comparing": "running",
    "flushing": "running",
    "over": "over",
    "moved": "moved",
    "stopped": "stopped",
}


class _Run(NamedTuple):
    id: str
    verify: Verify


class Verifying:
    def __init__(self, side: OwnerSide) -> None:
        self._side = side
        self._lock = threading.Lock()
        self._run: _Run | None = None
        self._asked_ns = 0

    def asked(self, wanted: VerifyCopies) -> None:
        self._side.shell.tell(self._answer(wanted))

    def look(self) -> None:
        """From time to time."""
        with self._lock:
            run = self._run
            late = boottime_ns() - self._asked_ns > PATIENCE_S * 1_000_000_000
        if run is not None and late and not run.verify.ended:
            self._side.event(run.verify.stop)

    def _answer(self, wanted: VerifyCopies) -> VerifyTold:
        with self._lock:
            run = self._run
            if run is not None and run.id != wanted.id and not run.verify.ended:
                return VerifyTold(wanted.id, "busy", wanted.tally, "another one of this volume runs")
            if run is None or run.id != wanted.id:
                run = None
            if wanted.stop:
                return self._stop(wanted, run)
            self._asked_ns = boottime_ns()
            if run is None or run.verify.phase == "stopped":
                if not self._side.owner.serving:
                    return VerifyTold(wanted.id, "moved", wanted.tally, "its owner does not serve yet")
                run = self._begin(wanted, run)
            return _told(run)

    def _stop(self, wanted: VerifyCopies, run: _Run | None) -> VerifyTold:
        if run is None:
            return VerifyTold(wanted.id, "stopped", wanted.tally)
        self._side.event(run.verify.stop)
        return _told(run)

    def _begin(self, wanted: VerifyCopies, before: _Run | None) -> _Run:
        """`before`: it was given up, perhaps further on than the manager knows."""
        tally = wanted.tally
        if before is not None and before.verify.tally.done > tally.done:
            tally = before.verify.tally
        mending = Mending(LocalName(wanted.source) if wanted.source else None) if wanted.repair else None
        verify = Verify(self._side.owner, mending, tally)
        self._run = run = _Run(wanted.id, verify)
        self._side.event(verify.start)
        return run


def _told(run: _Run) -> VerifyTold:
    phase = run.verify.phase  # first: its tally is the last one when it has ended
    return VerifyTold(run.id, _STATES[phase], run.verify.tally)
