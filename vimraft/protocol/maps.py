"""What the machines of one volume need of the tables: its copies, and which store has which bytes of each.

May live here: frozen values made from an applied state, and look-ups in them. A map never changes; a newer
one replaces it. Ranges are bytes of the virtual volume, as clients use them.
"""

from bisect import bisect_right
from functools import cached_property

from msgspec import Struct

from vimraft.core.ids import SECTOR_BYTES, LocalName, ManagerName, VolumeName
from vimraft.core.tables import Replica, ReplicaState, Segment, State

REGION_BYTES = 1 << 20
"""The unit of write-intent and resync tracking."""


class Part(Struct, frozen=True, gc=False):
    """Bytes `first … end-1` of a copy lie at the store of one manager."""

    first: int
    end: int
    store: ManagerName


class Copy(Struct, frozen=True, dict=True):
    name: LocalName
    state: ReplicaState
    parts: tuple[Part, ...]
    """Sorted; they tile the volume, but for a copy that `moves`."""
    left_epoch: int = 0
    record: str = ""
    paused: bool = False
    moves: LocalName | None = None
    """These are segments that will take the place of some of that copy: written like a syncing one."""

    @cached_property
    def stores(self) -> tuple[ManagerName, ...]:
        return tuple(dict.fromkeys(part.store for part in self.parts))

    def split(self, first: int, end: int) -> list[Part]:
        """The stores that have `first … end-1`, each with its bytes of it."""
        if len(self.parts) == 1:
            only = self.parts[0]
            if only.first <= first < end <= only.end:
                return [Part(first, end, only.store)]
        at = max(0, bisect_right(self.parts, first, key=lambda part: part.first) - 1)
        found: list[Part] = []
        while at < len(self.parts) and self.parts[at].first < end:
            part = self.parts[at]
            if part.end > first:
                found.append(Part(max(first, part.first), min(end, part.end), part.store))
            at += 1
        return found


class VolumeMap(Struct, frozen=True, dict=True):
    """What is derived of it is kept with it: every request asks."""

    volume: VolumeName
    index: int
    """Of the tables that it was made from, at the change that brought its epoch, or later."""
    epoch: int
    owner: ManagerName
    size_bytes: int
    copies: tuple[Copy, ...]
    lossy_epoch: int = 0
    """The epoch in which the last in-sync copy lost what was not flushed; 0: never."""

    @cached_property
    def in_sync(self) -> tuple[Copy, ...]:
        return tuple(copy for copy in self.copies if copy.state == "in_sync")

    @cached_property
    def syncing(self) -> tuple[Copy, ...]:
        return tuple(copy for copy in self.copies if copy.state == "syncing")

    @cached_property
    def targets(self) -> tuple[Copy, ...]:
        """Writes go there."""
        return tuple(copy for copy in self.copies if copy.state in ("in_sync", "syncing"))

    @cached_property
    def in_sync_names(self) -> frozenset[LocalName]:
        return frozenset(copy.name for copy in self.in_sync)

    @cached_property
    def _by_name(self) -> dict[LocalName, Copy]:
        return {copy.name: copy for copy in self.copies}

    def copy(self, name: LocalName) -> Copy | None:
        return self._by_name.get(name)

    def sole(self) -> bool:
        """Every in-sync segment lies at the owner's own sites."""
        return self._sole

    @cached_property
    def _sole(self) -> bool:
        return all(part.store == self.owner for copy in self.in_sync for part in copy.parts)

    @property
    def regions(self) -> int:
        return -(-self.size_bytes // REGION_BYTES)


def regions_of(first: int, end: int) -> range:
    return range(first // REGION_BYTES, (end - 1) // REGION_BYTES + 1)


def moving_name(name: LocalName) -> LocalName:
    """Of the segments that a copy is moving to; no copy is called that."""
    return LocalName(f"{name}+")


def _parts(state: State, segments: tuple[Segment, ...]) -> tuple[Part, ...]:
    parts: list[Part] = []
    for segment in segments:
        store = state.sites[state.reals[segment.real_id].site].manager
        first, end = segment.virtual_first * SECTOR_BYTES, segment.virtual_end * SECTOR_BYTES
        if parts and parts[-1].store == store and parts[-1].end == first:
            parts[-1] = Part(parts[-1].first, end, store)
        else:
            parts.append(Part(first, end, store))
    return tuple(parts)


def _copies(state: State, replica: Replica) -> list[Copy]:
    name = replica.local_name
    parts = _parts(state, replica.segments)
    copy = Copy(name, replica.state, parts, replica.left_epoch, replica.record, replica.paused)
    if not replica.moving:
        return [copy]
    return [copy, Copy(moving_name(name), "syncing", _parts(state, replica.moving), moves=name)]


def map_of(state: State, name: VolumeName) -> VolumeMap | None:
    """None: there is no such volume (any more)."""
    volume = state.volumes.get(name)
    if volume is None:
        return None
    return VolumeMap(
        volume=name,
        index=state.index,
        epoch=volume.epoch,
        owner=volume.owner,
        size_bytes=volume.size_bytes,
        copies=tuple(copy for replica in volume.replicas for copy in _copies(state, replica)),
        lossy_epoch=volume.lossy_epoch,
    )
