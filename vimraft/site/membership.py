"""Who belongs to the cluster: letting managers in, promoting, replacing and removing them.

Two things change each time, the tables (who has which addresses and sites) and the members of the log (who
is replicated to, who votes), and a power loss may come between them. Hence the orders, all of which are
finished by asking for the same thing again:

- in: tables, then (once it runs) log as an observer, then its vote when it has caught up. A manager that
  the tables know and the log does not is no burden.
- out: its sites, then the log, then its row. The row goes last: it is how a repetition finds the address.
- replace: the old member out of the log, new addresses into the tables, then in as above. The row, the
  sites and the volumes stay.

One change at a time: all managers pass these calls on to the leader's, which does them one after the other;
the log itself refuses a second change while one is undecided. May live here: these operations and the
questions they ask first (is a majority left, is it dead).
"""

import asyncio
from urllib.parse import quote

import msgspec
import structlog

from vimraft.api.advice_members import voters_advice
from vimraft.api.errors import (
    IdentityChanged,
    LastVoter,
    NoMajorityLeft,
    NotCaughtUp,
    NotInLog,
    OnlyItself,
    Refused,
    StillAlive,
)
from vimraft.api.schema import DoneReply, JoinReply, JoinRequest, MembersReply
from vimraft.core import levels
from vimraft.core.apply import plan
from vimraft.core.commands import Applied, Command, Rejected, RemoveManager, RemoveSite, SetManager, SetSite
from vimraft.core.ids import ManagerName, SiteName
from vimraft.core.reasons import Exists, InUse, NotFound
from vimraft.core.tables import Manager, Site, State
from vimraft.metadata.port import PeerStatus, Unavailable
from vimraft.site.context import NO_QUORUM_MS, PROPOSE_MS, SiteContext
from vimraft.site.health import Health
from vimraft.site.member_views import majority, membership, reachable
from vimraft.site.other_managers import ask

log = structlog.get_logger(__name__)

REMOVE_TRIES = 3
"""A manager that still runs may put its site back while it is being removed."""
CAUGHT_UP_ENTRIES = 1_000
"""An observer further behind than this is not even tried as a voter."""


