"""What nodes say to each other: PySyncObj's messages as checked msgpack.

May live here: message kinds, their fields and bounds, encoding and decoding. PySyncObj itself sends
zlib-compressed pickles, which whoever reaches the port can make run anything; here a message is a map with
known keys and types, or it is a WireError. Decoding gives the dicts that PySyncObj expects, and checks what
it takes for granted (entries follow each other, terms do not go back).

PySyncObj's `transmission` messages (one entry in parts) are not spoken: commands are bounded far below the
size from which it uses them (see config.py).
"""

from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from pysyncobj.node import TCPNode

from vimraft.metadata.pysyncobj import batches
from vimraft.metadata.pysyncobj.members import FIRST_RELEASE, parse_change
from vimraft.metadata.pysyncobj.records import BATCH

MAX_FRAME_BYTES: Final = 4 << 20
MAX_ENTRY_BYTES: Final = 64 << 10
MAX_ENTRIES: Final = 65_537
"""A batch ends with the entry that makes it 64 KiB, and an entry has one byte at least."""
MAX_CHUNK_BYTES: Final = 1 << 20
MAX_REASON_CHARS: Final = 512
MAX_NUMBER: Final = (1 << 60) - 1
"""Bound of terms and indexes: what is added to them must still fit into 64 bits everywhere."""

_NO_OP, _MEMBERSHIP, _REGULAR, _BATCH = 1, 2, 0, BATCH[0]
_COMMANDS: Final = frozenset({_REGULAR, _NO_OP, _MEMBERSHIP, _BATCH})
_FORWARDED: Final = frozenset({_REGULAR, _MEMBERSHIP, _BATCH})
"""First byte of what a follower may ask the leader to append. A change of PySyncObj's own code version
(3) is never made here, and an unknown version would be applied again and again, without end."""

Message = dict[str, Any]

Number = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]
Code = Annotated[int, Meta(ge=0, le=255)]
Command = Annotated[bytes, Meta(min_length=1, max_length=MAX_ENTRY_BYTES)]
Chunk = Annotated[bytes, Meta(max_length=MAX_CHUNK_BYTES)]
Entry = tuple[Command, Number, Number]
"""(command, index, term)"""
T = TypeVar("T")


class WireError(Exception):
    """A message that no member sends. The connection it came from is of no use any more."""


