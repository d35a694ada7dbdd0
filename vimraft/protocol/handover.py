"""Giving a volume to another manager in good order: hold, drain, give the sole-holder right up, propose.

May live here: the former owner's side; the new one begins with a takeover like any other. Keeps INV-2: while
it is undecided nothing is acknowledged and nothing read, and an owner that the map does not name any more
answers `moved`, so that no client's request fails.
"""

from typing import Literal

from vimraft.core.commands import MoveOwner
from vimraft.core.ids import ManagerName
from vimraft.protocol.owner import Owner
from vimraft.protocol.owner_effects import Decision, Effect

_WHY = "move"
Phase = Literal["draining", "proposed", "moved", "failed"]


class HandOver:
    """Its events are the owner's. `failed`: the owner serves on."""

    def __init__(self, owner: Owner, new_owner: ManagerName) -> None:
        self._owner = owner
        self._desk = owner.desk
        self._new_owner = new_owner
        self._epoch = 0
        self.phase: Phase = "draining"

    def start(self, now_ns: int) -> list[Effect]:
        self._owner.begin(now_ns)
        self._owner.looks(self._look)
        self._owner.pause(_WHY)
        return self._owner.end()

    def _look(self) -> None:
        desk = self._desk
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
