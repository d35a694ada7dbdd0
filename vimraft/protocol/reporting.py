"""Brings losses into the tables: an owner that follows has to tell the sessions, too.

May live here: the proposal of an owner at which a flush failed at the last copy, and when it is made again.
"""

from vimraft.core.commands import LoseUnflushed
from vimraft.protocol.desk import Desk
from vimraft.protocol.losses import Losses
from vimraft.protocol.owner_effects import Decision


class Reporting:
    def __init__(self, desk: Desk, losses: Losses) -> None:
        self._desk = desk
        self._losses = losses
        self._proposed_epoch = 0
        """No other proposal by that epoch: it is undecided, or its map is about to come."""
        self._again_ns = 0

    def look(self) -> None:
        """The end of an event."""
        desk = self._desk
        newest = desk.newest
        if not self._losses.unreported or not desk.ours or newest.epoch <= self._proposed_epoch:
            return
        if desk.now_ns >= self._again_ns and desk.rules.losses_in_tables:
            self._proposed_epoch = newest.epoch
            desk.propose(LoseUnflushed(newest.volume, newest.epoch, desk.me), self._decided)

    def _decided(self, decision: Decision) -> None:
        if decision == "rejected":
            self._proposed_epoch = 0
            self._again_ns = self._desk.now_ns + self._desk.limits.retry_ns
            self._desk.later(self._desk.limits.retry_ns, lambda: None)  # the end of that event looks again
