"""Passing a call of the API on to the manager that must answer it.

May live here: one request to another manager, and what its failures mean.
"""

from collections.abc import Mapping
from typing import Any

import httpx
import msgspec

from vimraft.api.authorities import accepted
from vimraft.api.errors import ManagerUnreachable, PassedOn
from vimraft.api.schema import ErrorReply
from vimraft.core.tables import Manager
from vimraft.site.context import SiteContext

CHANGE_TIMEOUT_S = 30.0
READ_TIMEOUT_S = 10.0


async def ask(
    site: SiteContext,
    manager: Manager,
    method: str,
    path: str,
    body: Any = None,
    *,
    request_id: str | None = None,
) -> bytes:
    """The same call at `manager`. Raises ManagerUnreachable, and PassedOn with its error reply."""
    headers: Mapping[str, str] = {
        "Authorization": f"Bearer {site.token}",
        "Content-Type": "application/json",
        **({"X-Request-Id": request_id} if request_id else {}),
    }
    timeout_s = READ_TIMEOUT_S if method == "GET" else CHANGE_TIMEOUT_S
    try:
        verify = accepted((manager.api_url,))
        async with httpx.AsyncClient(timeout=timeout_s, trust_env=False, verify=verify) as client:
            reply = await client.request(
                method,
                f"{manager.api_url}{path}",
                content=msgspec.json.encode(body) if body is not None else None,
                headers=headers,
            )
    except httpx.HTTPError as error:
        raise ManagerUnreachable(manager.name, str(error) or type(error).__name__) from None
    if reply.status_code >= 400:
        raise PassedOn(msgspec.json.decode(reply.content, type=ErrorReply), reply.status_code)
    return reply.content
