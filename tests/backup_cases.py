"""Tables worth a backup, and a header for them."""

from msgspec.structs import replace

from tests.core_cases import SITES, Tables, build, three_sites
from vimraft.core import levels
from vimraft.core.commands import DeleteVolume, ReadsLevel, SetLevel
from vimraft.core.tables import State
from vimraft.metadata.backup import BackupHeader

AT_MS = 1_790_000_000_000


def busy_tables() -> Tables:
    """Level 2: a volume over two sites, one deleted and still releasing, one grown."""
    tables = three_sites()
    said = tuple(ReadsLevel(f"m-{site}", levels.LATEST) for site in SITES)
    tables.applied(SetLevel(levels.LATEST, said))
    tables.applied(build("db-main", 150))
    tables.applied(build("old", 10))
    tables.applied(DeleteVolume("old"))
    tables.applied(build("scratch", 5))
    return tables


def header_of(state: State, **changes: object) -> BackupHeader:
    header = BackupHeader(
        cluster_id=state.cluster_id,
        index=state.index,
        level=state.level,
        cluster="4f2f8a9c-3b1e-5c0d-9a57-000000000000",
        generation=1,
        at_ms=AT_MS,
        manager="m-tokyo",
        who="root@127.0.0.1",
        release="0.1.0",
        kind="manual",
        quorum=True,
        members=("127.0.0.1:1001", "127.0.0.1:1002", "127.0.0.1:1003"),
    )
    return replace(header, **changes)
