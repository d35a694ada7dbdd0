"""Which regions of a volume have their active bit set at its stores, and when the owner may clear it.

May live here: the owner's memory of regions, without messages. Keeps the clearing rule: a region is cleared
only when nothing is in flight or failed on it, and a flush that began after its last write has succeeded on
all in-sync copies in the same boots.

Clearing is lazy, because the first write after it costs a durable mark again: only regions that were left
alone for a while go, or the oldest ones when many are active. What is active is copied to a copy that comes
back, and made equal by a takeover: so the owner flushes by itself what nobody else does.
"""

from collections import OrderedDict
from collections.abc import Iterable
from collections.abc import Set as AbstractSet

CLEAR_AFTER_NS = 10_000_000_000
"""A region that nobody wrote to for so long is cleared by the next flush."""
KEEP_ACTIVE = 2_048
"""More active regions than this: the ones left alone longest are cleared earlier."""
MAX_CLEARED_AT_ONCE = 64
LOOK_EVERY_NS = 10_000_000
"""While more than that are active: a look goes through all that are too many."""


class _Region:
    __slots__ = ("at_ns", "boots", "in_flight", "sequence")

    def __init__(self) -> None:
        self.in_flight = 0
        self.sequence = 0
        """Of the last write that ended here; a flush covers it if it began later."""
        self.boots = 0
        self.at_ns = 0


class Tracker:
    def __init__(self) -> None:
        self._regions: OrderedDict[int, _Region] = OrderedDict()
        """In the order of their last writes."""
        self._sequence = 0
        self._boots = 0
        self._boot_of: dict[str, str] = {}
        self._flushed = (0, 0)
        self._looked_ns = 0
        self._lossy: AbstractSet[str] = set()
        """Stores of the last copy, which lost something in a boot that ended."""
        self.changed_boots: set[str] = set()
        """Stores whose boot changed since it counted."""

    def __len__(self) -> int:
        return len(self._regions)

    @property
    def active(self) -> tuple[int, ...]:
        return tuple(self._regions)

    def begin(self, regions: Iterable[int], now_ns: int) -> None:
        """A write is about to be sent."""
        for number in regions:
            region = self._regions.get(number)
            if region is None:
                region = self._regions[number] = _Region()
            else:
                self._regions.move_to_end(number)
            region.in_flight += 1
            region.at_ns = now_ns

    def end(self, regions: Iterable[int]) -> None:
        """It has been settled: acknowledged, or its range made equal after it failed. Until then it counts
        as in flight, whatever its copies answered."""
        self._sequence += 1
        for number in regions:
            region = self._regions[number]
            region.in_flight -= 1
            assert region.in_flight >= 0, f"region {number} has more ends than begins"
            region.sequence = self._sequence
            region.boots = self._boots

    def give_back(self, regions: Iterable[int]) -> None:
        """Nothing was sent after `begin`."""
        for number in regions:
            region = self._regions[number]
            region.in_flight -= 1
            if not region.in_flight and not region.sequence:
                del self._regions[number]

    def room_for(self, regions: Iterable[int], limit: int) -> bool:
        """Whether these may become active as well, if stores have room for `limit`."""
        return len(self._regions) + sum(number not in self._regions for number in regions) <= limit

    def boot(self, store: str, boot: str) -> None:
        """A store answered in this boot: what was in its page cache in another one may be gone."""
        known = self._boot_of.get(store)
        if known == boot:
            return
        self._boot_of[store] = boot
        if known is None:
            return
        self._boots += 1
        if store in self._lossy:
            self._lossy = self._lossy - {store}
            self._count_present_boots()
        else:
            self.changed_boots.add(store)

    def boot_of(self, store: str) -> str:
        return self._boot_of.get(store, "")

    def installed(self, stores: AbstractSet[str], *, lossy: bool) -> None:
        """A map in which in-sync copies lie at these stores. When none of them changed its boot, or the map
        says that the last copy lost what was not flushed (`lossy`), the present boots are those that count.
        Such a store may not have told of its new boot yet: it serves in none that the tables do not know, so
        the first change is the one that they know of, or another loss follows."""
        if lossy:
            self._lossy = stores - self.changed_boots
        if lossy or not self.changed_boots & stores:
            self.changed_boots.clear()
            self._count_present_boots()

    def _count_present_boots(self) -> None:
        for region in self._regions.values():
            region.boots = self._boots

    def mark(self) -> tuple[int, int]:
        """A flush begins: what it will cover."""
        return self._sequence, self._boots

    def flushed(self, mark: tuple[int, int]) -> None:
        """It has succeeded on all in-sync copies."""
        self._flushed = max(self._flushed, mark)

    def ripe(self, now_ns: int) -> bool:
        """Whether it is worth the while to look for what is clearable: asked after every event."""
        if len(self._regions) > KEEP_ACTIVE and now_ns - self._looked_ns >= LOOK_EVERY_NS:
            self._looked_ns = now_ns
            return True
        for region in self._regions.values():
            return now_ns - region.at_ns >= CLEAR_AFTER_NS
        return False

    def ripe_unflushed(self, now_ns: int) -> bool:
        """One that was left alone for long could be cleared if it were flushed."""
        for region in self._regions.values():
            if now_ns - region.at_ns < CLEAR_AFTER_NS:
                return False
            if not region.in_flight and region.boots == self._boots and region.sequence > self._flushed[0]:
                return True
        return False

    def clearable(self, now_ns: int, *, at_once: bool = False) -> list[int]:
        """Regions that may be cleared now; `at_once`: a store has no room for more."""
        covered, boots = self._flushed
        found: list[int] = []
        spare = len(self._regions) - KEEP_ACTIVE
        for number, region in self._regions.items():
            if len(found) == MAX_CLEARED_AT_ONCE:
                break
            idle = now_ns - region.at_ns >= CLEAR_AFTER_NS
            if not (idle or at_once or spare > len(found)):
                break
            if region.in_flight == 0 and region.sequence <= covered and region.boots == boots == self._boots:
                found.append(number)
        return found

    def cleared(self, regions: Iterable[int]) -> None:
        """All in-sync stores have confirmed it, and nothing was written there meanwhile; where a write waits
        for its range, the region is about to become active again."""
        for number in regions:
            region = self._regions.get(number)
            if region is not None and not region.in_flight:
                del self._regions[number]
