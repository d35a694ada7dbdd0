"""The HTTP API: paths, authentication and error bodies. What an operation does is the service's business.

May live here: Litestar handlers (one line each), the token guard and the error handlers. Litestar speaks
msgspec natively, so the structs of vimraft.api.schema are the bodies and the OpenAPI schemas at once.
"""

from typing import Annotated, Any

import structlog
from litestar import Litestar, Response, delete, get, post, put
from litestar.datastructures import State as AppState
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from litestar.response import Response as PlainResponse

from vimraft import __version__
from vimraft.api.advice import from_exception
from vimraft.api.callers import (
    AnyRequest,
    Caller,
    From,
    Lun,
    Manager,
    provide_caller,
    provide_service,
    require_token,
)
from vimraft.api.errors import PassedOn
from vimraft.api.schema import (
    AddRealRequest,
    BuildRequest,
    DoneReply,
    ErrorReply,
    EventsReply,
    GrowRequest,
    Heartbeat,
    HistoryReply,
    JobReply,
    JoinReply,
    JoinRequest,
    MapReply,
    MembersReply,
    PriorityRequest,
    SetRealRequest,
    SettingRequest,
    StatusReply,
    StorageRequest,
    TableReply,
    UriReply,
    VolumeReply,
)
from vimraft.api.server_copies import COPIES_HANDLERS
from vimraft.api.server_meta import META_HANDLERS
from vimraft.api.server_moves import MOVES_HANDLERS
from vimraft.api.server_verify import VERIFY_HANDLERS
from vimraft.api.service import Service

log = structlog.get_logger(__name__)

MAX_BODY_BYTES = 1 << 20
MAX_PAGE = 10_000
MAX_INT64 = (1 << 63) - 1
At = Annotated[int | None, QueryParameter(ge=0, le=MAX_INT64)]


@get("/v1/health", summary="This manager runs")
async def health() -> dict[str, str]:
    return {"version": __version__}


@get("/v1/status", guards=[require_token])
async def status(service: Manager) -> StatusReply:
    return await service.status()


@get("/v1/tables/{which:str}", guards=[require_token])
async def table(
    service: Manager,
    which: FromPath[str],
    name: FromQuery[str | None] = None,
    offset: Annotated[int, QueryParameter(ge=0, le=MAX_INT64)] = 0,
    limit: Annotated[int, QueryParameter(ge=1, le=MAX_PAGE)] = MAX_PAGE,
    at: At = None,
) -> TableReply:
    """`at`: as it was after the command of that index."""
    return await service.table(which, name=name, offset=offset, limit=limit, at=at)


@get("/v1/volumes/{name:str}", guards=[require_token])
async def volume(service: Manager, name: FromPath[str]) -> VolumeReply:
    return await service.volume(name)


@get("/v1/volumes/{name:str}/map", guards=[require_token])
async def volume_map(service: Manager, name: FromPath[str], at: At = None) -> MapReply:
    """`at`: as it was after the command of that index."""
    return await service.volume_map(name, at=at)


@get("/v1/volumes/{name:str}/uri", guards=[require_token])
async def volume_uri(service: Manager, name: FromPath[str], site: FromQuery[str | None] = None) -> UriReply:
    return await service.volume_uri(name, site)


@post("/v1/volumes", guards=[require_token])
async def build(service: Manager, caller: From, data: JSONBody[BuildRequest]) -> VolumeReply:
    return await service.build(data, who=caller.who, request_id=caller.request_id)


@post("/v1/volumes/{name:str}/grow", guards=[require_token], status_code=200)
async def grow(
    service: Manager, caller: From, name: FromPath[str], data: JSONBody[GrowRequest]
) -> VolumeReply:
    return await service.grow(name, data, who=caller.who, request_id=caller.request_id)


@put("/v1/storages", guards=[require_token])
async def set_storage(service: Manager, caller: From, data: JSONBody[StorageRequest]) -> DoneReply:
    return await service.set_storage(data, who=caller.who, request_id=caller.request_id)


@delete("/v1/storages/{address:str}", guards=[require_token], status_code=200)
async def remove_storage(service: Manager, caller: From, address: FromPath[str]) -> DoneReply:
    return await service.remove_storage(address, who=caller.who, request_id=caller.request_id)


@post("/v1/reals", guards=[require_token], status_code=202)
async def add_real(service: Manager, caller: From, data: JSONBody[AddRealRequest]) -> JobReply:
    return await service.add_real(data, who=caller.who)


@put("/v1/reals/{storage:str}/{lun:int}", guards=[require_token])
async def set_real(
    service: Manager, caller: From, storage: FromPath[str], lun: Lun, data: JSONBody[SetRealRequest]
) -> DoneReply:
    return await service.set_real(storage, lun, data, who=caller.who, request_id=caller.request_id)


@delete("/v1/reals/{storage:str}/{lun:int}", guards=[require_token], status_code=200)
async def remove_real(service: Manager, caller: From, storage: FromPath[str], lun: Lun) -> DoneReply:
    return await service.remove_real(storage, lun, who=caller.who, request_id=caller.request_id)


@get("/v1/jobs/{job_id:str}", guards=[require_token])
async def job(service: Manager, job_id: FromPath[str]) -> JobReply:
    return await service.job(job_id)


@put("/v1/sites/{name:str}/priority", guards=[require_token])
async def set_priority(
    service: Manager, caller: From, name: FromPath[str], data: JSONBody[PriorityRequest]
) -> DoneReply:
    return await service.set_priority(name, data, who=caller.who, request_id=caller.request_id)


