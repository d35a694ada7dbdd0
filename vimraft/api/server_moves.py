"""The API's paths about the trash, and about jobs that move data.

May live here: Litestar handlers (one line each). What they do is the service's business.
"""

from typing import Annotated, Final

from litestar import delete, get, post
from litestar.params import FromPath, FromQuery, JSONBody, PathParameter

from vimraft.api.callers import From, Lun, Manager, require_token
from vimraft.api.schema import JobReply, VolumeReply
from vimraft.api.schema_moves import (
    JobsReply,
    MigrateRequest,
    ReadOnlyRequest,
    RestoreRequest,
    SaveRequest,
    TrashReply,
)

MAX_INT64: Final = (1 << 63) - 1
TrashId = Annotated[int, PathParameter(ge=0, le=MAX_INT64)]


@delete("/v1/volumes/{name:str}", guards=[require_token], status_code=200)
async def delete_volume(
    service: Manager,
    caller: From,
    name: FromPath[str],
    purge: FromQuery[bool] = False,
    force: FromQuery[bool] = False,
) -> VolumeReply:
    """Into the trash, where there is one. `purge`: for good; `force`: although clients are attached."""
    return await service.delete(name, purge=purge, force=force, who=caller.who, request_id=caller.request_id)


@get("/v1/trash", guards=[require_token])
async def trash(service: Manager) -> TrashReply:
    return await service.trash()


@post("/v1/trash/{trash_id:int}/restore", guards=[require_token], status_code=200)
async def restore(
    service: Manager, caller: From, trash_id: TrashId, data: JSONBody[RestoreRequest]
) -> VolumeReply:
    return await service.restore(trash_id, data, who=caller.who, request_id=caller.request_id)


@delete("/v1/trash/{trash_id:int}", guards=[require_token], status_code=200)
async def purge(service: Manager, caller: From, trash_id: TrashId) -> VolumeReply:
    return await service.purge(trash_id, who=caller.who, request_id=caller.request_id)


@post("/v1/volumes/{name:str}/read-only", guards=[require_token], status_code=200)
async def set_read_only(
    service: Manager, caller: From, name: FromPath[str], data: JSONBody[ReadOnlyRequest]
) -> VolumeReply:
    return await service.set_read_only(name, data, who=caller.who, request_id=caller.request_id)


@post("/v1/volumes/{name:str}/migrate", guards=[require_token], status_code=202)
async def migrate(
    service: Manager, caller: From, name: FromPath[str], data: JSONBody[MigrateRequest]
) -> JobReply:
    """Every copy to another class or other sites, while it is used."""
    return await service.migrate(name, data, who=caller.who)


@post("/v1/volumes/{name:str}/save", guards=[require_token], status_code=202)
async def save(service: Manager, caller: From, name: FromPath[str], data: JSONBody[SaveRequest]) -> JobReply:
    """Copy the data to another volume, verify, then delete."""
    return await service.save(name, data, who=caller.who)


@post("/v1/reals/{storage:str}/{lun:int}/drain", guards=[require_token], status_code=202)
async def drain_real(service: Manager, caller: From, storage: FromPath[str], lun: Lun) -> JobReply:
    """Move everything elsewhere, while it is used."""
    return await service.drain_real(storage, lun, who=caller.who, request_id=caller.request_id)


@post("/v1/sites/{name:str}/drain", guards=[require_token], status_code=202)
async def drain_site(service: Manager, caller: From, name: FromPath[str]) -> JobReply:
    """All real volumes of a site, and the ownership of volumes."""
    return await service.drain_site(name, who=caller.who)


@get("/v1/jobs", guards=[require_token])
async def jobs(service: Manager, passed: FromQuery[bool] = False) -> JobsReply:
    """Of all managers; `passed`: of the one that answers."""
    return await service.jobs(passed=passed)


@delete("/v1/jobs/{job_id:str}", guards=[require_token], status_code=200)
async def cancel_job(service: Manager, caller: From, job_id: FromPath[str]) -> JobReply:
    """Stop it, and put back what can be put back."""
    return await service.cancel_job(job_id, who=caller.who)


MOVES_HANDLERS: Final = (
    delete_volume,
    trash,
    restore,
    purge,
    set_read_only,
    migrate,
    save,
    drain_real,
    drain_site,
    jobs,
    cancel_job,
)
