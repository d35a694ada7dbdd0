"""`vimraft real drain`, `site drain`, `vol migrate` and `vimraft job …`: data that goes elsewhere under I/O.

May live here: these commands; each starts a job at a manager, or looks at one.
"""

from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from vimraft.api.caller_errors import BadArgument
from vimraft.api.schema import JobReply
from vimraft.api.schema_moves import JobsReply, MigrateRequest
from vimraft.api.units import format_bytes
from vimraft.cli.comparing import judge, report_view
from vimraft.cli.following import Background, finish, follow, speed_text
from vimraft.cli.options import (
    Output,
    RealArgument,
    SitesOption,
    VolumeArgument,
    Yes,
    complete_class,
    complete_site,
    confirm,
    options,
    split_names,
    split_real,
)
from vimraft.cli.output import Format
from vimraft.console import render

job = typer.Typer(no_args_is_help=True, help="Work that takes time: preparing, draining, migrating, saving.")

JobArgument = Annotated[str, typer.Argument(metavar="ID", help="of the job (vimraft job ls)")]


def drain_real(
    ctx: typer.Context,
    name: RealArgument,
    yes: Yes = False,
    background: Background = False,
    _output: Output = Format.TABLE,
) -> None:
    """Move everything on a real volume elsewhere, while it is used. Taken back by: real include."""
    address, lun = split_real(name)
    confirm(ctx, yes, f"moving everything on real volume {name} elsewhere")
    opts = options(ctx)
    client = opts.client()
    started = client.drain_real(address, lun)
    done = f"real volume {name} is empty: vimraft real rm {name} takes it out of the pool"
    finish(opts, client, started, done, background=background)


def drain_site(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="SITE", autocompletion=complete_site)],
    yes: Yes = False,
    background: Background = False,
    _output: Output = Format.TABLE,
) -> None:
    """Move everything at a site elsewhere, while it is used: all its real volumes, then ownership."""
    confirm(ctx, yes, f"moving everything at site {name} elsewhere")
    opts = options(ctx)
    client = opts.client()
    started = client.drain_site(name)
    finish(opts, client, started, f"site {name} is empty", background=background)


def migrate(
    ctx: typer.Context,
    name: VolumeArgument,
    volume_class: Annotated[
        str,
        typer.Option(
            "--class", metavar="CLASS", help="class of the real volumes", autocompletion=complete_class
        ),
    ] = "",
    site: SitesOption = None,
    same_site: Annotated[bool, typer.Option("--same-site", help="copies may share a site")] = False,
    background: Background = False,
    _output: Output = Format.TABLE,
) -> None:
    """Move every copy of a volume to another class or other sites, while it is used."""
    sites = split_names(site, "--site")
    if not volume_class and not sites:
        raise BadArgument("migration", name, "--class, --site or both: where it is to go")
    opts = options(ctx)
    client = opts.client()
    request = MigrateRequest(volume_class=volume_class, sites=sites, same_site=same_site)
    started = client.migrate(name, request)
    finish(opts, client, started, f"{name} lies as asked", background=background)


# jobs


@job.command("ls")
def list_jobs(ctx: typer.Context, _output: Output = Format.TABLE) -> None:
    """List the jobs of all managers: those that run, and the last ones that ended."""
    opts = options(ctx)
    reply = opts.client().jobs()
    opts.data(reply, lambda: jobs_view(reply))


def _progress_text(found: JobReply) -> str:
    if not found.total_bytes:
        return "-"
    done = format_bytes(found.done_bytes, "down")
    return f"{done} of {format_bytes(found.total_bytes)} ({found.done_bytes / found.total_bytes:.0%})"


def _what_now(found: JobReply) -> str:
    return found.error.message if found.error is not None else found.note


def jobs_view(reply: JobsReply) -> RenderableType:
    parts: list[RenderableType] = []
    if reply.jobs:
        sheet = render.Sheet(
            ("job", "left"), ("what", "left"), ("state", "left"), ("done", "left"), ("speed", "left"),
            ("now", "left"), folding=frozenset({"what", "now"}),
        )  # fmt: skip
        styles = {"failed": render.BAD, "done": render.GOOD}
        for found in reply.jobs:
            state = Text(found.state, style=styles.get(found.state, ""))
            sheet.add(
                found.id, found.what, state, _progress_text(found), speed_text(found) or "-", _what_now(found)
            )
        parts.append(sheet)
    else:
        parts.append(Text("no jobs"))
    if reply.silent:
        parts.append(Text(f"not heard: {', '.join(reply.silent)}", style=render.WARN))
    return Group(*parts)


@job.command("follow")
def follow_job(ctx: typer.Context, job_id: JobArgument, _output: Output = Format.TABLE) -> None:
    """Look at a job until it ends."""
    opts = options(ctx)
    client = opts.client()
    ended = follow(opts, client, client.job(job_id))
    opts.data(ended, lambda: Text(f"{ended.what}: {ended.state}"))
    if ended.verified is not None:
        opts.say(report_view(ended.verified))
        judge(ended.verified)


@job.command("cancel")
def cancel(ctx: typer.Context, job_id: JobArgument, yes: Yes = False, _output: Output = Format.TABLE) -> None:
    """Stop a job. What has been moved stays where it is; what is under way is taken back."""
    opts = options(ctx)
    client = opts.client()
    confirm(ctx, yes, f"cancelling {client.job(job_id).what}")
    reply = client.cancel_job(job_id)
    opts.data(reply, lambda: Text(f"{reply.what}: being cancelled"))
