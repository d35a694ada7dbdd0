"""Options and arguments that several commands share, with their completion.

May live here: typer declarations. Completion asks the cluster, briefly, and offers nothing when it cannot.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from vimraft.api.caller_errors import BadArgument, CallerError
from vimraft.api.client import Client
from vimraft.api.context import load_context
from vimraft.api.schema import StatusReply
from vimraft.cli.output import Format, Options
from vimraft.core.ids import MAX_LUN

COMPLETION_TIMEOUT_S = 1.0


def options(ctx: typer.Context) -> Options:
    """The Options of this invocation."""
    found = ctx.find_object(Options)
    if found is None:
        found = ctx.ensure_object(Options)
    return found


def _set_format(ctx: typer.Context, value: Format) -> Format:
    options(ctx).format = value
    return value


Output = Annotated[
    Format,
    typer.Option(
        "-o",
        "--output",
        help="table for people; json or yaml for programs",
        is_eager=True,
        callback=_set_format,
    ),
]


def _status_for_completion(ctx: typer.Context) -> StatusReply | None:
    given = ctx.find_root().params
    try:
        context_file: Path | None = given.get("context")
        api: tuple[str, ...] = tuple(given.get("api") or ())
        context = load_context(context_file, api, given.get("token_file"))
        with Client(context.urls, context.token, COMPLETION_TIMEOUT_S) as client:
            return client.status()
    except CallerError:
        return None  # nothing to offer; an error text would end up in the shell's command line


def _complete(pick: Callable[[StatusReply], list[str]]) -> Callable[[typer.Context, str], list[str]]:
    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        status = _status_for_completion(ctx)
        return [] if status is None else [n for n in pick(status) if n.startswith(incomplete)]

    return complete


def _complete_sites(ctx: typer.Context, incomplete: str) -> list[str]:
    """The last name of a comma-separated list."""
    before, comma, last = incomplete.rpartition(",")
    status = _status_for_completion(ctx)
    names = [] if status is None else [site.name for site in status.sites]
    return [f"{before}{comma}{name}" for name in names if name.startswith(last)]


def _members(status: StatusReply) -> set[str]:
    return {m.name for m in status.membership.members if m.name} if status.membership else set()


complete_volume = _complete(lambda status: [volume.name for volume in status.volumes])
complete_site = _complete(lambda status: [site.name for site in status.sites])
complete_manager = _complete(
    lambda status: sorted({site.manager for site in status.sites} | _members(status))
)
complete_real = _complete(lambda status: [real.id for real in status.reals])
complete_storage = _complete(lambda status: sorted({real.storage for real in status.reals}))
complete_class = _complete(lambda status: sorted({real.volume_class for real in status.reals}))

VolumeArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="common name of the volume", autocompletion=complete_volume)
]
SiteOption = Annotated[
    str | None, typer.Option("--site", help="attach at this site", autocompletion=complete_site)
]
SitesOption = Annotated[
    str | None,
    typer.Option(
        "--site",
        "--sites",
        metavar="SITE,…",
        help="sites to take space at, best first; default: the manager's own, then its priority order",
        autocompletion=_complete_sites,
    ),
]
RealArgument = Annotated[
    str, typer.Argument(metavar="STORAGE:LUN", help="the real volume", autocompletion=complete_real)
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="do not ask")]


def split_names(text: str | None, what: str) -> tuple[str, ...]:
    """`tokyo,osaka` → names. Raises BadArgument for empty ones."""
    if text is None:
        return ()
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise BadArgument(what, text, "names separated by commas, such as tokyo,osaka")
    return names


def split_real(text: str) -> tuple[str, int]:
    """`a1:0` → ("a1", 0). Raises BadArgument."""
    storage, colon, lun = text.rpartition(":")
    if not colon or not storage or not (lun.isascii() and lun.isdigit()) or int(lun) > MAX_LUN:
        raise BadArgument("real volume", text, f"STORAGE:LUN with a LUN from 0 to {MAX_LUN}, such as a1:0")
    return storage, int(lun)


def confirm(ctx: typer.Context, yes: bool, what: str) -> None:
    """Ask a person, refuse a script. Raises NotConfirmed."""
    from vimraft.api.caller_errors import NotConfirmed

    if yes:
        return
    opts = options(ctx)
    if opts.format is not Format.TABLE or not opts.out.is_terminal or not opts.err.is_terminal:
        raise NotConfirmed(what)
    if not typer.confirm(f"{what}?", default=False, err=True):
        raise NotConfirmed(what)
