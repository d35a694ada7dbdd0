"""`vimraft vol …` and `vimraft map …`: virtual volumes and their mapping.

May live here: the commands on virtual volumes; each asks the API and renders the reply.
"""

import time
from typing import Annotated

import typer
from msgspec.structs import replace
from rich.console import Group, RenderableType
from rich.text import Text

from vimraft.api.caller_errors import NotYetEverywhere
from vimraft.api.client import TABLE_NAMES, Client, TableName
from vimraft.api.schema import BuildRequest, MapReply, TableReply, VolumeReply
from vimraft.api.units import format_bytes, parse_size
from vimraft.cli.copies import SameSite
from vimraft.cli.options import (
    Output,
    SiteOption,
    SitesOption,
    VolumeArgument,
    complete_class,
    complete_volume,
    options,
    split_names,
)
from vimraft.cli.output import Format
from vimraft.console import render

WAIT_LIMIT_S = 60.0
WAIT_STEP_S = 0.2

vol = typer.Typer(no_args_is_help=True, help="Virtual volumes: build, list, show, grow, delete.")
maps = typer.Typer(no_args_is_help=True, help="The mapping between virtual and real volumes.")

At = Annotated[
    int | None,
    typer.Option("--at", metavar="INDEX", min=0, help="as it was after this index (see: vimraft history)"),
]
Size = Annotated[str, typer.Option("--size", metavar="SIZE", help="64M, 1.5G, 1TiB or plain bytes")]

Class = Annotated[
    str,
    typer.Option("--class", metavar="CLASS", help="class of the real volumes", autocompletion=complete_class),
]
Copies = Annotated[
    int, typer.Option("--copies", min=1, help="full copies, each at a site and on real volumes of its own")
]


def wait_for(client: Client, index: int, what: str) -> None:
    """Until the data plane of every site that answers serves the tables of command `index`.

    Raises NotYetEverywhere."""
    started_s = time.monotonic()
    while True:
        status = client.status()
        behind = [s.name for s in status.sites if s.role != "down" and s.installed_index < index]
        if not behind:
            return
        waited_s = time.monotonic() - started_s
        if waited_s > WAIT_LIMIT_S:
            raise NotYetEverywhere(what, behind or [status.answered_by], waited_s)
        time.sleep(WAIT_STEP_S)


def _show(ctx: typer.Context, reply: VolumeReply, verb: str) -> None:
    options(ctx).data(reply, lambda: render.volume_view(reply, verb=verb))


@vol.command("create")
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="common name: letters, digits, '.', '_', '-'")],
    size: Size,
    volume_class: Class,
    site: SitesOption = None,
    copies: Copies = 1,
    same_site: SameSite = False,
    plan: Annotated[bool, typer.Option("--plan", help="show what would be built, build nothing")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="until every healthy site has the new map")] = False,
    _output: Output = Format.TABLE,
) -> None:
    """Build a volume from conditions: all of it or nothing."""
    request = BuildRequest(
        name=name,
        size_bytes=parse_size(size),
        volume_class=volume_class,
        sites=split_names(site, "--site"),
        copies=copies,
        plan=plan,
        same_site=same_site,
    )
    client = options(ctx).client()
    reply = client.build_volume(request)
    if wait and not reply.planned:
        wait_for(client, reply.index, f"volume {name}")
    _show(ctx, reply, "built")


@vol.command("plan")
def plan_volume(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="common name that it would have")],
    size: Size,
    volume_class: Class,
    site: SitesOption = None,
    copies: Copies = 1,
    same_site: SameSite = False,
    _output: Output = Format.TABLE,
) -> None:
    """Show what `vol create` would build, build nothing."""
    create(ctx, name, size, volume_class, site, copies, same_site, plan=True)


@vol.command("list", hidden=True)
@vol.command("ls")
def list_volumes(ctx: typer.Context, _output: Output = Format.TABLE) -> None:
    """List the virtual volumes."""
    status = options(ctx).client().status()

    def table() -> RenderableType:
        if not status.volumes:
            return Group(Text("no virtual volume yet: vimraft vol create"), render.as_of_line(status.as_of))
        return Group(
            render.volumes_table(status.volumes), *render.trash_lines(status), render.as_of_line(status.as_of)
        )

    options(ctx).data(status.volumes, table)


@vol.command("show")
def show(ctx: typer.Context, name: VolumeArgument, _output: Output = Format.TABLE) -> None:
    """Show one volume and where it lies."""
    _show(ctx, options(ctx).client().volume(name), "")


@vol.command("grow")
def grow(
    ctx: typer.Context,
    name: VolumeArgument,
    size: Size,
    wait: Annotated[bool, typer.Option("--wait", help="until every healthy site has the new map")] = False,
    _output: Output = Format.TABLE,
) -> None:
    """Make a volume larger. Hosts see the new size at their next attachment."""
    client = options(ctx).client()
    reply = client.grow_volume(name, parse_size(size))
    if wait:
        wait_for(client, reply.index, f"the new size of {name}")
    _show(ctx, reply, "grown")


@vol.command("uri")
def uri(
    ctx: typer.Context, name: VolumeArgument, site: SiteOption = None, _output: Output = Format.TABLE
) -> None:
    """Print the volume's NBD URI and nothing else."""
    opts = options(ctx)
    reply = opts.client().volume_uri(name, site)
    if opts.format is Format.TABLE:
        opts.raw(reply.uri)
    else:
        opts.data(reply, lambda: Text(reply.uri))


@maps.command("show")
def map_show(ctx: typer.Context, name: VolumeArgument, at: At = None, _output: Output = Format.TABLE) -> None:
    """Show which real sectors hold which virtual sectors of a volume, now or at an earlier index."""
    reply = options(ctx).client().volume_map(name, at=at)
    options(ctx).data(reply, lambda: _map_view(reply))


def _map_view(reply: MapReply) -> RenderableType:
    head = Text.assemble(
        (reply.name, "bold"), f": {format_bytes(reply.size_bytes)}, owner {reply.owner}, epoch {reply.epoch}"
    )
    return Group(head, render.table_reply(reply.table))


def _tables_of(client: Client, name: str | None, at: int | None) -> dict[TableName, TableReply]:
    """The four tables; for a volume's name those rows of the real ones that it lies on."""
    found = {which: client.whole_table(which, name=name, at=at) for which in TABLE_NAMES}
    if name is None:
        return found
    sectors = found["virtual-sectors"]
    if sectors.rows:
        used = {_real_of(sectors, row) for row in sectors.rows}
        for which in ("real-identifying", "real-free"):
            whole = client.whole_table(which, at=at)
            kept = tuple(row for row in whole.rows if _real_of(whole, row) in used)
            found[which] = replace(whole, rows=kept)
    elif not any(reply.rows for reply in found.values()):
        client.volume_map(name, at=at)  # says that there is none, and which there are
    return found


def _real_of(table: TableReply, row: tuple[str | int, ...]) -> tuple[str | int, str | int]:
    return row[table.columns.index("storage address")], row[table.columns.index("LUN")]


@maps.command("tables")
def tables(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(help="only rows of this volume (or storage)", autocompletion=complete_volume),
    ] = None,
    at: At = None,
    _output: Output = Format.TABLE,
) -> None:
    """Show the four replicated tables, as this manager holds them (also without a quorum)."""
    opts = options(ctx)
    replies = _tables_of(opts.client(), name, at)

    def view() -> RenderableType:
        parts: list[RenderableType] = []
        for reply in replies.values():
            parts += [render.table_reply(reply), Text("")]
        return Group(*parts[:-1])

    opts.data(replies, view)
