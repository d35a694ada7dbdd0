"""Which client sessions must still be told that something was lost which they had written and not flushed.

May live here: marks of losses, and the newest of an owner's life. A session carries the newest loss that it
knows of with each request, and gets an error from a flush while there is a newer one. Whoever hands the error
on to the client raises the session's mark; the owner remembers nobody, since its answer may be lost.
"""

from typing import NamedTuple


class LossMark(NamedTuple):
    """Losses of one volume have an order, and every owner tells the same one."""

    epoch: int
    number: int = 0
    """Of the flushes in this epoch that failed at the last copy; 0: the epoch itself began with a loss."""

    @property
    def text(self) -> str:
        return f"{self.epoch}.{self.number}"

    @classmethod
    def parse(cls, text: str) -> "LossMark":
        """Raises ValueError."""
        epoch, _, number = text.partition(".")
        return cls(int(epoch), int(number or 0))


NO_LOSS = LossMark(0)


class Losses:
    def __init__(self, lossy_epoch: int) -> None:
        self.lossy_epoch = lossy_epoch
        """Of the map: a copy went back into step that may lack what was not flushed."""
        self._failed = NO_LOSS

    @property
    def mark(self) -> LossMark:
        """Sessions that know only older ones are told by their next flush."""
        return max(LossMark(self.lossy_epoch), self._failed)

    def lost(self, epoch: int) -> None:
        """A flush failed at the last copy, in this epoch: every session that there is must hear of it."""
        before = self._failed.number if self._failed.epoch == epoch else 0
        self._failed = LossMark(epoch, before + 1)
