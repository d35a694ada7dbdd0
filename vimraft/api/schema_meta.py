"""The HTTP API's bodies about the tables as a whole: levels, backups.

May live here: frozen structs only, as in `schema`.
"""

from msgspec import Struct

from vimraft.api.schema import AsOf


class ManagerLevel(Struct, frozen=True):
    name: str
    release: str
    """As it said in its last heartbeat; '' when it has not been heard."""
    reads: int | None
    """Highest level that its release reads; None: not known."""
    heard: bool
    """Within the last seconds."""


class BackupInfo(Struct, frozen=True):
    """One of the backups that a manager takes by itself; its path is `directory`/`name`."""

    name: str
    at_ms: int
    index: int
    generation: int
    kind: str
    size_bytes: int


class BackupsReply(Struct, frozen=True):
    manager: str
    directory: str
    backups: tuple[BackupInfo, ...]
    """Newest first."""
    problem: str
    """Why the last one could not be taken; '' when it could."""


class MetaStatusReply(Struct, frozen=True):
    cluster_id: str
    cluster: str
    """Identity of the log's cluster."""
    generation: int
    """1, and one more each time the cluster was made anew from a survivor or a backup."""
    level: int
    highest_level: int
    """That the release of the answering manager reads."""
    managers: tuple[ManagerLevel, ...]
    answered_by: str
    as_of: AsOf
    oldest_index: int
    """From here on the tables of every index are known (map show --at)."""
    newest_backup: BackupInfo | None
    backup_problem: str


class UpgradeRequest(Struct, frozen=True, forbid_unknown_fields=True):
    plan: bool = False


class UpgradeReply(Struct, frozen=True):
    before: int
    level: int
    planned: bool
    index: int
