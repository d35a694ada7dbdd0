"""The port between the site manager and whatever replicates the tables.

May live here: the `Log` protocol, its status and its errors. Adapters: `memory_log` (tests) and
`pysyncobj` (the product). Everything above imports this module only.

INV-1 and INV-8 are the adapter's to keep: `propose` returns an outcome only once the command is
committed and applied here, and a retry under the same request id never applies twice.
"""

from collections.abc import Callable
from typing import Literal, Protocol

from msgspec import Struct

from vimraft.core.commands import Command, Outcome
from vimraft.core.tables import State


class LogError(Exception):
    """Base of the operating faults of the log."""


class Unavailable(LogError):
    """Certainly not applied: no leader, no quorum, queue full. Trying again is safe."""


class UnknownOutcome(LogError):
    """The deadline passed with the command possibly in the log: ask again with the same request id."""


MemberRole = Literal["voter", "observer", "joining"]
"""`observer`: is replicated to, never counted. `joining`: no member of the log (not yet, or not any more)."""


class PeerStatus(Struct, frozen=True):
    """Another member, as this node sees it."""

    address: str
    node_id: str
    """Identity of its data directory; "" while unknown. Another id at the same address is another node."""
    voter: bool
    connected: bool
    last_contact_ms: int | None
    """Since it was last heard; None: not since this node started."""
    match_index: int | None
    """Last Raft entry that it is known to have (only a leader knows)."""
    refused: str = ""
    """Why the link is refused, on either side; "" when it is not."""


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
    role: MemberRole = "voter"
    """Of this node."""
    problem: str = ""
    """Why this node cannot do its part, such as a full disk; "" when it can."""
    node_id: str = ""
    cluster: str = ""
    """Identity of the cluster; not the tables' `cluster_id`: it exists before the tables do."""
    generation: int = 0
    """+1 each time the cluster was made anew from one survivor or a backup."""
    birth: str = ""
    """Random, of that making; "": the first generation."""
    peers: tuple[PeerStatus, ...] = ()
    """Every other member, sorted by address."""


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
        without one the log makes one up. Its outcome is remembered for ten minutes, and while fewer than
        28,000 other ids were used since (`core.dedupe`; in a cluster of level 1: 3,500, whatever the time):
        after that the same request may apply again. Raises Unavailable or UnknownOutcome.
        """
        ...

    async def barrier(self, *, deadline_ms: int) -> State:
        """A state that includes everything acknowledged anywhere before the call."""
        ...

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Returns the function that ends the subscription."""
        ...

    async def persist(self, *, deadline_ms: int) -> None:
        """Returns once everything applied here at the call survives a power loss here: this node never
        shows older tables again. Raises Unavailable."""
        ...

    @property
    def node_id(self) -> str:
        """Identity of this node's data directory: made once, never given to another."""
        ...

    def status(self) -> LogStatus: ...

    async def add_member(
        self, raft_address: str, *, node_id: str = "", voter: bool = True, deadline_ms: int
    ) -> None:
        """Let one more node in, as a voter or an observer; of an observer: promotion. Idempotent; one
        change at a time.

        With a `node_id` only that node may speak at the address. Refused as Unavailable: promotion of
        an observer that has not caught up, and an address that is a member under another id.
        """
        ...

    async def remove_member(self, raft_address: str, *, deadline_ms: int) -> None:
        """Idempotent. Never this node, never the last voter: Unavailable."""
        ...

    async def close(self) -> None: ...
