"""Commands about single copies: retire, resync, promote, add, remove, pause; and which of them is read.

May live here: one function per command, (state, command) -> Change | Reason, validation before change.
Keeps: INV-4 (what missed a write is out of sync in the same command that says so, and gets back by a
promotion only, in the boots that the tables have; one copy is always in sync), INV-6, INV-7 (a new copy is
apart from all others). Whatever changes who writes where is a new epoch.
"""

from msgspec.structs import replace

from vimraft.core import checks, replica_states
from vimraft.core.apply_volumes import local_name
from vimraft.core.change import Change, reals_of, unit_sectors, volume_segments
from vimraft.core.commands import (
    AddCopy,
    BeginResync,
    LoseUnflushed,
    PauseCopy,
    Promote,
    RemoveCopy,
    Retire,
    SetReadPolicy,
)
from vimraft.core.copies import (
    MAX_COPIES,
    Freed,
    boot_problem,
    find_replica,
    find_volume,
    healed,
    in_sync,
    left,
    next_epoch,
    present,
    put,
    record_invalid,
    refused,
    release,
    sites_of,
)
from vimraft.core.ids import LocalName
from vimraft.core.reasons import CopyState, Invalid, LastCopy, NotFound, Reason, Unsupported
from vimraft.core.space import Wanted, lay, place_copies, too_scattered, with_free
from vimraft.core.tables import Replica, State, Volume


def _with_copy(volume: Volume | Reason, name: LocalName) -> tuple[Volume, Replica] | Reason:
    """If both are there."""
    if not isinstance(volume, Volume):
        return volume
    replica = find_replica(volume, name)
    return replica if isinstance(replica, NotFound) else (volume, replica)


def _retired(volume: Volume, command: Retire) -> list[Replica] | Reason:
    names = command.replicas
    if not names or len(set(names)) != len(names):
        shown = checks.shown(", ".join(names[:MAX_COPIES]))
        return Invalid("copies", shown, "name no copy" if not names else "name a copy twice")
    found = []
    for name in names:
        replica = find_replica(volume, name)
        if isinstance(replica, NotFound):
            return replica
        if replica_states.after("retire", replica.state) is None:
            return refused(volume, replica)
        found.append(replica)
    if all(replica.local_name in names for replica in in_sync(volume)):
        return LastCopy((volume.name,))
    return found


def retire(state: State, command: Retire) -> Change | Reason:
    volume = present(state, command.volume, command.epoch, command.owner)
    if not isinstance(volume, Volume):
        return volume
    problem = record_invalid(command.record)
    if problem is not None:
        return problem
    found = _retired(volume, command)
    if not isinstance(found, list):
        return found
    changed = [left(replica, "retire", volume.epoch, command.record) for replica in found]
    after = next_epoch(volume, *changed)
    targets = [Freed(volume, replica.moving) for replica in found]
    return Change(put(release(state, targets), after), "retired", volume.name, volume=after)


def lose_unflushed(state: State, command: LoseUnflushed) -> Change | Reason:
    volume = present(state, command.volume, command.epoch, command.owner)
    if not isinstance(volume, Volume):
        return volume
    after = replace(volume, epoch=volume.epoch + 1, lossy_epoch=volume.epoch + 1)
    return Change(put(state, after), "lost-unflushed", volume.name, volume=after)


def begin_resync(state: State, command: BeginResync) -> Change | Reason:
    found = _with_copy(present(state, command.volume, command.epoch, command.owner), command.replica)
    if not isinstance(found, tuple):
        return found
    volume, replica = found
    problem = record_invalid(command.record)
    if problem is not None:
        return problem
    begun = replica_states.after("begin-resync", replica.state)
    if begun is None:
        return refused(volume, replica)
    if replica.paused:
        return CopyState(volume.name, replica.local_name, "paused")
    record = replica.record if replica.record == command.record else ""
    after = next_epoch(volume, replace(replica, state=begun, record=record))
    return Change(put(state, after), "resync-begun", volume.name, volume=after)


def promote(state: State, command: Promote) -> Change | Reason:
    found = _with_copy(present(state, command.volume, command.epoch, command.owner), command.replica)
    if not isinstance(found, tuple):
        return found
    volume, replica = found
    if replica_states.after("promote", replica.state) is None:
        return refused(volume, replica)
    problem = boot_problem(state, replica.segments, command.boots)
    if problem is not None:
        return problem
    after = next_epoch(volume, healed(replica, "promote"))
    return Change(put(state, after), "promoted", volume.name, volume=after)


