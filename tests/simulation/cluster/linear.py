"""Whether one sector behaved as a register: every read saw the last write before it, in some order of all.

May live here: the decision for one sector. Where every write has a tag of its own it is that of Gibbons and
Korach ("Testing shared memories", 1997): the reads of a tag and its write form a *zone*; a zone that the tag
must have covered from `low` to `high` overlaps no other such zone, and contains none that lies wholly within.
Where zeros were written, which several writes may mean, it is a search through all orders (Wing and Gong).

Whoever has no end may take effect at any later time, or never: it counts only if it was read. So does an
*optional* write, but it took effect by its end, if it did.
"""

from collections.abc import Iterable
from itertools import pairwise
from math import inf

from msgspec import Struct
from msgspec.structs import replace

from tests.simulation.cluster.record import ZERO

FIRST = -1.0
"""Before everything: when the first content was written."""
MAX_SEARCHED = 200_000
"""States that a search visits; a sector that needs more is not decided."""


class Event(Struct, frozen=True):
    """Of one sector. `end` inf: it may take effect whenever it likes, or not at all."""

    tag: int
    begin: float
    end: float
    is_write: bool
    what: str = ""
    optional: bool = False


def problem_of(events: Iterable[Event], *, starts_with: tuple[int, ...] = (ZERO,)) -> str | None:
    """Why no order of the events explains them; None if one does. `starts_with`: tags of which any one may
    be what was there at first."""
    events = list(events)
    written = [event.tag for event in events if event.is_write]
    if len(set(written)) < len(written) or ZERO in written:
        return _search(events, starts_with)
    reads = {event.tag for event in events if not event.is_write}
    first = [tag for tag in starts_with if tag in reads and tag not in written]
    if len(first) > 1:
        return f"tags {first} were read, of which only one can have been there at first"
    made = [Event(tag, FIRST, FIRST, True, "first content") for tag in first]
    return _zones([*made, *events])


class _Zone(Struct):
    tag: int
    low: float
    """The earliest end of anything about the tag: it was there by then."""
    high: float
    """The latest beginning: it was there still."""
    what: str


def _zones(events: list[Event]) -> str | None:
    writes = {event.tag: event for event in events if event.is_write}
    reads: dict[int, list[Event]] = {}
    for event in events:
        if not event.is_write:
            if event.tag not in writes:
                return f"{event.what} saw tag {event.tag:#x}, which nobody wrote there"
            reads.setdefault(event.tag, []).append(event)
    zones: list[_Zone] = []
    for tag, write in writes.items():
        seen = reads.get(tag, [])
        if not seen and (write.optional or write.end == inf):
            continue
        early = next((read for read in seen if read.end < write.begin), None)
        if early is not None:
            return f"{early.what} saw tag {tag:#x} before {write.what} began"
        low = min(write.end, *[read.end for read in seen]) if seen else write.end
        high = max(write.begin, *[read.begin for read in seen]) if seen else write.begin
        zones.append(_Zone(tag, low, high, write.what))
    return _conflict(zones)


def _conflict(zones: list[_Zone]) -> str | None:
    forward = sorted([zone for zone in zones if zone.low < zone.high], key=lambda zone: zone.low)
    for before, after in pairwise(forward):
        if after.low < before.high:
            return f"{before.what} was seen again after {after.what} had taken its place (or the reverse)"
    for zone in zones:
        if zone.low < zone.high:
            continue
        for outer in forward:
            if outer.low < zone.high and zone.low < outer.high:
                return f"{zone.what} was lost: {outer.what} was there before it and after it"
    return None


def _search(events: list[Event], starts_with: tuple[int, ...]) -> str | None:
    """Depth first over (what has taken effect, the content), each visited once."""
    read = {event.tag for event in events if not event.is_write}
    optional = [e for e in events if e.is_write and (e.optional or e.end == inf)]
    events = [e for e in events if e not in optional or e.tag in read]
    # zeros of an optional write may be those of another one: it is then allowed to come later
    events = [replace(e, end=inf) if e.optional and e.tag == ZERO else e for e in events]
    events.sort(key=lambda event: event.begin)
    must = sum(1 << at for at, event in enumerate(events) if event.end < inf)
    visited: set[tuple[int, int]] = set()
    todo = [(0, tag) for tag in starts_with]
    while todo:
        taken, content = todo.pop()
        if taken & must == must:
            return None
        if (taken, content) in visited:
            continue
        visited.add((taken, content))
        if len(visited) > MAX_SEARCHED:
            return None
        left = [(at, event) for at, event in enumerate(events) if not taken >> at & 1]
        latest = min(event.end for _, event in left)
        for at, event in left:
            if event.begin > latest:
                break
            if event.is_write:
                todo.append((taken | 1 << at, event.tag))
            elif event.tag == content:
                todo.append((taken | 1 << at, content))
    return "no order of " + ", ".join(event.what for event in events[:8]) + " … explains what was read"
