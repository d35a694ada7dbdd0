"""Who asks the API, and of whom: what every handler needs.

May live here: dependencies and the token guard, shared by the modules with handlers.
"""

import hmac
from typing import Annotated, Any, cast

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.datastructures import State as AppState
from litestar.di import NamedDependency
from litestar.exceptions import HTTPException
from litestar.handlers.base import BaseRouteHandler
from litestar.params import PathParameter, SkipValidation

from vimraft.api.service import Service
from vimraft.core.ids import MAX_LUN

MAX_REQUEST_ID_CHARS = 64

AnyRequest = Request[Any, Any, AppState]


class Caller:
    """Who asks, for history and events, and under which request id."""

    __slots__ = ("request_id", "who")

    def __init__(self, who: str, request_id: str | None) -> None:
        self.who = who
        self.request_id = request_id


Lun = Annotated[int, PathParameter(ge=0, le=MAX_LUN)]
Manager = NamedDependency[SkipValidation[Service]]
From = NamedDependency[SkipValidation[Caller]]


def provide_service(request: AnyRequest) -> Service:
    return cast(Service, request.app.state["service"])


def provide_caller(request: AnyRequest) -> Caller:
    who = request.headers.get("X-Vimraft-User", "")[:64]
    host = request.client.host if request.client else "?"
    request_id = request.headers.get("X-Request-Id")
    if request_id is not None and (
        not 0 < len(request_id) <= MAX_REQUEST_ID_CHARS or not request_id.isprintable()
    ):
        raise HTTPException(
            status_code=400, detail=f"X-Request-Id must be 1 to {MAX_REQUEST_ID_CHARS} printable characters"
        )
    return Caller(f"{who}@{host}" if who.isprintable() and who else host, request_id)


def require_token(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    service = cast(Service, connection.app.state["service"])
    shown = connection.headers.get("Authorization", "")
    if not hmac.compare_digest(shown.encode(), f"Bearer {service.token}".encode()):
        raise HTTPException(status_code=401, detail="token")
