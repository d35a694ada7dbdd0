"""The HTTP API's bodies about the trash, and about jobs that move data: drain, migrate, save.

May live here: frozen structs only, as in `schema`.
"""

from msgspec import Struct

from vimraft.api.schema import AsOf, Int64, JobReply


class TrashedVolume(Struct, frozen=True):
    """A volume that was deleted for the time being."""

    id: int
    """In the trash; names may occur there more than once."""
    name: str
    size_bytes: int
    volume_class: str
    copies: int
    held_bytes: int
    """Space on real volumes, of all its copies."""
    sites: tuple[str, ...]
    owner: str
    trashed_ms: int
    purged_ms: int
    """From then on it is deleted for good."""
    read_only: bool = False


class TrashReply(Struct, frozen=True):
    volumes: tuple[TrashedVolume, ...]
    held_bytes: int
    keep_h: int
    """Setting `trash_keep_h`."""
    as_of: AsOf


class RestoreRequest(Struct, frozen=True, forbid_unknown_fields=True):
    name: str = ""
    """Empty: the one it had."""


class ReadOnlyRequest(Struct, frozen=True, forbid_unknown_fields=True):
    read_only: bool


class MigrateRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Every copy shall lie on real volumes of `volume_class` at `sites`; what is empty stays as it is."""

    volume_class: str = ""
    sites: tuple[str, ...] = ()
    same_site: bool = False
    """Copies may share a site."""


class SaveRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Copy a volume's data to another one, verify, then delete it."""

    target: str
    volume_class: str = ""
    """Of a new target; empty: that of the volume."""
    sites: tuple[str, ...] = ()
    """Of a new target; none: those of the volume."""
    copies: Int64 = 1
    """Of a new target."""
    overwrite: bool = False
    """The target exists, and its content may go."""
    purge: bool = False
    """Delete for good in the end, without the trash."""
    force: bool = False
    """Although clients are attached: their writes are refused from now on."""


class JobsReply(Struct, frozen=True):
    jobs: tuple[JobReply, ...]
    silent: tuple[str, ...] = ()
    """Managers that did not say what they run."""
