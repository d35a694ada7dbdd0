"""Which copy a read goes to: the least loaded one, without running to and fro.

May live here: load as the owner sees it and as the managers of the copies tell it, the policies, and the
counters that prove what happened. Nothing here decides about safety: every copy that it is given is in sync.

The load of a copy is what one more read there would take: the requests under way (ours; all that its real
volumes have, as their manager says) times the latency (of our reads; of all I/O of these real volumes).
What was seen or told is believed less and less: a copy that nobody reads from may be fast again.

Reads stay where they are until the load there passes a threshold, or the copy says "use the other copy", or
fails; and then go elsewhere only if it is better there by the hysteresis. A copy that would be many times
faster is used at any load.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct

from vimraft.core.ids import LocalName, ManagerName
from vimraft.core.tables import ReadPolicy
from vimraft.protocol.maps import Copy

MS = 1_000_000
WEIGHT = 8
"""A new latency counts for one eighth of the average."""
FIRST_LATENCY_NS = 500_000
"""Of a copy of which nothing is known (any more)."""
FIRST_LOCAL_LATENCY_NS = 100_000
HALF_LIFE_NS = 2_000 * MS
"""Of what a latency that nobody measures is above the first one."""
MAX_HALVINGS = 40
PRESSED_NS = 1_000 * MS
"""So long a copy counts as loaded after it said "use the other copy", or failed."""
TOLD_NS = 5_000 * MS
"""So long is believed what a manager said of the real volumes of a copy."""
MANY_TIMES = 4
"""A copy that would be so many times faster is read from at any load of the present one."""
LOOK_EVERY_NS = 1 * MS
"""Between two comparisons of copies, while few reads are under way at the present one."""
MAX_LATENCY_NS = 60_000 * MS
MAX_TIMES = WEIGHT
"""A read that took very long counts for so many times the average: one alone does not double it."""


class Preference(Struct, frozen=True, gc=False):
    """The read policy of the volume, and two settings of the cluster."""

    policy: ReadPolicy = "balance"
    threshold: int = 4
    """Requests under way at the present copy; with fewer, nobody switches."""
    hysteresis_percent: int = 25
    """Another copy must be less loaded by this much."""


class Told(NamedTuple):
    """Of the busiest real volume of a copy, whoever uses it."""

    in_flight: int
    latency_ns: int


class _Load:
    __slots__ = (
        "busy", "copying", "failed", "first_ns", "in_flight", "latency_ns", "local", "pressed_ns", "remote",
        "seen_ns", "told", "told_ns",
    )  # fmt: skip

    def __init__(self, first_ns: int) -> None:
        self.first_ns = first_ns
        self.in_flight = 0
        self.latency_ns = first_ns
        self.seen_ns = 0
        self.pressed_ns = -PRESSED_NS
        self.told = Told(0, 0)
        self.told_ns = -TOLD_NS
        self.local = self.remote = self.copying = self.failed = self.busy = 0

    def expected_ns(self, now_ns: int) -> int:
        """Latency of a read."""
        own_ns = self._own_ns(now_ns)
        return max(own_ns, self.told.latency_ns) if self._told(now_ns) else own_ns

    def _own_ns(self, now_ns: int) -> int:
        above = self.latency_ns - self.first_ns
        if above <= 0:
            return self.latency_ns
        return self.first_ns + (above >> min(MAX_HALVINGS, max(0, now_ns - self.seen_ns) // HALF_LIFE_NS))

    def under_way(self, now_ns: int) -> int:
        return max(self.in_flight, self.told.in_flight) if self._told(now_ns) else self.in_flight

    def _told(self, now_ns: int) -> bool:
        return now_ns - self.told_ns < TOLD_NS

    def cost(self, now_ns: int) -> int:
        """Expected ns until one more request would be done."""
        return (self.under_way(now_ns) + 1) * self.expected_ns(now_ns)

    def took(self, took_ns: int, now_ns: int, *, done: bool) -> None:
        before = self._own_ns(now_ns)
        took_ns = min(took_ns, MAX_TIMES * before if done else MAX_LATENCY_NS)
        self.latency_ns = before + (took_ns - before) // WEIGHT
        self.seen_ns = now_ns


class CopyCounters(Struct, frozen=True, gc=False):
    """Since this life of the owner began."""

    copy: LocalName
    in_flight: int
    latency_ns: int
    local: int
    """Reads for clients that went to this manager's store."""
    remote: int
    """Those that went to another's."""
    copying: int
    """Reads to bring other copies back into step."""
    failed: int
    """Reads that failed there and went to another copy, or again to this one."""
    busy: int
    """Reads that it sent away: "use the other copy"."""
    told_in_flight: int = 0
    told_latency_ns: int = 0

    @property
    def reads(self) -> int:
        return self.local + self.remote


