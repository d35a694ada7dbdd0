"""The port between the site manager and whatever replicates the tables.

May live here: the `Log` protocol, its status and its errors. Adapters: `memory_log` (tests) and
`pysyncobj` (the product). Everything above imports this module only.

INV-1 and INV-8 are the adapter's to keep: `propose` returns an outcome only once the command is
committed and applied here, and a retry under the same request id never applies twice.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from msgspec import Struct

from vimraft.core.commands import Command, Outcome
from vimraft.core.tables import State


class LogError(Exception):
    """Base of the operating faults of the log."""


class Unavailable(LogError):
    """Certainly not applied: no leader, no quorum, queue full. Trying again is safe."""


class UnknownOutcome(LogError):
    """The deadline passed with the command possibly in the log: ask again with the same request id."""


class LogStatus(Struct, frozen=True):
    self_address: str
    leader_address: str | None
    """Raft address of the leader as far as this node knows; None: no leader."""
    is_leader: bool
    has_quorum: bool
    """Heard from a majority (or from a leader that has one) within the fallback time."""
    term: int
    raft_applied: int
    raft_commit: int
    log_entries: int
    """Length of the Raft log held (since the last snapshot)."""
    members: Mapping[str, bool]
    """Raft address of every other member → connected."""


Subscriber = Callable[[State, State], None]
"""Called as (previous, current) in the event loop's thread, coalesced, in order."""


class Log(Protocol):
    @property
    def state(self) -> State:
        """Newest tables applied here; safe from any thread; may be behind the leader's."""
        ...

    async def propose(
        self, command: Command, *, who: str, deadline_ms: int, request_id: str | None = None
    ) -> Outcome:
        """Commit and apply `command`; its outcome (Applied or Rejected) is the table's last word.

        `request_id` names the request across retries (any printable string up to 64 characters);
        without one the log makes one up. Raises Unavailable or UnknownOutcome.
        """
        ...

    async def barrier(self, *, deadline_ms: int) -> State:
        """A state that includes everything acknowledged anywhere before the call."""
        ...

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Returns the function that ends the subscription."""
        ...

    def status(self) -> LogStatus: ...

    async def add_member(self, raft_address: str, *, deadline_ms: int) -> None:
        """Let one more node vote; idempotent. One change at a time."""
        ...

    async def remove_member(self, raft_address: str, *, deadline_ms: int) -> None: ...

    async def close(self) -> None: ...
