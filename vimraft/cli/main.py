"""The `vimraft` command: global options, the tree of commands, exit codes.

May live here: assembling the commands, and turning whatever a command raises into words and an exit code
(both come from vimraft.api.advice). A traceback never reaches a user, unless VIMRAFT_DEBUG is set.
"""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.main import get_command

from vimraft.api.advice import Advice, exit_code_lines, from_exception, from_usage
from vimraft.cli import (
    attach,
    cluster,
    comparing,
    copies,
    deleting,
    managers,
    meta,
    meta_offline,
    moving,
    sites,
    storages,
    tls,
    volumes,
)
from vimraft.cli.output import Options, ReaderGone

INTERRUPTED = 128 + signal.SIGINT
BROKEN_PIPE = 128 + signal.SIGPIPE

_EPILOG = "Exit codes:\n\n" + "\n\n".join((*exit_code_lines(), f"{INTERRUPTED} interrupted"))

app = typer.Typer(
    name="vimraft",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def main_options(
    ctx: typer.Context,
    context: Annotated[
        Path | None, typer.Option("--context", metavar="FILE", help="context file that names the cluster")
    ] = None,
    api: Annotated[
        list[str] | None, typer.Option("--api", metavar="URL", help="a manager's API; may be repeated")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", metavar="FILE", help="file with the API token")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0.1, max=3600, help="seconds to wait for an answer")
    ] = None,
) -> None:
    """Virtual volumes from the real volumes of several sites, served over NBD.

    The cluster is found through --context, $VIMRAFT_CONTEXT, .vimraft/context.toml beside the virtual
    environment, ~/.config/vimraft/context.toml or /etc/vimraft/context.toml.
    """
    opts = ctx.ensure_object(Options)
    opts.context_file = context
    opts.api = tuple(api or ())
    opts.token_file = token_file
    opts.timeout_s = timeout


sites.site.command("rm", help="The same as `manager rm`.")(managers.remove)
sites.site.command("drain")(moving.drain_site)
storages.real.command("drain")(moving.drain_real)
volumes.vol.command("migrate")(moving.migrate)
volumes.vol.command("rm")(deleting.remove)
volumes.vol.command("read-only")(deleting.read_only)
app.add_typer(sites.site, name="site")
app.add_typer(managers.manager, name="manager")
app.add_typer(storages.storage, name="storage")
app.add_typer(storages.real, name="real")
volumes.vol.command("set")(copies.set_volume)
copies.copy.command("verify")(comparing.verify)
volumes.vol.command("move-owner")(copies.move_owner)
sites.site.command("force-lost")(copies.force_lost)
app.add_typer(volumes.vol, name="vol")
app.add_typer(copies.copy, name="copy")
app.add_typer(volumes.maps, name="map")
meta.meta.command("recover")(meta_offline.recover)
meta.meta.command("restore")(meta_offline.restore)
app.add_typer(deleting.trash, name="trash")
app.add_typer(moving.job, name="job")
app.add_typer(meta.meta, name="meta")
cluster.register(app)
app.add_typer(tls.tls, name="tls")
app.command("attach")(attach.attach)
app.command("detach")(attach.detach)


def run(arguments: Sequence[str]) -> int:
    """One invocation; its exit code. Never raises (but SystemExit from a shell's completion request)."""
    opts = Options()
    try:
        return _invoke(arguments, opts)
    except KeyboardInterrupt:
        return INTERRUPTED
    except ReaderGone:
        return BROKEN_PIPE
    except typer.Abort:
        return INTERRUPTED
    except typer.TyperException as error:
        return _wrong_usage(opts, error)
    except Exception as error:
        if os.environ.get("VIMRAFT_DEBUG"):
            raise
        return _failed(opts, from_exception(error))
    finally:
        opts.close()


def _invoke(arguments: Sequence[str], opts: Options) -> int:
    command = get_command(app)
    result: Any = command.main(args=list(arguments), prog_name="vimraft", obj=opts, standalone_mode=False)
    return result if isinstance(result, int) else 0


def _failed(opts: Options, advice: Advice) -> int:
    opts.fail(advice)
    return advice.exit_code


def _wrong_usage(opts: Options, error: typer.TyperException) -> int:
    """A wrong command line; typer knows the command it was for. No arguments at all: its help."""
    ctx = getattr(error, "ctx", None)
    if not error.format_message().strip():  # the help was printed already
        return error.exit_code
    path = ctx.command_path if ctx is not None else "vimraft"
    return _failed(opts, from_usage(error.format_message(), f"{path} --help shows what is possible"))


def main() -> None:
    sys.exit(run(sys.argv[1:]))
