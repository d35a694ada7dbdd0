"""What a store says to owners: who it talks to, and its answers with typed refusals.

May live here: frozen values, and how an owner reads them. What owners say is `StoreRequest`, in
`owner_effects`. Every answer carries the boot and the epoch of the store, so that its owner sees a reboot
with the next answer.

Deviation from the plan: a request names no boot. The epoch stands for it: `Rejoin` gives a new epoch to every
volume whose data a reboot may have touched, and the store compares its boot with the tables of exactly the
request's epoch (`NeedsRejoin`).
"""

from typing import assert_never

from msgspec import Struct

from vimraft.core.ids import LocalName, ManagerName
from vimraft.protocol.asks import Answer, How


class Session(Struct, frozen=True, gc=False):
    """Of the owner `manager` in one life of its export. It begins the next `number` when it does not know
    what became of requests: whatever is late of an older number is refused, and drained before."""

    manager: ManagerName
    incarnation: str
    number: int


class Done(Struct, frozen=True, gc=False, tag=True):
    data: bytes = b""
    regions: tuple[int, ...] = ()
    """For `seal`: active ones. For `missed`: what a copy may lack. For `what_is_in_step`: those."""
    record: str = ""
    since: int = 0
    """For `what_is_in_step`: what was written in this epoch or later may be missing there."""


class OldEpoch(Struct, frozen=True, gc=False, tag=True):
    """The store is in a newer one."""

    epoch: int


class Sealed(Struct, frozen=True, gc=False, tag=True):
    """It will never again accept anything older than `epoch`, although its tables do not have it yet."""

    epoch: int


class NewerEpoch(Struct, frozen=True, gc=False, tag=True):
    """The tables of the store did not catch up in time (0: it has none yet)."""

    epoch: int


class OldSession(Struct, frozen=True, gc=False, tag=True):
    newest: Session


class NotTheOwner(Struct, frozen=True, gc=False, tag=True):
    owner: ManagerName


class NeedsRejoin(Struct, frozen=True, gc=False, tag=True):
    """The store lives in another boot than the tables say: its copies may lack acknowledged data."""

    bound: str


class NotDrained(Struct, frozen=True, gc=False, tag=True):
    """Requests of an older epoch or session have an unknown outcome, or take too long."""

    requests: int


class NotServed(Struct, frozen=True, gc=False, tag=True):
    """In this epoch the copy has no such bytes here, or is in no state for it ("": there is none)."""

    copy: LocalName
    state: str


class IoFailed(Struct, frozen=True, gc=False, tag=True):
    """The backend said no, or a flush failed before: what the copy holds is in doubt."""

    copy: LocalName


class Unknown(Struct, frozen=True, gc=False, tag=True):
    """The backend has not answered: it may happen yet."""


class NoRoom(Struct, frozen=True, gc=False, tag=True):
    """The list of active regions is full: it waits for a flush and a clear."""

    active: int


class NotFlushed(Struct, frozen=True, gc=False, tag=True):
    """A region was to be cleared that no flush here has covered since its last write."""

    region: int


class Busy(Struct, frozen=True, gc=False, tag=True):
    """Use the other copy."""


class TooMany(Struct, frozen=True, gc=False, tag=True):
    """Requests are waiting here; later there is room."""


class RecordFailed(Struct, frozen=True, gc=False, tag=True):
    """The store cannot keep its own record on its disk, so that it can promise nothing until it restarts."""


Refusal = (
    OldEpoch
    | Sealed
    | NewerEpoch
    | OldSession
    | NotTheOwner
    | NeedsRejoin
    | NotDrained
    | NotServed
    | IoFailed
    | Unknown
    | NoRoom
    | NotFlushed
    | Busy
    | TooMany
    | RecordFailed
)
Result = Done | Refusal


class StoreAnswer(Struct, frozen=True, gc=False):
    number: int
    """Of the request."""
    boot: str
    epoch: int
    """Of the store's tables; 0: it has none yet."""
    result: Result


def _how(refusal: Refusal) -> How:
    match refusal:
        case OldEpoch() | Sealed() | NewerEpoch() | OldSession() | NotTheOwner() | TooMany():
            return "older"
        case IoFailed() | NotFlushed():
            return "failed"
        case NeedsRejoin() | NotServed() | RecordFailed():
            return "away"
        case NotDrained() | Unknown():
            return "lost"
        case NoRoom():
            return "full"
        case Busy():
            return "busy"
        case _:
            assert_never(refusal)


def for_owner(answer: StoreAnswer) -> Answer:
    """As the owner's machine takes it."""
    result = answer.result
    if isinstance(result, Done):
        return Answer(
            answer.number, "done", answer.boot, result.data, result.regions, result.record, result.since
        )
    return Answer(answer.number, _how(result), answer.boot)
