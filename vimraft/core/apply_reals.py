"""Commands about storages and real volumes.

May live here: one function per command, (state, command) -> Change | Reason, validation before change.
Keeps INV-6: a real volume enters with every unit but the label free, and leaves only when all are free
again; INV-9: a storage goes only without real volumes.
"""

import msgspec

from vimraft.core import checks, levels
from vimraft.core.change import Change, unit_sectors, units_of, users_of
from vimraft.core.commands import (
    AddRealVolume,
    RemoveRealVolume,
    RemoveStorage,
    SetRealVolumeState,
    SetStorage,
)
from vimraft.core.ids import RealId
from vimraft.core.reasons import Exists, InUse, Invalid, NotFound, Reason
from vimraft.core.tables import RealVolume, Release, Run, State, Storage


def _on_storage(state: State, storage: Storage) -> list[str]:
    return [f"real volume {real}" for real in state.reals if real.storage == storage.address]


def set_storage(state: State, command: SetStorage) -> Change | Reason:
    storage = command.storage
    problem = (
        checks.name_invalid("storage address", storage.address)
        or checks.site_missing(state, storage.site)
        or checks.text_invalid("storage URI", storage.uri, checks.MAX_URI_CHARS, may_be_empty=True)
    )
    if problem is not None:
        return problem
    storages = state.storages
    before = storages.get(storage.address)
    if before == storage:
        return Change(state)
    if before is None:
        too_many = checks.full("storage", len(storages), checks.MAX_STORAGES)
        if too_many is not None:
            return too_many
    elif before.site != storage.site:
        users = _on_storage(state, storage)
        if users:
            return InUse("storage", storage.address, checks.listed(users))
    changed = state._replace(storages=storages.set(storage.address, storage))
    return Change(changed, "storage-added" if before is None else "storage-changed", storage.address)


def remove_storage(state: State, command: RemoveStorage) -> Change | Reason:
    storage = state.storages.get(command.address)
    if storage is None:
        return NotFound("storage", checks.shown(command.address), checks.listed(state.storages.keys()))
    users = _on_storage(state, storage)
    if users:
        return InUse("storage", storage.address, checks.listed(users))
    removed = state._replace(storages=state.storages.delete(storage.address))
    return Change(removed, "storage-removed", storage.address)


def _clash(state: State, command: AddRealVolume, storage: Storage) -> Reason | None:
    """Two real volumes must not be the same device: same id, same label, or one manager's same URI."""
    id_ = RealId(command.storage, command.lun)
    if id_ in state.reals:
        return Exists("real volume", str(id_))
    manager = state.sites[storage.site].manager
    for other_id in sorted(state.reals):  # a Map iterates in the order of this process's hashes
        other = state.reals[other_id]
        if other.label_id == command.label_id:
            return Invalid("label id", command.label_id, f"is the label of real volume {other.id} already")
        if other.uri == command.uri and state.sites[other.site].manager == manager:
            return Invalid("URI", checks.shown(command.uri), f"is real volume {other.id} already")
    return None


def add_real(state: State, command: AddRealVolume) -> Change | Reason:
    storage = state.storages.get(command.storage)
    if storage is None:
        return NotFound("storage", checks.shown(command.storage), checks.listed(state.storages.keys()))
    problem = (
        checks.lun_invalid(command.lun)
        or checks.class_invalid(command.volume_class)
        or checks.text_invalid("URI", command.uri, checks.MAX_URI_CHARS)
        or checks.name_invalid("label id", command.label_id)
        or checks.capacity_invalid(command.capacity_units, state.settings.unit_bytes)
        or checks.full("real volume", len(state.reals), checks.MAX_REALS)
        or _clash(state, command, storage)
    )
    if problem is not None:
        return problem
    real = RealVolume(
        storage=command.storage,
        lun=command.lun,
        site=storage.site,
        volume_class=command.volume_class,
        uri=command.uri,
        label_id=command.label_id,
        capacity_units=command.capacity_units,
        free=(Run(1, command.capacity_units),),
    )
    added = state._replace(reals=state.reals.set(real.id, real))
    return Change(added, "real-added", str(real.id), real=real)


def _find(state: State, id_: RealId) -> RealVolume | NotFound:
    real = state.reals.get(id_)
    if real is None:
        return NotFound("real volume", checks.shown(str(id_)), checks.listed(state.reals.keys()))
    return real


def set_real_state(state: State, command: SetRealVolumeState) -> Change | Reason:
    real = _find(state, RealId(command.storage, command.lun))
    if isinstance(real, NotFound):
        return real
    reason = "" if command.state == "active" else checks.clipped(command.reason)
    if (real.state, real.reason) == (command.state, reason):
        return Change(state, real=real)
    real = msgspec.structs.replace(real, state=command.state, reason=reason)
    changed = state._replace(reals=state.reals.set(real.id, real))
    return Change(changed, f"real-{command.state}", str(real.id), real=real)


def _unclean_releases(state: State, id_: RealId) -> list[Release]:
    """Releases of space that no volume is known to have held (see `rebirth`): each lies on one real volume.
    What leaves the pool need not be zeroed."""
    return [
        r for r in state.releases.values() if not r.volume and r.segments and r.segments[0].real_id == id_
    ]


def remove_real(state: State, command: RemoveRealVolume) -> Change | Reason:
    real = _find(state, RealId(command.storage, command.lun))
    if isinstance(real, NotFound):
        return real
    unclean = _unclean_releases(state, real.id) if state.level >= levels.REMOVES_UNCLEAN else []
    per_unit = unit_sectors(state)
    dirty = sum([units_of(segment, per_unit).count for release in unclean for segment in release.segments])
    if real.free_units + dirty != real.capacity_units:
        return InUse("real volume", str(real.id), checks.listed(users_of(state, {real.id})))
    releases = state.releases.mutate()
    for release in unclean:
        del releases[release.release_id]
    removed = state._replace(reals=state.reals.delete(real.id), releases=releases.finish())
    return Change(removed, "real-removed", str(real.id), real=real)
