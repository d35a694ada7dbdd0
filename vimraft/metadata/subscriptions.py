"""Telling subscribers about new tables: coalesced, in order, in the event loop's thread.

May live here: the bookkeeping that both adapters share. `publish` and `passed` may be called from any thread;
everything else belongs to the loop. Every subscriber sees a chain: the `current` of one call is the
`previous` of the next, and no call has equal ends. Tables that bring a new epoch of a volume with copies are
a `current` of their own: its owner follows epoch by epoch. Only MAX_KEPT of them: whoever needs each must see
the gap (an epoch left out).
"""

import asyncio
from collections import deque
from collections.abc import Callable

import structlog

from vimraft.core.copies import is_copied
from vimraft.core.ids import VolumeName
from vimraft.core.tables import State
from vimraft.metadata.port import Subscriber

log = structlog.get_logger(__name__)

MAX_KEPT = 1_024
"""Tables that wait for the loop. They share almost all of their rows."""
OF_ALL_VOLUMES = frozenset({"reopened", "rejoined", "lost"})
"""Changes under the name of a manager that give its volumes new epochs."""


def brings_epoch(before: State, after: State) -> bool:
    """`after`, the tables one command later, changes a volume with copies."""
    if before.volumes is after.volumes:
        return False
    if not after.history:
        return True
    change = after.history[-1]
    rows = (state.volumes.get(VolumeName(change.name)) for state in (before, after))
    return change.what in OF_ALL_VOLUMES or any(row is not None and is_copied(row) for row in rows)


class Subscriptions:
    def __init__(self, loop: asyncio.AbstractEventLoop, state: Callable[[], State]) -> None:
        self._loop = loop
        self._state = state
        self._scheduled = False
        self._last_seen: dict[int, tuple[Subscriber, State]] = {}
        self._next_key = 0
        self._kept: deque[State] = deque(maxlen=MAX_KEPT)

    def passed(self, before: State, after: State) -> None:
        """Tables before and after one command, which the log may not show: more may be applied at once."""
        if self._last_seen and brings_epoch(before, after):
            self._kept.append(after)

    def publish(self) -> None:
        """The state has changed. Cheap when a call is under way already."""
        if self._scheduled:
            return
        self._scheduled = True
        try:
            self._loop.call_soon_threadsafe(self.deliver)
        except RuntimeError:
            self._scheduled = False  # the loop is closed: nobody is left to tell

    def add(self, subscriber: Subscriber) -> Callable[[], None]:
        key = self._next_key
        self._next_key += 1
        self._last_seen[key] = (subscriber, self._state())

        def remove() -> None:
            self._last_seen.pop(key, None)

        return remove

    def deliver(self) -> None:
        """What `publish` has the loop do; in the loop's thread."""
        # Cleared before the state is read: a change after this line schedules another delivery.
        self._scheduled = False
        current = self._state()
        while self._kept and self._kept[0].index < current.index:
            self._tell(self._kept.popleft())
        self._tell(current)

    def _tell(self, current: State) -> None:
        for key, (subscriber, previous) in list(self._last_seen.items()):
            if previous.index >= current.index or key not in self._last_seen:
                continue
            self._last_seen[key] = (subscriber, current)
            try:
                subscriber(previous, current)
            except Exception:
                log.exception("metadata.subscriber_failed", index=current.index)
