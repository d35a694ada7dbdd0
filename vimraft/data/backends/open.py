"""From the URI of a real volume to its backend.

May live here: the grammar of URIs and the choice of the module. A URI is data that people typed:
whatever is wrong with it is a BackendError that names it, the cause and the remedy.
"""

import os
import stat
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from vimraft.data.backends.base import Backend, BackendError
from vimraft.data.backends.block import BlockBackend
from vimraft.data.backends.file import FileBackend

NBD_PORT = 10809
IO_TIMEOUT_S = 30.0
FILE_SCHEMES = ("file", "block")
NBD_TCP_SCHEMES = ("nbd", "nbds")
NBD_UNIX_SCHEMES = ("nbd+unix", "nbds+unix")
EXAMPLES = "file:///srv/lun0.img, block:///dev/disk/by-id/ID, nbd://host:10809/export, nbd+unix:///export?socket=/path"
_TLS_OPTIONS = {"tls-certificates", "tls-psk-file", "tls-username", "tls-hostname", "tls-verify-peer"}


def _bad(uri: str, cause: str, remedy: str) -> BackendError:
    return BackendError("missing", f"real volume URI {uri!r}: {cause}; {remedy}")


def _split(uri: str) -> SplitResult:
    if not uri.isprintable() or any(character.isspace() for character in uri):
        raise _bad(uri, "holds blanks or characters that cannot be printed", "write them as %20 and so on")
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError as error:
        raise _bad(uri, str(error), f"write it like one of: {EXAMPLES}") from None
    return parts


def check_uri(uri: str) -> None:
    """Raises BackendError("missing", ...) when no backend could ever be opened by this URI."""
    parts = _split(uri)
    if parts.fragment:
        raise _bad(uri, "has a fragment (#...)", "leave it out, or write # as %23")
    if parts.scheme in FILE_SCHEMES:
        _check_file(uri, parts)
    elif parts.scheme in NBD_TCP_SCHEMES:
        if not parts.hostname:
            raise _bad(uri, "names no host", "write nbd://host:port/export")
        _check_options(uri, parts, set())
    elif parts.scheme in NBD_UNIX_SCHEMES:
        if parts.hostname or parts.port:
            raise _bad(uri, "names a host", "write nbd+unix:///export?socket=/path, with three slashes")
        options = _check_options(uri, parts, {"socket"})
        if not options.get("socket", "").startswith("/"):
            raise _bad(uri, "has no absolute socket path", "add ?socket=/path")
    else:
        cause = f"scheme {parts.scheme!r} is not known" if parts.scheme else "has no scheme"
        raise _bad(uri, cause, f"write it like one of: {EXAMPLES}")


def _check_file(uri: str, parts: SplitResult) -> None:
    if parts.netloc not in ("", "localhost"):
        raise _bad(uri, f"names the host {parts.netloc!r}", "write three slashes: file:///absolute/path")
    if parts.query:
        raise _bad(uri, "has a query (?...)", "leave it out, or write ? as %3F")
    path = unquote(parts.path)
    if not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise _bad(uri, "is not the absolute path of a file", "write file:///absolute/path")


def _check_options(uri: str, parts: SplitResult, more: set[str]) -> dict[str, str]:
    known = more | (_TLS_OPTIONS if parts.scheme.startswith("nbds") else set())
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(set(options) - known)
    if unknown:
        allowed = ", ".join(sorted(known)) or "none"
        raise _bad(uri, f"option {unknown[0]!r} is not known here", f"allowed: {allowed}")
    return options


def file_path(uri: str) -> str | None:
    """The path of a file:// or block:// URI, None for the others. No checks."""
    parts = _split(uri)
    return unquote(parts.path) if parts.scheme in FILE_SCHEMES else None


def open_backend(
    uri: str, *, read_only: bool = False, exclusive: bool = False, io_timeout_s: float = IO_TIMEOUT_S
) -> Backend:
    """Raises BackendError. `exclusive` is for preparing a file or device that nobody serves; NBD has no
    such thing. `io_timeout_s` bounds one request to an NBD server."""
    check_uri(uri)
    path = file_path(uri)
    if path is None:
        return _open_nbd(uri, read_only=read_only, io_timeout_s=io_timeout_s)
    try:
        is_block = stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        is_block = uri.startswith("block:")  # its open says what is wrong
    if uri.startswith("block:") or is_block:
        return BlockBackend(path, uri, read_only=read_only, exclusive=exclusive)
    return FileBackend(path, uri, read_only=read_only, exclusive=exclusive)


def _open_nbd(uri: str, *, read_only: bool, io_timeout_s: float) -> Backend:
    try:
        from vimraft.data.backends.nbd import NbdBackend
    except ImportError as error:
        message = f"{uri}: libnbd is not there ({error}); install it with: apt-get install python3-libnbd"
        raise BackendError("missing", message) from None
    return NbdBackend(uri, read_only=read_only, io_timeout_s=io_timeout_s)
