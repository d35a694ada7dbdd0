"""`vimraft top` without a terminal: what is shown, what a key does, and the screen as lines.

May live here: frozen view state, `handle_key` (view, key) → view, and `screen` (data, view, size) → exactly
`height` lines of at most `width` columns. No clock, network or terminal: vimraft.console.top has those.
"""

import textwrap
from collections.abc import Callable, Sequence
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vimraft.api.schema import EventReply, IoRates, RealStatus, SiteStatus, StatusReply, VolumeStatus
from vimraft.api.units import format_age, format_bytes, format_count, format_latency
from vimraft.console import render, render_members
from vimraft.console.render import BAD, DIM, GOOD, HEAD, WARN
from vimraft.console.render_copies import copies_text

Mode = Literal["normal", "filter", "help"]
PANELS = ("Sites", "Real volumes", "Virtual volumes", "Events")
MIN_WIDTH, MIN_HEIGHT = 40, 10
WIDE = 110
"""From this width on there is room for process ids, sites and separate byte rates."""
MAX_FILTER_CHARS = 40
ROOM_FOR_MEMBERS = 14
ROOM_FOR_ADVICE = 20
"""Lines that a terminal must have for the line about voters, and for advice about them."""
MAX_ADVICE_LINES = 3
STALE_S = 4.0
"""An answer this old is old news, even while the next one is still being waited for."""
EVENTS_YIELD = 2
"""Events come last when rows are shared out: they are the panel one can do without."""
MIN_ROWS = 2
"""Rows that every panel keeps when the screen is short."""


class TopData(Struct, frozen=True):
    """What the fetcher last knew; `problem` is why it knows nothing newer."""

    status: StatusReply | None = None
    events: tuple[EventReply, ...] = ()
    age_s: float = 0.0
    """Since `status` came in."""
    problem: str = ""
    rates: tuple[float, ...] = ()
    """Operations per second of the cluster, oldest first."""
    source: str = ""


class View(Struct, frozen=True):
    focus: int = 2
    sort: tuple[int, ...] = (0, 0, 0, 0)
    """Per panel: index into its sort keys."""
    reverse: tuple[bool, ...] = (False, False, False, False)
    scroll: tuple[int, ...] = (0, 0, 0, 0)
    filter: str = ""
    mode: Mode = "normal"
    quit: bool = False


SortKey = tuple[str, Callable[[Any], Any]]


def _ops(io: IoRates) -> float:
    return io.read_iops + io.write_iops


def _volume_io(volume: VolumeStatus) -> IoRates:
    return render.sum_rates(volume.io.values())


SORT_KEYS: tuple[tuple[SortKey, ...], ...] = (
    (
        ("name", lambda s: s.name),
        ("health", lambda s: (s.role != "down", s.healthy, s.name)),
        ("lag", lambda s: (-s.lag, s.name)),
    ),
    (
        ("name", lambda r: (r.storage, r.lun)),
        ("site", lambda r: (r.site, r.storage, r.lun)),
        ("fill", lambda r: (-render.used_fraction(r), r.id)),
        ("io", lambda r: (-_ops(r.io), r.id)),
    ),
    (
        ("name", lambda v: v.name),
        ("io", lambda v: (-_ops(_volume_io(v)), v.name)),
        ("latency", lambda v: (-max(_volume_io(v).read_latency_us, _volume_io(v).write_latency_us), v.name)),
        ("size", lambda v: (-v.size_bytes, v.name)),
        ("owner", lambda v: (v.owner, v.name)),
    ),
    (("newest", lambda e: -e.id),),
)


def handle_key(view: View, key: str) -> View:
    """Pure: the view after a key. Unknown keys change nothing."""
    if view.mode == "filter":
        return _filter_key(view, key)
    if view.mode == "help":
        return replace(view, mode="normal", quit=key in ("q", "Q"))
    match key:
        case "q" | "Q":
            return replace(view, quit=True)
        case "?" | "h" | "f1":
            return replace(view, mode="help")
        case "/":
            return replace(view, mode="filter")
        case "esc":
            return replace(view, filter="", scroll=(0, 0, 0, 0))
        case "tab":
            return replace(view, focus=(view.focus + 1) % len(PANELS))
        case "shift-tab":
            return replace(view, focus=(view.focus - 1) % len(PANELS))
        case "1" | "2" | "3" | "4":
            return replace(view, focus=int(key) - 1)
        case "s":
            return _set(view, sort=(view.sort[view.focus] + 1) % len(SORT_KEYS[view.focus]))
        case "r":
            return _set(view, reverse=not view.reverse[view.focus])
        case _:
            return _scroll_key(view, key)


