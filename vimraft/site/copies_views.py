"""Figures of volumes with copies as the API shows them.

May live here: pure functions from what the export says, or a heartbeat brings, to structs of the API.
"""

from vimraft.api.schema_copies import CopyProgress, HoldReport, VolumeProgress
from vimraft.core.tables import State
from vimraft.data.feed import CopyStatus, HoldTimes
from vimraft.protocol.maps import REGION_BYTES
from vimraft.site.copies_board import CopiesBoard
from vimraft.site.health import Health


def _progress(board: CopiesBoard, volume: str, copy: CopyStatus) -> CopyProgress:
    rate = board.rate_bytes_s(volume, copy.name) if copy.phase else 0.0
    left_bytes = copy.left * REGION_BYTES
    return CopyProgress(
        name=copy.name,
        phase=copy.phase,
        left_bytes=left_bytes,
        total_bytes=copy.regions * REGION_BYTES,
        copied_bytes=copy.copied_bytes,
        rate_bytes_s=round(rate, 1),
        eta_seconds=round(left_bytes / rate, 1) if rate > 0 else None,
        full=copy.full,
        writes=copy.writes,
        reads=copy.reads_local + copy.reads_remote,
        reads_local=copy.reads_local,
        reads_remote=copy.reads_remote,
        reads_copying=copy.reads_copying,
        reads_failed=copy.reads_failed,
        reads_busy=copy.reads_busy,
        in_flight=copy.in_flight,
        latency_us=copy.latency_us,
    )


def progress_of(board: CopiesBoard) -> dict[str, VolumeProgress]:
    """For this manager's heartbeat."""
    return {
        name: VolumeProgress(
            epoch=status.epoch,
            takeover=status.takeover,
            copies=tuple(_progress(board, name, copy) for copy in status.copies),
            switches=status.switches,
        )
        for name, status in board.volumes.items()
    }


def hold_reports(holds: dict[str, HoldTimes]) -> dict[str, HoldReport]:
    """For this manager's heartbeat."""
    return {
        name: HoldReport(
            epoch=times.epoch,
            changes=times.count,
            last_ms=round(times.last_us / 1e3, 1),
            longest_ms=round(times.longest_us / 1e3, 1),
            p99_ms=round(times.p99_us / 1e3, 1),
        )
        for name, times in holds.items()
    }


def holds_by_site(state: State, health: Health, name: str) -> dict[str, HoldReport]:
    """What the managers that serve the volume say; each under the first of its sites."""
    found: dict[str, HoldReport] = {}
    for manager in state.managers:
        latest = health.latest(manager)
        if latest is None or not health.is_up(manager):
            continue
        report = latest[0].holds.get(name)
        if report is not None:
            sites = sorted(site.name for site in state.sites.values() if site.manager == manager)
            found[sites[0] if sites else manager] = report
    return found


def longest_of(holds: dict[str, HoldReport]) -> HoldReport:
    """The last change is the newest that anybody knows of; sites that it is still to reach do not count."""
    if not holds:
        return HoldReport()
    reports = holds.values()
    epoch = max(report.epoch for report in reports)
    return HoldReport(
        epoch=epoch,
        changes=max(report.changes for report in reports),
        last_ms=max(report.last_ms for report in reports if report.epoch == epoch),
        longest_ms=max(report.longest_ms for report in reports),
        p99_ms=max(report.p99_ms for report in reports),
    )


def said_by_owner(health: Health, owner: str, name: str) -> VolumeProgress | None:
    """None: it does not say (any more), or there is one copy."""
    latest = health.latest(owner)
    if latest is None or not health.is_up(owner):
        return None
    return latest[0].copies.get(name)
