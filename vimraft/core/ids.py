"""Names, identities and units that every layer shares.

May live here: NewTypes, the constants of the address space, and the one rule for names.
Keeps: sectors are 512 bytes and counted from 0; a name that passes `check_name` is printable,
fits a DNS label sequence and never collides with the reserved export names (they start with a dot).
"""

import re
from typing import NamedTuple, NewType

ManagerName = NewType("ManagerName", str)
SiteName = NewType("SiteName", str)
StorageAddress = NewType("StorageAddress", str)
VolumeName = NewType("VolumeName", str)
LocalName = NewType("LocalName", str)
ClientId = NewType("ClientId", str)


class RealId(NamedTuple):
    """A real volume: one LUN of a storage."""

    storage: StorageAddress
    lun: int

    def __str__(self) -> str:
        return f"{self.storage}:{self.lun}"


SECTOR_BYTES = 512
LABEL_BYTES = 1 << 20
"""The first MiB of every real volume is reserved for its label and never handed out."""
MAX_VOLUME_BYTES = (1 << 63) - SECTOR_BYTES
"""NBD offsets are signed 64 bit in practice: just under 8 EiB."""
MAX_NAME_CHARS = 63
MAX_LUN = (1 << 16) - 1

_is_name = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*").fullmatch


def name_problem(name: str) -> str | None:
    """Why `name` may not name a manager, site, storage or volume; None if it may."""
    if len(name) > MAX_NAME_CHARS:
        return f"is longer than {MAX_NAME_CHARS} characters"
    if _is_name(name) is not None:
        return None
    if not name:
        return "is empty"
    return "may hold only letters, digits, '.', '_' and '-', and begins with a letter or digit"