def _add_invalid(state: State, volume: Volume, command: AddCopy) -> Reason | None:
    if len(volume.replicas) >= MAX_COPIES:
        return Unsupported(f"more than {MAX_COPIES} copies")
    if command.volume_class:
        problem = checks.class_invalid(command.volume_class)
        if problem is not None:
            return problem
    return checks.sites_missing(state, "site", command.sites)


def add_copy(state: State, command: AddCopy) -> Change | Reason:
    volume = find_volume(state, command.name)
    if isinstance(volume, NotFound):
        return volume
    problem = _add_invalid(state, volume, command)
    if problem is not None:
        return problem
    held = volume_segments(volume)
    volume_class = command.volume_class or volume.volume_class
    wanted = Wanted(
        sites=command.sites or tuple([site for site in volume.sites if site in state.sites]),
        volume_class=volume_class,
        size_sectors=volume.size_sectors,
        copies=1,
        same_site=command.same_site,
        used_reals=frozenset(reals_of(held)),
        used_sites=frozenset(sites_of(state, held)),
        there=len(volume.replicas),
    )
    found = place_copies(state, wanted, unit_sectors(state))
    if not isinstance(found, list):
        return found
    (placement,) = found
    scattered = too_scattered(len(held) + len(placement.placed))
    if scattered is not None:
        return scattered
    replica = Replica(
        local_name(state.next_local_number),
        "stale",
        tuple(lay(placement.placed, 0, volume.size_sectors, unit_sectors(state))),
        volume_class="" if volume_class == volume.volume_class else volume_class,
    )
    after = replace(
        volume,
        epoch=volume.epoch + 1,
        replicas=(*volume.replicas, replica),
        sites=tuple(dict.fromkeys([*volume.sites, *wanted.sites])),
    )
    added = put(with_free(state, placement.free), after)
    added = added._replace(next_local_number=state.next_local_number + 1)
    return Change(added, "copy-added", volume.name, volume=after)


def remove_copy(state: State, command: RemoveCopy) -> Change | Reason:
    found = _with_copy(find_volume(state, command.name), command.replica)
    if not isinstance(found, tuple):
        return found
    volume, replica = found
    if in_sync(volume) == [replica]:
        return LastCopy((volume.name,))
    stay = tuple([r for r in volume.replicas if r is not replica])
    here = sites_of(state, replica.segments)
    vacated = here.difference(*[sites_of(state, r.segments) for r in stay])
    volume_class = stay[0].volume_class
    if volume_class and all(r.volume_class == volume_class for r in stay):
        stay = tuple([replace(r, volume_class="") for r in stay])
    else:
        volume_class = volume.volume_class
    after = replace(
        volume,
        epoch=volume.epoch + 1,
        replicas=stay,
        volume_class=volume_class,
        # It grows first where it lies.
        sites=tuple(sorted(volume.sites, key=lambda site: site in vacated)),
    )
    freed = Freed(volume, (*replica.segments, *replica.moving))
    return Change(put(release(state, [freed]), after), "copy-removed", volume.name, volume=after)


def pause_copy(state: State, command: PauseCopy) -> Change | Reason:
    found = _with_copy(find_volume(state, command.name), command.replica)
    if not isinstance(found, tuple):
        return found
    volume, replica = found
    if replica.paused == command.paused:
        return Change(state, volume=volume)
    if replica.state not in ("stale", "syncing"):
        return refused(volume, replica)
    paused = replace(replica, paused=command.paused)
    after = replace(volume, replicas=tuple([paused if r is replica else r for r in volume.replicas]))
    what = "copy-paused" if command.paused else "copy-resumed"
    return Change(put(state, after), what, volume.name, volume=after)


def set_read_policy(state: State, command: SetReadPolicy) -> Change | Reason:
    volume = find_volume(state, command.name)
    if isinstance(volume, NotFound):
        return volume
    if volume.read_policy == command.policy:
        return Change(state, volume=volume)
    after = replace(volume, read_policy=command.policy)
    return Change(put(state, after), f"read-policy-{command.policy}", volume.name, volume=after)
