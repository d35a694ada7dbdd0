"""Leases: the right to serve as owner, as its holder and all others count it; and the sole-holder right.

May live here: arithmetic on stamps and on ns of CLOCK_BOOTTIME that come in with the events, and the durable
mark of the right that was given up. Keeps INV-2 and INV-5: whoever holds thinks that his lease ends before
anybody else thinks so, as long as two clocks differ in rate by less than a quarter.

- The holder counts `lease_ns` from before the *first* proposal of a stamp. A retry of the proposal does not
  restart the count, and a new incarnation starts with none.
- Others count from when they *applied* the stamp, `lease_ns` and a quarter.
- While every in-sync segment lies at the owner's own sites the tables refuse any takeover, so the owner
  serves without a lease. Before he proposes what would end that state he gives the right up durably, until
  the outcome is applied.
"""

from msgspec import Struct

from vimraft.core.commands import LeaseStamp
from vimraft.core.ids import ManagerName

MAX_STAMPS_OPEN = 16
"""Stamps proposed and not applied, of which the time is remembered; of older ones it is forgotten (they can
then prove nothing, which is safe)."""
MARGIN_PART = 4
"""Others wait a quarter longer than the holder counts."""


class OwnLease:
    """The lease of this manager, in this process."""

    def __init__(self, incarnation: str, lease_ns: int) -> None:
        self.incarnation = incarnation
        self.lease_ns = lease_ns
        self.deadline_ns = 0
        """Nothing may be served at or after it. 0: there is no lease yet."""
        self.alone = False
        """The manager that renews it is gone. The lease lasts as long as it lasts."""
        self._counter = 0
        self._started: dict[int, int] = {}

    def next_stamp(self) -> LeaseStamp:
        self._counter += 1
        return LeaseStamp(self.incarnation, self._counter)

    def proposing(self, stamp: LeaseStamp, now_ns: int) -> None:
        """Call *before* the proposal leaves; for a retry of it too, which then changes nothing."""
        assert stamp.incarnation == self.incarnation, "a lease is renewed by the process that holds it"
        self._started.setdefault(stamp.counter, now_ns)
        while len(self._started) > MAX_STAMPS_OPEN:
            del self._started[min(self._started)]

    def applied(self, stamp: LeaseStamp) -> int | None:
        """The tables have the stamp. Returns the deadline if it moved."""
        if stamp.incarnation != self.incarnation:
            return None
        started_ns = self._started.get(stamp.counter)
        for counter in [counter for counter in self._started if counter <= stamp.counter]:
            del self._started[counter]
        if started_ns is None or started_ns + self.lease_ns <= self.deadline_ns:
            return None
        self.deadline_ns = started_ns + self.lease_ns
        self.alone = False
        return self.deadline_ns

    def holds(self, now_ns: int) -> bool:
        return now_ns < self.deadline_ns


class OthersLease:
    """The leases of the other managers as this process must assume them."""

    def __init__(self, lease_ns: int) -> None:
        self._lasts_ns = 0
        self._seen: dict[ManagerName, tuple[LeaseStamp | None, int]] = {}
        self.lasts(lease_ns)

    def lasts(self, lease_ns: int) -> None:
        """The cluster's setting. Never shorter than it was: a lease that was given for longer may run."""
        self._lasts_ns = max(self._lasts_ns, lease_ns + -(-lease_ns // MARGIN_PART))

    def applied(self, manager: ManagerName, stamp: LeaseStamp | None, now_ns: int) -> None:
        """The tables hold `stamp` for `manager` (None: none yet). Only a stamp that was not there before
        restarts the count; the first one that this process sees does too, whatever its age, since nobody
        here knows when it was applied."""
        known = self._seen.get(manager)
        if known is None or known[0] != stamp:
            self._seen[manager] = (stamp, now_ns)

    @property
    def lasts_ns(self) -> int:
        """So long after it was last renewed others wait."""
        return self._lasts_ns

    def forget(self, manager: ManagerName) -> None:
        """It is no member any more."""
        self._seen.pop(manager, None)

    def stamp(self, manager: ManagerName) -> LeaseStamp | None:
        """What a takeover compares in the log: if it was renewed meanwhile, the takeover is refused."""
        known = self._seen.get(manager)
        return None if known is None else known[0]

    def ends_ns(self, manager: ManagerName) -> int | None:
        """From then on its lease has run out, for certain. None: it was never seen, so nothing is certain."""
        known = self._seen.get(manager)
        return None if known is None else known[1] + self._lasts_ns

    def ended(self, manager: ManagerName, now_ns: int) -> bool:
        ends_ns = self.ends_ns(manager)
        return ends_ns is not None and now_ns >= ends_ns


class Mark(Struct, frozen=True, gc=False):
    """What is kept on disk: in this epoch the owner proposed something that may end the sole-holder state."""

    epoch: int
    token: int


class SoleHolderRight:
    """Whether the owner may serve one volume without a lease.

    The mark stands for one epoch: every command that could end the state compares the epoch in apply, so
    that in a later one the proposal is decided, whatever became of it."""

    def __init__(self, mark: Mark | None = None, *, durable: bool = True) -> None:
        """`mark`: what the disk has. `durable` False: the mark is forgotten at once (`Rules`)."""
        self.mark = mark
        self._durable = durable
        self._writing = False

    def give_up(self, epoch: int, token: int) -> Mark | None:
        """From now on there is no right. Persist what is returned and propose only after `kept`; None: keep
        nothing, propose at once."""
        if not self._durable:
            return None
        self.mark = Mark(epoch, token)
        self._writing = True
        return self.mark

    def kept(self) -> None:
        """The mark is on stable storage."""
        self._writing = False

    def decided(self, token: int) -> bool:
        """The proposal was refused, or applied: true if the mark on disk may go. (If it goes not, a later
        epoch makes it void.)"""
        if self.mark is None or self.mark.token != token or self._writing:
            return False
        self.mark = None
        return True

    def serves(self, sole: bool, epoch: int) -> bool:
        """`sole`: by the applied map of `epoch`, every in-sync segment lies at the owner's own sites."""
        return sole and (self.mark is None or self.mark.epoch < epoch)
