"""The members of the log as rich renderables; the rest of vimraft.console.render for managers.

May live here: pure functions from Membership and MemberStatus to renderables.
"""

from typing import Literal

from rich.console import Group, RenderableType
from rich.text import Text

from vimraft.api.schema import Membership, MemberStatus, Pids, SiteStatus, StatusReply
from vimraft.api.units import format_age
from vimraft.console.render import BAD, DIM, GOOD, HEAD, WARN, Sheet

LAG_WARN_ENTRIES = 1_000
CONTACT_WARN_MS = 1_000


def member_role(member: MemberStatus) -> Text:
    styles = {"leader": "bold cyan", "voter": "", "observer": "magenta", "joining": WARN}
    return Text(member.role, style=styles[member.role])


def contact_text(connected: bool, last_contact_ms: int | None) -> Text:
    """When it was last heard; red: it cannot be reached."""
    if last_contact_ms is None:
        return Text("ok" if connected else "never", style="" if connected else BAD)
    shown = f"{last_contact_ms} ms" if last_contact_ms < 1_000 else format_age(last_contact_ms / 1000)
    return Text(shown, style=BAD if not connected else WARN if last_contact_ms > CONTACT_WARN_MS else "")


def lag_text(lag: int | None) -> Text:
    if lag is None:
        return Text("?", style=DIM)
    return Text(str(lag), style=WARN if lag > LAG_WARN_ENTRIES else "")


def members_table(membership: Membership) -> Sheet:
    table = Sheet(
        ("manager", "left"), ("role", "left"), ("contact", "right"), ("lag", "right"), ("applied", "right"),
        ("Raft address", "left"), ("release", "left"), ("problem", "left"),
        folding=frozenset({"problem"}),
    )  # fmt: skip
    for member in membership.members:
        table.add(
            member.name or "?",
            member_role(member),
            contact_text(member.connected, member.last_contact_ms),
            lag_text(member.lag),
            "?" if member.applied_index is None else str(member.applied_index),
            member.raft_address,
            member.release or "?",
            Text(member.problem, style=BAD) if member.problem else Text("-", style=DIM),
        )
    return table


def quorum_line(membership: Membership) -> Text:
    """`voters 3 of 3 up, 2 needed  observers 1  term 7  generation 1  seen by osaka`"""
    enough = membership.voters_reachable >= membership.voters_needed
    style = BAD if not enough else WARN if membership.voters_reachable < membership.voters else GOOD
    observers = sum(member.role == "observer" for member in membership.members)
    return Text.assemble(
        ("voters ", DIM), (f"{membership.voters_reachable} of {membership.voters}", style),
        (" up, ", DIM), str(membership.voters_needed), (" needed  observers ", DIM), str(observers),
        ("  term ", DIM), str(membership.term), ("  generation ", DIM), str(membership.generation),
        ("  seen by ", DIM), membership.seen_by,
    )  # fmt: skip


def rows_of_sites(status: StatusReply) -> tuple[SiteStatus, ...]:
    """The sites, and a row for each manager that has none."""
    members = status.membership.members if status.membership else ()
    return (*status.sites, *(_without_site(member) for member in members if not member.sites))


def _without_site(member: MemberStatus) -> SiteStatus:
    up: Literal["leader", "follower"] = "leader" if member.role == "leader" else "follower"
    return SiteStatus(
        name=f"({member.name or member.raft_address})",
        manager=member.name,
        role=up if member.connected else "down",
        healthy=not member.problem,
        problem=member.problem,
        pid=Pids(None, None, None),
        lag=member.lag or 0,
        last_seen_seconds=-1.0,
        api_url=member.api_url,
        nbd_address="-",
        vote=member.role,
        contact_ms=member.last_contact_ms,
    )


def advice_lines(membership: Membership) -> list[RenderableType]:
    return [Text(text, style=WARN) for text in membership.advice]


def membership_view(membership: Membership) -> RenderableType:
    return Group(members_table(membership), *advice_lines(membership), quorum_line(membership))


def member_view(member: MemberStatus, advice: tuple[str, ...]) -> RenderableType:
    rows: list[tuple[str, str | Text]] = [
        ("role", member_role(member)),
        ("sites", ", ".join(member.sites) or "-"),
        ("connected", "yes" if member.connected else Text("no", style=BAD)),
        ("last contact", contact_text(member.connected, member.last_contact_ms)),
        ("lag in log entries", lag_text(member.lag)),
        ("applied index", "?" if member.applied_index is None else str(member.applied_index)),
        ("Raft address", member.raft_address),
        ("API", member.api_url or "?"),
        ("node id", member.node_id or "?"),
        ("release", member.release or "?"),
        ("problem", Text(member.problem, style=BAD) if member.problem else "-"),
    ]
    lines = [Text.assemble((f"{name:<20}", DIM), value) for name, value in rows]
    return Group(
        Text(member.name or member.raft_address, style=HEAD), *lines, *(Text(t, style=WARN) for t in advice)
    )
