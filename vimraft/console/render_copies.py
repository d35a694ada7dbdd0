"""Copies of volumes as rich renderables: states, progress of resyncs, how long I/O was held.

May live here: pure functions, as in `render`, which uses these.
"""

from collections.abc import Iterable, Mapping

from rich.console import Group, RenderableType
from rich.text import Text

from vimraft.api.schema import ReplicaStatus, VolumeReply, VolumeStatus
from vimraft.api.units import format_age, format_bytes, format_count
from vimraft.console import sheet
from vimraft.core.tables import ReadPolicy

GOOD, WARN, BAD, DIM = "green", "yellow", "bold red", "dim"
MAX_PERCENT_RUNNING = 99
POLICIES: Mapping[ReadPolicy, str] = {
    "balance": "from the least loaded copy",
    "local": "from the copy at the owner's own sites",
    "primary": "from the first copy",
}


def in_sync_count(volume: VolumeStatus) -> int:
    return sum(replica.state == "in_sync" for replica in volume.replicas)


def percent(replica: ReplicaStatus) -> int | None:
    """Of a resync (or a move) that runs; None: none does, or nobody says."""
    said = replica.progress
    if said is None or not said.phase:
        return None
    if said.total_bytes <= 0:
        return 0
    return min(MAX_PERCENT_RUNNING, int(100 * (1 - said.left_bytes / said.total_bytes)))


def copies_text(volume: VolumeStatus) -> Text:
    """`2/2`: copies in sync of all; with the percentage of the resync that has furthest to go."""
    synced, every = in_sync_count(volume), len(volume.replicas)
    running = [found for replica in volume.replicas if (found := percent(replica)) is not None]
    style = GOOD if synced == every else WARN if running else BAD
    return Text(f"{synced}/{every}" + (f" {min(running)}%" if running else ""), style=style)


def state_words(replica: ReplicaStatus) -> Text:
    style = {"in_sync": GOOD, "syncing": WARN}.get(replica.state, BAD)
    text = Text(replica.state, style=style)
    if replica.paused:
        text.append(" (paused)", style=WARN)
    if replica.moving:
        text.append(" (moving)", style=WARN)
    return text


def progress_words(replica: ReplicaStatus) -> str:
    said, done = replica.progress, percent(replica)
    if said is None or done is None:
        return "-"
    return f"{done}% of {format_bytes(said.total_bytes)}" + (" (full copy)" if said.full else "")


def copies_table(replicas: Iterable[ReplicaStatus]) -> "sheet.Sheet":
    table = sheet.Sheet(
        ("copy", "left"), ("state", "left"), ("lies at", "left"), ("progress", "left"), ("rate", "right"),
        ("left", "right"), ("writes", "right"),
        folding=frozenset({"lies at", "progress"}),
    )  # fmt: skip
    for replica in replicas:
        said = replica.progress
        running = said is not None and bool(said.phase)
        table.add(
            replica.local_name,
            state_words(replica),
            ", ".join(replica.sites),
            progress_words(replica),
            f"{format_bytes(int(said.rate_bytes_s))}/s" if said is not None and running else "-",
            format_age(said.eta_seconds) if said is not None and said.eta_seconds is not None else "-",
            format_count(said.writes) if said is not None else "-",
        )
    return table


def read_policy_words(policy: ReadPolicy) -> str:
    return POLICIES[policy]


def reads_lines(volume: VolumeStatus) -> list[RenderableType]:
    """Which copies were read, and why: counted by the owner since it began to serve."""
    policy = f"reads: {POLICIES[volume.read_policy]}"
    said = [replica.progress for replica in volume.replicas if replica.progress is not None]
    if not any(one.reads or one.reads_copying for one in said):
        return [Text(policy, style=DIM)]
    table = sheet.Sheet(
        ("reads of copy", "left"), ("local", "right"), ("remote", "right"), ("for resync", "right"),
        ("sent away (busy)", "right"), ("failed", "right"), ("under way", "right"), ("latency", "right"),
    )  # fmt: skip
    for one in said:
        counted = (one.reads_local, one.reads_remote, one.reads_copying, one.reads_busy, one.reads_failed)
        table.add(
            one.name,
            *(format_count(number) for number in counted),
            str(one.in_flight),
            f"{one.latency_us / 1e3:.1f} ms" if one.reads else "-",
        )
    changed = f"{format_count(volume.read_switches)} times they went over to another copy"
    return [Text(f"{policy}; {changed}", style=DIM), table]


def hold_lines(volume: VolumeStatus) -> list[RenderableType]:
    """How long changes of the map kept I/O waiting."""
    if not volume.map_changes:
        return []
    held = (
        f"I/O waited {volume.hold_ms:g} ms for the last change of the map, {volume.longest_hold_ms:g} ms for "
        f"the longest of {format_count(volume.map_changes)} (99%: {volume.p99_hold_ms:g} ms)"
    )
    where = ", ".join(f"{site} {one.last_ms:g} ms" for site, one in sorted(volume.holds.items()))
    return [Text(held + (f"; {where}" if len(volume.holds) > 1 else ""), style=DIM)]


def volume_lines(reply: VolumeReply) -> list[RenderableType]:
    """What `vol show` says of copies, between its first line and its segments; nothing for one copy."""
    volume = reply.volume
    parts: list[RenderableType] = []
    if volume.takeover not in ("", "over"):
        parts.append(Text(f"being taken over by {volume.owner}: {volume.takeover}; I/O waits", style=WARN))
    if volume.lossy_epoch:
        parts.append(
            Text(
                f"in epoch {volume.lossy_epoch} its last copy in sync may have lost what was not flushed",
                style=BAD,
            )
        )
    if len(volume.replicas) > 1 or any(r.moving for r in volume.replicas):
        parts.append(copies_table(volume.replicas))
        parts += reads_lines(volume)
    parts += hold_lines(volume)
    return [Group(*parts)] if parts else []
