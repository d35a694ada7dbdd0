"""Replies of the API as rich renderables: tables, bars, sparklines, one-line notes.

May live here: pure functions from the structs of vimraft.api.schema to renderables. No network, no clock
(`now_ms` is handed in), no terminal. Nothing is ever cut off here: columns fold instead, so that a
narrow terminal shows all of it and a pipe gets it on one line.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.style import Style
from rich.text import Text

from vimraft.api.schema import (
    AsOf,
    EventReply,
    HistoryReply,
    IoRates,
    RealStatus,
    SiteStatus,
    StatusReply,
    TableReply,
    VolumeReply,
    VolumeStatus,
)
from vimraft.api.units import format_age, format_bytes, format_count, format_latency
from vimraft.console.render_copies import copies_text, volume_lines
from vimraft.console.sheet import Sheet as Sheet

GOOD, WARN, BAD, DIM, HEAD = "green", "yellow", "bold red", "dim", "bold"
FILL_WARN, FILL_BAD = 0.80, 0.95
_BLOCKS = " ▏▎▍▌▋▊▉█"
_SPARKS = "▁▂▃▄▅▆▇█"
MAX_SEGMENTS_SHOWN = 200
"""Rows of a volume's map in `vol show`; `map show` has them all."""


def as_of_line(as_of: AsOf) -> Text:
    """Which state of the tables is shown; loud when newer ones may exist (no quorum)."""
    if as_of.quorum:
        return Text(f"as of index {as_of.index}", style=DIM)
    age = f"{as_of.age_seconds:.0f}" if as_of.age_seconds >= 10 else f"{as_of.age_seconds:.1f}"
    return Text(
        f"as of index {as_of.index}, {age} seconds old: no quorum, newer changes may exist", style=BAD
    )


BYTE_COLUMNS = frozenset({"capacity", "free capacity"})
"""Columns of the four tables that count bytes (programs get the number, people a unit)."""


def _cell(column: str, value: str | int) -> str:
    if isinstance(value, int) and column in BYTE_COLUMNS:
        return format_bytes(value, "down")
    return str(value)


def table_reply(reply: TableReply) -> RenderableType:
    """One of the four tables under its own column names."""
    numeric = [
        bool(reply.rows) and all(isinstance(row[i], int) for row in reply.rows)
        for i in range(len(reply.columns))
    ]
    sheet = Sheet(
        *((name, "right" if number else "left") for name, number in zip(reply.columns, numeric, strict=True))
    )
    for row in reply.rows:
        sheet.add(*(_cell(name, cell) for name, cell in zip(reply.columns, row, strict=True)))
    body: RenderableType = sheet if reply.rows else Text("(no rows)", style=DIM)
    return Group(Text(reply.title, style="bold cyan"), body, as_of_line(reply.as_of))


def bar(fraction: float, width: int, *, alarm: bool = True) -> Text:
    """A fill bar of `width` characters in eighths. `alarm` colours it as it fills up."""
    fraction = min(max(fraction, 0.0), 1.0)
    eighths = round(fraction * width * 8)
    full, rest = divmod(eighths, 8)
    filled = "█" * full + (_BLOCKS[rest] if rest else "")
    style = GOOD
    if alarm and fraction >= FILL_WARN:
        style = BAD if fraction >= FILL_BAD else WARN
    return Text.assemble((filled, style), ("░" * (width - len(filled)), DIM))


def sparkline(values: Sequence[float], width: int, style: str | Style = "cyan") -> Text:
    """The last `width` values, the highest of them full height; an idle line stays at the bottom."""
    shown = list(values)[-width:] if width > 0 else []
    top = max(shown, default=0.0)
    line = "".join(
        _SPARKS[min(int(value / top * (len(_SPARKS) - 1) + 0.5), len(_SPARKS) - 1)] if top > 0 else _SPARKS[0]
        for value in shown
    )
    return Text(line.rjust(width), style=style)


def clock(at_ms: int, *, date: bool) -> str:
    """Local time of this terminal."""
    moment = datetime.fromtimestamp(at_ms / 1000).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M:%S" if date else "%H:%M:%S")


