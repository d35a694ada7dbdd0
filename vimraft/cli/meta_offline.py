"""`vimraft meta recover` and `vimraft meta restore`: a cluster made anew, on the host of a stopped manager.

May live here: saying what would be lost, and getting it confirmed by typing. What is done is
vimraft.site.rebuild's; it is imported only when it is to run.
"""

import getpass
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import structlog
import typer
from rich.console import Group, RenderableType
from rich.text import Text

from vimraft.api.caller_errors import BackupBad, CannotStart, NotTyped
from vimraft.api.units import format_bytes
from vimraft.cli.meta import BackupArgument
from vimraft.cli.options import Output, options
from vimraft.cli.output import Format, Options
from vimraft.cli.sites import ConfigOption
from vimraft.console.render import BAD, GOOD, HEAD, WARN
from vimraft.console.render_meta import age_of
from vimraft.metadata.backup import BadBackup

if TYPE_CHECKING:
    from vimraft.site.config import Config
    from vimraft.site.rebuild import Prepared, Survey

TYPED_CHARS = 8
ACCEPT_RECOVER = "--yes-i-accept-data-loss"
ACCEPT_RESTORE = "--yes-i-accept-losing-changes-after"


@contextmanager
def _stopped(config_path: Path) -> "Iterator[Config]":
    """The configuration, with the manager's lock held. Raises CannotStart."""
    from vimraft.site.config import ConfigError, load_config
    from vimraft.site.directory import StartError, locked

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        config = load_config(config_path)
        with locked(config):
            yield config
    except ConfigError as error:
        raise CannotStart("usage", str(error)) from None
    except StartError as error:
        raise CannotStart("local", str(error)) from None
    except BadBackup as error:
        raise BackupBad(str(error)) from None


def recover(
    ctx: typer.Context,
    config: ConfigOption,
    accept: Annotated[
        bool, typer.Option(ACCEPT_RECOVER, help="do not ask (for scripts); read what it says first")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="say what would be lost, change nothing")] = False,
    _output: Output = Format.TABLE,
) -> None:
    """Go on from this stopped manager alone, after a majority of the managers is lost for good."""
    from vimraft.site import rebuild

    opts = options(ctx)
    with _stopped(config) as loaded:
        prepared = rebuild.survey_recover(loaded)
        if _agreed(opts, prepared.survey, plan=plan, accepted=accept, option=ACCEPT_RECOVER):
            _carry_out(opts, loaded, prepared, config)


def restore(
    ctx: typer.Context,
    file: BackupArgument,
    config: ConfigOption,
    replace: Annotated[
        bool, typer.Option("--replace", help="put it in place of the log that is there (which is kept aside)")
    ] = False,
    accept: Annotated[
        int | None,
        typer.Option(ACCEPT_RESTORE, metavar="INDEX", help="do not ask (for scripts): the backup's index"),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="say what would be lost, change nothing")] = False,
    _output: Output = Format.TABLE,
) -> None:
    """Begin the cluster again from a backup, at this stopped manager alone."""
    from vimraft.site import rebuild

    opts = options(ctx)
    with _stopped(config) as loaded:
        prepared = rebuild.survey_restore(loaded, file, replace=replace)
        survey = prepared.survey
        if survey.problems:
            wrong = "; ".join(survey.problems)
            raise BackupBad(f"{file}: its tables break their own guarantees: {wrong}. Use another backup")
        option = f"{ACCEPT_RESTORE} {survey.index}"
        if accept is not None and accept != survey.index:
            raise NotTyped(f"losing changes after index {accept} (the backup ends at {survey.index})", option)
        if _agreed(opts, survey, plan=plan, accepted=accept is not None, option=option):
            _carry_out(opts, loaded, prepared, config)


def _agreed(opts: Options, survey: "Survey", *, plan: bool, accepted: bool, option: str) -> bool:
    """Shows what it means; False: only that was asked for. Raises NotTyped."""
    if plan:
        opts.data(survey, lambda: _survey_view(survey))
        return False
    opts.err.print(_survey_view(survey))
    if accepted:
        return True
    what = f"{survey.action} of cluster {survey.cluster_id}"
    if not (sys.stdin.isatty() and opts.err.is_terminal):
        raise NotTyped(what, option)
    expected = survey.cluster_id[:TYPED_CHARS]
    typed = typer.prompt(f"Type the first {len(expected)} characters of the cluster id to go on", err=True)
    if typed.strip() != expected:
        raise NotTyped(what, option)
    return True


def _carry_out(opts: Options, config: "Config", prepared: "Prepared", config_path: Path) -> None:
    from vimraft.site import rebuild

    done = rebuild.carry_out(config, prepared, getpass.getuser())

    def said() -> RenderableType:
        lines = [
            Text(
                f"cluster {done.cluster_id} is generation {done.generation} now, from index {done.index}",
                GOOD,
            ),
            Text(f"start its only member: vimraft site run --config {config_path}"),
        ]
        if done.kept:
            lines.append(Text(f"the log that was there is kept in {done.kept}"))
        if prepared.survey.others:
            lines.append(
                Text(
                    "each other manager: stop it, then at its host vimraft site join --replace NAME …; one "
                    "that never returns: vimraft manager rm NAME"
                )
            )
        return Group(*lines)

    opts.data(done, said)


def _survey_view(survey: "Survey") -> RenderableType:
    age = age_of(survey.at_ms, time.time() * 1000)
    recovering = survey.action == "recover"
    source = "this manager's log" if recovering else "the backup"
    known = "last change" if recovering else "taken"
    lines: list[str | Text] = [
        Text(
            f"cluster {survey.cluster_id}: generation {survey.generation_before} → {survey.generation}", HEAD
        ),
        f"manager {survey.manager} becomes its only member, with {survey.volumes} virtual volumes",
        Text(f"{source} ends at index {survey.index} ({known} {age})", WARN),
        Text(f"LOST for good: every change after index {survey.index}, also acknowledged ones.", BAD),
        "  Volumes built or grown since are not in these tables; deleted ones come back, with whatever their "
        "space holds now.",
    ]
    if survey.unclean_bytes:
        lines.append(
            f"  {format_bytes(survey.unclean_bytes)} that these tables call free are zeroed again before "
            "they are given out: data of volumes built since is destroyed. To keep it, copy devices first."
        )
    if survey.undecided:
        lines.append(
            f"{survey.undecided} commands at the end of the log may never have been acknowledged; from now "
            "on they count."
        )
    lines += _others_lines(survey)
    if survey.replaces_log:
        lines.append(f"the present log is kept as raft.before-generation-{survey.generation}")
    return Group(*[Text(line) if isinstance(line, str) else line for line in lines])


def _others_lines(survey: "Survey") -> list[str]:
    if not survey.others:
        return []
    lines = [
        f"left behind: {', '.join(survey.others)}. They must be off, and stay off: as they are they cannot "
        "come back, only emptied"
    ]
    if survey.others_volumes:
        lines.append(
            f"volumes that they own are not served until they have joined again: "
            f"{', '.join(survey.others_volumes)}"
        )
    return lines
