"""`vimraft status`: everything on one page.

May live here: the page; its tables are vimraft.console.render's and render_members'.
"""

from rich.console import Group, RenderableType
from rich.text import Text

from vimraft.api.schema import Membership, StatusReply
from vimraft.console.render import (
    BAD,
    DIM,
    GOOD,
    HEAD,
    Sheet,
    as_of_line,
    reals_table,
    sites_table,
    trash_lines,
    volumes_table,
)
from vimraft.console.render_members import membership_view


def _section(title: str, table: Sheet, empty: str) -> RenderableType:
    body: RenderableType = table if table.row_count else Text(empty, style=DIM)
    return Group(Text(title, style="bold cyan"), body, Text(""))


def _managers(membership: Membership | None) -> list[RenderableType]:
    """None: the manager that answers is of a release that does not tell."""
    if membership is None:
        return []
    return [Text("Managers", style="bold cyan"), membership_view(membership), Text("")]


def status_view(status: StatusReply) -> RenderableType:
    leader = status.leader or "none"
    head = Text.assemble(
        ("cluster ", DIM), (status.cluster_id or "not formed", HEAD), ("  leader ", DIM),
        (leader, GOOD if status.leader else BAD), ("  answered by ", DIM), status.answered_by,
        ("  vimraft ", DIM), status.version,
    )  # fmt: skip
    return Group(
        head,
        Text(""),
        _section("Sites", sites_table(status.sites), "(no site yet)"),
        *_managers(status.membership),
        _section("Real volumes", reals_table(status.reals), "(none yet: vimraft real add)"),
        _section("Virtual volumes", volumes_table(status.volumes), "(none yet: vimraft vol create)"),
        *trash_lines(status),
        as_of_line(status.as_of),
    )
