"""The members of the log as the API shows them: no I/O, no waiting.

May live here: tables, the own node's view, and what heartbeats brought of the others' → structs of
vimraft.api.schema. The leader's view is best (only it knows how far each member is), and comes with its
heartbeats; without one the view of the manager that answers must do.
"""

from typing import Final

from vimraft.api.advice_members import refused_advice, voters_advice
from vimraft.api.schema import Contact, MemberRole, Membership, MemberStatus, RaftView
from vimraft.core.tables import Manager, State
from vimraft.metadata.port import LogStatus, PeerStatus
from vimraft.site.health import SILENT_AFTER_S, Health

CHANGED_IDENTITY: Final = "changed-identity"
"""In a refusal: another data directory than before. See vimraft.metadata.pysyncobj.handshake."""
SILENT_AFTER_MS: Final = int(SILENT_AFTER_S * 1000)


def majority(voters: int) -> int:
    return voters // 2 + 1


def reachable(peer: PeerStatus | Contact) -> bool:
    """A link may stand long after its end has stopped: what counts is when it was last heard."""
    heard = peer.last_contact_ms is None or peer.last_contact_ms <= SILENT_AFTER_MS
    return peer.connected and heard and not peer.refused


def raft_view(raft: LogStatus) -> RaftView:
    return RaftView(
        address=raft.self_address,
        leader=raft.leader_address,
        role=raft.role,
        node_id=raft.node_id,
        term=raft.term,
        generation=raft.generation,
        cluster=raft.cluster,
        applied=raft.raft_applied,
        commit=raft.raft_commit,
        problem=raft.problem,
        peers=tuple(
            Contact(
                address=peer.address,
                node_id=peer.node_id,
                voter=peer.voter,
                connected=peer.connected,
                last_contact_ms=peer.last_contact_ms,
                match_index=peer.match_index,
                refused=peer.refused,
            )
            for peer in raft.peers
        ),
    )


def refusal(raft: LogStatus) -> str:
    """Why nobody lets this node in ('' while somebody does): then it can do nothing about it itself."""
    refused = [peer.refused for peer in raft.peers if peer.refused]
    if raft.role == "joining":  # strangers are refused as such until they are let in
        refused = [why for why in refused if CHANGED_IDENTITY in why]
    if raft.has_quorum or not refused or any(reachable(peer) for peer in raft.peers):
        return ""
    return next((why for why in refused if CHANGED_IDENTITY in why), refused[0])


def membership(state: State, raft: LogStatus, health: Health, me: str) -> Membership:
    own = raft_view(raft)
    names = {manager.raft_address: manager for manager in state.managers.values()}
    seen_by, view = _best_view(own, names, health, me)
    contacts = {peer.address: peer for peer in view.peers}
    addresses = {*contacts, view.address, *names, *(() if raft.role == "joining" else (raft.self_address,))}
    members = tuple(
        sorted(
            (
                _member(state, address, names.get(address), view, contacts.get(address), own, health)
                for address in addresses
            ),
            key=lambda member: (member.name or "~", member.raft_address),
        )
    )
    voters = [member for member in members if member.role in ("leader", "voter")]
    advice = [voters_advice(len(voters))] if raft.has_quorum else []
    why = refusal(raft)
    if why:
        by = tuple(
            names[peer.address].name if peer.address in names else peer.address
            for peer in raft.peers
            if peer.refused
        )
        advice.append(refused_advice(me, by, why))
    return Membership(
        members=members,
        seen_by=seen_by,
        term=own.term,
        generation=own.generation,
        cluster=own.cluster,
        voters=len(voters),
        voters_needed=majority(len(voters)),
        voters_reachable=sum(member.connected for member in voters),
        advice=tuple(text for text in advice if text),
    )


def _best_view(own: RaftView, names: dict[str, Manager], health: Health, me: str) -> tuple[str, RaftView]:
    leader = names.get(own.leader or "")
    if leader is None or own.leader == own.address or not health.is_up(leader.name):
        return me, own
    latest = health.latest(leader.name)
    view = latest[0].raft if latest else None
    if view is None or view.leader != own.leader:
        return me, own
    return leader.name, view


def _member(
    state: State,
    address: str,
    manager: Manager | None,
    view: RaftView,
    contact: Contact | None,
    own: RaftView,
    health: Health,
) -> MemberStatus:
    latest = health.latest(manager.name) if manager is not None else None
    fresh = latest is not None and manager is not None and health.is_up(manager.name)
    beat = latest[0] if latest else None
    said = own if address == own.address else beat.raft if beat and fresh else None
    watcher = address == view.address
    role: MemberRole
    if address == (view.leader or own.leader):
        role = "leader"
    elif watcher:
        role = "voter" if view.role == "voter" else "observer" if view.role == "observer" else "joining"
    elif contact is None:
        role = "joining"
    else:
        role = "voter" if contact.voter else "observer"
    lag: int | None = None
    if watcher and role == "leader":
        lag = 0
    elif contact is not None and contact.match_index is not None:
        lag = max(0, view.commit - contact.match_index)
    elif said is not None:
        lag = max(0, view.commit - said.applied)
    return MemberStatus(
        name=manager.name if manager else "",
        raft_address=address,
        api_url=manager.api_url if manager else "",
        role=role,
        connected=watcher or (contact is not None and reachable(contact)),
        last_contact_ms=0 if watcher else contact.last_contact_ms if contact else None,
        lag=lag,
        applied_index=beat.index if beat else None,
        node_id=contact.node_id if contact and contact.node_id else said.node_id if said else "",
        release=beat.release if beat else "",
        problem=_problem(role, contact, said, manager),
        sites=tuple(sorted(s.name for s in state.sites.values() if manager and s.manager == manager.name)),
    )


def _problem(
    role: MemberRole, contact: Contact | None, said: RaftView | None, manager: Manager | None
) -> str:
    if contact is not None and contact.refused:
        again = f"; remove it, or: vimraft site join --replace {manager.name}" if manager else ""
        return f"refused: {contact.refused}{again}"
    if said is not None and said.problem:
        return said.problem
    if manager is None:
        return "the tables do not name it"
    if role == "joining":
        return "not in the log (yet)"
    return ""