@put("/v1/settings/{name:str}", guards=[require_token])
async def set_setting(
    service: Manager, caller: From, name: FromPath[str], data: JSONBody[SettingRequest]
) -> DoneReply:
    return await service.set_setting(name, data, who=caller.who, request_id=caller.request_id)


@get("/v1/events", guards=[require_token])
async def events(
    service: Manager,
    after: Annotated[int, QueryParameter(ge=-1, le=MAX_INT64)] = -1,
    limit: Annotated[int, QueryParameter(ge=1, le=MAX_PAGE)] = 100,
) -> EventsReply:
    """Events with an id above `after`, oldest first; `after=-1`: the newest `limit`."""
    return await service.events(after=after, limit=limit)


@get("/v1/history", guards=[require_token])
async def history(
    service: Manager, limit: Annotated[int, QueryParameter(ge=1, le=MAX_PAGE)] = 100
) -> HistoryReply:
    return await service.history(limit=limit)


@get("/v1/members", guards=[require_token])
async def members(service: Manager) -> MembersReply:
    return await service.members()


@post("/v1/members", guards=[require_token], status_code=200)
async def join(
    service: Manager, caller: From, data: JSONBody[JoinRequest], passed: FromQuery[bool] = False
) -> JoinReply:
    return await service.join(data, who=caller.who, passed=passed)


@post("/v1/members/{name:str}/promote", guards=[require_token], status_code=200)
async def promote(
    service: Manager, caller: From, name: FromPath[str], passed: FromQuery[bool] = False
) -> DoneReply:
    """An observer that has caught up becomes a voter."""
    return await service.promote(name, who=caller.who, passed=passed)


@delete("/v1/members/{name:str}", guards=[require_token], status_code=200)
async def remove_manager(
    service: Manager,
    caller: From,
    name: FromPath[str],
    force: FromQuery[bool] = False,
    passed: FromQuery[bool] = False,
) -> DoneReply:
    return await service.remove_manager(
        name, force=force, who=caller.who, request_id=caller.request_id, passed=passed
    )


@post("/v1/internal/heartbeat", guards=[require_token], status_code=204)
async def heartbeat(service: Manager, data: JSONBody[Heartbeat]) -> None:
    await service.heartbeat(data)


@get("/v1/metrics", guards=[require_token], media_type="text/plain")
async def metrics(service: Manager) -> bytes:
    return service.metrics()


@get("/v1/openapi.json", summary="This document", include_in_schema=False)
async def openapi(request: AnyRequest) -> dict[str, Any]:
    return request.app.openapi_schema.to_schema()


def _on_http_exception(_: AnyRequest, error: HTTPException) -> Response[ErrorReply]:
    if error.status_code == 401:
        reply = ErrorReply(
            code="token",
            message="the API token is missing or wrong",
            remedy="send 'Authorization: Bearer TOKEN' with the content of the cluster's token file",
        )
    elif error.status_code in (404, 405):
        reply = ErrorReply(code="usage", message="no such API path or method", remedy="see /v1/openapi.json")
    else:
        extra = error.extra if isinstance(error.extra, list) else []
        details = [
            f"{item.get('key', '')}: {item.get('message', '')}" for item in extra if isinstance(item, dict)
        ]
        reply = ErrorReply(
            code="usage", message="; ".join(details) or error.detail, remedy="see /v1/openapi.json"
        )
    return PlainResponse(reply, status_code=error.status_code)


def _on_exception(_: AnyRequest, error: Exception) -> Response[ErrorReply]:
    if isinstance(error, PassedOn):
        return PlainResponse(error.reply, status_code=error.status)
    if isinstance(error, RecursionError):
        reply = ErrorReply(
            code="usage", message="the body is nested too deeply", remedy="see /v1/openapi.json"
        )
        return PlainResponse(reply, status_code=400)
    if isinstance(error, UnicodeDecodeError):  # of the body: Litestar takes it for our own
        reply = ErrorReply(code="usage", message="the body is not UTF-8", remedy="see /v1/openapi.json")
        return PlainResponse(reply, status_code=400)
    advice = from_exception(error)
    if advice.reply.code == "internal":
        log.error("api.defect", exc_info=error)
    return PlainResponse(advice.reply, status_code=advice.status)


def make_app(service: Service) -> Litestar:
    return Litestar(
        route_handlers=[
            health,
            status,
            table,
            volume,
            volume_map,
            volume_uri,
            build,
            grow,
            set_storage,
            remove_storage,
            add_real,
            set_real,
            remove_real,
            job,
            set_priority,
            set_setting,
            events,
            history,
            members,
            join,
            promote,
            remove_manager,
            heartbeat,
            metrics,
            openapi,
            *META_HANDLERS,
            *MOVES_HANDLERS,
            *COPIES_HANDLERS,
            *VERIFY_HANDLERS,
        ],
        dependencies={
            "service": Provide(provide_service, sync_to_thread=False),
            "caller": Provide(provide_caller, sync_to_thread=False),
        },
        state=AppState({"service": service}),
        logging_config=None,
        exception_handlers={HTTPException: _on_http_exception, Exception: _on_exception},
        openapi_config=OpenAPIConfig(
            title="vimraft",
            version=__version__,
            path="/v1/docs",
            render_plugins=[JsonRenderPlugin(path="/openapi.json")],
        ),
        request_max_body_size=MAX_BODY_BYTES,
        signature_types=[Service, Caller],
    )
