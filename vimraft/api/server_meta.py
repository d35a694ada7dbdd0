"""The API's paths about the tables as a whole: levels, backups.

May live here: Litestar handlers (one line each) of /v1/meta. What they do is the service's business.
"""

from collections.abc import Iterator
from typing import Final

from litestar import get, post
from litestar.params import JSONBody
from litestar.response import Stream

from vimraft.api.callers import From, Manager, require_token
from vimraft.api.schema_meta import BackupsReply, MetaStatusReply, UpgradeReply, UpgradeRequest

CHUNK_BYTES: Final = 1 << 20


@get("/v1/meta/status", guards=[require_token])
async def meta_status(service: Manager) -> MetaStatusReply:
    return await service.meta_status()


@post("/v1/meta/upgrade", guards=[require_token], status_code=200)
async def upgrade(service: Manager, caller: From, data: JSONBody[UpgradeRequest]) -> UpgradeReply:
    """Move the cluster to the highest level that the answering manager reads."""
    return await service.upgrade(data, who=caller.who, request_id=caller.request_id)


@get("/v1/meta/backup", guards=[require_token], media_type="application/octet-stream")
async def backup(service: Manager, caller: From) -> Stream:
    """All tables as a backup file."""
    data = await service.backup(who=caller.who)
    return Stream(_chunks(data), headers={"Content-Length": str(len(data))})


@get("/v1/meta/backups", guards=[require_token])
async def backups(service: Manager) -> BackupsReply:
    """Those that the answering manager has taken by itself."""
    return await service.backups()


def _chunks(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]


META_HANDLERS: Final = (meta_status, upgrade, backup, backups)
