"""Which client sessions must still be told that something was lost which they had written and not flushed.

May live here: the two epochs of losses, and who was told. A session that began before a loss gets an error
from its next flush, once; later ones never relied on what is gone.
"""

from vimraft.protocol.owner_effects import ClientRequest

MAX_TOLD = 4_096
"""Sessions remembered that were told about a loss; one forgotten is told twice, which harms nobody."""


class Losses:
    def __init__(self, lossy_epoch: int) -> None:
        self.lossy_epoch = lossy_epoch
        """Of the map: a copy went back into step that may lack what was not flushed."""
        self._lost_epoch = 0
        """Sessions that began before this epoch must be told of a flush that failed at the last copy."""
        self._told: dict[str, int] = {}

    @property
    def epoch(self) -> int:
        """Sessions that began before it are told by their next flush; 0: none."""
        return max(self.lossy_epoch, self._lost_epoch)

    def lost(self, epoch: int) -> None:
        """A flush failed at the last copy, in this epoch: every session that there is must hear of it."""
        self._lost_epoch = epoch + 1

    def owed_to(self, request: ClientRequest) -> bool:
        return request.since_epoch < self.epoch and self._told.get(request.session, 0) < self.epoch

    def tell(self, session: str) -> None:
        self._told[session] = self.epoch
        if len(self._told) > MAX_TOLD:
            del self._told[next(iter(self._told))]
