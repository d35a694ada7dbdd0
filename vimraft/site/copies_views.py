"""Figures of volumes with copies as the API shows them.

May live here: pure functions from what the export says, or a heartbeat brings, to structs of the API.
"""

from vimraft.api.schema_copies import CopyProgress, VolumeProgress
from vimraft.data.feed import CopyStatus
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
        reads=copy.reads,
        writes=copy.writes,
    )


def progress_of(board: CopiesBoard) -> dict[str, VolumeProgress]:
    """For this manager's heartbeat."""
    return {
        name: VolumeProgress(
            epoch=status.epoch,
            takeover=status.takeover,
            hold_ms=round(status.hold_us / 1e3, 1),
            longest_hold_ms=round(status.longest_hold_us / 1e3, 1),
            copies=tuple(_progress(board, name, copy) for copy in status.copies),
        )
        for name, status in board.volumes.items()
    }


def said_by_owner(health: Health, owner: str, name: str) -> VolumeProgress | None:
    """None: it does not say (any more), or there is one copy."""
    latest = health.latest(owner)
    if latest is None or not health.is_up(owner):
        return None
    return latest[0].copies.get(name)
