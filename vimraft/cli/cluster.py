"""`vimraft status`, `tables`, `top`, `events`, `history`, `settings …`: the cluster as a whole.

May live here: the commands that look at the cluster, and its settings.
"""

import sys
import time
from typing import Annotated

import msgspec
import typer
from rich.text import Text

from vimraft.api.advice import from_exception
from vimraft.api.caller_errors import ApiError, BadArgument, CallerError, Unreachable
from vimraft.api.schema import EventReply
from vimraft.cli.options import Output, options
from vimraft.cli.output import Format, Options
from vimraft.cli.volumes import tables
from vimraft.console import render
from vimraft.console.status_view import status_view
from vimraft.core.tables import Settings

FOLLOW_S = 1.0
TOP_TIMEOUT_S = 3.0
PAGE_EVENTS = 1_000

settings = typer.Typer(no_args_is_help=True, help="Settings of the whole cluster.")


def status(ctx: typer.Context, _output: Output = Format.TABLE) -> None:
    """Show sites, real volumes and virtual volumes on one page."""
    opts = options(ctx)
    reply = opts.client().status()
    opts.data(reply, lambda: status_view(reply))


def top(ctx: typer.Context) -> None:
    """Watch the cluster live. ? shows the keys."""
    from vimraft.console.top import run_top

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise BadArgument(
            "terminal", "none", "a terminal on input and output; in scripts use: vimraft status"
        )
    opts = options(ctx)

    def explain(error: Exception) -> str:
        return from_exception(error).reply.message

    with opts.open_client(TOP_TIMEOUT_S) as client:
        run_top(client, opts.out, explain)


def events(
    ctx: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on, show new ones as they come")] = False,
    limit: Annotated[int, typer.Option("-n", min=1, max=PAGE_EVENTS, help="how many of the newest")] = 50,
    _output: Output = Format.TABLE,
) -> None:
    """Show what happened, as the manager that answers saw it."""
    opts = options(ctx)
    reply = opts.client().events(limit=limit)
    if not follow:
        if opts.format is not Format.TABLE:
            opts.data(reply.events, lambda: "")
        for event in reply.events if opts.format is Format.TABLE else ():
            opts.out.print(render.event_line(event))
        if not reply.events:
            opts.say(Text("(no events yet)", style=render.DIM))
        return
    _show_new(opts, reply.events)
    _follow(opts, reply.events[-1].id if reply.events else 0)


def _follow(opts: Options, last: int) -> None:
    """Until interrupted. Each manager numbers its own events, so another one is followed from its newest."""
    client = opts.client()
    followed, lost = client.url, False
    while True:
        time.sleep(FOLLOW_S)
        try:
            fresh = client.events(after=last, limit=PAGE_EVENTS).events
            if client.url != followed:
                opts.note(f"{followed} does not answer; following {client.url}")
                newest = client.events(limit=1).events
                followed, fresh = client.url, ()
                last = newest[-1].id if newest else 0
        except (Unreachable, ApiError) as error:
            if isinstance(error, ApiError) and error.status != 503:
                raise
            if not lost:
                opts.note(from_exception(error).reply.message)
            lost = True
            continue
        if lost:
            opts.note("connected again")
        lost = False
        _show_new(opts, fresh)
        last = fresh[-1].id if fresh else last


def _show_new(opts: Options, fresh: tuple[EventReply, ...]) -> None:
    """One line an event: text, or one JSON document a line (YAML: one document each)."""
    for event in fresh:
        if opts.format is Format.TABLE:
            opts.out.print(render.event_line(event))
        elif opts.format is Format.JSON:
            opts.raw(msgspec.json.encode(event).decode())
        else:
            opts.raw("---\n")
            opts.data(event, lambda: "")


def history(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option("-n", min=1, max=10_000, help="how many of the newest")] = 50,
    _output: Output = Format.TABLE,
) -> None:
    """Show the map changes: who, when, at which index, what."""
    opts = options(ctx)
    reply = opts.client().history(limit=limit)
    opts.data(reply, lambda: render.history_table(reply))


def version(ctx: typer.Context, _output: Output = Format.TABLE) -> None:
    """Print this command's release, and that of the manager that answers (if one does)."""
    from vimraft import __version__

    opts = options(ctx)
    facts = {"vimraft": __version__, "manager": "", "answered_by": ""}
    try:
        with opts.open_client(TOP_TIMEOUT_S) as client:
            reply = client.status()
        facts.update(manager=reply.version, answered_by=reply.answered_by)
    except CallerError as error:
        if opts.format is Format.TABLE and opts.err.is_terminal:
            opts.note(from_exception(error).reply.message)
    tail = f" (manager {facts['answered_by']}: {facts['manager']})" if facts["manager"] else ""
    opts.data(facts, lambda: Text(f"vimraft {__version__}{tail}"))


@settings.command("show")
def show_settings(ctx: typer.Context, _output: Output = Format.TABLE) -> None:
    """Show the settings."""
    opts = options(ctx)
    found = opts.client().status().settings

    def table() -> render.Sheet:
        shown = render.Sheet(("setting", "left"), ("value", "right"))
        for name in Settings.__struct_fields__:
            shown.add(name, str(getattr(found, name)))
        return shown

    opts.data(msgspec.structs.asdict(found), table)  # the defaults as well


def _complete_setting(incomplete: str) -> list[str]:
    return [name for name in Settings.__struct_fields__ if name.startswith(incomplete)]


@settings.command("set")
def set_setting(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="such as lease_ms", autocompletion=_complete_setting)],
    value: Annotated[int, typer.Argument(help="a whole number")],
    _output: Output = Format.TABLE,
) -> None:
    """Change a setting for the whole cluster."""
    opts = options(ctx)
    reply = opts.client().set_setting(name, value)
    opts.data(reply, lambda: Text(f"{name} is {value}"))


def register(app: typer.Typer) -> None:
    """Put these commands into the main one, in the order of its help."""
    for command in (status, top, tables, events, history, version):
        app.command(command.__name__)(command)
    app.add_typer(settings, name="settings")
