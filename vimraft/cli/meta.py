"""`vimraft meta …`: the tables as a whole: levels, backups, export.

May live here: the commands that ask a running manager, and those that look into a backup file. What is done
offline to a stopped manager's directory is in `meta_offline`.
"""

import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from vimraft.api.caller_errors import BackupBad, BadArgument, BadReply, FileExists
from vimraft.api.schema_meta import BackupInfo
from vimraft.api.units import format_bytes
from vimraft.cli.options import Output, options
from vimraft.cli.output import Format, Options, encode
from vimraft.console import render_meta
from vimraft.console.render import BAD, GOOD
from vimraft.metadata import backup as backups_of
from vimraft.metadata.backup import Backup, BackupHeader, BadBackup, decode_backup
from vimraft.metadata.export import export_tables

meta = typer.Typer(no_args_is_help=True, help="The tables as a whole: backups, upgrade, recovery.")

BACKUP_TIMEOUT_S = 120.0
STDOUT = "-"

BackupArgument = Annotated[Path, typer.Argument(metavar="FILE", help="a backup")]
Force = Annotated[bool, typer.Option("--force", help="overwrite the file")]


@meta.command("status")
def status(ctx: typer.Context, _output: Output = Format.TABLE) -> None:
    """Show level, generation, what each manager reads, and the newest backup."""
    opts = options(ctx)
    reply = opts.client().meta_status()
    opts.data(reply, lambda: render_meta.meta_status_view(reply))


@meta.command("upgrade")
def upgrade(
    ctx: typer.Context,
    plan: Annotated[bool, typer.Option("--plan", help="say whether it is possible, change nothing")] = False,
    _output: Output = Format.TABLE,
) -> None:
    """Move the cluster to the newest level, once every manager runs a release that reads it. No way back."""
    opts = options(ctx)
    reply = opts.client().upgrade(plan=plan)

    def said() -> Text:
        if reply.before == reply.level:
            return Text(f"the cluster is at level {reply.level} already")
        if reply.planned:
            return Text(f"possible: level {reply.before} → {reply.level}; every manager reads it")
        return Text(f"the cluster is now at level {reply.level} (was {reply.before})", style=GOOD)

    opts.data(reply, said)


@meta.command("backup")
def backup(
    ctx: typer.Context,
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE|-]", help="where to; default: a name with time and index")
    ] = None,
    force: Force = False,
    _output: Output = Format.TABLE,
) -> None:
    """Write all tables into one checked file."""
    opts = options(ctx)
    if file == STDOUT and sys.stdout.isatty():
        raise BadArgument("FILE", STDOUT, "a file, or a pipe on standard output: a backup is not text")
    if file is not None and file != STDOUT:
        _check_target(Path(file), force)
    data, header = _from_manager(opts)
    if file == STDOUT:
        opts.raw_bytes(data)
        return
    path = Path(file if file is not None else backups_of.file_name(header))
    _check_target(path, force)
    _write(path, data)
    info = _info(path, header, len(data))
    opts.data(info, lambda: render_meta.taken_line(info, str(path), header.quorum))


def _from_manager(opts: Options) -> tuple[bytes, BackupHeader]:
    """Raises BadReply: what is not whole must not look like a backup."""
    with opts.open_client(opts.timeout_s or BACKUP_TIMEOUT_S) as client:
        data = client.backup()
        try:
            return data, decode_backup(data, "the answer").header
        except BadBackup as error:
            raise BadReply(client.url, str(error)) from None


def _check_target(path: Path, force: bool) -> None:
    if path.exists() and not (force and path.is_file()):
        raise FileExists(path)


def _write(path: Path, data: bytes) -> None:
    from vimraft.metadata.pysyncobj.disk import OsDisk

    backups_of.write_backup(OsDisk(path.absolute().parent), path.name, data)


def _info(path: Path, header: BackupHeader, size_bytes: int) -> BackupInfo:
    return BackupInfo(
        name=str(path),
        at_ms=header.at_ms,
        index=header.index,
        generation=header.generation,
        kind=header.kind,
        size_bytes=size_bytes,
    )


