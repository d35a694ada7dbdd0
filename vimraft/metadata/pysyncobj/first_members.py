"""Who the members are, across restarts.

May live here: members.json and how the member list follows from snapshot and journal.
Raft's rule is kept: the configuration in force is the latest one *in the log*, committed or not. So a
restart takes the list that the log began with (from the snapshot; before the first one, from
members.json) and folds the membership entries of the journal over it.
"""

from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct
from pysyncobj.pickle import loads

from vimraft.metadata.pysyncobj.errors import CorruptData
from vimraft.metadata.pysyncobj.files import write_durably

MEMBERSHIP_ENTRY = b"\x02"
"""First byte of a membership change in PySyncObj's log."""


class MembersFile(Struct, frozen=True, forbid_unknown_fields=True):
    """Content of members.json."""

    initial: tuple[str, ...]
    """The members when this data directory was new: base of the journal until there is a snapshot."""
    latest: tuple[str, ...]
    """As last known. For people, and for a node that must be told where the others are."""


def load_members(path: Path) -> MembersFile | None:
    """None when there is no file. Raises CorruptData."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(data, type=MembersFile)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptData(
            f"{path}: not a member list: {error}. Remove this manager from the cluster at another one, "
            "empty its data directory and join again"
        ) from None


def save_members(path: Path, members: MembersFile) -> None:
    """Raises OSError; then the old list is still there."""
    write_durably(path, msgspec.json.format(msgspec.json.encode(members)) + b"\n")


def is_membership(command: bytes) -> bool:
    return command[:1] == MEMBERSHIP_ENTRY


def fold(base: Iterable[str], commands: Iterable[bytes]) -> frozenset[str]:
    """The members after the membership entries among `commands`. Raises ValueError for an unknown one."""
    members = set(base)
    for command in commands:
        if not is_membership(command):
            continue
        kind, address = loads(command[1:])[:2]
        if kind == "add":
            members.add(address)
        elif kind == "rem":
            members.discard(address)
        else:
            raise ValueError(f"membership change {kind!r}")
    return frozenset(members)
