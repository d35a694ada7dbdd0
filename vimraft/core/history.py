"""Looking back: what a change replaced, and the tables as they were at an earlier index.

May live here: pure functions over `MapChange.before`. `remember` is called by apply for every change that
is kept in the history (from level 2 on); `tables_at` undoes changes one by one, newest first.

Bounded twice (INV-8): `Settings.history_changes` changes, and MAX_REMEMBERED segments, free runs and rows
that they remember; over it the oldest changes stay in the history without what they replaced. Nobody can
look behind a change that does not know what it replaced.

What comes back: managers, sites, storages, real and virtual volumes (those in the trash as well), settings,
and the history up to then; all that the tables for people are made of. Not: releases, leases, boots and
clients, whose changes no history has.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from immutables import Map
from msgspec import Struct

from vimraft.core.change import reals_of, volume_segments
from vimraft.core.chunked import Chunked
from vimraft.core.ids import ManagerName, RealId, StorageAddress, VolumeName
from vimraft.core.tables import (
    Before,
    FreeBefore,
    MapChange,
    RealBefore,
    RealVolume,
    Replica,
    SegmentsBefore,
    State,
    Volume,
    VolumeBefore,
)

MAX_REMEMBERED: Final = 1 << 16
"""Weight of the whole history: a few MB in a snapshot at most."""
T = TypeVar("T")


class Touched(Struct, frozen=True, gc=False):
    """The rows that a command may have changed, where looking at all would take too long."""

    volumes: tuple[VolumeName, ...] = ()
    reals: tuple[RealId, ...] = ()
    storages: tuple[StorageAddress, ...] = ()
    trash: tuple[int, ...] = ()
    epochs_of: ManagerName | None = None


NOTHING: Final = Touched()


class OutOfReach(NamedTuple):
    """The tables are known from index `oldest` to index `newest`."""

    oldest: int
    newest: int


def weight(change: MapChange) -> int:
    before = change.before
    if before is None:
        return 0
    total = 1 + len(before.managers) + len(before.sites) + len(before.storages)
    for real in before.reals:
        total += 1 + (len(real.free.gone) if real.free is not None else 0)
    for volume in before.volumes:
        total += _weight_of_volume(volume)
    for _, volume in before.trash:
        total += _weight_of_volume(volume)
    return total


def _weight_of_volume(volume: VolumeBefore) -> int:
    moving = sum([len(r.moving) for r in volume.row.replicas]) if volume.row is not None else 0
    return 1 + sum([len(part.gone) for part in volume.segments]) + moving


# What a change replaced


def touched_by_volume(before: State, name: VolumeName, after: State) -> Touched:
    """A volume was built, grown or deleted."""
    now = after.volumes.get(name)
    reals = reals_of(volume_segments(now)) if now is not None else ()
    return Touched(
        volumes=(name,), reals=tuple(sorted(r for r in reals if before.reals[r] is not after.reals[r]))
    )


def remember(before: State, after: State, touched: Touched) -> Before:
    """From the tables before and after one command."""
    return Before(
        settings=before.settings if before.settings != after.settings else None,
        managers=_rows_before(before.managers, after.managers),
        sites=_rows_before(before.sites, after.sites),
        storages=tuple([(address, before.storages.get(address)) for address in touched.storages]),
        reals=_reals_before(before.reals, after.reals, touched.reals) if touched.reals else (),
        volumes=_volumes_before(before.volumes, after.volumes, touched.volumes) if touched.volumes else (),
        trash=tuple(
            [
                (id_, _volume_before(VolumeName(""), before.trash.get(id_), after.trash.get(id_)))
                for id_ in touched.trash
            ]
        ),
        epochs_of=touched.epochs_of,
    )


def _rows_before(before: "Map[Any, T]", after: "Map[Any, T]") -> tuple[tuple[Any, T | None], ...]:
    if before is after:
        return ()
    names = sorted({*before, *after})
    return tuple([(n, before.get(n)) for n in names if before.get(n) != after.get(n)])


def _common(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many elements at the beginning are equal: by halves, since slices compare in C."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _cut(before: tuple[T, ...], after: tuple[T, ...]) -> tuple[int, int, tuple[T, ...]]:
    if before is after:
        return len(before), 0, ()
    first = _common(before, after)
    rest_before, rest_after = before[first:], after[first:]
    last = _common(rest_before[::-1], rest_after[::-1])
    return first, last, rest_before[: len(rest_before) - last]


def _uncut(first: int, last: int, gone: tuple[T, ...], after: tuple[T, ...]) -> tuple[T, ...]:
    return after[:first] + gone + after[len(after) - last :]


def _reals_before(
    before: Map[RealId, RealVolume], after: Map[RealId, RealVolume], ids: tuple[RealId, ...]
) -> tuple[RealBefore, ...]:
    return tuple([_real_before(id_, before.get(id_), after.get(id_)) for id_ in ids])


def _volumes_before(
    before: Map[VolumeName, Volume], after: Map[VolumeName, Volume], names: tuple[VolumeName, ...]
) -> tuple[VolumeBefore, ...]:
    return tuple([_volume_before(name, before.get(name), after.get(name)) for name in names])


def _real_before(id_: RealId, before: RealVolume | None, after: RealVolume | None) -> RealBefore:
    if before is None:
        return RealBefore(id_.storage, id_.lun)
    row = msgspec.structs.replace(before, free=())
    free = FreeBefore(*_cut(before.free, after.free if after is not None else ()))
    return RealBefore(id_.storage, id_.lun, row, free)


def _segments(volume: Volume | None, replica: Replica) -> tuple[Any, ...]:
    replicas = volume.replicas if volume is not None else ()
    return next((r.segments for r in replicas if r.local_name == replica.local_name), ())


def _volume_before(name: VolumeName, before: Volume | None, after: Volume | None) -> VolumeBefore:
    if before is None:
        return VolumeBefore(name)
    name = before.name
    bare = tuple([msgspec.structs.replace(replica, segments=()) for replica in before.replicas])
    row = msgspec.structs.replace(before, replicas=bare)
    cuts = [SegmentsBefore(*_cut(r.segments, _segments(after, r))) for r in before.replicas]
    return VolumeBefore(name, row, tuple(cuts))


def kept(state: State, change: MapChange) -> tuple[Chunked[MapChange], int]:
    """The history with `change`, within its bounds, and its weight."""
    keep = state.settings.history_changes
    if not keep:
        return Chunked(), 0
    total = state.remembered + weight(change)
    dropped = max(0, len(state.history) + 1 - keep)
    for old in state.history.first(dropped):
        total -= weight(old)
    changes = state.history.rolled(dropped, change)
    return (changes, total) if total <= MAX_REMEMBERED else _forget(changes, total)


def _forget(changes: Chunked[MapChange], total: int) -> tuple[Chunked[MapChange], int]:
    """The oldest no longer know what they replaced; down to 7/8, so that this happens rarely."""
    kept_changes = list(changes)
    for position, change in enumerate(kept_changes):
        if total <= MAX_REMEMBERED // 8 * 7:
            break
        total -= weight(change)
        if change.before is not None:
            kept_changes[position] = msgspec.structs.replace(change, before=None)
    return Chunked(kept_changes), total


# Looking back


def oldest_index(state: State) -> int:
    """The lowest index whose tables are known."""
    oldest = state.index
    for change in reversed(state.history):
        if change.before is None:
            return change.index
        oldest = change.index - 1
    return oldest


def tables_at(state: State, index: int) -> State | OutOfReach:
    """The tables as they were after command `index`; see above for what comes back."""
    oldest = oldest_index(state)
    if not oldest <= index <= state.index:
        return OutOfReach(oldest, state.index)
    undone = list(state.history)
    while undone and undone[-1].index > index:
        change = undone.pop()
        assert change.before is not None
        state = _undo(state, change.before)
    return State(
        index=index,
        cluster_id=state.cluster_id,
        settings=state.settings,
        managers=state.managers,
        sites=state.sites,
        storages=state.storages,
        reals=state.reals,
        volumes=state.volumes,
        trash=state.trash,
        history=Chunked(undone),
        level=state.level,
        remembered=sum([weight(change) for change in undone]),
    )


def _undo(state: State, before: Before) -> State:
    volumes = state.volumes.update(
        {v.name: _volume(state.volumes.get(v.name), v) for v in before.volumes if v.row is not None}
    )
    volumes = _without(volumes, [v.name for v in before.volumes if v.row is None])
    if before.epochs_of is not None:
        owned = [v for v in volumes.values() if v.owner == before.epochs_of]
        volumes = volumes.update({v.name: msgspec.structs.replace(v, epoch=v.epoch - 1) for v in owned})
    return state._replace(
        settings=before.settings or state.settings,
        managers=_undo_rows(state.managers, before.managers),
        sites=_undo_rows(state.sites, before.sites),
        storages=_undo_rows(state.storages, before.storages),
        reals=_undo_rows(state.reals, [(RealId(r.storage, r.lun), _real(state, r)) for r in before.reals]),
        volumes=volumes,
        trash=_undo_rows(
            state.trash,
            [(i, _volume(state.trash.get(i), v) if v.row is not None else None) for i, v in before.trash],
        ),
    )


def _volume(now: Volume | None, before: VolumeBefore) -> Volume:
    assert before.row is not None
    replicas = [
        msgspec.structs.replace(r, segments=_uncut(cut.first, cut.last, cut.gone, _segments(now, r)))
        for r, cut in zip(before.row.replicas, before.segments, strict=True)
    ]
    return msgspec.structs.replace(before.row, replicas=tuple(replicas))


def _real(state: State, before: RealBefore) -> RealVolume | None:
    if before.row is None or before.free is None:
        return None
    now = state.reals.get(RealId(before.storage, before.lun))
    cut = before.free
    free = _uncut(cut.first, cut.last, cut.gone, now.free if now is not None else ())
    return msgspec.structs.replace(before.row, free=free)


def _undo_rows(table: "Map[Any, T]", rows: Iterable[tuple[Any, T | None]]) -> "Map[Any, T]":
    found: Mapping[Any, T | None] = dict(rows)
    if not found:
        return table
    table = table.update({name: row for name, row in found.items() if row is not None})
    return _without(table, [name for name, row in found.items() if row is None])


def _without(table: "Map[Any, T]", names: Iterable[Any]) -> "Map[Any, T]":
    for name in names:
        table = table.delete(name)
    return table
