"""What owners and peer stores say to each other over NBD: export names, control messages, errnos.

    .copy/VOLUME/COPY/EPOCH/MANAGER~INCARNATION~SESSION    data: read, write, zero, trim with FUA; flush
    .copyctl/VOLUME/MANAGER~INCARNATION~SESSION            everything else, a message at a time

Names are percent-encoded. The description of both is `boot=BOOT` (of the store). A control message is a
4-byte big-endian length and msgpack, padded to the block size: a `StoreRequest` is written at offset 0 in one
request, then the `StoreAnswer` to it is read from offset 0 on, on the same connection. May live here: these
forms, both ways. No policy.
"""

import errno
import struct
from typing import NamedTuple
from urllib.parse import quote, unquote

import msgspec

from vimraft.protocol.asks import How
from vimraft.protocol.messages import Session, StoreAnswer
from vimraft.protocol.owner_effects import StoreRequest

COPY = ".copy"
CONTROL = ".copyctl"
CONTROL_BYTES = 64 << 20
"""Size of a control export: the bound on a message."""
FIRST_READ_BYTES = 4_096
"""An answer is read in one request if it is no longer, else in two."""
BLOCK_BYTES = 512
MAX_NUMBER_DIGITS = 19

ERRNO_OF: dict[How, int] = {
    "failed": errno.EIO,
    "away": errno.EPERM,
    "older": errno.ESHUTDOWN,
    "full": errno.ENOSPC,
    "busy": errno.ENOMEM,
    "lost": errno.EOVERFLOW,
}
"""Refusals of data requests. `lost` does not survive every server: any other errno means it, too."""
_HOW_OF: dict[int, How] = {number: how for how, number in ERRNO_OF.items()}
_LENGTH = struct.Struct(">I")
_encoder = msgspec.msgpack.Encoder()
_requests = msgspec.msgpack.Decoder(StoreRequest)
_answers = msgspec.msgpack.Decoder(StoreAnswer)


class WireError(ValueError):
    """The other side does not speak this protocol."""


class CopyExport(NamedTuple):
    volume: str
    copy: str
    """"": a control export; then `epoch` is 0."""
    epoch: int
    session: Session


def _session(session: Session) -> str:
    return "~".join((_quoted(session.manager), _quoted(session.incarnation), str(session.number)))


def _quoted(name: str) -> str:
    return quote(name, safe="").replace("~", "%7E")


def copy_export(volume: str, copy: str, epoch: int, session: Session) -> str:
    return "/".join((COPY, _quoted(volume), _quoted(copy), str(epoch), _session(session)))


def control_export(volume: str, session: Session) -> str:
    return "/".join((CONTROL, _quoted(volume), _session(session)))


def parse_copy_export(name: str) -> CopyExport:
    """Raises WireError."""
    kind, *parts = name.split("/")
    if kind == COPY and len(parts) == 4:
        volume, copy, epoch, session = parts
        return CopyExport(unquote(volume), unquote(copy), _number(epoch), _parse_session(session))
    if kind == CONTROL and len(parts) == 2:
        return CopyExport(unquote(parts[0]), "", 0, _parse_session(parts[1]))
    raise WireError(f"export {name[:200]!r} is none of a store's")


def _parse_session(text: str) -> Session:
    parts = text.split("~")
    if len(parts) != 3 or not all(parts):
        raise WireError(f"session {text[:200]!r} is not MANAGER~INCARNATION~NUMBER")
    manager, incarnation = unquote(parts[0]), unquote(parts[1])
    return msgspec.convert(
        {"manager": manager, "incarnation": incarnation, "number": _number(parts[2])}, Session
    )


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_NUMBER_DIGITS):
        raise WireError(f"{text[:50]!r} is no number")
    return int(text)


def describe_boot(boot: str) -> str:
    return f"boot={boot}"


def parse_boot(description: str) -> str:
    """ "" if it does not say."""
    return description.removeprefix("boot=") if description.startswith("boot=") else ""


def how_of(number: int | None) -> How:
    """What a refused data request means; None: the connection ended."""
    return _HOW_OF.get(number or 0, "lost")


def encode_request(request: StoreRequest) -> bytes:
    return _framed(_encoder.encode(request))


def encode_answer(answer: StoreAnswer) -> bytes:
    return _framed(_encoder.encode(answer))


def _framed(body: bytes) -> bytes:
    length = _LENGTH.size + len(body)
    if length > CONTROL_BYTES:
        raise WireError(f"a message of {length} bytes exceeds the bound of {CONTROL_BYTES}")
    return (_LENGTH.pack(len(body)) + body).ljust(-(-length // BLOCK_BYTES) * BLOCK_BYTES, b"\0")


def framed_bytes(head: bytes | bytearray) -> int:
    """How long a message is, padding included, by its first block. Raises WireError."""
    (length,) = _LENGTH.unpack_from(head)
    total = -(-(_LENGTH.size + length) // BLOCK_BYTES) * BLOCK_BYTES
    if total > CONTROL_BYTES:
        raise WireError(f"a message of {total} bytes exceeds the bound of {CONTROL_BYTES}")
    return int(total)


def _body(message: bytes | bytearray | memoryview) -> memoryview:
    view = memoryview(message)
    if len(view) < BLOCK_BYTES or framed_bytes(bytes(view[: _LENGTH.size])) > len(view):
        raise WireError("a message is shorter than it says")
    (length,) = _LENGTH.unpack_from(view)
    return view[_LENGTH.size : _LENGTH.size + length]


def decode_request(message: bytes | bytearray | memoryview) -> StoreRequest:
    """Raises WireError."""
    try:
        return _requests.decode(_body(message))
    except msgspec.MsgspecError as error:
        raise WireError(f"no request: {error}") from None


def decode_answer(message: bytes | bytearray | memoryview) -> StoreAnswer:
    """Raises WireError."""
    try:
        return _answers.decode(_body(message))
    except msgspec.MsgspecError as error:
        raise WireError(f"no answer: {error}") from None
