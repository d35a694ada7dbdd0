"""`vimraft copy …`, `vimraft vol move-owner`, `vimraft site force-lost`: copies, and who owns volumes.

May live here: these commands, and waiting for a copy to get in sync. The resync runs at the volume's owner:
who stops looking stops nothing.
"""

import time
from enum import StrEnum
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.text import Text

from vimraft.api.caller_errors import NotConfirmed
from vimraft.api.client import Client
from vimraft.api.errors import Refused
from vimraft.api.schema import ReplicaStatus, VolumeReply
from vimraft.api.schema_copies import AddCopyRequest
from vimraft.api.units import format_age, format_bytes
from vimraft.cli.comparing import Verify, verify_after
from vimraft.cli.options import (
    Output,
    SitesOption,
    VolumeArgument,
    Yes,
    complete_class,
    complete_manager,
    confirm,
    options,
    split_names,
)
from vimraft.cli.output import Format, Options
from vimraft.console import render
from vimraft.console.render_copies import read_policy_words
from vimraft.core.reasons import CopyState, NotFound

POLL_S = 0.3
QUICK_S = 1.0
"""What ends sooner needs no progress bar."""

copy = typer.Typer(no_args_is_help=True, help="Copies of a volume: add, remove, pause, bring in sync.")

CopyArgument = Annotated[str, typer.Argument(metavar="COPY", help="its local name (vimraft vol show)")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="do not wait until it is in sync")]
SameSite = Annotated[bool, typer.Option("--same-site", help="copies may lie at one site")]


def _speed(found: ReplicaStatus) -> str:
    said = found.progress
    if said is None or not said.rate_bytes_s:
        return "waits" if found.state == "stale" else ""
    left = f", {format_age(said.eta_seconds)} left" if said.eta_seconds is not None else ""
    return f"{format_bytes(int(said.rate_bytes_s))}/s{left}"


def find_copy(reply: VolumeReply, name: str) -> ReplicaStatus:
    """Raises Refused."""
    for found in reply.volume.replicas:
        if found.local_name == name:
            return found
    raise Refused(NotFound("copy", name[:80], tuple(r.local_name for r in reply.volume.replicas)))


def wait_in_sync(opts: Options, client: Client, volume: str, name: str) -> VolumeReply:
    """Shows the progress of a resync on stderr until the copy is in sync.

    Raises Refused when it cannot get there: it was removed, is given up for lost, or its resync is paused."""
    began_s = time.monotonic()
    shown = opts.format is Format.TABLE and opts.err.is_terminal
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        DownloadColumn(binary_units=True),
        TextColumn("{task.fields[speed]}"),
        console=opts.err,
        transient=True,
        disable=not shown,
    )
    task = progress.add_task(f"copy {name} of {volume}", total=None, speed="")
    try:
        while True:
            reply = client.volume(volume)
            found = find_copy(reply, name)
            if found.state == "in_sync":
                return reply
            if found.state == "failed" or found.paused:
                raise Refused(CopyState(volume, name, "paused" if found.paused else found.state))
            if time.monotonic() - began_s > QUICK_S:
                progress.start()
            said = found.progress
            total = said.total_bytes if said is not None and said.total_bytes else None
            done = total - said.left_bytes if said is not None and total is not None else 0
            progress.update(task, completed=done, total=total, speed=_speed(found))
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        opts.note(f"the resync goes on: vimraft vol show {volume}")
        raise
    finally:
        progress.stop()


def _show(opts: Options, reply: VolumeReply, verb: str) -> None:
    opts.data(reply, lambda: render.volume_view(reply, verb=verb))


@copy.command("add")
def add(
    ctx: typer.Context,
    name: VolumeArgument,
    site: SitesOption = None,
    volume_class: Annotated[
        str,
        typer.Option("--class", metavar="CLASS", help="default: the volume's", autocompletion=complete_class),
    ] = "",
    same_site: SameSite = False,
    no_wait: NoWait = False,
    verify: Verify = False,
    _output: Output = Format.TABLE,
) -> None:
    """Add a copy, and wait until it is in sync. The volume is used meanwhile."""
    opts = options(ctx)
    client = opts.client()
    sites = split_names(site, "--sites")
    before = {r.local_name for r in client.volume(name).volume.replicas}
    request = AddCopyRequest(sites=sites, volume_class=volume_class, same_site=same_site)
    reply = client.add_copy(name, request)
    added = [r.local_name for r in reply.volume.replicas if r.local_name not in before]
    if not no_wait:
        for one in added:
            reply = wait_in_sync(opts, client, name, one)
        if verify:
            verify_after(opts, client, name)
    _show(opts, reply, f"has copy {', '.join(added)}" + (" (not in sync yet)" if no_wait else ""))


@copy.command("rm")
def remove(
    ctx: typer.Context,
    name: VolumeArgument,
    copy_name: CopyArgument,
    yes: Yes = False,
    _output: Output = Format.TABLE,
) -> None:
    """Remove a copy and give its space back; never the last one in sync."""
    opts = options(ctx)
    confirm(ctx, yes, f"removing copy {copy_name} of volume {name}")
    _show(opts, opts.client().remove_copy(name, copy_name), f"without copy {copy_name}")