_SCROLL = {"up": -1, "k": -1, "down": 1, "j": 1, "pgup": -10, "pgdn": 10, "home": -1 << 30}


def _scroll_key(view: View, key: str) -> View:
    if key not in _SCROLL:
        return view
    return _set(view, scroll=max(view.scroll[view.focus] + _SCROLL[key], 0))


def _set(view: View, **change: Any) -> View:
    """Change one per-panel value of the panel in focus; a new order starts at its top."""
    fields: dict[str, Any] = {} if "scroll" in change else {"scroll": _at(view.scroll, view.focus, 0)}
    for name, value in change.items():
        fields[name] = _at(getattr(view, name), view.focus, value)
    return replace(view, **fields)


def _at(values: tuple[Any, ...], index: int, value: Any) -> tuple[Any, ...]:
    return (*values[:index], value, *values[index + 1 :])


def _filter_key(view: View, key: str) -> View:
    if key == "enter":
        return replace(view, mode="normal")
    if key == "esc":
        return replace(view, mode="normal", filter="", scroll=(0, 0, 0, 0))
    if key == "backspace":
        return replace(view, filter=view.filter[:-1])
    if len(key) == 1 and key.isprintable() and len(view.filter) < MAX_FILTER_CHARS:
        return replace(view, filter=view.filter + key, scroll=(0, 0, 0, 0))
    return view


# -- rows ------------------------------------------------------------------------------------------


def arrange(rows: Sequence[Any], view: View, panel: int, words: Callable[[Any], str]) -> list[Any]:
    """Filtered and sorted as the view wants the panel."""
    wanted = view.filter.lower()
    kept = [row for row in rows if wanted in words(row).lower()] if wanted else list(rows)
    _, key = SORT_KEYS[panel][view.sort[panel] % len(SORT_KEYS[panel])]
    return sorted(kept, key=key, reverse=view.reverse[panel])


class Column(Struct, frozen=True):
    header: str
    width: int = 0
    """0: takes what is left (`ratio` shares of it)."""
    right: bool = False
    ratio: int = 1
    min_width: int = 6


class Panel(Struct, frozen=True):
    columns: tuple[Column, ...]
    rows: list[tuple[str | Text, ...]]
    total: int


def _sites(status: StatusReply, view: View, wide: bool) -> Panel:
    def words(site: SiteStatus) -> str:
        return f"{site.name} {site.manager} {site.role} {site.vote} {site.problem}"

    columns = [
        Column("site"), Column("role", 8), Column("health", 0, ratio=2), Column("lag", 6, right=True),
        Column("contact", 7, right=True), Column("seen", 6, right=True),
    ]  # fmt: skip
    if wide:
        columns += [Column("pid manager/export/store", 24), Column("clients attach at", 21)]
    rows: list[tuple[str | Text, ...]] = []
    every = render_members.rows_of_sites(status)
    for site in arrange(every, view, 0, words):
        row: tuple[str | Text, ...] = (
            site.name,
            render.role_text(site),
            render.health_text(site),
            Text(str(site.lag), style=WARN if site.lag > 1000 else ""),
            render_members.contact_text(site.role != "down", site.contact_ms) if site.vote else "-",
            format_age(site.last_seen_seconds) if site.last_seen_seconds >= 0 else "-",
        )
        if wide:
            pids = (site.pid.manager, site.pid.export, site.pid.store)
            row = (*row, "/".join(str(pid or "-") for pid in pids), site.nbd_address)
        rows.append(row)
    return Panel(tuple(columns), rows, len(every))


