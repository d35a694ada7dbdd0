"""Real volumes of this site as the manager touches them: checks, and zeroing what was released.

May live here: blocking calls for `asyncio.to_thread`; the data plane opens its own backends.
"""

from collections.abc import Callable

from vimraft.core.ids import SECTOR_BYTES
from vimraft.core.tables import RealVolume, Release, State
from vimraft.data.backends.base import BackendError
from vimraft.data.backends.open import open_backend
from vimraft.data.label import verify_label
from vimraft.data.prepare import zero_range
from vimraft.site.plane_maps import backend_spec


class Interrupted(Exception):
    """The manager stops: not all has been zeroed."""


def default_uri(storage_uri: str, lun: int) -> str:
    """A file storage is a directory of lun-N files; an NBD storage exports lun-N. '' if it has no URI."""
    if not storage_uri:
        return ""
    base, question, query = storage_uri.partition("?")
    suffix = ".img" if base.startswith("file:") else ""
    return f"{base.rstrip('/')}/lun-{lun}{suffix}{question}{query}"


def problem_of(state: State, real: RealVolume) -> str:
    """Opens the device and checks its label; '' when all is well."""
    try:
        backend = open_backend(real.uri, read_only=True)
    except (BackendError, OSError) as error:
        return str(error)
    try:
        verify_label(backend, backend_spec(state, real))
    except (BackendError, OSError) as error:
        return str(error)
    finally:
        backend.close()
    return ""


def zero_released(state: State, release: Release, cancelled: Callable[[], bool]) -> None:
    """Make the segments of a release that lie on the given state's real volumes of the caller read as
    zeros (INV-5), durably. The caller passes a release that holds only its own segments.

    Raises BackendError, OSError or Interrupted; repeating it is harmless.
    """
    by_real: dict[str, list[tuple[int, int]]] = {}
    unit_sectors = state.settings.unit_bytes // SECTOR_BYTES
    for segment in release.segments:
        last_unit_end = -(-(segment.real_first + segment.sectors) // unit_sectors) * unit_sectors
        first = segment.real_first
        by_real.setdefault(str(segment.real_id), []).append(
            (first * SECTOR_BYTES, (last_unit_end - first) * SECTOR_BYTES)
        )
    for real in state.reals.values():
        ranges = by_real.get(str(real.id))
        if ranges is None:
            continue
        backend = open_backend(real.uri)
        try:
            verify_label(backend, backend_spec(state, real))
            for offset, length in ranges:
                if cancelled():
                    raise Interrupted
                zero_range(backend, offset, length, lambda _done, _total: None)
        finally:
            backend.close()