@copy.command("pause")
def pause(
    ctx: typer.Context, name: VolumeArgument, copy_name: CopyArgument, _output: Output = Format.TABLE
) -> None:
    """Let the resync of a copy rest."""
    opts = options(ctx)
    reply = opts.client().pause_copy(name, copy_name, True)
    opts.data(reply, lambda: Text(f"resync of copy {copy_name} of {name} rests: vimraft copy resume goes on"))


@copy.command("resume")
def resume(
    ctx: typer.Context, name: VolumeArgument, copy_name: CopyArgument, _output: Output = Format.TABLE
) -> None:
    """Let a resync that was paused go on."""
    opts = options(ctx)
    reply = opts.client().pause_copy(name, copy_name, False)
    opts.data(reply, lambda: Text(f"resync of copy {copy_name} of {name} goes on"))


@copy.command("promote")
def promote(
    ctx: typer.Context,
    name: VolumeArgument,
    copy_name: CopyArgument,
    no_wait: NoWait = False,
    verify: Verify = False,
    _output: Output = Format.TABLE,
) -> None:
    """Bring a copy in sync now: its resync goes on if it was paused, and this waits for its end.

    A copy gets in sync by its resync only, which begins by itself; nothing can declare it to be.
    """
    opts = options(ctx)
    client = opts.client()
    reply = client.volume(name)
    found = find_copy(reply, copy_name)
    if found.state == "failed":
        raise Refused(CopyState(name, copy_name, found.state))
    if found.paused:
        reply = client.pause_copy(name, copy_name, False)
    if not no_wait:
        reply = wait_in_sync(opts, client, name, copy_name)
        if verify:
            verify_after(opts, client, name)
    state = find_copy(reply, copy_name).state
    _show(opts, reply, f"copy {copy_name} is {'in sync' if state == 'in_sync' else state}")


class Policy(StrEnum):
    balance = "balance"
    local = "local"
    primary = "primary"


def set_volume(
    ctx: typer.Context,
    name: VolumeArgument,
    read_policy: Annotated[
        Policy,
        typer.Option(
            "--read-policy",
            help="which copy is read: the least loaded one, the one at the owner's sites, or the first one",
        ),
    ],
    _output: Output = Format.TABLE,
) -> None:
    """Change how a volume is served. Takes effect at once; nothing waits for it."""
    opts = options(ctx)
    reply = opts.client().set_read_policy(name, read_policy.value)
    opts.data(reply, lambda: Text(f"{name} is read {read_policy_words(reply.volume.read_policy)}"))


def move_owner(
    ctx: typer.Context,
    name: VolumeArgument,
    manager: Annotated[
        str, typer.Argument(metavar="MANAGER", help="the new owner", autocompletion=complete_manager)
    ],
    _output: Output = Format.TABLE,
) -> None:
    """Hand a volume with copies to another manager while it is used; its clients wait, nothing fails."""
    opts = options(ctx)
    waits = opts.format is Format.TABLE and opts.err.is_terminal
    client = opts.client()
    if waits:
        with opts.err.status(f"{name}: its owner finishes what runs"):
            reply = client.move_owner(name, manager)
    else:
        reply = client.move_owner(name, manager)
    opts.data(reply, lambda: Text(f"{name} is owned by {reply.volume.owner}, epoch {reply.volume.epoch}"))


def force_lost(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="SITE|MANAGER", help="what is lost", autocompletion=complete_manager)
    ],
    accept_loss: Annotated[
        bool,
        typer.Option(
            "--accept-loss",
            help="volumes without another copy in sync go on with the best one: WHAT IT MISSED IS LOST",
        ),
    ] = False,
    typed: Annotated[
        str | None,
        typer.Option("--confirm", metavar="NAME", help="the same name again, instead of typing it"),
    ] = None,
    _output: Output = Format.TABLE,
) -> None:
    """Tell the tables that the sites of a manager are lost for good, and can write no more.

    Only after they were fenced: switched off, or cut off from all storages. Copies there are failed from then
    on, and stay so when they return: vimraft copy rm, then vimraft copy add.
    """
    opts = options(ctx)
    _typed_again(opts, name, typed, accept_loss=accept_loss)
    reply = opts.client().force_lost(name, accept_loss=accept_loss)
    opts.data(reply, lambda: Text(f"copies at the sites of {name} count no more (index {reply.index})"))


def _typed_again(opts: Options, name: str, typed: str | None, *, accept_loss: bool) -> None:
    """Raises NotConfirmed."""
    what = f"giving up {name} for lost" + (", with what only it had" if accept_loss else "")
    if typed is None:
        if opts.format is not Format.TABLE or not opts.out.is_terminal or not opts.err.is_terminal:
            raise NotConfirmed(f"{what} (in scripts: --confirm {name})")
        opts.note(f"{what}: it must be fenced, so that nothing there can write any more")
        typed = typer.prompt(f"type {name} to confirm", default="", show_default=False, err=True)
    if typed != name:
        raise NotConfirmed(what)
