"""`vimraft site …`: running, joining, listing and ordering sites.

May live here: the commands on sites and their managers. The manager itself is imported only when it is to
run, so that every other command starts fast.
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.text import Text

from vimraft.api.caller_errors import CannotStart
from vimraft.api.context import normal_url, read_token
from vimraft.cli.options import Output, Yes, complete_manager, complete_site, confirm, options, split_names
from vimraft.cli.output import Format
from vimraft.cli.site_template import site_template
from vimraft.console import render

site = typer.Typer(no_args_is_help=True, help="Sites and their managers.")

ConfigOption = Annotated[Path, typer.Option("--config", metavar="FILE", help="the manager's site.toml")]


@site.command("run")
def run(ctx: typer.Context, config: ConfigOption) -> None:
    """Run a site manager in the foreground until SIGTERM (SIGHUP: leave its data plane serving)."""
    from vimraft.site.config import ConfigError
    from vimraft.site.main import StartError
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
    via: Annotated[str, typer.Option("--via", metavar="URL", help="API of a manager of the cluster")],
    token_file: Annotated[Path, typer.Option("--token-file", help="the cluster's API token")],
    run_after: Annotated[bool, typer.Option("--run", help="go on as `site run`")] = False,
    _output: Output = Format.TABLE,
) -> None:
    """Let this manager into a running cluster; it receives everything by snapshot and log."""
    from vimraft.site.config import ConfigError, load_config
    from vimraft.site.join import join as join_cluster

    opts = options(ctx)
    try:
        loaded = load_config(config)
    except ConfigError as error:
        raise CannotStart("usage", str(error)) from None
    reply = join_cluster(loaded, normal_url(via), read_token(token_file))
    said = f"manager {loaded.manager} is a member of cluster {reply.cluster_id}"
    following = "" if run_after else f"; start it with: vimraft site run --config {config}"
    opts.data(reply, lambda: Text(said + following))
    if run_after:
        run(ctx, config)


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
    opts.data(status.sites, lambda: Group(render.sites_table(status.sites), render.as_of_line(status.as_of)))


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


@site.command("rm")
def remove(
    ctx: typer.Context,
    manager: Annotated[str, typer.Argument(help="the manager", autocompletion=complete_manager)],
    yes: Yes = False,
    _output: Output = Format.TABLE,
) -> None:
    """Take a manager out of the cluster; it must own no volume and no storage any more."""
    confirm(ctx, yes, f"removing site manager {manager} from the cluster")
    opts = options(ctx)
    reply = opts.client().remove_manager(manager)
    opts.data(reply, lambda: Text(f"site manager {manager} is no member any more"))