def health_text(site: SiteStatus) -> Text:
    if site.role == "down":
        return Text("✖ down" + (f": {site.problem}" if site.problem else ""), style=BAD)
    if not site.healthy:
        return Text(f"▲ {site.problem or 'unhealthy'}", style=WARN)
    return Text("● ok", style=GOOD)


def role_text(site: SiteStatus) -> Text:
    """What its manager is in the log; `down` when it is silent."""
    if site.role != "follower":
        return Text(site.role, style="bold cyan" if site.role == "leader" else BAD)
    styles = {"observer": "magenta", "joining": WARN}
    return Text(site.vote or site.role, style=styles.get(site.vote, ""))


def state_text(state: str) -> Text:
    """The state of a real volume or a replica."""
    if state in ("active", "in_sync"):
        return Text(state, style=GOOD)
    return Text(state, style=BAD if state in ("failed", "stale") else WARN)


def volume_state(volume: VolumeStatus) -> Text:
    """The worst replica's state, and read-only."""
    order = ("failed", "stale", "syncing", "in_sync")
    states = [replica.state for replica in volume.replicas]
    worst = next((state for state in order if state in states), states[0] if states else "failed")
    text = state_text(worst)
    return text + Text(" ro", style=WARN) if volume.read_only else text


def sum_rates(parts: Iterable[IoRates]) -> IoRates:
    """Rates add up; latencies are weighted by their operations."""
    rates = list(parts)
    reads, writes = sum(r.read_iops for r in rates), sum(r.write_iops for r in rates)
    read_us = sum(r.read_latency_us * r.read_iops for r in rates)
    write_us = sum(r.write_latency_us * r.write_iops for r in rates)
    return IoRates(
        read_iops=reads,
        write_iops=writes,
        read_bytes_s=sum(r.read_bytes_s for r in rates),
        write_bytes_s=sum(r.write_bytes_s for r in rates),
        read_latency_us=read_us / reads if reads else 0.0,
        write_latency_us=write_us / writes if writes else 0.0,
        errors=sum(r.errors for r in rates),
        in_flight=sum(r.in_flight for r in rates),
    )


def used_fraction(real: RealStatus) -> float:
    return 1 - real.free_bytes / real.capacity_bytes if real.capacity_bytes > 0 else 1.0


def sites_table(sites: Iterable[SiteStatus]) -> Sheet:
    table = Sheet(
        ("site", "left"), ("manager", "left"), ("role", "left"), ("health", "left"), ("lag", "right"),
        ("seen", "right"), ("NBD address", "left"), ("then looks at", "left"),
        folding=frozenset({"health", "then looks at"}),
    )  # fmt: skip
    for site in sites:
        table.add(
            site.name,
            site.manager,
            role_text(site),
            health_text(site),
            str(site.lag),
            format_age(site.last_seen_seconds),
            site.nbd_address,
            ", ".join(site.priority) or "-",
        )
    return table


def reals_table(reals: Iterable[RealStatus]) -> Sheet:
    table = Sheet(
        ("real volume", "left"), ("site", "left"), ("class", "left"), ("used", "left"), ("free", "right"),
        ("capacity", "right"), ("state", "left"), folding=frozenset({"state"}),
    )  # fmt: skip
    for real in reals:
        state = state_text(real.state)
        if real.reason:
            state = state + Text(f": {real.reason}", style=BAD)
        if real.releasing_bytes:
            state = state + Text(f" ({format_bytes(real.releasing_bytes)} being released)", style=DIM)
        if real.trashed_bytes:
            state = state + Text(f" ({format_bytes(real.trashed_bytes)} in the trash)", style=DIM)
        used = used_fraction(real)
        table.add(
            real.id,
            real.site,
            real.volume_class,
            bar(used, 10) + Text(f" {used:4.0%}"),
            format_bytes(real.free_bytes, "down"),
            format_bytes(real.capacity_bytes, "down"),
            state,
        )
    return table


