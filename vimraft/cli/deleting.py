"""`vimraft vol rm`, `vol read-only` and `vimraft trash …`: deleting volumes, and getting them back.

May live here: these commands; each asks the API and renders the reply.
"""

from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from vimraft.api.caller_errors import BadArgument
from vimraft.api.client import Client
from vimraft.api.schema import VolumeReply
from vimraft.api.schema_moves import SaveRequest, TrashedVolume, TrashReply
from vimraft.api.units import format_bytes
from vimraft.cli.following import Background, finish
from vimraft.cli.options import (
    Output,
    SitesOption,
    VolumeArgument,
    Yes,
    complete_class,
    complete_volume,
    confirm,
    options,
    split_names,
)
from vimraft.cli.output import Format
from vimraft.cli.volumes import wait_for
from vimraft.console import render

trash = typer.Typer(no_args_is_help=True, help="Deleted volumes that can still be got back.")

TrashArgument = Annotated[
    str, typer.Argument(metavar="NAME|ID", help="name of the deleted volume, or its id (vimraft trash ls)")
]
Force = Annotated[bool, typer.Option("--force", help="although clients are attached: they lose it")]


def remove(
    ctx: typer.Context,
    name: VolumeArgument,
    yes: Yes = False,
    purge: Annotated[bool, typer.Option("--purge", help="at once and for good, without the trash")] = False,
    force: Force = False,
    save_to: Annotated[
        str | None,
        typer.Option(
            "--save-to",
            metavar="NAME",
            help="copy the data to this volume first (made if there is none), verify, then delete",
            autocompletion=complete_volume,
        ),
    ] = None,
    volume_class: Annotated[
        str,
        typer.Option(
            "--class", metavar="CLASS", help="of a new --save-to volume", autocompletion=complete_class
        ),
    ] = "",
    site: SitesOption = None,
    copies: Annotated[int, typer.Option(min=1, help="of a new --save-to volume")] = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="the --save-to volume exists: its content may go")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="until no healthy site serves it")] = False,
    background: Background = False,
    _output: Output = Format.TABLE,
) -> None:
    """Delete a volume: into the trash, where it stays for some days (setting trash_keep_h)."""
    client = options(ctx).client()
    for_good = purge or not client.trash().keep_h
    how = "for good, with all data on it" if for_good else "into the trash"
    if save_to is None:
        _only_with_save_to({"--class": volume_class, "--site": site or "", "--overwrite": overwrite})
        confirm(ctx, yes, f"deleting volume {name} {how}")
        _delete(ctx, client, name, purge=purge, force=force, wait=wait)
        return
    lost = f" (what {save_to} holds is overwritten)" if overwrite else ""
    confirm(ctx, yes, f"deleting volume {name} {how} after its data are saved to {save_to}{lost}")
    request = SaveRequest(
        target=save_to,
        volume_class=volume_class,
        sites=split_names(site, "--site"),
        copies=copies,
        overwrite=overwrite,
        purge=purge,
        force=force,
    )
    done = f"{name} is saved to {save_to}, verified, and deleted {how}"
    finish(options(ctx), client, client.save(name, request), done, background=background)


def _only_with_save_to(given: dict[str, object]) -> None:
    for option, value in given.items():
        if value:
            raise BadArgument(option, str(value), "--save-to beside it: it is about the volume saved to")


def _delete(ctx: typer.Context, client: Client, name: str, *, purge: bool, force: bool, wait: bool) -> None:
    reply = client.delete_volume(name, purge=purge, force=force)
    if wait:
        wait_for(client, reply.index, f"the deletion of {name}")
    options(ctx).data(reply, lambda: Text(_deleted(reply)))


def _deleted(reply: VolumeReply) -> str:
    name, size = reply.volume.name, format_bytes(reply.volume.size_bytes)
    if reply.trash_id:
        return f"{name} ({size}) is in the trash: vimraft trash restore {reply.trash_id}"
    return f"{name} deleted ({size} given back)"


