"""What a store wants done; all of it values, in the order of doing. (An owner's are in `owner_effects`.)

May live here: frozen structs. Whoever performs them reports back with the token.
"""

from typing import Literal

from msgspec import Struct

from vimraft.core.ids import LocalName
from vimraft.protocol.messages import Session, StoreAnswer
from vimraft.protocol.owner_effects import SetTimer
from vimraft.protocol.regions import Change

IoKind = Literal["read", "write", "zero", "trim", "checksum"]
Outcome = Literal["ok", "error", "unknown"]
"""`unknown`: it may happen yet. Another outcome may follow, for the same token."""


class Keep(Struct, frozen=True, gc=False):
    """Append these to the store's record on stable storage, all or none, then `persisted`. One at a time."""

    token: int
    changes: tuple[Change, ...]


class BackendIo(Struct, frozen=True, gc=False):
    """Bytes `first … end-1` of the volume in this copy, then `backend_done`. `fua`: on stable storage.
    `checksum`: they are read, and the data of the answer are a checksum of them."""

    token: int
    kind: IoKind
    copy: LocalName
    first: int
    end: int
    data: bytes = b""
    fua: bool = False


class BackendFlush(Struct, frozen=True, gc=False):
    """Everything of this copy that is written, to stable storage; then `backend_done`. Never twice: when it
    failed, the kernel has forgotten what it could not write."""

    token: int
    copy: LocalName


class Answered(Struct, frozen=True, gc=False):
    to: Session
    answer: StoreAnswer


class Drained(Struct, frozen=True, gc=False):
    """The map of this index is installed, and nothing of an older epoch is under way in backends."""

    index: int
    epoch: int


StoreEffect = Keep | BackendIo | BackendFlush | Answered | Drained | SetTimer
