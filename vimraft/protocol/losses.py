"""Which client sessions must still be told that something was lost which they had written and not flushed.

May live here: marks of losses, and the newest of an owner's life. A session carries the newest loss that it
knows of with each request, and gets an error from a flush while there is a newer one. Whoever hands the error
on to the client raises the session's mark; the owner remembers nobody, since its answer may be lost. What the
tables know of outlives the owner.
"""

from typing import NamedTuple


class LossMark(NamedTuple):
    """Losses of one volume have an order, and every owner tells the same one."""

    epoch: int
    number: int = 0
    """Of further losses before the epoch began, of which the tables do not know yet; 0: it began with one."""

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
        """Of the map: a copy went back into step that may lack what was not flushed, or could not flush."""
        self._failed = NO_LOSS

    @property
    def mark(self) -> LossMark:
        """Sessions that know only older ones are told by their next flush."""
        return max(LossMark(self.lossy_epoch), self._failed)

    def lost(self, epoch: int) -> None:
        """A flush failed at the last copy, in this epoch: every session that there is must hear of it. Told
        is what the next epoch begins with, as soon as it is reported, so that nobody is told twice."""
        before = self._failed.number + 1 if self._failed.epoch == epoch + 1 else 0
        self._failed = LossMark(epoch + 1, before)

    @property
    def unreported(self) -> bool:
        """The map knows nothing of the newest one."""
        return self._failed > LossMark(self.lossy_epoch)
