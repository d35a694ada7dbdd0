"""The gate of a volume: requests pass, wait in a hold, or are turned away.

May live here: holding, draining, swapping the plan, the lease deadline. Protocol of the gate: a handle sets
its busy flag *before* it looks at the gate; whoever changes the plan first closes the gate and then waits
until no handle is busy. So either the request sees the closed gate, or the changer sees the busy handle.
Every wait is bounded by the I/O timeout. The hot path reads one attribute: `fast` is the plan, or None
whenever a request has to come through `admit`.

Keeps INV-2 (a former owner serves nothing after its lease: `admit` and `lease_valid`), and that no plan is
swapped under a running request.
"""

import errno
import threading
import time
from typing import TYPE_CHECKING

from vimraft.data.errors import IoError
from vimraft.data.feed import IoCounters
from vimraft.data.holds import Holds
from vimraft.data.remote import COPIES, LinkKey, Vitals
from vimraft.data.volume import Plan
from vimraft.protocol.losses import NO_LOSS, LossMark

if TYPE_CHECKING:
    from vimraft.data.slow_path import SlowPath

DRAIN_POLL_FIRST_S = 0.000_05
DRAIN_POLL_LAST_S = 0.005


class Lease:
    """Deadline on CLOCK_BOOTTIME (it runs on while the host sleeps), set by the feed."""

    __slots__ = ("until_ns",)

    def __init__(self) -> None:
        self.until_ns = 0

    def valid(self) -> bool:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) < self.until_ns


