"""What a store remembers of one request, its bounds, and what it counts.

May live here: memory without behaviour.
"""

from msgspec import Struct

from vimraft.protocol.messages import Result, Session
from vimraft.protocol.owner_effects import StoreRequest
from vimraft.protocol.regions import MAX_ACTIVE
from vimraft.protocol.store_copies import CopyHere

MS = 1_000_000


class StoreLimits(Struct, frozen=True, gc=False):
    active_regions: int = MAX_ACTIVE
    """Of one copy."""
    in_flight: int = 1_024
    """Requests in backends."""
    waiting: int = 1_024
    """Requests that wait here: for the tables, a drain, a flush, the record."""
    waiting_ns: int = 4_000 * MS
    """How long one waits for the tables, a drain or a flush; less than owners wait for an answer."""
    busy_reads: int = 32
    """Reads in backends; to further ones the answer is "use the other copy", where there is one. Several
    times the load at which an owner by itself looks for another copy."""


class StoreCounters:
    """Since the store began. `read`, `written`: bytes that were asked of backends."""

    __slots__ = ("busy", "flushes", "marks", "read", "reads", "refused", "waited", "writes", "written")

    def __init__(self) -> None:
        self.reads = self.writes = self.flushes = 0
        self.read = self.written = 0
        self.marks = 0
        """Regions marked durably before data."""
        self.refused = self.busy = self.waited = 0


class Op:
    """One request, from its arrival to its end."""

    __slots__ = ("answered", "copy", "deadline_ns", "era", "install", "request", "result", "session", "token")

    copy: CopyHere
    """Set when it goes to a backend, like the next three."""
    era: int
    install: int
    token: int

    def __init__(self, session: Session, request: StoreRequest) -> None:
        self.session = session
        self.request = request
        self.answered = False
        """It has been, or nobody waits for it: the connection ended."""
        self.deadline_ns = 0
        self.result: Result | None = None
        """What to answer when the record is durable; None: it must be looked at again then."""