class Balance:
    def __init__(self, me: ManagerName, preference: Preference) -> None:
        self._me = me
        self.preference = preference
        self._loads: dict[LocalName, _Load] = {}
        self._present: LocalName | None = None
        self._settled_ns = 0
        """Reads go to the present copy until then, unless there is news, or it has many."""
        self.switches = 0
        """How often reads left the copy that they went to."""

    def choose(self, copies: Sequence[Copy], now_ns: int) -> Copy:
        """One of `copies`, which are not empty and in the order of the tables."""
        policy = self.preference.policy
        if len(copies) == 1 or policy == "primary":
            return copies[0]
        if policy == "balance" and now_ns < self._settled_ns:
            for copy in copies:
                name = copy.name
                if name == self._present and self._loads[name].in_flight < self.preference.threshold:
                    return copy
        for copy in copies:
            if copy.name not in self._loads:
                self._load(copy.name, FIRST_LOCAL_LATENCY_NS if self._here(copy) else FIRST_LATENCY_NS)
        if policy == "local":
            return min(copies, key=lambda copy: (not self._here(copy), self._cost(copy, now_ns)))
        present = next((copy for copy in copies if copy.name == self._present), None)
        best = min(copies, key=lambda copy: (self._cost(copy, now_ns), not self._here(copy)))
        self._settled_ns = now_ns + LOOK_EVERY_NS
        if present is not None and best is not present and not self._worth(present, best, now_ns):
            return present
        if best.name != self._present:
            self.switches += self._present is not None
            self._present = best.name
        return best

    def _here(self, copy: Copy) -> bool:
        return all(part.store == self._me for part in copy.parts)

    def _cost(self, copy: Copy, now_ns: int) -> int:
        return self._load(copy.name).cost(now_ns)

    def _worth(self, present: Copy, best: Copy, now_ns: int) -> bool:
        here, there = self._load(present.name), self._cost(best, now_ns)
        cost = here.cost(now_ns)
        if there * MANY_TIMES < cost:
            return True
        pressed = now_ns - here.pressed_ns < PRESSED_NS
        if here.under_way(now_ns) < self.preference.threshold and not pressed:
            return False
        return there * (100 + self.preference.hysteresis_percent) < cost * 100

    def began(self, copy: LocalName, store: ManagerName, *, copying: bool = False) -> None:
        load = self._load(copy)
        load.in_flight += 1
        if copying:
            load.copying += 1
        elif store == self._me:
            load.local += 1
        else:
            load.remote += 1

    def ended(self, copy: LocalName, how: str, took_ns: int, now_ns: int, *, copying: bool = False) -> None:
        """What copying takes says nothing about the requests of clients, which are smaller."""
        load = self._load(copy)
        load.in_flight -= 1
        if how == "busy":
            load.busy += 1
        elif how not in ("done", "older"):
            load.failed += 1
        if how in ("busy", "failed", "away", "lost", "silent", "full"):
            load.pressed_ns = now_ns
            self._settled_ns = 0
        if how in ("done", "failed", "away", "lost", "silent") and not copying:
            load.took(took_ns, now_ns, done=how == "done")

    def tell(self, loads: Mapping[LocalName, Told], now_ns: int) -> None:
        """What managers say of the real volumes of copies."""
        self._settled_ns = 0
        for name, told in loads.items():
            load = self._loads.get(name)
            if load is not None:
                load.told, load.told_ns = told, now_ns

    def forget(self, present: set[LocalName]) -> None:
        """Copies that the volume has no longer."""
        for name in self._loads.keys() - present:
            del self._loads[name]
            self._settled_ns = 0

    @property
    def counters(self) -> tuple[CopyCounters, ...]:
        return tuple(
            CopyCounters(
                name, load.in_flight, load.latency_ns, load.local, load.remote, load.copying, load.failed,
                load.busy, load.told.in_flight, load.told.latency_ns,
            )
            for name, load in sorted(self._loads.items())
        )  # fmt: skip

    def _load(self, name: LocalName, first_ns: int = FIRST_LATENCY_NS) -> _Load:
        load = self._loads.get(name)
        if load is None:
            load = self._loads[name] = _Load(first_ns)
        return load
