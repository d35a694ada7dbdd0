"""Allocation: free lists of runs, and the search for space over sites in priority order.

May live here: pure functions over runs (see `tables.Run`) and free lists; nothing about volumes or names.
Keeps INV-6: a free list is sorted, disjoint and coalesced before and after; what `take_*` hands out is
exactly what disappears from the list, and `give` refuses (AllocationError) what is free already.

First fit as in Knuth, The Art of Computer Programming, vol. 1, 2.5: the lowest run that is long enough.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from vimraft.core.ids import RealId
from vimraft.core.tables import Run

Free = tuple[Run, ...]


class AllocationError(Exception):
    """A bug in the caller: units were given back that are free already, or that no list can hold."""


class Placed(NamedTuple):
    """A run that was found on a real volume."""

    real: RealId
    run: Run


class Placement(NamedTuple):
    """Where the space was found, in virtual order, and the free lists that are left behind."""

    placed: tuple[Placed, ...]
    free: dict[RealId, Free]


def free_units(free: Free) -> int:
    return sum([run[1] for run in free])


def take_run(free: Free, count: int) -> tuple[Run, Free] | None:
    """First fit: `count` units in one run, and the rest of the list; None if no run is long enough."""
    for position, run in enumerate(free):
        if run[1] >= count:
            left = (Run(run[0] + count, run[1] - count),) if run[1] > count else ()
            return Run(run[0], count), free[:position] + left + free[position + 1 :]
    return None


def take_upto(free: Free, count: int) -> tuple[tuple[Run, ...], Free]:
    """Whole runs from the lowest on until `count` units are there or the list is empty."""
    missing = count
    for position, run in enumerate(free):
        if run[1] >= missing:
            left = (Run(run[0] + missing, run[1] - missing),) if run[1] > missing else ()
            return (*free[:position], Run(run[0], missing)), left + free[position + 1 :]
        missing -= run[1]
    return free, ()


def take(free: Free, count: int) -> tuple[tuple[Run, ...], Free] | None:
    """`count` units, in one run if there is one; None (and nothing taken) if there are not so many."""
    if count <= 0:
        return None
    whole = take_run(free, count)
    if whole is not None:
        return (whole[0],), whole[1]
    if free_units(free) < count:
        return None
    return take_upto(free, count)


def take_at(free: Free, first: int, count: int) -> tuple[int, Free]:
    """As many of `count` units as are free from unit `first` on; (0, free) if it is not free.

    Only a run that begins at `first` counts: the caller asks for what follows units it holds.
    """
    for position, run in enumerate(free):
        if run[0] == first:
            taken = min(run[1], count)
            left = (Run(first + taken, run[1] - taken),) if run[1] > taken else ()
            return taken, free[:position] + left + free[position + 1 :]
        if run[0] > first:
            break
    return 0, free


def give(free: Free, runs: Iterable[Run]) -> Free:
    """Put runs back, coalescing neighbours. Raises AllocationError if any unit is free already."""
    merged: list[Run] = []
    start = end = 0
    for first, count in sorted((*free, *runs)):
        if first < end or count < 1:
            raise AllocationError(f"units {first} … {first + count - 1} are given back, but are free already")
        if first == end and end:
            end += count
            continue
        if end:
            merged.append(Run(start, end - start))
        start, end = first, first + count
    if end:
        merged.append(Run(start, end - start))
    return tuple(merged)


def place(pools: Sequence[Sequence[tuple[RealId, Free]]], count: int) -> Placement | None:
    """The search of "Building a volume": all of `count` units, or None and nothing is taken.

    `pools`: one per site in priority order, each with its usable real volumes in (storage, LUN) order.
    At each site, one run that fits all that is still missing wins, on the first real volume that has
    one; without one, the site's runs are taken lowest first, and what is missing is sought at the next.
    """
    placed: list[Placed] = []
    left: dict[RealId, Free] = {}
    missing = count
    for pool in pools:
        for real, free in pool:
            whole = take_run(free, missing)
            if whole is not None:
                placed.append(Placed(real, whole[0]))
                left[real] = whole[1]
                return Placement(tuple(placed), left)
        for real, free in pool:
            runs, rest = take_upto(free, missing)
            if not runs:
                continue
            placed.extend([Placed(real, run) for run in runs])
            left[real] = rest
            missing -= free_units(runs)
            if missing == 0:
                return Placement(tuple(placed), left)
    return None