def _reals(status: StatusReply, view: View, wide: bool) -> Panel:
    def words(real: RealStatus) -> str:
        return f"{real.id} {real.site} {real.volume_class} {real.state} {real.uri}"

    columns = [
        Column("real volume"), Column("site", 9), Column("class", 9), Column("used", 20 if wide else 15),
        Column("free", 8, right=True), Column("r/s", 5, right=True), Column("w/s", 5, right=True),
    ]  # fmt: skip
    if wide:
        columns += [Column("read lat", 8, right=True), Column("write lat", 9, right=True)]
    columns.append(Column("state", 0 if wide else 8))
    rows: list[tuple[str | Text, ...]] = []
    for real in arrange(status.reals, view, 1, words):
        used = render.used_fraction(real)
        row: tuple[str | Text, ...] = (
            real.id,
            real.site,
            real.volume_class,
            render.bar(used, 15 if wide else 10) + Text(f"{used:5.0%}"),
            format_bytes(real.free_bytes, "down"),
            format_count(real.io.read_iops),
            format_count(real.io.write_iops),
        )
        if wide:
            row = (*row, format_latency(real.io.read_latency_us), format_latency(real.io.write_latency_us))
        state = render.state_text(real.state)
        rows.append((*row, state + Text(f" {real.reason}", style=BAD) if wide and real.reason else state))
    return Panel(tuple(columns), rows, len(status.reals))


def _state_of(volume: VolumeStatus) -> Text:
    """Several copies: how many are in sync, and how far the others are."""
    if len(volume.replicas) > 1:
        return copies_text(volume)
    return render.volume_state(volume)


def _volumes(status: StatusReply, view: View, wide: bool) -> Panel:
    def words(volume: VolumeStatus) -> str:
        return f"{volume.name} {volume.owner} {volume.volume_class} {' '.join(volume.sites)}"

    columns = [
        Column("volume", min_width=12), Column("size", 8, right=True), Column("owner", 8),
        Column("epoch", 5, right=True), Column("state", 7),
    ]  # fmt: skip
    if wide:
        columns += [Column("class", 9), Column("lies at", 0)]
    columns += [Column("r/s", 5, right=True), Column("w/s", 5, right=True)]
    if wide:
        columns += [Column("read/s", 8, right=True), Column("write/s", 8, right=True)]
    columns += [Column("r lat", 7, right=True), Column("w lat", 7, right=True)]
    if wide:
        columns.append(Column("held ms", 9, right=True))
    rows: list[tuple[str | Text, ...]] = []
    for volume in arrange(status.volumes, view, 2, words):
        io = _volume_io(volume)
        row: list[str | Text] = [
            volume.name, format_bytes(volume.size_bytes), volume.owner, str(volume.epoch),
            _state_of(volume),
        ]  # fmt: skip
        if wide:
            row += [volume.volume_class, ", ".join(volume.sites)]
        row += [format_count(io.read_iops), format_count(io.write_iops)]
        if wide:
            row += [format_bytes(io.read_bytes_s), format_bytes(io.write_bytes_s)]
        row += [format_latency(io.read_latency_us), format_latency(io.write_latency_us)]
        if wide:
            row.append(f"{volume.hold_ms:.0f}/{volume.longest_hold_ms:.0f}" if volume.map_changes else "-")
        rows.append(tuple(row))
    return Panel(tuple(columns), rows, len(status.volumes))


def _events(events: Sequence[EventReply], view: View, wide: bool) -> Panel:
    def words(event: EventReply) -> str:
        return f"{event.site} {event.name} {event.subject} {event.message}"

    columns = [Column("time", 8), Column("site", 9), Column("", 1), Column("what happened")]
    if wide:
        columns.insert(3, Column("event", 24))
    styles = {"info": "", "warning": WARN, "error": BAD}
    rows: list[tuple[str | Text, ...]] = []
    for event in arrange(events, view, 3, words):
        row: list[str | Text] = [
            Text(render.clock(event.at_ms, date=False), style=DIM), event.site, render.severity_mark(event),
            Text(event.message or event.name, style=styles[event.severity]),
        ]  # fmt: skip
        if wide:
            row.insert(3, Text(event.name, style=DIM))
        rows.append(tuple(row))
    return Panel(tuple(columns), rows, len(events))


