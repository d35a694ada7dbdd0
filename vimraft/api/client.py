"""The API from the caller's side: one method a path, synchronous, over several managers.

`Client` asks the manager that answered last and goes on to the next when one cannot be reached. A change
carries an X-Request-Id that stays the same over all attempts, so that asking another manager after a lost
answer is harmless (INV-8). What could not be sent raises Unreachable (nothing happened); what was sent and
not answered raises NoAnswer (it may have happened): the two are never mixed up.

May live here: the HTTP client and its retries. No prose (vimraft.api.advice), no terminal.
"""

import getpass
import uuid
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, Literal, Self

import httpx
import msgspec

from vimraft.api import schema, schema_meta
from vimraft.api.advice import from_status
from vimraft.api.authorities import accepted
from vimraft.api.caller_errors import ApiError, BadReply, NoAnswer, Unreachable
from vimraft.api.client_copies import CopiesClient
from vimraft.api.client_moves import MovesClient
from vimraft.api.client_part import Method, T, part
from vimraft.api.context import Context, load_context

__all__ = ["ApiError", "Client", "Context", "TableName", "load_context"]

CONNECT_TIMEOUT_S: Final = 2.0
DEFAULT_TIMEOUT_S: Final = 15.0
MAX_ROUNDS: Final = 2
"""How often the list of managers is gone through when answers are lost or managers unavailable."""
PAGE_ROWS: Final = 10_000
MAX_ERROR_BYTES: Final = 1 << 20

TableName = Literal["real-identifying", "real-free", "virtual-identifying", "virtual-sectors"]
TABLE_NAMES: Final[tuple[TableName, ...]] = (
    "real-identifying",
    "real-free",
    "virtual-identifying",
    "virtual-sectors",
)


class _Attempts:
    """What went wrong so far for one request, and whether it may have had its effect."""

    def __init__(self) -> None:
        self.problems: dict[str, str] = {}
        self.maybe_done = False
        self.last_refusal: ApiError | None = None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


