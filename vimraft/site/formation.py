"""Forming the cluster, and keeping its tables true to this manager's configuration.

May live here: one loop that proposes FormCluster, SetManager and SetSite until the tables agree. All
managers run it; apply lets the first one form and tells the others that it exists.
"""

import asyncio
import uuid

import structlog

from vimraft.core import levels
from vimraft.core.commands import Command, FormCluster, Rejected, SetManager, SetSite
from vimraft.core.ids import SiteName
from vimraft.core.reasons import Exists
from vimraft.core.tables import Manager, Settings, Site
from vimraft.metadata.port import LogError
from vimraft.site.context import PROPOSE_MS, SiteContext

log = structlog.get_logger(__name__)

RETRY_S = 0.5
CHECK_S = 10.0


def own_entry(site: SiteContext) -> Manager:
    network = site.config.network
    return Manager(
        name=site.me,
        raft_address=network.raft,
        api_url=site.config.api_url,
        nbd_address=network.nbd,
        peer_address=network.peer,
        level=levels.LATEST if site.state.level >= levels.MANAGERS_SAY_LEVEL else levels.FIRST,
    )


def next_step(site: SiteContext) -> Command | None:
    """What the tables lack; None: nothing. The priority order is the log's once the site is there, and
    sites named in it that do not exist yet wait until they do."""
    state = site.state
    if not state.cluster_id:
        return (
            FormCluster(cluster_id=uuid.uuid4().hex, settings=Settings(), level=levels.LATEST)
            if site.config.raft.members
            else None
        )
    if state.managers.get(site.me) != own_entry(site):
        return SetManager(manager=own_entry(site))
    for wanted in site.config.sites:
        name = SiteName(wanted.name)
        if name not in state.sites:
            return SetSite(site=Site(name=name, manager=site.me))
    for wanted in site.config.sites:
        found = state.sites[SiteName(wanted.name)]
        priority = tuple(SiteName(s) for s in wanted.priority)
        if not found.priority and priority and all(s in state.sites for s in priority):
            return SetSite(site=Site(name=found.name, manager=found.manager, priority=priority))
    return None


async def keep_registered(site: SiteContext) -> None:
    """Ends when this manager has been taken out of the cluster: it must not bring itself back."""
    registered = False
    while True:
        if site.me in site.state.managers:
            registered = True
        elif registered:
            log.error("manager.removed", manager=site.me)
            return
        # Who is in no log yet (a new manager, or one that comes back with an empty disk) has no say.
        command = next_step(site) if site.log.status().role != "joining" else None
        if command is None:
            await asyncio.sleep(RETRY_S if _waits_for_sites(site) else CHECK_S)
            continue
        try:
            outcome = await site.log.propose(command, who=site.me, deadline_ms=PROPOSE_MS)
        except LogError as error:
            log.info("formation.waits", step=type(command).__name__, cause=type(error).__name__)
            await asyncio.sleep(RETRY_S)
            continue
        if isinstance(outcome, Rejected) and not isinstance(outcome.reason, Exists):
            log.error("formation.refused", step=type(command).__name__, reason=repr(outcome.reason))
            await asyncio.sleep(CHECK_S)


def _waits_for_sites(site: SiteContext) -> bool:
    state = site.state
    return not state.cluster_id or any(
        wanted.priority and not state.sites[SiteName(wanted.name)].priority
        for wanted in site.config.sites
        if SiteName(wanted.name) in state.sites
    )
