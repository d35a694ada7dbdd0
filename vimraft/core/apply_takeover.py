"""Commands about who serves a volume, and about managers that went away or came back in another life.

May live here: one function per command, (state, command) -> Change | Reason, validation before change. Keeps:
- INV-2: the owner changes in one command, with the epoch, and only if it is still the one that was seen to be
  gone: its lease is compared, and while every in-sync segment lies at its own sites (it may then serve
  without a lease) nobody takes over (the sole-holder rule).
- INV-3, INV-4: `in_sync` is bound to the boots of the stores. Copies whose stores rebooted leave the set; if
  all did, one stays and the volume is marked, so that sessions that go on are told at their next FLUSH.

Volumes in the trash follow, without a new epoch: nobody serves them, and a restored one begins a new one.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from msgspec.structs import replace

from vimraft.core import checks, replica_states
from vimraft.core.change import Change, holders, stamp_of
from vimraft.core.commands import ForceLost, LeaseStamp, MoveOwner, Rejoin, TakeOver
from vimraft.core.copies import (
    MAX_BOOT_CHARS,
    Freed,
    healed,
    in_sync,
    left,
    present,
    put,
    record_invalid,
    release,
    sole_holder,
    with_replicas,
)
from vimraft.core.ids import ManagerName, VolumeName
from vimraft.core.reasons import Invalid, LastCopy, Reason, Renewed, SoleHolder
from vimraft.core.tables import Replica, State, Volume


def _new_owner_invalid(state: State, volume: Volume, new_owner: ManagerName) -> Reason | None:
    if new_owner == volume.owner:
        return Invalid("new owner", checks.shown(new_owner), "is the owner already")
    return checks.manager_missing(state, new_owner)


def take_over(state: State, command: TakeOver) -> Change | Reason:
    volume = present(state, command.volume, command.epoch, command.owner)
    if not isinstance(volume, Volume):
        return volume
    problem = _new_owner_invalid(state, volume, command.new_owner)
    if problem is not None:
        return problem
    if sole_holder(state, volume):
        return SoleHolder(volume.name, volume.owner)
    stamp = stamp_of(state, volume.owner)
    if stamp != command.stamp:
        now = stamp or LeaseStamp("", 0)
        return Renewed(volume.owner, now.incarnation, now.counter)
    after = replace(volume, epoch=volume.epoch + 1, owner=command.new_owner)
    return Change(put(state, after), "taken-over", volume.name, volume=after)


def move_owner(state: State, command: MoveOwner) -> Change | Reason:
    volume = present(state, command.volume, command.epoch, command.owner)
    if not isinstance(volume, Volume):
        return volume
    problem = _new_owner_invalid(state, volume, command.new_owner)
    if problem is not None:
        return problem
    after = replace(volume, epoch=volume.epoch + 1, owner=command.new_owner)
    return Change(put(state, after), "owner-moved", volume.name, volume=after)


# All volumes of a manager


class _Turned(NamedTuple):
    """A volume after something happened to a manager. Its epoch is still the one before."""

    volume: Volume
    lossy: bool = False


_Turn = Callable[[Volume], "_Turned | None"]


def _turn_all(state: State, turn: _Turn) -> State:
    """In the order of names and ids, since releases are numbered."""
    volumes, trash, freed = state.volumes.mutate(), state.trash.mutate(), list[Freed]()
    for name in sorted(state.volumes):
        before = state.volumes[name]
        turned = turn(before)
        if turned is not None:
            epoch = before.epoch + 1
            lossy_epoch = epoch if turned.lossy else before.lossy_epoch
            volumes[name] = replace(turned.volume, epoch=epoch, lossy_epoch=lossy_epoch)
            freed += _moves_ended(before, turned.volume)
    for trash_id in sorted(state.trash):
        turned = turn(state.trash[trash_id])
        if turned is not None:
            trash[trash_id] = turned.volume
    after = state._replace(volumes=volumes.finish(), trash=trash.finish())
    return release(after, freed)


def _moves_ended(before: Volume, after: Volume) -> list[Freed]:
    return [
        Freed(before, old.moving)
        for old, new in zip(before.replicas, after.replicas, strict=True)
        if old.moving and not new.moving
    ]


def _here(state: State, manager: ManagerName, replicas: Iterable[Replica]) -> list[Replica]:
    return [replica for replica in replicas if manager in holders(state, replica.segments)]


def _without_moves_to(state: State, manager: ManagerName, volume: Volume) -> Volume:
    ended = [r for r in volume.replicas if r.moving and manager in holders(state, r.moving)]
    return with_replicas(volume, [replace(r, moving=()) for r in ended]) if ended else volume


def _rebooted(state: State, manager: ManagerName, volume: Volume, record: str) -> _Turned | None:
    here = _here(state, manager, volume.replicas)
    synced = in_sync(volume)
    last = next((r for r in synced if all(r in here for r in synced)), None)
    changed = [
        left(r, "reboot", volume.epoch, record if r.state == "in_sync" else r.record)
        for r in here
        if r is not last and replica_states.after("reboot", r.state) is not None
    ]
    after = _without_moves_to(state, manager, with_replicas(volume, changed))
    lossy = last is not None
    return _Turned(after, lossy) if lossy or after != volume else None


def _rejoin_invalid(state: State, command: Rejoin) -> Reason | None:
    problem = checks.manager_missing(state, command.manager) or checks.text_invalid(
        "boot", command.boot, MAX_BOOT_CHARS
    )
    if problem is not None:
        return problem
    return next(filter(None, (record_invalid(record) for _, record in command.records)), None)


def rejoin(state: State, command: Rejoin) -> Change | Reason:
    problem = _rejoin_invalid(state, command)
    if problem is not None:
        return problem
    manager = command.manager
    before = state.boots.get(manager)
    if before == command.boot:
        return Change(state)
    bound = state._replace(boots=state.boots.set(manager, command.boot))
    if before is None:
        return Change(bound)  # nothing was served by its stores before: they wait for this
    records: dict[VolumeName, str] = dict(command.records)

    def turn(volume: Volume) -> _Turned | None:
        return _rebooted(state, manager, volume, records.get(volume.name, ""))

    return Change(_turn_all(bound, turn), "rejoined", manager)


# A manager that is lost for good


def _best_of(replicas: Iterable[Replica]) -> Replica | None:
    """The copy that was in sync last; one in the middle of a resync, old and new mixed, only for want of
    another."""
    able = [r for r in replicas if r.left_epoch and replica_states.after("accept-loss", r.state) is not None]
    return max(able, key=lambda r: (r.state == "stale", r.left_epoch), default=None)


def _lost(state: State, manager: ManagerName, volume: Volume) -> _Turned | None:
    """None: nothing of it lies there, or nothing elsewhere can stand in."""
    here = _here(state, manager, volume.replicas)
    changed = [
        left(r, "lose", volume.epoch, "") for r in here if replica_states.after("lose", r.state) is not None
    ]
    lossy = all(r in here for r in in_sync(volume))
    if lossy:
        best = _best_of([r for r in volume.replicas if r not in here])
        if best is None:
            return None
        changed.append(healed(best, "accept-loss"))
    after = _without_moves_to(state, manager, with_replicas(volume, changed))
    return _Turned(after, lossy) if after != volume else None


def force_lost(state: State, command: ForceLost) -> Change | Reason:
    missing = checks.manager_missing(state, command.manager)
    if missing is not None:
        return missing
    manager = command.manager
    if not command.accept_loss:
        doomed = [
            volume.name
            for volume in (*state.volumes.values(), *state.trash.values())
            if len(_here(state, manager, in_sync(volume))) == len(in_sync(volume))
        ]
        if doomed:
            return LastCopy(checks.listed(doomed))
    after = _turn_all(state, lambda volume: _lost(state, manager, volume))
    return Change(after, "lost", manager)
