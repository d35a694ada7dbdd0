"""How requests of level 2 are read, for ever: without what level 3 brought (see `codec_first` for why).

May live here: frozen copies of what has changed since level 2, and the way from them to the present structs.
"""

import types
import typing
from functools import reduce
from operator import or_
from typing import Any

import msgspec
from msgspec import Struct

from vimraft.core import commands
from vimraft.core.codec_first import OldBuildVolume, OldSettings, present_build, present_settings
from vimraft.core.commands import Command, Request
from vimraft.core.ids import ClientId


class _FormCluster(Struct, frozen=True, tag="FormCluster", omit_defaults=True):
    """Of level 2."""

    cluster_id: str
    settings: OldSettings
    level: int = 1


_SINCE_CHANGED = (commands.BuildVolume, commands.FormCluster, *commands.SINCE_COPIES)
_Command = reduce(
    or_,
    [kind for kind in typing.get_args(Command) if kind not in _SINCE_CHANGED],
    typing.cast(types.UnionType, OldBuildVolume | _FormCluster),
)

_decoder = msgspec.msgpack.Decoder(
    msgspec.defstruct(
        "Request",
        [("client", ClientId), ("sequence", int), ("at_ms", int), ("who", str), ("command", _Command)],
        frozen=True,
    )
)


def decode_second_request(data: bytes | memoryview) -> Request:
    """Without the version byte. Raises msgspec.MsgspecError, UnicodeDecodeError, RecursionError."""
    raw: Any = _decoder.decode(data)
    command = raw.command
    if isinstance(command, OldBuildVolume):
        command = present_build(command)
    elif isinstance(command, _FormCluster):
        command = commands.FormCluster(command.cluster_id, present_settings(command.settings), command.level)
    return Request(raw.client, raw.sequence, raw.at_ms, raw.who, command)
