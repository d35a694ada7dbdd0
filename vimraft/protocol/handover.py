"""Giving a volume to another manager in good order: flush, clear, hold, drain, give the sole-holder right up,
propose.

The new owner makes active regions equal while clients wait, so that there should be few: they are flushed and
cleared before I/O is held, as far as that goes within a bounded time.

May live here: the former owner's side; the new one begins with a takeover like any other. Keeps INV-2: while
it is undecided nothing is acknowledged and nothing read, and an owner that the map does not name any more
answers `moved`, so that no client's request fails.
"""

from typing import Literal

from vimraft.core.commands import MoveOwner
from vimraft.core.ids import ManagerName
from vimraft.protocol.owner import Owner
from vimraft.protocol.owner_effects import Decision, Effect
from vimraft.protocol.writes import End

_WHY = "move"
FEW_REGIONS = 8
"""So many active ones are not worth a flush."""
MAX_PASSES = 2
"""The second flush has little to write, so that few regions become active beside it."""
TIDY_NS = 3_000_000_000
"""Then I/O is held, whatever is still active."""
Phase = Literal["flushing", "clearing", "draining", "proposed", "moved", "failed"]


class HandOver:
    """Its events are the owner's. `failed`: the owner serves on."""

    def __init__(self, owner: Owner, new_owner: ManagerName) -> None:
        self._owner = owner
        self._desk = owner.desk
        self._new_owner = new_owner
        self._epoch = 0
        self._passes = 0
        self.phase: Phase = "flushing"
        self.why = "the tables changed meanwhile"
        """It failed."""

    def start(self, now_ns: int) -> list[Effect]:
        self._owner.begin(now_ns)
        self._owner.looks(self._look)
        self._desk.later(TIDY_NS, self._drain)
        self._tidy()
        return self._owner.end()

    def _tidy(self) -> None:
        if self._passes == MAX_PASSES or len(self._desk.tracker) <= FEW_REGIONS:
            self._drain()
            return
        self._passes += 1
        self.phase = "flushing"
        self._owner.flushing.flush(self._flushed)

    def _flushed(self, how: End) -> None:
        if self.phase != "flushing":
            return
        if how == "done":
            self.phase = "clearing"
        else:
            self.why = "a flush failed at the only copy in sync; sessions hear of it from this owner"
            self._finish("failed")

    def _drain(self) -> None:
        if self.phase not in ("flushing", "clearing"):
            return
        if self._owner.rewriting.busy:
            self.why = "what a failed flush has lost is being written again"
            self._finish("failed")
        elif self._desk.leases.fresh(self._desk.now_ns):
            self.phase = "draining"
            self._owner.pause(_WHY)
        else:
            self.why = "the lease was not renewed lately, so I/O would be held until somebody decides"
            self._finish("failed")

    def _look(self) -> None:
        desk = self._desk
        if self.phase == "clearing" and desk.ours:
            self._owner.clearing.hasten()
            if not self._owner.clearing.busy:
                self._tidy()
        if not desk.ours:
            self._finish("moved")
        elif self.phase == "draining" and self._owner.drained and desk.map is desk.newest:
            self.phase = "proposed"
            self._epoch = desk.newest.epoch
            command = MoveOwner(desk.newest.volume, self._epoch, desk.me, self._new_owner)
            desk.propose(command, self._decided, ends_sole=True)
        elif self.phase == "proposed" and desk.newest.epoch > self._epoch:
            self._finish("failed")  # another change came first, so apply refuses it

    def _decided(self, decision: Decision) -> None:
        if decision == "rejected" and self.phase == "proposed":
            self._finish("failed")

    def _finish(self, phase: Phase) -> None:
        self.phase = phase
        self._owner.looks_no_more(self._look)
        self._owner.unhold(_WHY)