class Client(CopiesClient, MovesClient):
    """Not for use by several threads at once. Use as a context manager, or call `close`."""

    def __init__(
        self, urls: tuple[str, ...], token: str | None = None, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> None:
        self._urls = list(urls)
        self._timeout_s = timeout_s
        headers = {"Accept": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        user = _user()
        if user.isascii() and user.isprintable() and user:
            headers["X-Vimraft-User"] = user
        # Managers are reached directly: a proxy from the environment must not see the token.
        self._http = httpx.Client(
            timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s)),
            trust_env=False,
            verify=accepted(urls),
            headers=headers,
        )

    @property
    def url(self) -> str:
        """The manager that is asked first: the one that answered last."""
        return self._urls[0] if self._urls else ""

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- transport ---------------------------------------------------------------------------------

    def _call(
        self,
        method: Method,
        path: str,
        reply_type: type[T],
        *,
        body: msgspec.Struct | None = None,
        params: dict[str, str | int] | None = None,
        repeatable: bool = True,
    ) -> T:
        url, answer = self._answer(method, path, body=body, params=params, repeatable=repeatable)
        return _decode(answer, reply_type, url)

    def _answer(
        self,
        method: Method,
        path: str,
        *,
        body: msgspec.Struct | None = None,
        params: dict[str, str | int] | None = None,
        repeatable: bool = True,
    ) -> tuple[str, httpx.Response]:
        """(who answered, its answer); a success. `repeatable`: may be sent again after a lost answer (a
        read, or deduplicated by its id)."""
        request_id = uuid.uuid4().hex
        headers = {} if method == "GET" else {"X-Request-Id": request_id}
        content = None
        if body is not None:
            content = msgspec.json.encode(body)
            headers["Content-Type"] = "application/json"
        attempts = _Attempts()
        for url in self._rounds():
            try:
                answer = self._http.request(
                    method, url + path, params=params, content=content, headers=headers
                )
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
                attempts.problems[url] = _connect_problem(error)
                continue
            except httpx.TransportError as error:
                attempts.problems[url] = _lost_answer(error, self._timeout_s)
                attempts.maybe_done = True
                if repeatable:
                    continue
                break
            except (httpx.InvalidURL, httpx.DecodingError) as error:
                raise BadReply(url, str(error)) from None
            if answer.is_success:
                self._prefer(url)
                return url, answer
            refusal = _refusal(answer, url)
            if refusal.status == 503:
                attempts.problems[url] = refusal.reply.message
                attempts.last_refusal = refusal
                continue
            if refusal.status == 504 and method != "GET":
                attempts.problems[url] = refusal.reply.message
                attempts.maybe_done = True
                attempts.last_refusal = refusal
                if repeatable:
                    continue
                break
            self._prefer(url)
            raise refusal
        raise self._verdict(attempts, method, path, request_id)

    def _rounds(self) -> Iterator[str]:
        for _ in range(MAX_ROUNDS):
            yield from tuple(self._urls)

    def _verdict(self, attempts: _Attempts, method: Method, path: str, request_id: str) -> Exception:
        """One lost answer to a change outweighs every later refusal: that refusal was for the repetition."""
        if attempts.maybe_done and method != "GET":
            refusal = attempts.last_refusal
            if refusal is not None and refusal.status == 504:
                return refusal
            return NoAnswer(f"{method} {path}", attempts.problems, request_id)
        return attempts.last_refusal or Unreachable(attempts.problems)

    def _prefer(self, url: str) -> None:
        if self._urls[0] != url:
            self._urls.remove(url)
            self._urls.insert(0, url)

    # -- reading -----------------------------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        return self._call("GET", "/v1/health", dict[str, Any])

    def status(self) -> schema.StatusReply:
        return self._call("GET", "/v1/status", schema.StatusReply)

    def table(
        self,
        which: TableName,
        *,
        name: str | None = None,
        offset: int = 0,
        limit: int = PAGE_ROWS,
        at: int | None = None,
    ) -> schema.TableReply:
        """One page of a table; `at`: as it was after the command of that index."""
        params: dict[str, str | int] = {"offset": offset, "limit": limit}
        if name is not None:
            params["name"] = name
        if at is not None:
            params["at"] = at
        return self._call("GET", f"/v1/tables/{which}", schema.TableReply, params=params)

    def whole_table(
        self, which: TableName, *, name: str | None = None, at: int | None = None
    ) -> schema.TableReply:
        """All pages of one version of the tables; never a part. Raises ApiError when they keep changing."""
        for _ in range(3):
            first = page = self.table(which, name=name, at=at)
            rows = list(first.rows)
            while len(page.rows) == PAGE_ROWS and page.version == first.version:
                page = self.table(which, name=name, offset=len(rows), at=at)
                rows.extend(page.rows)
            if page.version == first.version:
                return msgspec.structs.replace(first, rows=tuple(rows), as_of=page.as_of)
        raise ApiError(
            schema.ErrorReply(
                code="unavailable",
                message=f"table {which} changed while its pages were read, three times",
                remedy="try again when fewer volumes are being built, or name one volume",
            ),
            503,
        )

    def volume(self, name: str) -> schema.VolumeReply:
        return self._call("GET", f"/v1/volumes/{part(name)}", schema.VolumeReply)

    def volume_map(self, name: str, *, at: int | None = None) -> schema.MapReply:
        """`at`: as it was after the command of that index."""
        params: dict[str, str | int] = {} if at is None else {"at": at}
        return self._call("GET", f"/v1/volumes/{part(name)}/map", schema.MapReply, params=params)

    def volume_uri(self, name: str, site: str | None = None) -> schema.UriReply:
        params: dict[str, str | int] = {} if site is None else {"site": site}
        return self._call("GET", f"/v1/volumes/{part(name)}/uri", schema.UriReply, params=params)

    def members(self) -> schema.MembersReply:
        return self._call("GET", "/v1/members", schema.MembersReply)

    def job(self, job_id: str) -> schema.JobReply:
        return self._call("GET", f"/v1/jobs/{part(job_id)}", schema.JobReply)

    def events(self, *, after: int = -1, limit: int = 100) -> schema.EventsReply:
        """Events above id `after`, oldest first; -1: the newest `limit`."""
        return self._call("GET", "/v1/events", schema.EventsReply, params={"after": after, "limit": limit})

    def history(self, *, limit: int = 100) -> schema.HistoryReply:
        return self._call("GET", "/v1/history", schema.HistoryReply, params={"limit": limit})

    def meta_status(self) -> schema_meta.MetaStatusReply:
        return self._call("GET", "/v1/meta/status", schema_meta.MetaStatusReply)

    def backup(self) -> bytes:
        """The content of a backup file; not checked (vimraft.metadata.backup)."""
        return self._answer("GET", "/v1/meta/backup")[1].content

    def backups(self) -> schema_meta.BackupsReply:
        return self._call("GET", "/v1/meta/backups", schema_meta.BackupsReply)

    # -- changing ----------------------------------------------------------------------------------

    def build_volume(self, request: schema.BuildRequest) -> schema.VolumeReply:
        return self._call("POST", "/v1/volumes", schema.VolumeReply, body=request)

    def grow_volume(self, name: str, size_bytes: int) -> schema.VolumeReply:
        body = schema.GrowRequest(size_bytes=size_bytes)
        return self._call("POST", f"/v1/volumes/{part(name)}/grow", schema.VolumeReply, body=body)

    def set_storage(self, request: schema.StorageRequest) -> schema.DoneReply:
        return self._call("PUT", "/v1/storages", schema.DoneReply, body=request)

    def remove_storage(self, address: str) -> schema.DoneReply:
        return self._call("DELETE", f"/v1/storages/{part(address)}", schema.DoneReply)

    def add_real(self, request: schema.AddRealRequest) -> schema.JobReply:
        """Starts a job. Not deduplicated by its id, so a lost answer is not asked for again."""
        return self._call("POST", "/v1/reals", schema.JobReply, body=request, repeatable=False)

    def set_real(self, storage: str, lun: int, state: Literal["active", "excluded"]) -> schema.DoneReply:
        body = schema.SetRealRequest(state=state)
        return self._call("PUT", f"/v1/reals/{part(storage)}/{lun}", schema.DoneReply, body=body)

    def remove_real(self, storage: str, lun: int) -> schema.DoneReply:
        return self._call("DELETE", f"/v1/reals/{part(storage)}/{lun}", schema.DoneReply)

    def set_priority(self, site: str, priority: tuple[str, ...]) -> schema.DoneReply:
        body = schema.PriorityRequest(priority=priority)
        return self._call("PUT", f"/v1/sites/{part(site)}/priority", schema.DoneReply, body=body)

    def set_setting(self, name: str, value: int) -> schema.DoneReply:
        body = schema.SettingRequest(value=value)
        return self._call("PUT", f"/v1/settings/{part(name)}", schema.DoneReply, body=body)

    def upgrade(self, *, plan: bool = False) -> schema_meta.UpgradeReply:
        body = schema_meta.UpgradeRequest(plan=plan)
        return self._call("POST", "/v1/meta/upgrade", schema_meta.UpgradeReply, body=body)

    def join(self, request: schema.JoinRequest) -> schema.JoinReply:
        """Idempotent by the manager's name."""
        return self._call("POST", "/v1/members", schema.JoinReply, body=request)

    def promote(self, name: str) -> schema.DoneReply:
        """Idempotent."""
        return self._call("POST", f"/v1/members/{part(name)}/promote", schema.DoneReply)

    def remove_manager(self, name: str, *, force: bool = False) -> schema.DoneReply:
        params: dict[str, str | int] = {"force": "true"} if force else {}
        return self._call("DELETE", f"/v1/members/{part(name)}", schema.DoneReply, params=params)


def _decode(answer: httpx.Response, reply_type: type[T], url: str) -> T:
    try:
        return msgspec.json.decode(answer.content, type=reply_type)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadReply(url, str(error)) from None


def _refusal(answer: httpx.Response, url: str) -> ApiError:
    if len(answer.content) <= MAX_ERROR_BYTES:
        try:
            reply = msgspec.json.decode(answer.content, type=schema.ErrorReply)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            pass
        else:
            return ApiError(reply, answer.status_code)
    return ApiError(from_status(answer.status_code, url).reply, answer.status_code)


def _connect_problem(error: httpx.TransportError) -> str:
    if isinstance(error, httpx.TimeoutException):
        return f"no connection within {CONNECT_TIMEOUT_S:g} s"
    text = str(error)
    return "connection refused" if "refused" in text.lower() else text or "cannot connect"


def _lost_answer(error: httpx.TransportError, timeout_s: float) -> str:
    if isinstance(error, httpx.TimeoutException):
        return f"no answer within {timeout_s:g} s"
    return (
        f"connection lost before the answer ({error})" if str(error) else "connection lost before the answer"
    )
