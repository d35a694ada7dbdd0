"""Which copy a read goes to: the least loaded one, without running to and fro.

May live here: load as the owner sees it, the policies, and the counters that prove what happened. Nothing
here decides about safety: every copy that it is given is in sync.
"""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from vimraft.core.ids import LocalName, ManagerName
from vimraft.protocol.maps import Copy

Policy = Literal["balance", "local", "primary"]
WEIGHT = 8
"""A new latency counts for one eighth of the average."""
FIRST_LATENCY_NS = 500_000


class Preference(Struct, frozen=True, gc=False):
    policy: Policy = "balance"
    threshold: int = 4
    """Requests under way at the present copy; with fewer, nobody switches."""
    hysteresis_percent: int = 25
    """Another copy must be less loaded by this much."""


class _Load:
    __slots__ = ("in_flight", "latency_ns", "other", "reads", "retried")

    def __init__(self) -> None:
        self.in_flight = 0
        self.latency_ns = FIRST_LATENCY_NS
        self.reads = self.retried = self.other = 0

    @property
    def cost(self) -> int:
        """Expected ns until one more request would be done."""
        return (self.in_flight + 1) * self.latency_ns


class CopyCounters(Struct, frozen=True, gc=False):
    copy: LocalName
    in_flight: int
    latency_ns: int
    reads: int
    retried: int
    """Reads that failed there and went to another copy."""
    other: int
    """Reads that it sent away: "use the other copy"."""


class Balance:
    def __init__(self, me: ManagerName, preference: Preference) -> None:
        self._me = me
        self.preference = preference
        self._loads: dict[LocalName, _Load] = {}
        self._present: LocalName | None = None
        self.switches = 0

    def choose(self, copies: Sequence[Copy]) -> Copy:
        """One of `copies`, which are not empty and in the order of the tables."""
        policy = self.preference.policy
        if len(copies) == 1 or policy == "primary":
            return copies[0]
        if policy == "local":
            return min(copies, key=lambda copy: (set(copy.stores) != {self._me}, self._load(copy.name).cost))
        present = next((copy for copy in copies if copy.name == self._present), None)
        best = min(copies, key=lambda copy: self._load(copy.name).cost)
        if present is not None and best is not present and not self._worth(present, best):
            return present
        if best.name != self._present:
            self.switches += self._present is not None
            self._present = best.name
        return best

    def _worth(self, present: Copy, best: Copy) -> bool:
        here, there = self._load(present.name), self._load(best.name)
        if here.in_flight < self.preference.threshold:
            return False
        return there.cost * (100 + self.preference.hysteresis_percent) < here.cost * 100

    def began(self, name: LocalName) -> None:
        load = self._load(name)
        load.in_flight += 1
        load.reads += 1

    def ended(self, name: LocalName, how: str, took_ns: int) -> None:
        load = self._load(name)
        load.in_flight -= 1
        if how == "done":
            load.latency_ns += (took_ns - load.latency_ns) // WEIGHT
        elif how == "busy":
            load.other += 1
        else:
            load.retried += 1

    def forget(self, present: set[LocalName]) -> None:
        """Copies that the volume has no longer."""
        for name in self._loads.keys() - present:
            del self._loads[name]

    @property
    def counters(self) -> tuple[CopyCounters, ...]:
        return tuple(
            CopyCounters(name, load.in_flight, load.latency_ns, load.reads, load.retried, load.other)
            for name, load in sorted(self._loads.items())
        )

    def _load(self, name: LocalName) -> _Load:
        load = self._loads.get(name)
        if load is None:
            load = self._loads[name] = _Load()
        return load
