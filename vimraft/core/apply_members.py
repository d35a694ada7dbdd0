"""Commands about the cluster itself: forming it, managers, sites, settings, leases.

May live here: one function per command, (state, command) -> Change | Reason, validation before change.
Keeps INV-2 (an owner is a manager that exists) and INV-9 (what others refer to is never removed).
"""

import msgspec

from vimraft.core import checks, levels
from vimraft.core.change import Change, users_of
from vimraft.core.commands import (
    FormCluster,
    RemoveManager,
    RemoveSite,
    RenewLease,
    SetLevel,
    SetManager,
    SetSetting,
    SetSite,
)
from vimraft.core.reasons import CannotRead, Exists, InUse, Invalid, NotFound, Outdated, Reason
from vimraft.core.tables import Lease, Manager, Site, State

MAX_INCARNATION_CHARS = 128
API_SCHEMES = ("http://", "https://")


def form_cluster(state: State, command: FormCluster) -> Change | Reason:
    if state.cluster_id:
        return Exists("cluster", state.cluster_id)
    problem = checks.name_invalid("cluster id", command.cluster_id) or checks.settings_invalid(
        command.settings
    )
    if problem is not None:
        return problem
    formed = state._replace(
        cluster_id=command.cluster_id, settings=command.settings, level=max(state.level, command.level)
    )
    return Change(formed, "formed", command.cluster_id)


def _api_address(manager: Manager) -> str | None:
    for scheme in API_SCHEMES:
        if manager.api_url.startswith(scheme):
            return manager.api_url[len(scheme) :].rstrip("/")
    return None


def _addresses(manager: Manager) -> tuple[tuple[str, str], ...]:
    return (
        ("raft address", manager.raft_address),
        ("API address", _api_address(manager) or ""),
        ("NBD address", manager.nbd_address),
        ("peer address", manager.peer_address),
    )


def _manager_invalid(state: State, manager: Manager) -> Reason | None:
    problem: Reason | None = checks.name_invalid("manager name", manager.name)
    if problem is not None:
        return problem
    if state.level >= levels.MANAGERS_SAY_LEVEL and manager.level < state.level:
        return CannotRead(state.level, (checks.shown(manager.name),))
    if _api_address(manager) is None:
        return Invalid("API URL", checks.shown(manager.api_url), "does not begin with http:// or https://")
    taken = {
        address: f"manager {other.name}"
        for other in state.managers.values()
        if other.name != manager.name
        for _, address in _addresses(other)
    }
    for field, address in _addresses(manager):
        problem = checks.address_invalid(field, address)
        if problem is not None:
            return problem
        if address in taken:
            return Invalid(field, checks.shown(address), f"is used by {taken[address]} already")
        taken[address] = f"another address of manager {manager.name}"
    return None


def set_manager(state: State, command: SetManager) -> Change | Reason:
    manager = command.manager
    problem = _manager_invalid(state, manager)
    if problem is not None:
        return problem
    before = state.managers.get(manager.name)
    if before == manager:
        return Change(state)
    if before is None:
        too_many = checks.full("manager", len(state.managers), checks.MAX_MANAGERS)
        if too_many is not None:
            return too_many
    changed = state._replace(managers=state.managers.set(manager.name, manager))
    return Change(changed, "manager-added" if before is None else "manager-changed", manager.name)


def remove_manager(state: State, command: RemoveManager) -> Change | Reason:
    missing = checks.manager_missing(state, command.name)
    if missing is not None:
        return missing
    users = [f"site {site.name}" for site in state.sites.values() if site.manager == command.name]
    users += [f"virtual volume {v.name}" for v in state.volumes.values() if v.owner == command.name]
    users += [
        f"volume {v.name} in the trash ({trash_id})"
        for trash_id, v in state.trash.items()
        if v.owner == command.name
    ]
    users += [
        f"release {r.release_id} of {r.volume or 'space to be zeroed again'}"
        for r in state.releases.values()
        if command.name in r.waiting
    ]
    if users:
        return InUse("manager", command.name, checks.listed(users))
    leases = state.leases.delete(command.name) if command.name in state.leases else state.leases
    boots = state.boots.delete(command.name) if command.name in state.boots else state.boots
    removed = state._replace(managers=state.managers.delete(command.name), leases=leases, boots=boots)
    return Change(removed, "manager-removed", command.name)