@meta.command("backups")
def backups(ctx: typer.Context, _output: Output = Format.TABLE) -> None:
    """List the backups that the manager that answers takes by itself."""
    opts = options(ctx)
    reply = opts.client().backups()
    opts.data(reply, lambda: render_meta.backups_view(reply))


def read_backup(path: Path) -> tuple[Backup, int]:
    """(what is in it, its size). Raises BackupBad, OSError."""
    if path.stat().st_size > backups_of.MAX_BACKUP_BYTES:
        raise BackupBad(f"{path}: too large for a backup. Name a file that vimraft meta backup wrote")
    data = path.read_bytes()
    try:
        return decode_backup(data, str(path)), len(data)
    except BadBackup as error:
        raise BackupBad(str(error)) from None


@meta.command("verify")
def verify(ctx: typer.Context, file: BackupArgument, _output: Output = Format.TABLE) -> None:
    """Check a backup (checksums, tables, their guarantees) and show what is in it."""
    opts = options(ctx)
    found, size_bytes = read_backup(file)
    wrong = backups_of.problems(found)
    state = found.state
    facts: dict[str, Any] = {
        "file": str(file),
        "size_bytes": size_bytes,
        "header": found.header,
        "managers": sorted(state.managers),
        "sites": sorted(state.sites),
        "real_volumes": len(state.reals),
        "virtual_volumes": len(state.volumes),
        "problems": wrong,
    }
    opts.data(facts, lambda: _verified(found, size_bytes, wrong))
    if wrong:
        raise BackupBad(
            f"{file}: its tables break their own guarantees ({len(wrong)} times). Use another backup"
        )


def _verified(found: Backup, size_bytes: int, wrong: list[str]) -> RenderableType:
    header, state = found
    age = render_meta.age_of(header.at_ms, time.time() * 1000)
    confirmed = "confirmed by a quorum" if header.quorum else "as applied there, without a quorum"
    whole_bytes = sum(volume.size_bytes for volume in state.volumes.values())
    lines = [
        f"cluster {header.cluster_id}, generation {header.generation}, level {header.level}",
        f"tables as of index {header.index}, {confirmed}",
        f"taken {age} at {header.manager} by {header.who}, release {header.release} ({header.kind})",
        f"managers: {', '.join(sorted(state.managers)) or 'none'}",
        f"sites: {', '.join(sorted(state.sites)) or 'none'}",
        f"{len(state.reals)} real volumes, {len(state.volumes)} virtual volumes "
        f"({format_bytes(whole_bytes)}), {len(state.history)} changes in the history",
    ]
    verdict = Text(f"whole: {format_bytes(size_bytes)}, checksum and guarantees hold", style=GOOD)
    if wrong:
        verdict = Text("\n".join(wrong), style=BAD)
    return Group(*[Text(line) for line in lines], verdict)


@meta.command("export")
def export(
    ctx: typer.Context,
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", help="where to; default: here")] = None,
    source: Annotated[
        Path | None, typer.Option("--from", metavar="BACKUP", help="of a backup, not of the cluster")
    ] = None,
    force: Force = False,
    output: Output = Format.JSON,
) -> None:
    """Print all tables as JSON (or YAML) that people can read. Not for restoring: that takes a backup."""
    opts = options(ctx)
    if file is not None and file != STDOUT:
        _check_target(Path(file), force)
    if source is not None:
        state = read_backup(source)[0].state
    else:
        state = decode_backup(_from_manager(opts)[0], "the answer").state
    text = encode(export_tables(state), Format.YAML if output is Format.YAML else Format.JSON)
    if file is None or file == STDOUT:
        opts.raw(text)
        return
    _write(Path(file), text.encode() + (b"" if text.endswith("\n") else b"\n"))
    opts.note(f"{file}: tables as of index {state.index} ({os.path.getsize(file)} bytes)")
