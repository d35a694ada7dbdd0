"""How a caller finds its cluster: the context file, and the token.

May live here: the search order, reading and checking of these two files. Unknown keys are refused.
"""

import os
import re
import sys
import tomllib
from pathlib import Path

import msgspec
from msgspec import Struct

from vimraft.api.caller_errors import BadArgument, BadFile, NoContext

CONTEXT_VARIABLE = "VIMRAFT_CONTEXT"
MAX_TOKEN_CHARS = 4096
_URL = re.compile(r"(https?://)?([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?", re.ASCII)


class ContextFile(Struct, frozen=True, forbid_unknown_fields=True):
    api: tuple[str, ...]
    """http://host:port of one manager or several, tried in turn."""
    token_file: str = ""
    """Relative paths start at the context file's directory."""


class Context(Struct, frozen=True):
    urls: tuple[str, ...]
    token: str | None
    source: str


def search_path() -> tuple[Path, ...]:
    """Where a context file is looked for, best first (`--context` comes before all)."""
    named = os.environ.get(CONTEXT_VARIABLE)
    places = [
        Path(sys.prefix).parent / ".vimraft" / "context.toml",
        Path.home() / ".config" / "vimraft" / "context.toml",
        Path("/etc/vimraft/context.toml"),
    ]
    return (Path(named), *places) if named else tuple(places)


def normal_url(text: str) -> str:
    """`host:port` or a URL → URL without a trailing slash. Raises BadArgument."""
    match = _URL.fullmatch(text.strip())
    if match is None:
        raise BadArgument("API URL", text, "http://HOST:PORT")
    return f"{match.group(1) or 'http://'}{match.group(2)}{match.group(3) or ''}"


def read_token(path: Path) -> str:
    try:
        token = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise BadFile("token", path, error.strerror or str(error)) from None
    except UnicodeDecodeError:
        raise BadFile("token", path, "is not plain text") from None
    if not token:
        raise BadFile("token", path, "is empty")
    if len(token) > MAX_TOKEN_CHARS or not token.isprintable() or " " in token:
        raise BadFile("token", path, "does not hold one line with a token")
    return token


def read_context(path: Path) -> Context:
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        parsed = msgspec.convert(raw, ContextFile)
    except OSError as error:
        raise BadFile("context", path, error.strerror or str(error)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadFile("context", path, f"is not TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise BadFile("context", path, str(error)) from None
    if not parsed.api:
        raise BadFile("context", path, "names no manager: `api` is empty")
    try:
        urls = tuple(normal_url(url) for url in parsed.api)
    except BadArgument as error:
        raise BadFile("context", path, f"`api` holds {error.value!r}") from None
    token = read_token(path.parent / parsed.token_file) if parsed.token_file else None
    return Context(urls=urls, token=token, source=str(path))


def load_context(
    context_file: Path | None = None, api: tuple[str, ...] = (), token_file: Path | None = None
) -> Context:
    """The cluster to talk to. `api` and `token_file` win over what a context file says.

    Raises NoContext, BadFile, BadArgument.
    """
    token = read_token(token_file) if token_file is not None else None
    urls = tuple(normal_url(url) for url in api)
    if urls and token is not None:
        return Context(urls=urls, token=token, source="options")
    found = _find(context_file)
    if found is None:
        if urls:
            return Context(urls=urls, token=None, source="options")
        raise NoContext(search_path())
    base = read_context(found)
    return Context(urls=urls or base.urls, token=token or base.token, source=str(found))


def _find(context_file: Path | None) -> Path | None:
    """A file that was named must be there; the others are tried in turn."""
    if context_file is not None:
        return context_file
    if os.environ.get(CONTEXT_VARIABLE):
        return search_path()[0]
    return next((path for path in search_path() if path.is_file()), None)
