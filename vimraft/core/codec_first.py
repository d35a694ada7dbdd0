"""How the first format (level 1) is read, for ever: its structs where later ones have grown.

May live here: frozen copies of what has changed since level 1, and the way from them to the present
structs. A release of level 1 overlooks fields that it does not know, whatever they hold; reading them with
the present structs could refuse what others apply (INV-8).
"""

import types
import typing
from functools import reduce
from operator import or_
from typing import Any

import msgspec
from msgspec import Struct

from vimraft.core import commands
from vimraft.core.commands import Command, Request
from vimraft.core.ids import ClientId, ManagerName, SiteName, VolumeName
from vimraft.core.tables import Manager, Settings


class OldSettings(Struct, frozen=True):
    """Of levels 1 and 2."""

    unit_bytes: int = 1 << 20
    lease_ms: int = 4_000
    io_timeout_ms: int = 30_000
    history_changes: int = 1_000


class _FormCluster(Struct, frozen=True, tag="FormCluster"):
    cluster_id: str
    settings: OldSettings


class _Manager(Struct, frozen=True):
    name: ManagerName
    raft_address: str
    api_url: str
    nbd_address: str
    peer_address: str


class _SetManager(Struct, frozen=True, tag="SetManager"):
    manager: _Manager


class OldBuildVolume(Struct, frozen=True, tag="BuildVolume"):
    """Of levels 1 and 2."""

    name: VolumeName
    size_sectors: int
    volume_class: str
    manager: ManagerName
    sites: tuple[SiteName, ...] = ()
    copies: int = 1


_SINCE_CHANGED = (
    commands.FormCluster,
    commands.SetManager,
    commands.SetLevel,
    commands.BuildVolume,
    *commands.SINCE_COPIES,
)
_Command = reduce(
    or_,
    [kind for kind in typing.get_args(Command) if kind not in _SINCE_CHANGED],
    typing.cast(types.UnionType, _FormCluster | _SetManager | OldBuildVolume),
)


_decoder = msgspec.msgpack.Decoder(
    msgspec.defstruct(
        "Request",
        [("client", ClientId), ("sequence", int), ("at_ms", int), ("who", str), ("command", _Command)],
        frozen=True,
    )
)


def decode_first_request(data: bytes | memoryview) -> Request:
    """Without the version byte. Raises msgspec.MsgspecError, UnicodeDecodeError, RecursionError."""
    raw: Any = _decoder.decode(data)
    return Request(raw.client, raw.sequence, raw.at_ms, raw.who, _present(raw.command))


def present_build(old: OldBuildVolume) -> commands.BuildVolume:
    return commands.BuildVolume(
        old.name, old.size_sectors, old.volume_class, old.manager, old.sites, old.copies
    )


def present_settings(old: OldSettings) -> Settings:
    return Settings(old.unit_bytes, old.lease_ms, old.io_timeout_ms, old.history_changes)


def _present(command: Any) -> Command:
    if isinstance(command, OldBuildVolume):
        return present_build(command)
    if isinstance(command, _FormCluster):
        return commands.FormCluster(command.cluster_id, present_settings(command.settings))
    if isinstance(command, _SetManager):
        row = command.manager
        return commands.SetManager(
            Manager(row.name, row.raft_address, row.api_url, row.nbd_address, row.peer_address)
        )
    return typing.cast(Command, command)