def volumes_table(volumes: Iterable[VolumeStatus]) -> Sheet:
    table = Sheet(
        ("volume", "left"), ("size", "right"), ("class", "left"), ("owner", "left"), ("epoch", "right"),
        ("state", "left"), ("copies", "left"), ("lies at", "left"), ("r/s", "right"), ("w/s", "right"),
        folding=frozenset({"volume", "lies at"}),
    )  # fmt: skip
    for volume in volumes:
        io = sum_rates(volume.io.values())
        table.add(
            volume.name,
            format_bytes(volume.size_bytes),
            volume.volume_class,
            volume.owner,
            str(volume.epoch),
            volume_state(volume),
            copies_text(volume),
            ", ".join(volume.sites),
            format_count(io.read_iops),
            format_count(io.write_iops),
        )
    return table


def trash_lines(status: StatusReply) -> list[Text]:
    """What volumes in the trash hold; nothing when it is empty."""
    if not status.trashed:
        return []
    number = f"{status.trashed} volumes" if status.trashed > 1 else "1 volume"
    words = f"{number} in the trash, {format_bytes(status.trashed_bytes)} held: vimraft trash ls"
    return [Text(words, style=DIM)]


def volume_view(reply: VolumeReply, *, verb: str = "") -> RenderableType:
    """A volume and where it lies. `verb` ('built', 'grown' …) leads the first line."""
    volume = reply.volume
    lead = "would be built (nothing was committed)" if reply.planned else verb
    head = Text.assemble(
        (volume.name, HEAD),
        f" {lead}" if lead else "",
        f": {format_bytes(volume.size_bytes)} of class {volume.volume_class} at {', '.join(volume.sites)}, "
        f"owner {volume.owner}, epoch {volume.epoch}",
    )
    table = Sheet(
        ("virtual sectors", "left"), ("local name", "left"), ("site", "left"), ("storage", "left"),
        ("LUN", "right"), ("real sectors", "left"), ("size", "right"),
    )  # fmt: skip
    for segment in reply.segments[:MAX_SEGMENTS_SHOWN]:
        table.add(
            f"{segment.virtual_first}–{segment.virtual_last}",
            segment.local_name,
            segment.site,
            segment.storage,
            str(segment.lun),
            f"{segment.real_first}–{segment.real_last}",
            format_bytes((segment.virtual_last - segment.virtual_first + 1) * 512),
        )
    parts: list[RenderableType] = [head, *volume_lines(reply), table]
    hidden = max(len(reply.segments) - MAX_SEGMENTS_SHOWN, 0) + reply.segments_left_out
    if hidden:
        parts.append(Text(f"and {hidden} more segments: vimraft map show {volume.name}", style=DIM))
    return Group(*parts)


def severity_mark(event: EventReply) -> Text:
    marks = {"info": ("·", DIM), "warning": ("▲", WARN), "error": ("✖", BAD)}
    mark, style = marks[event.severity]
    return Text(mark, style=style)


def event_line(event: EventReply, *, date: bool = True) -> Text:
    """One line of `vimraft events -f`."""
    style = {"info": "", "warning": WARN, "error": BAD}[event.severity]
    return Text.assemble(
        (clock(event.at_ms, date=date), DIM), " ", severity_mark(event), " ", (event.site, "cyan"), " ",
        (event.name, DIM), " ", (event.message, style),
    )  # fmt: skip


def history_table(reply: HistoryReply) -> RenderableType:
    table = Sheet(("index", "right"), ("when", "left"), ("who", "left"), ("what", "left"), ("name", "left"))
    for change in reply.changes:
        table.add(str(change.index), clock(change.at_ms, date=True), change.who, change.what, change.name)
    if not reply.changes:
        return Group(Text("(no changes yet)", style=DIM), as_of_line(reply.as_of))
    hint = f"earlier maps: vimraft map show VOLUME --at INDEX, from index {reply.oldest_index} on"
    return Group(table, Text(hint, style=DIM), as_of_line(reply.as_of))


def rates_line(io: IoRates) -> Text:
    """`read 1.2k/s 45 MiB/s 210 µs   write …`"""

    def part(name: str, ops: float, bytes_s: float, latency_us: float) -> list[str | tuple[str, str]]:
        return [
            (name, DIM),
            f" {format_count(ops)}/s {format_bytes(bytes_s)}/s ",
            (format_latency(latency_us), DIM),
        ]

    return Text.assemble(
        *part("read", io.read_iops, io.read_bytes_s, io.read_latency_us),
        "  ",
        *part("write", io.write_iops, io.write_bytes_s, io.write_latency_us),
    )