def _manager_change_problem(state: State, before: Site, after: Site) -> InUse | None:
    """Segments stay with the manager that can write them: it owes their release, and others address
    its store. A site with segments keeps its manager."""
    if before.manager == after.manager:
        return None
    used = {
        real.id
        for real in state.reals.values()
        if real.site == before.name and real.free_units != real.capacity_units
    }
    return InUse("site", before.name, checks.listed(users_of(state, used))) if used else None


def set_site(state: State, command: SetSite) -> Change | Reason:
    site = command.site
    problem = (
        checks.name_invalid("site name", site.name)
        or checks.manager_missing(state, site.manager)
        or (
            Invalid("priority order", checks.shown(site.name), "is the site itself, which always comes first")
            if site.name in site.priority
            else None
        )
        or checks.sites_missing(state, "priority order", site.priority)
    )
    if problem is not None:
        return problem
    before = state.sites.get(site.name)
    if before == site:
        return Change(state)
    refused: Reason | None
    if before is None:
        refused = checks.full("site", len(state.sites), checks.MAX_SITES)
    else:
        refused = _manager_change_problem(state, before, site)
    if refused is not None:
        return refused
    changed = state._replace(sites=state.sites.set(site.name, site))
    return Change(changed, "site-added" if before is None else "site-changed", site.name)


def remove_site(state: State, command: RemoveSite) -> Change | Reason:
    if command.name not in state.sites:
        return NotFound("site", checks.shown(command.name), checks.listed(state.sites.keys()))
    users = [f"storage {s.address}" for s in state.storages.values() if s.site == command.name]
    users += [f"priority order of site {s.name}" for s in state.sites.values() if command.name in s.priority]
    if users:
        return InUse("site", command.name, checks.listed(users))
    return Change(state._replace(sites=state.sites.delete(command.name)), "site-removed", command.name)


def set_setting(state: State, command: SetSetting) -> Change | Reason:
    problem = checks.setting_invalid(command.name, command.value, state.level)
    if problem is not None:
        return problem
    if getattr(state.settings, command.name) == command.value:
        return Change(state)
    if command.name == "unit_bytes" and state.reals:
        return InUse("setting", command.name, checks.listed(f"real volume {id_}" for id_ in state.reals))
    settings = msgspec.structs.replace(state.settings, **{command.name: command.value})
    return Change(state._replace(settings=settings), "setting-changed", command.name)


def set_level(state: State, command: SetLevel) -> Change | Reason:
    """Whoever cannot read the new level would apply nothing from here on: so all must have said that they
    can, in their rows, or at level 1 as `reported`."""
    if command.level == state.level:
        return Change(state)
    if command.level < state.level:
        return Invalid("level", str(command.level), f"is below the cluster's, {state.level}: it never falls")
    said = {row.manager: row.level for row in command.reported}
    if state.level >= levels.MANAGERS_SAY_LEVEL:
        said = {row.name: row.level for row in state.managers.values()}
    behind = [name for name in state.managers if said.get(name, 0) < command.level]
    if behind:
        return CannotRead(command.level, checks.listed(behind))
    managers = state.managers.update(
        {
            row.name: msgspec.structs.replace(row, level=max(row.level, said[row.name]))
            for row in state.managers.values()
        }
    )
    risen = state._replace(level=command.level, managers=managers)
    return Change(risen, "level-raised", str(command.level))


def renew_lease(state: State, command: RenewLease) -> Change | Reason:
    """Needs no dedupe (see `apply`): the same stamp again changes nothing, an older one of the same
    incarnation is refused, and a late one of an earlier incarnation only makes others wait longer
    until the next renewal replaces it."""
    problem = checks.manager_missing(state, command.manager) or checks.text_invalid(
        "incarnation", command.incarnation, MAX_INCARNATION_CHARS
    )
    if problem is not None:
        return problem
    before = state.leases.get(command.manager)
    if before is not None and before.incarnation == command.incarnation:
        if command.counter < before.counter:
            return Outdated("manager", command.manager)
        if command.counter == before.counter:
            return Change(state)
    lease = Lease(command.manager, command.incarnation, command.counter, command.installed_index)
    return Change(state._replace(leases=state.leases.set(command.manager, lease)))
