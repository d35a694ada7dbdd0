"""Who the members are: in the log's entries, across restarts, and which node was met at which address.

May live here: membership entries (their bytes, and what they make of a member list) and members.json.
Raft's rule is kept: the configuration in force is the latest one *in the log*, committed or not. So a
restart takes the list that the log began with (from the snapshot; before the first one, from members.json)
and folds the membership entries of the journal over it.
"""

import io
import pickle
from collections.abc import Iterable, Mapping
from typing import Final, Literal, get_args

import msgspec
from msgspec import Struct

from vimraft.metadata.pysyncobj.disk import Disk, read_whole, write_durably
from vimraft.metadata.pysyncobj.errors import REMEDY, CorruptData
from vimraft.metadata.pysyncobj.sealed import sealed, unsealed

MEMBERS: Final = "members.json"
MEMBERSHIP_ENTRY: Final = b"\x02"
"""First byte of a membership change in PySyncObj's log."""
FIRST_RELEASE: Final = b"\x80"
"""Second byte, in membership changes of the first release, which are pickles."""

ChangeKind = Literal["add", "observe", "rem"]


class Member(Struct, frozen=True):
    address: str
    node_id: str = ""
    """"": not known yet; whoever is met there first is it."""
    voter: bool = True


Membership = Mapping[str, Member]
"""By address."""


class Change(Struct, frozen=True, array_like=True):
    """Fields that a later release adds are ignored; those that may not be need a level of their own."""

    kind: ChangeKind
    """`add`: a voter (promotes an observer); `observe`: gets everything, does not vote; `rem`."""
    address: str
    node_id: str = ""


_change = msgspec.msgpack.Decoder(Change)


def is_membership(command: bytes) -> bool:
    return command[:1] == MEMBERSHIP_ENTRY


def encode_change(kind: ChangeKind, address: str, node_id: str = "") -> bytes:
    return MEMBERSHIP_ENTRY + msgspec.msgpack.encode(Change(kind, address, node_id))


def parse_change(command: bytes) -> Change | None:
    """None: not a membership change. Raises ValueError for one that cannot be read."""
    if not is_membership(command):
        return None
    body = command[1:]
    if body[:1] == FIRST_RELEASE:
        return _parse_first_release(body)
    try:
        return _change.decode(body)
    except msgspec.MsgspecError as error:
        raise ValueError(f"membership change: {error}") from None


def by_address(members: Iterable[Member]) -> dict[str, Member]:
    return {member.address: member for member in members}


def voters_at(addresses: Iterable[str]) -> dict[str, Member]:
    return by_address(Member(address) for address in addresses)


def fold(base: Membership, commands: Iterable[bytes]) -> dict[str, Member]:
    """The members after the membership entries among `commands`. Raises ValueError for an unreadable one."""
    members = dict(base)
    for command in commands:
        change = parse_change(command)
        if change is None:
            continue
        if change.kind == "rem":
            members.pop(change.address, None)
            continue
        known = members.get(change.address, Member(change.address))
        members[change.address] = Member(
            change.address, change.node_id or known.node_id, voter=change.kind == "add"
        )
    return members


class _NamesOnly(pickle.Unpickler):
    """Entries of the first release: a list of strings, its last item once a TCPNode."""

    def find_class(self, module: str, name: str) -> type:
        if (module, name) == ("pysyncobj.node", "TCPNode"):
            return _Ignored
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a membership change")


class _Ignored:
    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _parse_first_release(body: bytes) -> Change:
    try:
        content = _NamesOnly(io.BytesIO(body)).load()
        kind, address = content[0], content[1]
    except (pickle.UnpicklingError, ValueError, TypeError, LookupError, EOFError, AttributeError) as error:
        raise ValueError(f"membership change of the first release: {error}") from None
    if kind not in get_args(ChangeKind) or not isinstance(address, str):
        raise ValueError(f"membership change {kind!r} of {address!r}")
    return Change(kind, address)


class MembersFile(Struct, frozen=True):
    """Content of members.json."""

    initial: tuple[str, ...]
    """The voters when this data directory was new: base of the journal until there is a snapshot. Empty at
    a node that joins: only the log can tell it who the members are."""
    latest: tuple[Member, ...] = ()
    """As last known. For people, and for a node that must be told where the others are."""
    node_ids: dict[str, str] = {}
    """Address → id of the node that was met there. Durable before anything is believed from it."""
    contacts: tuple[str, ...] = ()
    """Whom a node that joins calls. They are nobody's voters."""
    met: tuple[str, ...] = ()
    """Of `initial`: with whom a link was up, so that either end has the other's id. See formation.py."""


class _FirstRelease(Struct, frozen=True, forbid_unknown_fields=True):
    initial: tuple[str, ...]
    latest: tuple[str, ...]


class _Content(MembersFile, frozen=True):
    format: Literal[2] = 2


def load_members(disk: Disk) -> MembersFile | None:
    """None when there is no file. Raises CorruptData, OSError."""
    data = read_whole(disk, MEMBERS)
    if data is None:
        return None
    try:
        if b'"format"' in data:
            content = unsealed(data, _Content)
            return MembersFile(
                content.initial, content.latest, content.node_ids, content.contacts, content.met
            )
        first = msgspec.json.decode(data, type=_FirstRelease)
    except ValueError as error:
        raise CorruptData(f"{disk.describe(MEMBERS)}: not a member list: {error}. {REMEDY}") from None
    return MembersFile(first.initial, tuple(Member(address) for address in first.latest))


def save_members(disk: Disk, members: MembersFile) -> None:
    """Raises OSError; then the old list is still there."""
    content = _Content(members.initial, members.latest, members.node_ids, members.contacts, members.met)
    write_durably(disk, MEMBERS, sealed(content))
