"""Levels, backups and new generations as rich renderables.

May live here: pure functions from replies and headers to renderables.
"""

from rich.console import Group, RenderableType
from rich.text import Text

from vimraft.api.schema_meta import BackupInfo, BackupsReply, MetaStatusReply
from vimraft.api.units import format_age, format_bytes
from vimraft.console.render import BAD, DIM, GOOD, WARN, Sheet, as_of_line, clock


def _facts(*rows: tuple[str, str | Text]) -> Group:
    width = max(len(name) for name, _ in rows) + 2
    return Group(*[Text.assemble((name.ljust(width), DIM), value) for name, value in rows])


def meta_status_view(reply: MetaStatusReply) -> RenderableType:
    table = Sheet(("manager", "left"), ("release", "left"), ("reads level", "right"), ("heard", "left"))
    for row in reply.managers:
        able = row.reads is not None and row.reads >= reply.highest_level
        reads = Text("?" if row.reads is None else str(row.reads), style=GOOD if able else WARN)
        table.add(row.name, row.release or "-", reads, "now" if row.heard else Text("no", style=BAD))
    newest = reply.newest_backup
    backup: str | Text = Text("none yet", style=WARN)
    if newest is not None:
        backup = f"{clock(newest.at_ms, date=True)}, index {newest.index} ({newest.kind})"
    parts: list[RenderableType] = [
        _facts(
            ("cluster", reply.cluster_id),
            ("generation", str(reply.generation)),
            ("level", f"{reply.level} ({reply.answered_by} reads up to {reply.highest_level})"),
            ("tables known from", f"index {reply.oldest_index}"),
            ("newest backup", backup),
        ),
        Text(""),
        table,
    ]
    if reply.backup_problem:
        parts.append(Text(reply.backup_problem, style=BAD))
    parts.append(_next_step(reply))
    return Group(*parts, as_of_line(reply.as_of))


def _next_step(reply: MetaStatusReply) -> Text:
    if reply.level >= reply.highest_level:
        return Text("nothing to upgrade", style=DIM)
    behind = [m.name for m in reply.managers if m.reads is None or m.reads < reply.highest_level]
    if behind:
        names = ", ".join(behind)
        return Text(f"level {reply.highest_level} waits for {names}: start this release there", style=WARN)
    return Text(f"all can read level {reply.highest_level}: vimraft meta upgrade", style=GOOD)


def backups_view(reply: BackupsReply) -> RenderableType:
    table = Sheet(
        ("taken", "left"), ("index", "right"), ("kind", "left"), ("size", "right"), ("name", "left")
    )
    for row in reply.backups:
        table.add(
            clock(row.at_ms, date=True), str(row.index), row.kind, format_bytes(row.size_bytes), row.name
        )
    body: RenderableType = table if reply.backups else Text("(none yet)", style=DIM)
    parts = [body, Text(f"at {reply.manager}, in {reply.directory}", style=DIM)]
    if reply.problem:
        parts.append(Text(reply.problem, style=BAD))
    return Group(*parts)


def taken_line(info: BackupInfo, where: str, quorum: bool) -> Text:
    text = f"{where}: tables as of index {info.index}, {format_bytes(info.size_bytes)}"
    if quorum:
        return Text(text)
    return Text(f"{text}; WITHOUT A QUORUM: newer changes may exist", style=WARN)


def age_of(at_ms: int, now_ms: float) -> str:
    if not at_ms:
        return "at an unknown time"
    return f"{clock(at_ms, date=True)}, {format_age(max(0.0, (now_ms - at_ms) / 1000))} ago"
