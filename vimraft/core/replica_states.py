"""The life of a copy: which state follows from which, as a literal table.

May live here: the table and look-ups in it. What else an event does to a copy is in `copies`, who may bring
it about in the `apply_*` modules. An event that is not in the table for a state is refused (INV-4: nothing
gets in sync but by a promotion, or by an operator who accepts a loss).
"""

from collections.abc import Mapping
from typing import Final, Literal

from vimraft.core.tables import ReplicaState

Event = Literal["retire", "begin-resync", "promote", "reboot", "lose", "accept-loss"]

NEXT: Final[Mapping[tuple[Event, ReplicaState], ReplicaState]] = {
    # It missed a write.
    ("retire", "in_sync"): "stale",
    ("retire", "syncing"): "stale",
    # It gets all writes from now on, and what it missed.
    ("begin-resync", "stale"): "syncing",
    ("promote", "syncing"): "in_sync",
    # Its stores came back in another boot: what was only in their page cache may be gone.
    ("reboot", "in_sync"): "stale",
    ("reboot", "syncing"): "stale",
    # An operator gave its sites up. Only its removal follows: it may come back with anything on it.
    ("lose", "in_sync"): "failed",
    ("lose", "syncing"): "failed",
    ("lose", "stale"): "failed",
    # There is nothing better left.
    ("accept-loss", "stale"): "in_sync",
    ("accept-loss", "syncing"): "in_sync",
}


def after(event: Event, state: ReplicaState) -> ReplicaState | None:
    """None: the event cannot happen to a copy in this state."""
    return NEXT.get((event, state))
