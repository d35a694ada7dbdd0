"""What a volume's owner wants done, and what it says to stores; all of it values, in the order of doing.

May live here: frozen structs.
"""

from typing import Literal

from msgspec import Struct

from vimraft.core import commands
from vimraft.core.ids import LocalName, ManagerName, VolumeName
from vimraft.protocol.asks import Ask, AskKind
from vimraft.protocol.lease import Mark
from vimraft.protocol.losses import NO_LOSS, LossMark

RequestKind = Literal["read", "write", "zero", "trim", "flush"]
ReplyHow = Literal["done", "failed", "moved", "full"]
"""`failed`: EIO. `moved`: another manager owns the volume, ask there; nothing is acknowledged. `full`: too
many requests are waiting."""


class ClientRequest(Struct, frozen=True, gc=False):
    id: int
    session: str
    """Of the client that attached, through whatever site."""
    kind: RequestKind
    first: int = 0
    end: int = 0
    data: bytes = b""
    fua: bool = False
    since: LossMark = NO_LOSS
    """The newest loss that the session has been told of, or that came before it began: at least the volume's
    epoch then."""


class StoreRequest(Struct, frozen=True, gc=False):
    """To a store, in `session` of the life `incarnation` of the owner's export, in `epoch`.

    `checksum`: refused like a read, answered with a strong checksum of the bytes as `data`.
    `mend`: write what another copy in sync holds, under the owner's lock of the range, to one in sync that
    holds something else; the region does not become active by it (see `comparing`).
    `seal`: answered with the active `regions` and the `record`; `must`: they are copied to it again, so that
    a flush which failed there while it was syncing is forgotten. `missed`: with what a copy
    may lack that left before epoch `since`. `clear`: these regions are not active any more. `hand_over`: keep
    this record id from now on, with `regions` as written in `epoch`. `in_step`: a resync has brought
    `regions` to what was written before `since`, by the record of that id; `what_is_in_step` answers that."""

    number: int
    volume: VolumeName
    copy: LocalName
    kind: AskKind
    epoch: int
    incarnation: str
    session: int
    first: int
    end: int
    data: bytes
    fua: bool
    must: bool
    regions: tuple[int, ...]
    record: str
    since: int


def store_request(ask: Ask, volume: VolumeName, incarnation: str) -> StoreRequest:
    return StoreRequest(
        ask.number,
        volume,
        ask.copy,
        ask.kind,
        ask.epoch,
        incarnation,
        ask.session,
        ask.first,
        ask.end,
        ask.data,
        ask.fua,
        ask.must,
        ask.regions,
        ask.record,
        ask.since,
    )


class Send(Struct, frozen=True, gc=False):
    store: ManagerName
    request: StoreRequest


class Reply(Struct, frozen=True, gc=False):
    id: int
    how: ReplyHow
    data: bytes = b""
    told: LossMark = NO_LOSS
    """The loss for which a flush failed: the session knows it once the client has this answer."""


Command = (
    commands.Retire
    | commands.BeginResync
    | commands.Promote
    | commands.MoveSegments
    | commands.MoveOwner
    | commands.LoseUnflushed
)
Decision = Literal["applied", "rejected", "unknown"]
"""What became of a proposal. `unknown`: it may still come; another decision follows."""


class Propose(Struct, frozen=True, gc=False):
    token: int
    command: Command


class Persist(Struct, frozen=True, gc=False):
    """Keep the mark of the sole-holder right on stable storage (None: take it away), then `persisted`."""

    token: int
    mark: Mark | None


class SetTimer(Struct, frozen=True, gc=False):
    """Call `timer` then; each replaces the one before."""

    at_ns: int


class Installed(Struct, frozen=True, gc=False):
    """I/O goes by the map of this index now; it waited for `hold_ns`."""

    index: int
    epoch: int
    hold_ns: int


class Invalidate(Struct, frozen=True, gc=False):
    """Nobody knows what these bytes are until they were made equal: caches drop them."""

    first: int
    end: int


class Serving(Struct, frozen=True, gc=False):
    """The takeover is over."""

    epoch: int


Effect = Send | Reply | Propose | Persist | SetTimer | Installed | Invalidate | Serving
