"""What every request to a store is compared with: floor, epoch, boot, owner and session.

May live here: those comparisons, and what they are made with. Keeps INV-2: of the two lives of an owner the
one that was first seen in the newer epoch is the newer one, since every life begins with an epoch of its own;
within a life the session with the higher number is. Whatever replaces another makes it drain first.
"""

from vimraft.protocol.keeper import Keeper
from vimraft.protocol.maps import VolumeMap
from vimraft.protocol.messages import (
    NeedsRejoin,
    NewerEpoch,
    NotTheOwner,
    OldEpoch,
    OldSession,
    RecordFailed,
    Refusal,
    Sealed,
    Session,
)
from vimraft.protocol.regions import FloorRaised
from vimraft.protocol.rules import Rules
from vimraft.protocol.store_backends import Backends
from vimraft.protocol.store_requests import Op


class Gate:
    def __init__(self, boot: str, rules: Rules, keeper: Keeper, backends: Backends) -> None:
        self._boot = boot
        self._rules = rules
        self._keeper = keeper
        self._backends = backends
        self.map: VolumeMap | None = None
        self.epoch = 0
        """Of the newest map that was here."""
        self.bound = ""
        """The boot that the tables name."""
        self.floor = keeper.record.floor
        self.floor_batch = 0
        """A seal is not answered before this batch of the record is durable."""
        self.newest: Session | None = None
        self._newest_epoch = 0
        """In which a request of that life was last let in."""

    def gone(self) -> bool:
        """The volume is; false: it was not here."""
        if self.map is None:
            return False
        self.floor = max(self.floor, self.epoch + 1)
        self.map = None
        return True

    def raise_floor(self, session: Session, epoch: int) -> bool:
        """Somebody seals, before the tables here have that epoch, too: a seal is never late."""
        stranger = self.map is not None and epoch == self.epoch and self.map.owner != session.manager
        if epoch <= self.floor or epoch < self.epoch or stranger or self._keeper.failed:
            return False
        self.floor = epoch
        if self._rules.durable_seal_floor:
            self.floor_batch = self._keeper.add(FloorRaised(epoch))
        return True

    def refusal(self, op: Op) -> Refusal | None:
        """`NewerEpoch`: it may wait for the tables. None: nothing speaks against it, but what is older must
        have drained."""
        epoch, rules = op.request.epoch, self._rules
        if self._keeper.failed:
            return RecordFailed()
        if rules.epoch_compare:
            if epoch < self.epoch:
                return OldEpoch(self.epoch)
            if epoch < self.floor:
                return Sealed(self.floor)
            if epoch > self.epoch:
                return NewerEpoch(self.epoch)
        if self.map is None:
            return NewerEpoch(self.epoch)
        if rules.boot_binding and self.bound != self._boot:
            return NeedsRejoin(self.bound)
        if rules.epoch_compare and op.session.manager != self.map.owner:
            return NotTheOwner(self.map.owner)
        return self._old_session(op.session, epoch) if rules.session_compare else None

    def _old_session(self, session: Session, epoch: int) -> Refusal | None:
        newest = self.newest
        if newest is not None and session != newest:
            same = session.manager == newest.manager and session.incarnation == newest.incarnation
            if same and session.number < newest.number:
                return OldSession(newest)
            if not same and self._rules.reopen_on_restart and epoch <= self._newest_epoch:
                return OldSession(newest)
            if same or self._rules.drain_at_seal:
                self._backends.replaced()
        self.newest, self._newest_epoch = session, epoch
        return None