class Totals:
    """Sums of the closed handles of a volume."""

    __slots__ = (
        "errors",
        "flushes",
        "forwarded",
        "read_bytes",
        "read_ns",
        "reads",
        "write_bytes",
        "write_ns",
        "writes",
    )

    def __init__(self) -> None:
        self.reads = self.writes = self.read_bytes = self.write_bytes = 0
        self.read_ns = self.write_ns = self.flushes = self.errors = self.forwarded = 0

    def add(self, other: "Totals | SlowPath") -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class VolumeGate:
    """One virtual volume in this process, for as long as it exists in the tables."""

    def __init__(
        self, plan: Plan, lease: Lease, io_timeout_s: float, holds: Holds | None = None, losses: int = 0
    ) -> None:
        """`losses`: that former lives of this process told."""
        self.name = plan.map.name
        self.plan = plan
        self.fast: Plan | None = None
        self.lease = lease
        self.io_timeout_s = io_timeout_s
        self.removed = ""
        """Why no request passes any more ('' = it may)."""
        self.handles: set[SlowPath] = set()
        self.waiting = 0
        self.totals = Totals()
        self.hold_times = holds or Holds()
        self._holds: set[int] = set()
        self._changed = threading.Condition()
        self._peer_vitals: dict[LinkKey, Vitals] = {}
        self._owed = NO_LOSS
        self._losses = losses
        """Losses not counted by the present plan's real volumes."""
        self._refresh()

    # --- the changer's side ---------------------------------------------------------------------
    def hold(self, token: int) -> None:
        with self._changed:
            self._holds.add(token)
            self._refresh()

    def release(self, token: int) -> None:
        with self._changed:
            self._holds.discard(token)
            self._refresh()
            self._changed.notify_all()

    @property
    def idle(self) -> bool:
        """No request runs. It stays so while the gate is held."""
        return not any(handle.busy for handle in tuple(self.handles))

    @property
    def real_names(self) -> list[str]:
        return [real.real for real in self.plan.reals]

    def drain(self, timeout_s: float) -> bool:
        """Wait until no request runs; False: one still does. The gate must be held."""
        deadline = time.monotonic() + timeout_s
        pause_s = DRAIN_POLL_FIRST_S
        while not self.idle:
            if time.monotonic() >= deadline:
                return False
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, DRAIN_POLL_LAST_S)
        return True

    def swap(self, plan: Plan) -> None:
        """Install `plan`; held and drained before."""
        with self._changed:
            before = sum(real.losses for real in self.plan.reals)
            after = sum(real.losses for real in plan.reals)
            self._losses += before - after
            self.plan = plan
            self._refresh()
            self._changed.notify_all()

    def remove(self, why: str) -> None:
        """Turn away every request, also those that wait."""
        with self._changed:
            self.removed = why
            self._refresh()
            self._changed.notify_all()

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _refresh(self) -> None:
        plan = self.plan
        passes = not (self._holds or self.removed or plan.needs_lease)
        self.fast = plan if passes else None

    @property
    def held(self) -> bool:
        return bool(self._holds)

    # --- the request's side ---------------------------------------------------------------------
    def admit(self, handle: "SlowPath", deadline: float) -> Plan:
        """The plan to use, with `handle` busy; waits in holds. Raises IoError (handle not busy then)."""
        while True:
            handle.begin()
            if not (self._holds or self.removed):
                plan = self.plan
                if handle.superseded or (handle.epoch and handle.epoch != plan.epoch):
                    handle.end()
                    raise IoError(errno.ESHUTDOWN, f"{self.name}: a newer session or epoch took over")
                if self.lease_valid(plan):
                    return plan
            handle.end()
            self._wait(handle, deadline)

    def lease_valid(self, plan: Plan) -> bool:
        return not plan.needs_lease or self.lease.valid()

    def _wait(self, handle: "SlowPath", deadline: float) -> None:
        with self._changed:
            if self.removed or handle.superseded:
                raise IoError(errno.ESHUTDOWN, f"{self.name}: {self.removed or 'a newer session took over'}")
            if not self._holds and self.lease_valid(self.plan):
                return
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                why = "its map is held" if self._holds else "this site's lease ran out"
                raise IoError(errno.EIO, f"{self.name}: {why} for longer than the I/O timeout")
            self.waiting += 1
            try:
                self._changed.wait(left_s)
            finally:
                self.waiting -= 1

    def pause(self, seen: Plan, seconds: float) -> None:
        """Between two tries at a peer: until the plan changes, or for `seconds`."""
        with self._changed:
            if self.plan is seen and not self.removed and seconds > 0:
                self.waiting += 1
                try:
                    self._changed.wait(seconds)
                finally:
                    self.waiting -= 1

    def wait_for_epoch(self, epoch: int, deadline: float) -> bool:
        """Until the installed plan has at least `epoch`."""
        with self._changed:
            return self._changed.wait_for(
                lambda: bool(self.removed) or self.plan.epoch >= epoch, deadline - time.monotonic()
            )

    def counters(self) -> IoCounters:
        """Of clients attached here. What a peer forwards is counted there, or it would count twice."""
        handles = tuple(handle for handle in self.handles if not handle.epoch)
        total = Totals()
        total.add(self.totals)
        for handle in handles:
            total.add(handle)
        return IoCounters(
            total.reads, total.writes, total.read_bytes, total.write_bytes, total.read_ns, total.write_ns,
            total.flushes, total.errors, sum(handle.busy for handle in handles), len(handles),
            total.forwarded,
        )  # fmt: skip

    # --- losses (INV-3) -------------------------------------------------------------------------
    def losses(self) -> int:
        """Only grows; more than a handle remembers: acknowledged, unflushed writes may be gone."""
        return self._losses + sum(real.losses for real in self.plan.reals)

    def note_vitals(self, key: LinkKey, vitals: Vitals) -> None:
        with self._changed:
            known = self._peer_vitals.get(key)
            self._peer_vitals[key] = vitals
            self._owed = max(self._owed, vitals.owed)
            if known is not None and known != vitals and COPIES not in (known.boot, vitals.boot):
                self._losses += 1

    @property
    def known_loss(self) -> LossMark:
        """What a connection that begins now need not be told: of a volume with copies."""
        copies = self.plan.copies
        return max(LossMark(self.plan.epoch), self._owed, NO_LOSS if copies is None else copies.owed)

    def peer_vitals(self, key: LinkKey) -> Vitals | None:
        return self._peer_vitals.get(key)