def read_only(
    ctx: typer.Context,
    name: VolumeArgument,
    off: Annotated[bool, typer.Option("--off", help="take writes again")] = False,
    _output: Output = Format.TABLE,
) -> None:
    """Refuse all writes to a volume, or take them again."""
    opts = options(ctx)
    reply = opts.client().set_read_only(name, not off)
    opts.data(reply, lambda: Text(f"{name} takes writes again" if off else f"{name} is read-only"))


# the trash


def _id_of(reply: TrashReply, which: str) -> int:
    """A name that is in the trash once, or an id. Raises BadArgument."""
    named = [row.id for row in reply.volumes if row.name == which]
    ids = [row.id for row in reply.volumes if which.isascii() and which == str(row.id)]
    found = sorted(set(named + ids))
    if len(found) == 1:
        return found[0]
    if found:
        shown = ", ".join(map(str, found))
        raise BadArgument("trashed volume", which, f"one of the ids {shown}: there are several of that name")
    known = ", ".join(f"{row.name} ({row.id})" for row in reply.volumes[:8]) or "nothing: the trash is empty"
    raise BadArgument("trashed volume", which, f"what is in the trash: {known}")


@trash.command("ls")
def list_trash(ctx: typer.Context, _output: Output = Format.TABLE) -> None:
    """List the deleted volumes that can still be got back."""
    opts = options(ctx)
    reply = opts.client().trash()
    opts.data(reply, lambda: trash_view(reply))


def trash_view(reply: TrashReply) -> RenderableType:
    if not reply.volumes:
        return Group(Text("the trash is empty"), render.as_of_line(reply.as_of))
    sheet = render.Sheet(
        ("id", "right"), ("volume", "left"), ("size", "right"), ("held", "right"), ("class", "left"),
        ("lies at", "left"), ("deleted", "left"), ("purged after", "left"),
        folding=frozenset({"volume", "lies at"}),
    )  # fmt: skip
    for row in reply.volumes:
        sheet.add(*_row(row))
    total = Text(f"{format_bytes(reply.held_bytes)} held, kept for {reply.keep_h} hours", style=render.DIM)
    return Group(sheet, total, render.as_of_line(reply.as_of))


def _row(row: TrashedVolume) -> tuple[str, ...]:
    return (
        str(row.id),
        row.name,
        format_bytes(row.size_bytes),
        format_bytes(row.held_bytes),
        row.volume_class,
        ", ".join(row.sites),
        render.clock(row.trashed_ms, date=True),
        render.clock(row.purged_ms, date=True),
    )


@trash.command("restore")
def restore(
    ctx: typer.Context,
    which: TrashArgument,
    new_name: Annotated[
        str, typer.Option("--as", metavar="NEWNAME", help="another name than the one it had")
    ] = "",
    _output: Output = Format.TABLE,
) -> None:
    """Get a deleted volume back, with all data on it."""
    opts = options(ctx)
    client = opts.client()
    reply = client.restore(_id_of(client.trash(), which), new_name)
    name = reply.volume.name
    held = f"; it is read-only: vimraft vol read-only {name} --off" if reply.volume.read_only else ""
    opts.data(reply, lambda: Text(f"{name} is back ({format_bytes(reply.volume.size_bytes)}){held}"))


@trash.command("purge")
def purge_trashed(
    ctx: typer.Context, which: TrashArgument, yes: Yes = False, _output: Output = Format.TABLE
) -> None:
    """Delete a volume in the trash for good."""
    opts = options(ctx)
    client = opts.client()
    trash_id = _id_of(client.trash(), which)
    confirm(ctx, yes, f"deleting volume {which} (id {trash_id} in the trash) for good")
    reply = client.purge(trash_id)
    size = format_bytes(reply.volume.size_bytes)
    opts.data(reply, lambda: Text(f"{reply.volume.name} deleted for good ({size} given back)"))