# -- layout ----------------------------------------------------------------------------------------


def share_rows(available: int, wanted: Sequence[int], focus: int) -> list[int]:
    """Rows for each panel: MIN_ROWS each, then the panel in focus, then the others in turn by need."""
    given = [min(want, MIN_ROWS) for want in wanted]
    while sum(given) > max(available, 0):
        given[max(range(len(given)), key=lambda i: (given[i], i != focus))] -= 1
    left = max(available, 0) - sum(given)
    extra = min(wanted[focus] - given[focus], left - left // 3)
    given[focus] += extra
    left -= extra
    while left > 0:
        short = [i for i in range(len(wanted)) if given[i] < wanted[i]]
        if not short:
            break
        poorest = min(short, key=lambda i: given[i] + (EVENTS_YIELD if i == len(wanted) - 1 else 0))
        given[poorest] += 1
        left -= 1
    return given


def _title(panel: int, view: View, shown: int, first: int, kept: int, total: int, width: int) -> Text:
    focused = view.focus == panel
    name = PANELS[panel]
    text = Text(f"{'▸' if focused else ' '}{name}", style="bold cyan" if focused else "cyan")
    if kept != total:
        text.append(f"  {kept} of {total} match", style=WARN)
    if shown < kept:
        text.append(f"  {first + 1}–{first + shown} of {kept}" if shown else f"  {kept} not shown", style=DIM)
    order = SORT_KEYS[panel][view.sort[panel] % len(SORT_KEYS[panel])][0]
    if panel != 3 or view.reverse[panel]:
        text.append(f"  by {order}{' ↑' if view.reverse[panel] else ''}", style=DIM)
    text.append(" ")
    text.append("─" * max(width - text.cell_len, 0), style=DIM)
    text.truncate(width)
    return text


def _panel_lines(index: int, panel: Panel, view: View, rows: int, width: int) -> list[RenderableType]:
    kept = len(panel.rows)
    first = min(view.scroll[index], max(kept - rows, 0))
    shown = panel.rows[first : first + rows]
    lines: list[RenderableType] = [_title(index, view, len(shown), first, kept, panel.total, width)]
    table = Table(box=None, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), expand=True,
                  width=width, header_style=DIM, show_header=index != 3)  # fmt: skip
    for column in panel.columns:
        table.add_column(
            column.header,
            width=column.width or None,
            ratio=None if column.width else column.ratio,
            min_width=None if column.width else column.min_width,
            justify="right" if column.right else "left",
            no_wrap=True,
            overflow="ellipsis",
        )
    for row in shown:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    lines.append(table)
    return lines


def _header(data: TopData, width: int) -> list[Text]:
    status = data.status
    if status is None:
        first = Text.assemble(("vimraft top", HEAD), f"  {data.source}")
        return [
            first,
            Text(data.problem or "waiting for the first answer …", style=BAD if data.problem else DIM),
        ]
    first = Text.assemble(
        ("vimraft ", HEAD), (status.cluster_id[:8] or "not formed", "bold cyan"), ("  leader ", DIM),
        (status.leader or "none", GOOD if status.leader else BAD), "  ",
    )  # fmt: skip
    age_s = data.age_s + status.as_of.age_seconds
    if data.problem or data.age_s > STALE_S:
        first.append(f"as of index {status.as_of.index}, {format_age(age_s)} ago", style=BAD)
    elif not status.as_of.quorum:
        first.append(f"as of index {status.as_of.index}, {format_age(age_s)} old: no quorum", style=BAD)
    else:
        first.append(f"as of index {status.as_of.index}", style=DIM)
        first.append(f"  via {status.answered_by}", style=DIM)
    if status.trashed_bytes and not data.problem:
        first.append(f"  trash {format_bytes(status.trashed_bytes)}", style=DIM)
    if data.problem:
        second = Text(data.problem, style=BAD)
    else:
        total = render.sum_rates(io for volume in status.volumes for io in volume.io.values())
        second = render.rates_line(total)
        room = width - second.cell_len - 2
        if room >= 8:
            second = second + Text("  ") + render.sparkline(data.rates, min(room, 60))
    return [first, second]