class MemberOperations:
    """The part of vimraft.api.service.Service about the members. `_commit` comes from ChangeOperations."""

    site: SiteContext
    health: Health
    _members_lock: asyncio.Lock

    async def _commit(self, command: Command, who: str, request_id: str | None) -> Applied:
        raise NotImplementedError

    async def members(self) -> MembersReply:
        state = self.site.state
        seen = membership(state, self.site.log.status(), self.health, self.site.me)
        return MembersReply(membership=seen, as_of=self.site.as_of())

    # --- in -----------------------------------------------------------------------------------

    async def join(self, request: JoinRequest, *, who: str, passed: bool) -> JoinReply:
        """Asked again, it changes nothing that is done already."""
        leading = self._leading_elsewhere(passed)
        if leading is not None:
            data = await ask(self.site, leading, "POST", "/v1/members?passed=true", request)
            return msgspec.json.decode(data, type=JoinReply)
        manager = Manager(
            name=ManagerName(request.manager),
            raft_address=request.raft_address,
            api_url=request.api_url,
            nbd_address=request.nbd_address,
            peer_address=request.peer_address,
            level=request.level if self.site.state.level >= levels.MANAGERS_SAY_LEVEL else levels.FIRST,
        )
        async with self._members_lock:
            state = await self.site.fresh_state()
            role, note = "joining", ""
            if request.listening:
                role, note = await self._seat(state, manager, request)
            elif request.replace:
                await self._replace(state, manager, request, who)
            else:
                await self._register(state, manager, request, who)
                role = self._role_of(manager)
        return self._join_reply(manager, role, note or self._voters_note(manager, request))

    def _join_reply(self, manager: Manager, role: str, note: str) -> JoinReply:
        state, raft = self.site.state, self.site.log.status()
        others = [m for m in state.managers.values() if m.name != manager.name]
        addresses = {raft.self_address, *(peer.address for peer in raft.peers)} - {manager.raft_address}
        return JoinReply(
            cluster_id=state.cluster_id,
            members=tuple(sorted(addresses)),
            api_urls=tuple(sorted(m.api_url for m in others)),
            cluster=raft.cluster,
            generation=raft.generation,
            birth=raft.birth,
            role=role,
            note=note,
        )

    def _voters_note(self, manager: Manager, request: JoinRequest) -> str:
        if request.observer:
            return ""
        return voters_advice(len({*self._voters(), manager.raft_address}))

    async def _register(self, state: State, manager: Manager, request: JoinRequest, who: str) -> None:
        known = state.managers.get(manager.name)
        if known is not None and _addresses(known) != _addresses(manager):
            raise Refused(Exists("manager", manager.name))
        self._check_sites(state, request)
        if known is None:
            await self._commit(SetManager(manager=manager), who, None)
        await self._add_sites(state, request, who)

    def _check_sites(self, state: State, request: JoinRequest) -> None:
        for site in request.sites:
            holder = state.sites.get(SiteName(site.name))
            if holder is not None and holder.manager != request.manager:
                raise Refused(Exists("site", site.name))

    async def _add_sites(self, state: State, request: JoinRequest, who: str) -> None:
        for site in request.sites:
            if SiteName(site.name) in state.sites:
                continue  # its order is the operators' to change
            priority = tuple(SiteName(s) for s in site.priority)
            new = Site(name=SiteName(site.name), manager=ManagerName(request.manager), priority=priority)
            await self._commit(SetSite(site=new), who, None)

    async def _seat(self, state: State, manager: Manager, request: JoinRequest) -> tuple[str, str]:
        """It runs: into the log, and to its vote. (role, why it is not more)."""
        known = state.managers.get(manager.name)
        if known is None or known.raft_address != manager.raft_address:
            # Removed, or replaced by one at another address: only an operator brings it back.
            raise Refused(NotFound("manager", manager.name, tuple(sorted(state.managers))))
        address = manager.raft_address
        peer = self._peer(address)
        if peer is not None and request.node_id and peer.node_id not in ("", request.node_id):
            raise IdentityChanged(manager.name)
        if peer is None:
            await self.site.log.add_member(
                address, node_id=request.node_id, voter=False, deadline_ms=self._deadline_ms()
            )
        elif peer.voter:
            return "voter", ""
        if request.observer:
            return "observer", ""
        try:
            await self.site.log.add_member(
                address, node_id=request.node_id, voter=True, deadline_ms=self._deadline_ms()
            )
        except Unavailable as error:  # it asks again
            return "observer", str(error)
        return "voter", ""

    async def _replace(self, state: State, manager: Manager, request: JoinRequest, who: str) -> None:
        known = state.managers.get(manager.name)
        if known is None:
            raise Refused(NotFound("manager", manager.name, tuple(sorted(state.managers))))
        self._check_sites(state, request)
        self._check_dead(known)
        if self._peer(known.raft_address) is not None:
            self._check_majority_without(known)
        await self.site.log.remove_member(known.raft_address, deadline_ms=self._deadline_ms())
        if _addresses(known) != _addresses(manager):
            await self._commit(SetManager(manager=manager), who, None)
        await self._add_sites(state, request, who)
        log.warning("manager.replaced", manager=manager.name, who=who)
        await self.site.record(
            "manager.replaced", manager.name, "warning", f"{manager.name} is replaced; its old log is void"
        )

    def _check_dead(self, manager: Manager) -> None:
        latest = self.health.latest(manager.name)
        if manager.name == self.site.me:
            raise StillAlive(manager.name, "it answers this call")
        if latest is not None and self.health.is_up(manager.name):
            raise StillAlive(manager.name, f"it was heard {latest[1]:.1f} s ago")
        peer = self._peer(manager.raft_address)
        if peer is not None and reachable(peer):
            raise StillAlive(manager.name, "its log is in contact")

    # --- promotion ----------------------------------------------------------------------------

    async def promote(self, name: str, *, who: str, passed: bool) -> DoneReply:
        """Observer → voter; of a voter nothing."""
        leading = self._leading_elsewhere(passed)
        if leading is not None:
            path = f"/v1/members/{quote(name, safe='')}/promote?passed=true"
            return msgspec.json.decode(await ask(self.site, leading, "POST", path), type=DoneReply)
        async with self._members_lock:
            state = await self.site.fresh_state()
            manager = state.managers.get(ManagerName(name))
            if manager is None:
                raise Refused(NotFound("manager", name, tuple(sorted(state.managers))))
            if not self._is_voter(manager):
                await self._give_vote(manager)
                await self.site.record("manager.promoted", name, "info", f"{name} votes now, asked by {who}")
        return DoneReply(index=self.site.state.index)

    async def _give_vote(self, manager: Manager) -> None:
        peer = self._peer(manager.raft_address)
        if peer is None:
            raise NotInLog(manager.name)
        lag = None if peer.match_index is None else self.site.log.status().raft_commit - peer.match_index
        if not reachable(peer):
            raise NotCaughtUp(manager.name, lag, "it cannot be reached")
        if lag is not None and lag > CAUGHT_UP_ENTRIES:
            raise NotCaughtUp(manager.name, lag)
        try:
            await self.site.log.add_member(
                peer.address, node_id=peer.node_id, voter=True, deadline_ms=self._deadline_ms()
            )
        except Unavailable as error:
            if not self.site.log.status().has_quorum:
                raise
            raise NotCaughtUp(manager.name, lag, str(error)) from None

    # --- out ----------------------------------------------------------------------------------

    async def remove_manager(
        self, name: str, *, force: bool, who: str, request_id: str | None, passed: bool
    ) -> DoneReply:
        """With its sites, if these have no storages left. Repeat it if it was interrupted."""
        doer = self._other_than(name, passed)
        if doer is not None:
            path = f"/v1/members/{quote(name, safe='')}?passed=true&force={str(force).lower()}"
            data = await ask(self.site, doer, "DELETE", path, request_id=request_id)
            return msgspec.json.decode(data, type=DoneReply)
        async with self._members_lock:
            state = await self.site.fresh_state()
            manager = state.managers.get(ManagerName(name))
            if manager is not None and not force:
                self._check_majority_without(manager)
            return await self._remove(manager, RemoveManager(name=ManagerName(name)), who, request_id)

    async def _remove(
        self, manager: Manager | None, command: RemoveManager, who: str, request_id: str | None
    ) -> DoneReply:
        """Without a row (never there, or removed by an earlier try of this request) the tables say which."""
        tries_left = REMOVE_TRIES
        while manager is not None:
            _check_removable(self.site.state, manager, command)
            await self._remove_sites(manager, who)
            await self.site.log.remove_member(manager.raft_address, deadline_ms=self._deadline_ms())
            tries_left -= 1
            try:
                return DoneReply(index=(await self._commit(command, who, request_id)).index)
            except Refused as refused:
                if not isinstance(refused.reason, InUse) or not tries_left:
                    raise
                request_id = None  # that id has its answer
        return DoneReply(index=(await self._commit(command, who, request_id)).index)

    async def _remove_sites(self, manager: Manager, who: str) -> None:
        """Out of the orders of others too: where no space is left to be found, nobody looks."""
        own = _sites_of(self.site.state, manager)
        for site in self.site.state.sites.values():
            if site.name not in own and not own.isdisjoint(site.priority):
                order = tuple(name for name in site.priority if name not in own)
                await self._commit(SetSite(site=msgspec.structs.replace(site, priority=order)), who, None)
        for name in own:  # of one another
            site = self.site.state.sites[name]
            if site.priority:
                await self._commit(SetSite(site=msgspec.structs.replace(site, priority=())), who, None)
        for name in sorted(own):
            await self._commit(RemoveSite(name=name), who, None)

    def _deadline_ms(self) -> int:
        """Without a quorum: long enough for an election, not so long that a person wonders."""
        return PROPOSE_MS if self.site.log.status().has_quorum else NO_QUORUM_MS

    # --- questions ----------------------------------------------------------------------------

    def _peer(self, raft_address: str) -> PeerStatus | None:
        return next((p for p in self.site.log.status().peers if p.address == raft_address), None)

    def _voters(self) -> dict[str, bool]:
        """Raft address of every voter → can be reached now."""
        raft = self.site.log.status()
        voters = {peer.address: reachable(peer) for peer in raft.peers if peer.voter}
        return {**voters, raft.self_address: True} if raft.role == "voter" else voters

    def _role_of(self, manager: Manager) -> str:
        peer = self._peer(manager.raft_address)
        if peer is None:
            return "voter" if self._is_voter(manager) else "joining"
        return "voter" if peer.voter else "observer"

    def _is_voter(self, manager: Manager) -> bool:
        return manager.raft_address in self._voters()

    def _check_majority_without(self, manager: Manager) -> None:
        voters = self._voters()
        if manager.raft_address not in voters:
            return
        left = {address: up for address, up in voters.items() if address != manager.raft_address}
        if not left:
            raise LastVoter(manager.name)
        if sum(left.values()) < majority(len(left)):
            names = {m.raft_address: m.name for m in self.site.state.managers.values()}
            raise NoMajorityLeft(
                manager.name,
                tuple(sorted(names.get(address, address) for address in left)),
                tuple(sorted(names.get(address, address) for address, up in left.items() if not up)),
            )

    # --- who does it --------------------------------------------------------------------------

    def _leading_elsewhere(self, passed: bool) -> Manager | None:
        """The leader's manager, if that is another one that answers: it serialises these changes and knows
        best who can be reached. None: do it here."""
        raft = self.site.log.status()
        if passed or raft.is_leader or raft.leader_address is None:
            return None
        leader = self._manager_at(raft.leader_address)
        return leader if leader is not None and self.health.is_up(leader.name) else None

    def _other_than(self, name: str, passed: bool) -> Manager | None:
        """Like `_leading_elsewhere`, for a change that `name` cannot make itself."""
        leading = self._leading_elsewhere(passed)
        if leading is not None and leading.name != name:
            return leading
        if self.site.me != name:
            return None
        others = (m for m in self.site.state.managers.values() if m.name != name)
        found = next((m for m in others if self._is_voter(m) and self.health.is_up(m.name)), None)
        if found is None:
            if not [address for address in self._voters() if address != self.site.config.network.raft]:
                raise LastVoter(name)
            raise OnlyItself(name)
        return found

    def _manager_at(self, raft_address: str) -> Manager | None:
        managers = self.site.state.managers.values()
        return next((m for m in managers if m.raft_address == raft_address), None)


def _addresses(manager: Manager) -> tuple[str, ...]:
    return manager.raft_address, manager.api_url, manager.nbd_address, manager.peer_address


def _sites_of(state: State, manager: Manager) -> set[SiteName]:
    return {site.name for site in state.sites.values() if site.manager == manager.name}


def _check_removable(state: State, manager: Manager, command: RemoveManager) -> None:
    """Before anything is changed: whatever will be refused is refused now."""
    own = _sites_of(state, manager)
    for name in sorted(own):
        storages = tuple(f"storage {s.address}" for s in state.storages.values() if s.site == name)
        if storages:
            raise Refused(InUse("site", name, storages))
    without = state.sites
    for name in own:
        without = without.delete(name)
    outcome = plan(state._replace(sites=without), command)
    if isinstance(outcome, Rejected):
        raise Refused(outcome.reason)
