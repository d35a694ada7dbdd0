"""The guarantees of the design as predicates over one State: `check(state)` finds what is broken.

May live here: one predicate per INV-nn, each yielding sentences that name the thing. Tests run all of
them after every command, and a debug switch may do so in production; none is needed to apply a command.

What a single state can show (checked here):
- INV-2 every volume has exactly one owner, a manager that exists; its epoch is one that it may have.
- INV-3, INV-4 a volume has a replica that is in sync; one that left says since which epoch, and is not.
- INV-5 the segments of a replica tile the volume: no virtual sector is missing or lies at two places.
- INV-6 segments never overlap on a real volume; free + allocated + releasing = capacity; free lists are
  sorted, disjoint and coalesced; space of a deleted volume waits for managers that exist.
- INV-7 copies of a volume share no real volume.
- INV-8 dedupe and history are bounded, in order and not ahead of the index; counters are ahead of use.
- INV-9 names are valid, tables are keyed by what they hold, and whatever is referred to exists.

What two successive states can show is in `check_step`:
- INV-2 whatever changes who writes where (owner, in-sync set, segments) is a new epoch, and none falls.
- INV-4 a replica gets in sync from `syncing`, or as the only one that is left; INV-8 the index is one more.

What takes more than that, and is checked elsewhere:
- INV-1 (a majority has it on disk): the tests of vimraft.metadata, with kills and restarts.
- INV-2, INV-5 as seen by clients (a former owner serves nothing, nothing old is read): the tests of
  vimraft.data (epochs, holds) and the cluster tests.
- INV-3, INV-7 as seen by clients (FLUSH, losing a site): the cluster tests.
- INV-8 (a refusal changes nothing, a retry applies once): tests/property/test_tables_machine.py.
- INV-9 (messages with a remedy): the tests of vimraft.api.advice.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import msgspec

from vimraft.core import apply_moves, checks, levels
from vimraft.core.change import unit_sectors, units_of, volume_segments
from vimraft.core.dedupe import most_clients
from vimraft.core.history import MAX_REMEMBERED, weight
from vimraft.core.ids import RealId, name_problem
from vimraft.core.tables import RealVolume, Replica, Run, Segment, State, Volume


class Violation(NamedTuple):
    invariant: str
    """`INV-6` and so on, as numbered in the design."""
    what: str


def _volumes(state: State) -> Iterator[Volume]:
    """All that hold space."""
    yield from state.volumes.values()
    yield from state.trash.values()


def _inv2_one_owner(state: State) -> Iterator[str]:
    for volume in state.volumes.values():
        if volume.owner not in state.managers:
            yield f"virtual volume {volume.name} is owned by {volume.owner}, which is no manager"
        if not 1 <= volume.epoch <= state.index:
            yield f"virtual volume {volume.name} has epoch {volume.epoch} at index {state.index}"
    for trash_id, volume in state.trash.items():
        if volume.owner not in state.managers:
            yield f"volume {volume.name} in the trash ({trash_id}) is owned by {volume.owner}, no manager"
        namesake = state.volumes.get(volume.name)
        if namesake is not None and namesake.epoch <= volume.epoch:
            yield f"virtual volume {volume.name} reuses epoch {namesake.epoch} of its namesake in the trash"
    for release in state.releases.values():
        reborn = state.volumes.get(release.volume)
        if reborn is not None and reborn.epoch <= release.epoch:
            yield f"virtual volume {reborn.name} reuses epoch {reborn.epoch} of its deleted namesake"


def _inv4_in_sync(state: State) -> Iterator[str]:
    for volume in _volumes(state):
        if not any(replica.state == "in_sync" for replica in volume.replicas):
            yield f"virtual volume {volume.name} has no replica in sync"
        for replica in volume.replicas:
            yield from _copy_state(volume, replica)
        if not 0 <= volume.lossy_epoch <= volume.epoch:
            yield f"virtual volume {volume.name}: lossy since epoch {volume.lossy_epoch} of {volume.epoch}"


def _copy_state(volume: Volume, replica: Replica) -> Iterator[str]:
    where = f"virtual volume {volume.name}, local volume {replica.local_name}"
    if replica.state == "in_sync" and (replica.left_epoch or replica.record):
        yield f"{where}: in sync, but left in epoch {replica.left_epoch}"
    if replica.record and not replica.left_epoch:
        yield f"{where}: a record covers what it missed, but it never was in sync"
    if not 0 <= replica.left_epoch <= volume.epoch:
        yield f"{where}: left in epoch {replica.left_epoch} of {volume.epoch}"
    if replica.moving and replica.state != "in_sync":
        yield f"{where}: moves, but is {replica.state}"


def _tiling(volume: Volume, replica: Replica, sectors_per_unit: int) -> Iterator[str]:
    where = f"virtual volume {volume.name}, local volume {replica.local_name}"
    at = 0
    for number, segment in enumerate(replica.segments):
        if segment.virtual_first != at or segment.sectors < 1:
            yield f"{where}: segment {number} begins at sector {segment.virtual_first}, not at {at}"
        if segment.real_first % sectors_per_unit:
            yield f"{where}: segment {number} begins within an allocation unit"
        if segment.sectors % sectors_per_unit and number != len(replica.segments) - 1:
            yield f"{where}: segment {number} ends within an allocation unit"
        at = segment.virtual_end
    if at != volume.size_sectors:
        yield f"{where}: segments end at sector {at}, the volume at {volume.size_sectors}"


def _inv5_tiled(state: State) -> Iterator[str]:
    per_unit = unit_sectors(state)
    for volume in _volumes(state):
        if volume.size_sectors < 1:
            yield f"virtual volume {volume.name} is empty"
        for replica in volume.replicas:
            yield from _tiling(volume, replica, per_unit)
            if replica.moving:
                moved = msgspec.structs.replace(replica, segments=apply_moves.split(replica)[0])
                yield from _tiling(volume, moved, per_unit)


def _held(state: State) -> dict[tuple[str, int], list[tuple[Run, str]]]:
    """What lies on each real volume: runs of units, and by whom they are held."""
    per_unit = unit_sectors(state)
    held: dict[tuple[str, int], list[tuple[Run, str]]] = {}

    def add(segments: Iterable[Segment], holder: str) -> None:
        for segment in segments:
            held.setdefault((segment.storage, segment.lun), []).append((units_of(segment, per_unit), holder))

    for volume in state.volumes.values():
        add(volume_segments(volume), f"virtual volume {volume.name}")
    for trash_id, volume in state.trash.items():
        add(volume_segments(volume), f"volume {volume.name} in the trash ({trash_id})")
    for release in state.releases.values():
        add(release.segments, f"release {release.release_id}")
    return held


def _free_list(real: RealVolume) -> Iterator[str]:
    end = 0
    for run in real.free:
        if run.count < 1:
            yield f"real volume {real.id}: free run at unit {run.first} has {run.count} units"
        if run.first <= end:
            yield f"real volume {real.id}: free run at unit {run.first} is not apart from the one before"
        end = run.first + run.count


def _inv6_allocation(state: State) -> Iterator[str]:
    held = _held(state)
    for real in state.reals.values():
        yield from _free_list(real)
        runs = held.get((real.storage, real.lun), [])
        total = real.free_units + sum(run.count for run, _ in runs)
        if total != real.capacity_units:
            yield f"real volume {real.id}: free and held units are {total}, capacity {real.capacity_units}"
        end, before = 1, "the label"
        for run, holder in sorted([*runs, *[(run, "the free list") for run in real.free]]):
            if run.first < end:
                yield f"real volume {real.id}: unit {run.first} is held by {before} and by {holder}"
            end, before = run.first + run.count, holder
        if end > real.capacity_units + 1:
            yield f"real volume {real.id}: {before} reaches unit {end - 1}, beyond its end"
    for storage, lun in held:
        if (storage, lun) not in state.reals:
            yield f"segments lie on {storage}:{lun}, which is no real volume"
    for release in state.releases.values():
        if not release.waiting:
            yield f"release {release.release_id} waits for nobody"
        for name in release.waiting:
            if name not in state.managers:
                yield f"release {release.release_id} waits for {name}, which is no manager"


def _inv7_copies_apart(state: State) -> Iterator[str]:
    for volume in _volumes(state):
        seen: set[tuple[str, int]] = set()
        for replica in volume.replicas:
            here = {(s.storage, s.lun) for s in (*replica.segments, *replica.moving)}
            for storage, lun in sorted(here & seen):
                yield f"virtual volume {volume.name}: two copies lie on {storage}:{lun}"
            seen |= here


def _inv8_once(state: State) -> Iterator[str]:
    if len(state.clients) > most_clients(state.level):
        yield f"{len(state.clients)} clients are remembered, more than {most_clients(state.level)}"
    for client, result in state.clients.items():
        if not 1 <= result.index <= state.index:
            yield f"the outcome for {client} is of index {result.index}, the tables of {state.index}"
    if len(state.history) > state.settings.history_changes:
        yield f"{len(state.history)} changes are kept, more than {state.settings.history_changes}"
    remembered = sum([weight(change) for change in state.history])
    if remembered != state.remembered or remembered > MAX_REMEMBERED:
        yield f"the history remembers {remembered} rows, {state.remembered} are counted"
    indices = [change.index for change in state.history]
    if any(a >= b for a, b in pairwise(indices)) or (
        indices and not 1 <= indices[0] <= indices[-1] <= state.index
    ):
        yield "the history is out of order"
    if any(not 1 <= id_ < state.next_release_id for id_ in state.releases):
        yield f"a release has an id that is not below the next one, {state.next_release_id}"
    if any(not 1 <= id_ <= state.index for id_ in state.trash):
        yield "a volume in the trash has an id that is no index"
    names = [replica.local_name for volume in _volumes(state) for replica in volume.replicas]
    if len(set(names)) != len(names) or len(names) > state.next_local_number:
        yield "a local name is used twice"


def _names(state: State) -> Iterator[tuple[str, str, str]]:
    """(kind, key, name inside) of every row."""
    yield from (("manager", key, row.name) for key, row in state.managers.items())
    yield from (("site", key, row.name) for key, row in state.sites.items())
    yield from (("storage", key, row.address) for key, row in state.storages.items())
    yield from (("virtual volume", key, row.name) for key, row in state.volumes.items())
    yield from (("lease of", key, row.manager) for key, row in state.leases.items())
    yield from (("in the trash:", row.name, row.name) for row in state.trash.values())


def _references(state: State) -> Iterator[tuple[str, bool]]:
    """(what refers to something, whether that exists) of every reference."""
    for site in state.sites.values():
        yield f"site {site.name}: manager {site.manager}", site.manager in state.managers
        for name in site.priority:
            yield f"site {site.name}: site {name} of its order", name in state.sites
    for storage in state.storages.values():
        yield f"storage {storage.address}: site {storage.site}", storage.site in state.sites
    for id_, real in state.reals.items():
        home = state.storages.get(real.storage)
        yield f"real volume {id_}: its storage at its site", home is not None and home.site == real.site
    for lease in state.leases.values():
        yield f"lease: manager {lease.manager}", lease.manager in state.managers
    for manager in state.boots:
        yield f"boot: manager {manager}", manager in state.managers


def _levels(state: State) -> Iterator[str]:
    if not levels.readable(state.level):
        yield f"the tables are of level {state.level}"
    for name, row in state.managers.items():
        if state.level >= levels.MANAGERS_SAY_LEVEL and row.level < state.level:
            yield f"manager {name} cannot read level {state.level}"
        if state.level < levels.MANAGERS_SAY_LEVEL and row.level != levels.FIRST:
            yield f"manager {name} says its level in tables of level {state.level}"
    if state.level < levels.COPIES:
        if state.boots or state.trash:
            yield f"boots and trash in tables of level {state.level}"
        for volume in state.volumes.values():
            bare = [Replica(r.local_name, r.state, r.segments) for r in volume.replicas]
            if len(bare) > 1 or tuple(bare) != volume.replicas or volume.lossy_epoch:
                yield f"virtual volume {volume.name} has copies in tables of level {state.level}"
    if any(volume.trashed_ms for volume in state.volumes.values()) or any(
        not volume.trashed_ms for volume in state.trash.values()
    ):
        yield "a volume is in the trash and says that it is not, or the other way round"


def _inv9_names(state: State) -> Iterator[str]:
    for kind, key, name in _names(state):
        if key != name or name_problem(name) is not None:
            yield f"{kind} {checks.shown(name)} is kept under {checks.shown(key)}"
    for id_, real in state.reals.items():
        if id_ != RealId(real.storage, real.lun) or checks.class_invalid(real.volume_class):
            yield f"real volume {real.id} is kept under {id_}"
    for release_id, release in state.releases.items():
        if release_id != release.release_id:
            yield f"release {release.release_id} is kept under {release_id}"
    for what, exists in _references(state):
        if not exists:
            yield f"{what} does not exist"
    labels = [real.label_id for real in state.reals.values()]
    if len(set(labels)) != len(labels):
        yield "two real volumes carry one label id"
    if state.cluster_id and checks.settings_invalid(state.settings) is not None:
        yield f"settings are out of bounds: {state.settings}"
    yield from _levels(state)
    if not state.cluster_id and (state.managers or state.volumes or state.history):
        yield "tables hold something before the cluster was formed"


INVARIANTS: tuple[tuple[str, Callable[[State], Iterator[str]]], ...] = (
    ("INV-2", _inv2_one_owner),
    ("INV-4", _inv4_in_sync),
    ("INV-5", _inv5_tiled),
    ("INV-6", _inv6_allocation),
    ("INV-7", _inv7_copies_apart),
    ("INV-8", _inv8_once),
    ("INV-9", _inv9_names),
)


def check(state: State) -> list[Violation]:
    """Everything that is wrong with `state`; empty when nothing is. Linear in segments and runs."""
    return [Violation(name, what) for name, predicate in INVARIANTS for what in predicate(state)]


def _serving(volume: Volume) -> tuple[object, ...]:
    """Who writes where."""
    copies = [(r.local_name, r.state, r.segments, r.moving) for r in volume.replicas]
    return volume.owner, volume.size_sectors, copies


def _step_of_volume(before: Volume, after: Volume) -> Iterator[Violation]:
    name = f"virtual volume {after.name}"
    if after.epoch < before.epoch:
        yield Violation("INV-2", f"{name}: epoch {after.epoch} follows {before.epoch}")
    if after.epoch == before.epoch and _serving(before) != _serving(after):
        yield Violation("INV-2", f"{name} changed within epoch {after.epoch}")
    states = {replica.local_name: replica.state for replica in before.replicas}
    synced = [replica for replica in after.replicas if replica.state == "in_sync"]
    for replica in synced:
        was = states.get(replica.local_name)
        accepted = len(synced) == 1 and after.lossy_epoch == after.epoch and was == "stale"
        if was not in ("in_sync", "syncing") and not accepted:
            yield Violation("INV-4", f"{name}: copy {replica.local_name} is in sync, and was {was}")


def check_step(before: State, after: State) -> list[Violation]:
    """What one command may not do, whatever it is. A volume built anew under a name counts as another."""
    found: list[Violation] = []
    if after.index != before.index + 1:
        found.append(Violation("INV-8", f"index {after.index} follows {before.index}"))
    for name, volume in after.volumes.items():
        old = before.volumes.get(name)
        if old is not None and old is not volume:
            found.extend(_step_of_volume(old, volume))
    return found
