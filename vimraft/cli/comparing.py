"""`vimraft copy verify`: whether the copies of a volume hold the same, and making them equal.

May live here: this command and what it prints. The comparing is a job at a manager: who stops looking stops
nothing. Exit code 0: all copies in sync were compared and are equal (again); otherwise an error says so.
"""

from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from vimraft.api.caller_errors import CopiesDiffer, NotAllCompared
from vimraft.api.client import Client
from vimraft.api.errors import Refused
from vimraft.api.schema import JobReply, VolumeReply
from vimraft.api.schema_verify import VerifyReport, VerifyRequest
from vimraft.api.units import format_bytes
from vimraft.cli.following import Background, follow
from vimraft.cli.options import Output, VolumeArgument, options
from vimraft.cli.output import Format, Options
from vimraft.console import render
from vimraft.core.reasons import NotFound

Verify = Annotated[
    bool, typer.Option("--verify", help="when it is in sync, compare all copies (vimraft copy verify)")
]


def find_source(reply: VolumeReply, text: str) -> str:
    """The local name in COPY or SITE/COPY. Raises Refused."""
    site, _, name = text.rpartition("/")
    for found in reply.volume.replicas:
        if found.local_name == name and (not site or site in found.sites):
            return name
    known = tuple(f"{'+'.join(found.sites)}/{found.local_name}" for found in reply.volume.replicas)
    raise Refused(NotFound("copy", text[:80], known))


def verify(
    ctx: typer.Context,
    name: VolumeArgument,
    repair: Annotated[bool, typer.Option("--repair", help="make copies equal where they differ")] = False,
    source: Annotated[
        str,
        typer.Option(
            "--source",
            metavar="SITE/COPY",
            help="the copy that is right (default: what most of three copies or more hold)",
        ),
    ] = "",
    background: Background = False,
    _output: Output = Format.TABLE,
) -> None:
    """Compare the copies of a volume, region by region, while it is used.

    Where they differ nothing is changed, unless --repair is given. Exit code 0: all copies in sync were
    compared and are equal (again).
    """
    opts = options(ctx)
    client = opts.client()
    if source:
        source = find_source(client.volume(name), source)
    started = client.verify_copies(name, VerifyRequest(repair=repair, source=source))
    if background and started.state == "running":
        line = f"{started.what}: started as job {started.id} (vimraft job follow {started.id})"
        opts.data(started, lambda: Text(line))
        return
    report = compared(opts, client, started)
    opts.data(report, lambda: report_view(report))
    judge(report)


def compared(opts: Options, client: Client, job: JobReply) -> VerifyReport:
    """Follows the job to its end. Raises JobFailed."""
    report = follow(opts, client, job).verified
    assert report is not None, "a job that compared copies says what it found"
    return report


def judge(report: VerifyReport) -> None:
    """Raises CopiesDiffer, NotAllCompared."""
    if report.differing > report.repaired:
        raise CopiesDiffer(report.volume, report.differing - report.repaired, report.why)
    if not report.clean:
        raise NotAllCompared(report.volume, report.why)


def verify_after(opts: Options, client: Client, name: str) -> None:
    """After a copy got in sync: says on stderr how it went."""
    report = compared(opts, client, client.verify_copies(name, VerifyRequest()))
    judge(report)
    opts.note(f"{report.compared} of {report.regions} regions compared: all copies are equal")


def report_view(report: VerifyReport) -> RenderableType:
    parts: list[RenderableType] = [_summary(report)]
    if any(copy.compared < report.regions for copy in report.copies):
        sheet = render.Sheet(("copy", "left"), ("sites", "left"), ("state", "left"), ("compared", "left"))
        for copy in report.copies:
            style = render.WARN if copy.compared < report.regions else ""
            part = Text(f"{copy.compared} of {report.regions} regions", style=style)
            sheet.add(copy.name, ", ".join(copy.sites), copy.state, part)
        parts.append(sheet)
    if report.differences:
        sheet = render.Sheet(("bytes", "left"), ("size", "right"), ("equal copies", "left"), ("now", "left"))
        for one in report.differences:
            now = Text("repaired", style=render.GOOD) if one.repaired else Text("differ", style=render.BAD)
            groups = " | ".join(", ".join(group) for group in one.groups)
            size = format_bytes(one.last_byte + 1 - one.first_byte)
            sheet.add(f"{one.first_byte}-{one.last_byte}", size, groups, now)
        parts.append(sheet)
    return Group(*parts)


def _summary(report: VerifyReport) -> Text:
    text = Text(f"{report.volume}: {report.compared} of {report.regions} regions compared")
    if report.differing:
        text.append(f", {report.differing} differed", style=render.BAD)
    if report.repaired:
        text.append(f", {report.repaired} repaired", style=render.GOOD)
    if report.skipped:
        text.append(f", {report.skipped} not compared in all copies", style=render.WARN)
    if not report.differing and report.clean:
        text.append(", all copies are equal", style=render.GOOD)
    return text
