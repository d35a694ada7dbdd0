"""`vimraft site …`: running, joining, listing and ordering sites.

May live here: the commands on sites and their managers. The manager itself is imported only when it is to
run, so that every other command starts fast.
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.text import Text

from vimraft.api.caller_errors import BadArgument, CannotStart
from vimraft.api.context import normal_url, read_token
from vimraft.cli.options import Output, Yes, complete_site, confirm, options, split_names
from vimraft.cli.output import Format
from vimraft.cli.site_template import site_template
from vimraft.console import render, render_members

site = typer.Typer(no_args_is_help=True, help="Sites and their managers.")

ViaOption = Annotated[str, typer.Option("--via", metavar="URL", help="API of a manager of the cluster")]
ClusterTokenOption = Annotated[Path, typer.Option("--token-file", help="the cluster's API token")]
ConfigOption = Annotated[Path, typer.Option("--config", metavar="FILE", help="the manager's site.toml")]


@site.command("run")
def run(ctx: typer.Context, config: ConfigOption) -> None:
    """Run a site manager in the foreground until SIGTERM (SIGHUP: leave its data plane serving)."""
    from vimraft.site.config import ConfigError
    from vimraft.site.directory import StartError
    from vimraft.site.main import run as run_manager

    options(ctx).close()
    try:
        code = run_manager(config)
    except ConfigError as error:
        raise CannotStart("usage", str(error)) from None
    except StartError as error:
        raise CannotStart("local", str(error)) from None
    raise typer.Exit(code)


@site.command("join")
def join(
    ctx: typer.Context,
    config: ConfigOption,
    via: ViaOption,
    token_file: ClusterTokenOption,
    observer: Annotated[
        bool, typer.Option("--observer", help="full tables, no vote (promote it with: manager promote)")
    ] = False,
    replace: Annotated[
        str | None,
        typer.Option("--replace", metavar="NAME", help="come back with an empty disk as manager NAME"),
    ] = None,
    run_after: Annotated[bool, typer.Option("--run", help="go on as `site run`")] = False,
    yes: Yes = False,
    _output: Output = Format.TABLE,
) -> None:
    """Let this manager into a running cluster; it receives everything by snapshot and log.

    It becomes a voter as soon as it has caught up, or stays an observer.
    """
    join_cluster(ctx, config, via, token_file, observer=observer, replace=replace, yes=yes)
    if run_after:
        run(ctx, config)
    else:
        options(ctx).say(f"start it with: vimraft site run --config {config}")


def join_cluster(
    ctx: typer.Context,
    config: Path,
    via: str,
    token_file: Path,
    *,
    observer: bool,
    replace: str | None,
    yes: bool,
) -> None:
    """Also for `manager replace`."""
    from vimraft.site.config import ConfigError, load_config
    from vimraft.site.directory import StartError
    from vimraft.site.join import join as join_running

    opts = options(ctx)
    try:
        loaded = load_config(config)
    except ConfigError as error:
        raise CannotStart("usage", str(error)) from None
    if replace is not None:
        if replace != loaded.manager:
            raise BadArgument("--replace", replace, f"{loaded.manager}, the manager of {config}")
        confirm(
            ctx, yes, f"replacing manager {replace}: the one before it, and its data plane, are off for good"
        )
    try:
        reply = join_running(
            loaded, normal_url(via), read_token(token_file), observer=observer, replace=replace is not None
        )
    except StartError as error:
        raise CannotStart("local", str(error)) from None
    said = f"manager {loaded.manager} is a member of cluster {reply.cluster_id}"
    if observer:
        said += ", as an observer"
    opts.data(reply, lambda: Text(said))
    if reply.note:
        opts.note(reply.note)


@site.command("init")
def init(
    config: Annotated[
        Path, typer.Option("--config", metavar="FILE", help="file to write (never overwritten)")
    ],
    manager: Annotated[str, typer.Option("--manager", metavar="NAME", help="name of the manager")] = "tokyo",
    data_dir: Annotated[Path, typer.Option("--data-dir", help="where it keeps its state")] = Path(
        "/var/lib/vimraft"
    ),
) -> None:
    """Write a site.toml with every key explained, to be edited."""
    with config.open("x", encoding="utf-8") as file:
        file.write(site_template(manager, data_dir))


@site.command("ls")
def list_sites(ctx: typer.Context, _output: Output = Format.TABLE) -> None:
    """List the sites with role, health and lag."""
    opts = options(ctx)
    status = opts.client().status()

    def table() -> Group:
        voters = [render_members.quorum_line(status.membership)] if status.membership else []
        return Group(render.sites_table(status.sites), *voters, render.as_of_line(status.as_of))

    opts.data(status.sites, table)


@site.command("priority")
def priority(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="the site", autocompletion=complete_site)],
    order: Annotated[
        str, typer.Argument(metavar="SITE,…", help="where to look for space next; '' for nowhere")
    ],
    _output: Output = Format.TABLE,
) -> None:
    """Set the order in which further sites are searched for space."""
    opts = options(ctx)
    names = split_names(order, "priority order") if order.strip() else ()
    reply = opts.client().set_priority(name, names)
    opts.data(
        reply, lambda: Text(f"after {name} space is looked for at: {', '.join(names) or 'no other site'}")
    )
