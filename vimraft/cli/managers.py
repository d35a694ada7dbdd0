"""`vimraft manager …`: the members of the cluster: who votes, who observes, who lags; changing that.

May live here: the commands on managers as members of the log. Letting one in is `vimraft site join`, at its
own host; coming back with an empty disk too (`manager replace` is the same).
"""

from typing import Annotated

import typer
from rich.console import Group
from rich.text import Text

from vimraft.api.errors import Refused
from vimraft.cli.options import Output, Yes, complete_manager, confirm, options
from vimraft.cli.output import Format
from vimraft.cli.sites import ClusterTokenOption, ConfigOption, ViaOption, join_cluster, run
from vimraft.console import render, render_members
from vimraft.core.reasons import NotFound

manager = typer.Typer(no_args_is_help=True, help="Site managers as members: voters and observers.")

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="the manager", autocompletion=complete_manager)
]


@manager.command("ls")
def list_managers(ctx: typer.Context, _output: Output = Format.TABLE) -> None:
    """List the managers: voter or observer, contact, lag, problems."""
    opts = options(ctx)
    reply = opts.client().members()
    opts.data(
        reply.membership.members,
        lambda: Group(render_members.membership_view(reply.membership), render.as_of_line(reply.as_of)),
    )


@manager.command("show")
def show(ctx: typer.Context, name: NameArgument, _output: Output = Format.TABLE) -> None:
    """Show all about one manager."""
    opts = options(ctx)
    reply = opts.client().members()
    members = reply.membership.members
    found = next((m for m in members if name in (m.name, m.raft_address)), None)
    if found is None:
        raise Refused(NotFound("manager", name, tuple(m.name or m.raft_address for m in members)))
    opts.data(
        found,
        lambda: Group(
            render_members.member_view(found, reply.membership.advice), render.as_of_line(reply.as_of)
        ),
    )


@manager.command("promote")
def promote(ctx: typer.Context, name: NameArgument, _output: Output = Format.TABLE) -> None:
    """Make an observer a voter; refused until it has caught up."""
    opts = options(ctx)
    reply = opts.client().promote(name)
    opts.data(reply, lambda: Text(f"manager {name} is a voter"))


@manager.command("rm")
def remove(
    ctx: typer.Context,
    name: NameArgument,
    force: Annotated[
        bool, typer.Option("--force", help="also when the voters left seem to be without a majority")
    ] = False,
    yes: Yes = False,
    _output: Output = Format.TABLE,
) -> None:
    """Take a manager, dead or alive, out of the cluster; it must hold no volume and no storage any more.

    Interrupted, it is finished by repeating it.
    """
    confirm(ctx, yes, f"removing site manager {name} from the cluster")
    opts = options(ctx)
    reply = opts.client().remove_manager(name, force=force)
    opts.data(reply, lambda: Text(f"site manager {name} is no member any more"))


@manager.command("replace")
def replace(
    ctx: typer.Context,
    name: NameArgument,
    config: ConfigOption,
    via: ViaOption,
    token_file: ClusterTokenOption,
    observer: Annotated[bool, typer.Option("--observer", help="full tables, no vote")] = False,
    run_after: Annotated[bool, typer.Option("--run", help="go on as `site run`")] = False,
    yes: Yes = False,
    _output: Output = Format.TABLE,
) -> None:
    """At the host of a manager whose disk was lost: come back empty in its place (`site join --replace`)."""
    join_cluster(ctx, config, via, token_file, observer=observer, replace=name, yes=yes)
    if run_after:
        run(ctx, config)
    else:
        options(ctx).say(f"start it with: vimraft site run --config {config}")
