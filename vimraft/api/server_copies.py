"""The API's paths about copies and owners of volumes.

May live here: Litestar handlers (one line each). What they do is the service's business.
"""

from typing import Final

from litestar import delete, post
from litestar.params import FromPath, JSONBody

from vimraft.api.callers import From, Manager, require_token
from vimraft.api.schema import DoneReply, VolumeReply
from vimraft.api.schema_copies import (
    AddCopyRequest,
    ForceLostRequest,
    MoveOwnerRequest,
    PauseCopyRequest,
    ReadPolicyRequest,
)


@post("/v1/volumes/{name:str}/copies", guards=[require_token])
async def add_copy(
    service: Manager, caller: From, name: FromPath[str], data: JSONBody[AddCopyRequest]
) -> VolumeReply:
    """Space for one more copy; it gets in sync by itself."""
    return await service.add_copy(name, data, who=caller.who, request_id=caller.request_id)


@delete("/v1/volumes/{name:str}/copies/{copy:str}", guards=[require_token], status_code=200)
async def remove_copy(
    service: Manager, caller: From, name: FromPath[str], copy: FromPath[str]
) -> VolumeReply:
    """Never the last one in sync."""
    return await service.remove_copy(name, copy, who=caller.who, request_id=caller.request_id)


@post("/v1/volumes/{name:str}/copies/{copy:str}/pause", guards=[require_token], status_code=200)
async def pause_copy(
    service: Manager,
    caller: From,
    name: FromPath[str],
    copy: FromPath[str],
    data: JSONBody[PauseCopyRequest],
) -> VolumeReply:
    """Let its resync rest, or go on."""
    return await service.pause_copy(name, copy, data, who=caller.who, request_id=caller.request_id)


@post("/v1/volumes/{name:str}/read-policy", guards=[require_token], status_code=200)
async def set_read_policy(
    service: Manager, caller: From, name: FromPath[str], data: JSONBody[ReadPolicyRequest]
) -> VolumeReply:
    """Which of its copies in sync is read."""
    return await service.set_read_policy(name, data, who=caller.who, request_id=caller.request_id)


@post("/v1/volumes/{name:str}/owner", guards=[require_token], status_code=200)
async def move_owner(
    service: Manager, caller: From, name: FromPath[str], data: JSONBody[MoveOwnerRequest]
) -> VolumeReply:
    """Hand the volume to another manager in good order; clients wait meanwhile."""
    return await service.move_owner(name, data, who=caller.who)


@post("/v1/force-lost", guards=[require_token], status_code=200)
async def force_lost(service: Manager, caller: From, data: JSONBody[ForceLostRequest]) -> DoneReply:
    """The sites of a manager are lost for good: their copies count no more."""
    return await service.force_lost(data, who=caller.who, request_id=caller.request_id)


COPIES_HANDLERS: Final = (add_copy, remove_copy, pause_copy, set_read_policy, move_owner, force_lost)
