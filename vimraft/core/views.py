"""The four tables that people read, with the columns of the design, from any State.

May live here: pure functions (state, name, offset, limit) -> Table. Capacities are bytes (int): whoever
prints them chooses the unit. Sector ranges are inclusive, `first–last`, in 512-byte sectors, and on
the LUN counted from its beginning (the label comes first, so data begin after it).

`name` narrows a table: for virtual volumes the common name, for real volumes the storage address or
'storage:LUN'. `offset` and `limit` page through the rows; the sectors table builds only those asked for.
"""

from collections.abc import Callable, Iterable, Iterator
from heapq import merge
from itertools import islice
from typing import NamedTuple

from vimraft.core.ids import SECTOR_BYTES, VolumeName
from vimraft.core.tables import Manager, RealVolume, Replica, Segment, State, Volume

NOTHING = "-"
"""Stands for a name that there is none of."""
Row = tuple[str | int, ...]


class Table(NamedTuple):
    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


REAL_IDENTIFYING = ("local virtual volume name", "storage address", "LUN", "capacity")
REAL_FREE = ("storage address", "LUN", "class", "free capacity")
VIRTUAL_IDENTIFYING = ("common name", "site manager", "IP address", "local volume name", "free capacity")
VIRTUAL_SECTORS = (
    "common name",
    "virtual sector range",
    "local volume name",
    "storage address",
    "LUN",
    "real sector range",
)


def sector_range(first: int, sectors: int) -> str:
    return f"{first}–{first + sectors - 1}"


def _page(rows: Iterable[Row], offset: int, limit: int | None) -> tuple[Row, ...]:
    start = max(0, offset)
    return tuple(islice(rows, start, None if limit is None else start + max(0, limit)))


def _volumes(state: State, name: str) -> Iterator[Volume]:
    if name:
        volume = state.volumes.get(VolumeName(name))
        if volume is not None:
            yield volume
        return
    for key in sorted(state.volumes):
        yield state.volumes[key]


def _reals(state: State, name: str) -> Iterator[RealVolume]:
    for key in sorted(state.reals):
        if not name or name in (key.storage, str(key)):
            yield state.reals[key]


def _held_bytes(replica: Replica) -> dict[tuple[str, int], int]:
    held: dict[tuple[str, int], int] = {}
    for segment in replica.segments:
        key = (segment.storage, segment.lun)
        held[key] = held.get(key, 0) + segment.sectors
    return {key: sectors * SECTOR_BYTES for key, sectors in held.items()}


def _local_order(local_name: str) -> tuple[int, str]:
    """A … Z, AA …: shorter ones came first."""
    return len(local_name), local_name


def real_identifying(state: State, name: str = "", offset: int = 0, limit: int | None = None) -> Table:
    """Which local volumes lie on which LUN, and how many bytes of each lie there.

    One row per local volume and LUN, of volumes in the trash as well. A LUN that carries no local volume is
    shown too, as '-' with its whole usable capacity: an administrator looks here for every LUN of the pool.
    """
    on_real: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for volume in (*state.volumes.values(), *state.trash.values()):
        for replica in volume.replicas:
            for key, size_bytes in _held_bytes(replica).items():
                on_real.setdefault(key, []).append((replica.local_name, size_bytes))
    unit_bytes = state.settings.unit_bytes

    def rows() -> Iterator[Row]:
        for real in _reals(state, name):
            here = on_real.get((real.storage, real.lun), [(NOTHING, real.capacity_units * unit_bytes)])
            for local_name, size_bytes in sorted(here, key=lambda row: _local_order(row[0])):
                yield local_name, real.storage, real.lun, size_bytes

    return Table("Real volume identifying", REAL_IDENTIFYING, _page(rows(), offset, limit))


def real_free(state: State, name: str = "", offset: int = 0, limit: int | None = None) -> Table:
    """Unallocated bytes of every LUN, whether or not its state lets it give them."""
    unit_bytes = state.settings.unit_bytes
    rows = (
        (real.storage, real.lun, real.volume_class, real.free_units * unit_bytes)
        for real in _reals(state, name)
    )
    return Table("Real volume free capacity", REAL_FREE, _page(rows, offset, limit))


def pool_free_bytes(state: State, volume: Volume) -> int:
    """Free bytes of the volume's pool: active real volumes of its class at its sites."""
    return state.settings.unit_bytes * sum(
        real.free_units
        for real in state.reals.values()
        if real.state == "active" and real.volume_class == volume.volume_class and real.site in volume.sites
    )


def _host(manager: Manager | None) -> str:
    return NOTHING if manager is None else manager.nbd_address.rpartition(":")[0].strip("[]")


def virtual_identifying(state: State, name: str = "", offset: int = 0, limit: int | None = None) -> Table:
    """One row per local volume (copy) of every virtual volume."""

    def rows() -> Iterator[Row]:
        for volume in _volumes(state, name):
            host = _host(state.managers.get(volume.owner))
            free_bytes = pool_free_bytes(state, volume)
            for replica in volume.replicas:
                yield volume.name, volume.owner, host, replica.local_name, free_bytes

    return Table("Virtual volume identifying", VIRTUAL_IDENTIFYING, _page(rows(), offset, limit))


def _sector_rows(volume: Volume, replica: Replica, segments: Iterable[Segment]) -> Iterator[Row]:
    for segment in segments:
        yield (
            volume.name,
            sector_range(segment.virtual_first, segment.sectors),
            replica.local_name,
            segment.storage,
            segment.lun,
            sector_range(segment.real_first, segment.sectors),
        )


def _copies_rows(volume: Volume) -> Iterator[Row]:
    """Rows of several copies, interleaved: one per copy for the same virtual range, so every copy is
    cut where any of them is."""
    cuts = sorted({s.virtual_first for r in volume.replicas for s in r.segments} | {volume.size_sectors})

    def pieces(number: int, replica: Replica) -> Iterator[tuple[int, int, Segment]]:
        at = 0
        for segment in replica.segments:
            while cuts[at] < segment.virtual_end:
                first, end = cuts[at], cuts[at + 1]
                skip = first - segment.virtual_first
                yield (
                    first,
                    number,
                    Segment(first, end - first, segment.storage, segment.lun, segment.real_first + skip),
                )
                at += 1

    for _, number, segment in merge(*(pieces(n, r) for n, r in enumerate(volume.replicas))):
        yield from _sector_rows(volume, volume.replicas[number], (segment,))


def virtual_sectors(state: State, name: str = "", offset: int = 0, limit: int | None = None) -> Table:
    """Where every virtual sector lies. Rows before `offset` are stepped over, not built."""
    rows: list[Row] = []
    skip = max(0, offset)
    for volume in _volumes(state, name):
        missing = None if limit is None else max(0, limit) - len(rows)
        if missing == 0:
            break
        if len(volume.replicas) == 1:
            (replica,) = volume.replicas
            count = len(replica.segments)
            wanted = replica.segments[skip : None if missing is None else skip + missing]
            rows.extend(_sector_rows(volume, replica, wanted))
        else:
            count = len(volume.replicas) * len({s.virtual_first for r in volume.replicas for s in r.segments})
            rows.extend(_page(_copies_rows(volume), skip, missing))
        skip = max(0, skip - count)
    return Table("Virtual volume sectors", VIRTUAL_SECTORS, tuple(rows))


VIEWS: dict[str, Callable[[State, str, int, int | None], Table]] = {
    "real-identifying": real_identifying,
    "real-free": real_free,
    "virtual-identifying": virtual_identifying,
    "virtual-sectors": virtual_sectors,
}
"""By the names that the API gives them."""