def _members_lines(status: StatusReply, width: int, height: int) -> list[Text]:
    """Voters, term and generation, and what to do where that is urgent; where there is room for it."""
    if status.membership is None or height < ROOM_FOR_MEMBERS:
        return []
    lines = [render_members.quorum_line(status.membership)]
    if status.membership.advice and height >= ROOM_FOR_ADVICE:
        words = "  ".join(status.membership.advice)
        lines += [
            Text(line, style=WARN)
            for line in textwrap.wrap(words, width, max_lines=MAX_ADVICE_LINES, break_on_hyphens=False)
        ]
    return lines


def _footer(view: View) -> Text:
    if view.mode == "filter":
        return Text.assemble(
            ("filter: ", HEAD), view.filter, ("▏", "blink"), ("  enter keep  esc clear", DIM)
        )
    keys = [
        ("q", "quit"), ("s", "sort"), ("r", "reverse"), ("/", "filter"), ("tab", "panel"), ("↑↓", "scroll"),
        ("?", "help"),
    ]  # fmt: skip
    text = Text()
    for key, meaning in keys:
        text.append(key, style="bold cyan")
        text.append(f" {meaning}  ", style=DIM)
    if view.filter:
        text.append(f"filter: {view.filter} (esc clears)", style=WARN)
    return text


HELP = (
    ("q", "leave (so does Ctrl-C)"),
    ("tab, shift-tab, 1–4", "another panel: ▸ marks it, it gets most room"),
    ("s", "sort this panel by its next column"),
    ("r", "reverse its order"),
    ("/", "only rows that hold a text; enter keeps, esc clears"),
    ("↑ ↓ k j PgUp PgDn Home", "scroll this panel"),
    ("?", "this help; any key closes it"),
)


def _help_lines() -> list[Text]:
    lines = [Text("Keys", style="bold cyan"), Text("")]
    for key, meaning in HELP:
        line = Text.assemble((f"  {key:<24}", "bold"), meaning)
        lines.append(line)
    lines += [
        Text(""),
        Text("  role  leader or voter: counts for the majority; observer: full tables, no vote"),
        Text("  lag   commands that a site is behind the newest one known"),
        Text(
            "  contact  since the log's leader last heard the site's manager; seen: since its last heartbeat"
        ),
        Text("  lat   mean over the last seconds, as the site's export measured it"),
        Text("  A red 'as of' means: these are old figures, newer ones may exist."),
    ]
    return lines


def _fit(lines: list[Text], width: int) -> list[Text]:
    for line in lines:
        line.no_wrap = True
        line.truncate(width, overflow="ellipsis")
    return lines


def screen(data: TopData, view: View, width: int, height: int) -> RenderableType:
    """Exactly `height` lines, none wider than `width`."""
    if width < MIN_WIDTH or height < MIN_HEIGHT:
        small = [Text(f"vimraft top needs {MIN_WIDTH}×{MIN_HEIGHT}, this is {width}×{height}", style=WARN)]
        return Group(*_fit(small, width), *(Text("") for _ in range(height - 1)))
    members = [] if data.status is None else _members_lines(data.status, width, height)
    head = _fit([*_header(data, width), *members], width)
    foot = _fit([_footer(view)], width)
    space = height - len(head) - len(foot)
    body: list[RenderableType] = []
    used = 0
    if view.mode == "help" or data.status is None:
        lines = _fit(_help_lines() if view.mode == "help" else [], width)[:space]
        body.extend(lines)
        used = len(lines)
    else:
        wide = width >= WIDE
        status = data.status
        panels = [
            _sites(status, view, wide), _reals(status, view, wide), _volumes(status, view, wide),
            _events(data.events, view, wide),
        ]  # fmt: skip
        frame = 2 * 3 + 1  # a title and a header line for each but the events, which need no header
        given = share_rows(space - frame, [len(panel.rows) for panel in panels], view.focus)
        for index, panel in enumerate(panels):
            body += _panel_lines(index, panel, view, given[index], width)
        used = frame + sum(given)
    return Group(*head, *body, *(Text("") for _ in range(max(space - used, 0))), *foot)