class _Kind(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """Field names are the keys that PySyncObj uses."""


class _RequestVote(_Kind, frozen=True, tag="request_vote"):
    term: Number
    last_log_index: Number
    last_log_term: Number


class _ResponseVote(_Kind, frozen=True, tag="response_vote"):
    term: Number


class _PreVote(_Kind, frozen=True, tag="vimraft_pre_vote"):
    term: Number
    last_log_index: Number
    last_log_term: Number


class _PreVoteReply(_Kind, frozen=True, tag="vimraft_pre_vote_reply"):
    term: Number
    granted: bool


class _AppendEntries(_Kind, frozen=True, tag="append_entries"):
    """Either the first group of optional fields or `serialized` (a part of a snapshot)."""

    term: Number
    commit_index: Number
    entries: Annotated[list[Entry], Meta(max_length=MAX_ENTRIES)] | UnsetType = UNSET
    prevLogIdx: Number | UnsetType | None = UNSET  # noqa: N815
    prevLogTerm: Number | UnsetType | None = UNSET  # noqa: N815
    serialized: tuple[Chunk, bool, bool] | UnsetType | None = UNSET


class _NextNodeIndex(_Kind, frozen=True, tag="next_node_idx"):
    term: Number
    next_node_idx: Number
    reset: bool
    success: bool


class _ApplyCommand(_Kind, frozen=True, tag="apply_command"):
    command: Command
    request_id: Number | UnsetType = UNSET


class _ApplyCommandResponse(_Kind, frozen=True, tag="apply_command_response"):
    """Either `error`, or where the leader put the command."""

    request_id: Number
    error: Code | UnsetType = UNSET
    log_idx: Number | UnsetType = UNSET
    log_term: Number | UnsetType = UNSET


class _TimeoutNow(_Kind, frozen=True, tag="timeout_now"):
    term: Number


class _Ping(_Kind, frozen=True, tag="vimraft_ping"):
    pass


class _StepAside(_Kind, frozen=True, tag="vimraft_step_aside"):
    pass


_Any = (
    _RequestVote
    | _ResponseVote
    | _PreVote
    | _PreVoteReply
    | _AppendEntries
    | _NextNodeIndex
    | _ApplyCommand
    | _ApplyCommandResponse
    | _TimeoutNow
    | _Ping
    | _StepAside
)

_decoder = msgspec.msgpack.Decoder(_Any)
_encoder = msgspec.msgpack.Encoder()


def encode(message: Message) -> bytes:
    """Raises WireError for what `decode` would refuse at the other end because of its kind or size."""
    try:
        data = _encoder.encode(message)
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise WireError(f"cannot be sent: {error}") from None
    if len(data) > MAX_FRAME_BYTES:
        raise WireError(f"cannot be sent: {len(data)} bytes, at most {MAX_FRAME_BYTES}")
    return data


def decode(data: bytes) -> Message:
    """The message as PySyncObj expects it. Raises WireError for anything else."""
    kind = decode_as(_decoder, data, MAX_FRAME_BYTES)
    message: Message = {"type": kind.__struct_config__.tag}
    for name in kind.__struct_fields__:
        value = getattr(kind, name)
        if value is not UNSET:
            message[name] = value
    if isinstance(kind, _AppendEntries):
        _check_append(kind)
    elif isinstance(kind, _ApplyCommand):
        if kind.command[0] not in _FORWARDED:
            raise WireError(f"apply_command of kind {kind.command[0]}")
        if kind.command[0] == _MEMBERSHIP:
            check_change(kind.command, made_now=True)
        elif kind.command[0] == _BATCH:
            _check_batch(kind.command)
    elif isinstance(kind, _ApplyCommandResponse):
        _check_response(kind)
    return message


def check_change(command: bytes, *, made_now: bool = False) -> None:
    """Of a membership change: nothing that not all members can read and act upon may come into a log.
    `made_now`: it cannot be an entry of the first release, which were pickles. Raises WireError."""
    try:
        if made_now and command[1:2] == FIRST_RELEASE:
            raise ValueError("a pickle")
        change = parse_change(command)
        node = TCPNode("" if change is None else change.address)
    except ValueError as error:
        raise WireError(printable(f"a membership change that cannot be read: {error}")) from None
    if not (node.host and 0 < node.port < 1 << 16 and node.address.isprintable()):
        raise WireError(printable(f"a membership change of {node.address!r}, which is no address"))


def _check_batch(entry: bytes) -> None:
    """Nothing that apply could not take apart may come into a log. Raises WireError."""
    try:
        count = len(batches.split(entry))
    except ValueError as error:
        raise WireError(str(error)) from None
    if not 0 < count <= batches.MAX_BATCH:
        raise WireError(f"a batch of {count} commands")


def decode_as(decoder: "msgspec.msgpack.Decoder[T]", data: bytes, most_bytes: int) -> T:
    """Raises WireError, whatever `data` holds."""
    if len(data) > most_bytes:
        raise WireError(f"{len(data)} bytes, at most {most_bytes}")
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise WireError(printable(f"not a message: {error}")) from None


def printable(text: str) -> str:
    """Of what a peer says, as much as may go to a log or a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text[:MAX_REASON_CHARS])


def _check_append(message: _AppendEntries) -> None:
    if message.serialized is not UNSET:
        if not (message.entries is message.prevLogIdx is message.prevLogTerm is UNSET):
            raise WireError("append_entries with entries and a snapshot")
        return
    entries, index, term = message.entries, message.prevLogIdx, message.prevLogTerm
    if isinstance(entries, UnsetType) or isinstance(index, UnsetType) or isinstance(term, UnsetType):
        raise WireError("append_entries with neither entries nor a snapshot")
    if index is None or term is None:
        if entries or index is not term:
            raise WireError("append_entries without the entry before")
        return
    for command, entry_index, entry_term in entries:
        index += 1
        if entry_index != index or entry_term < term or command[0] not in _COMMANDS:
            raise WireError(f"append_entries: entry {entry_index} of term {entry_term} after {index - 1}")
        if command[0] == _MEMBERSHIP:
            check_change(command)
        elif command[0] == _BATCH:
            _check_batch(command)
        term = entry_term
    if term > message.term:
        raise WireError(f"append_entries of term {message.term} with an entry of term {term}")


def _check_response(message: _ApplyCommandResponse) -> None:
    placed = message.log_idx is not UNSET and message.log_term is not UNSET
    refused = message.log_idx is message.log_term is UNSET
    if (message.error is UNSET and not placed) or (message.error is not UNSET and not refused):
        raise WireError("apply_command_response with neither an error nor a place, or with both")
