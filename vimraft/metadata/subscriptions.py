"""Telling subscribers about new tables: coalesced, in order, in the event loop's thread.

May live here: the bookkeeping that both adapters share. `publish` may be called from any thread;
everything else belongs to the loop. Every subscriber sees a chain: the `current` of one call is the
`previous` of the next, and no call has equal ends.
"""

import asyncio
from collections.abc import Callable

import structlog

from vimraft.core.tables import State
from vimraft.metadata.port import Subscriber

log = structlog.get_logger(__name__)


class Subscriptions:
    def __init__(self, loop: asyncio.AbstractEventLoop, state: Callable[[], State]) -> None:
        self._loop = loop
        self._state = state
        self._scheduled = False
        self._last_seen: dict[int, tuple[Subscriber, State]] = {}
        self._next_key = 0

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
        for key, (subscriber, previous) in list(self._last_seen.items()):
            if previous is current or key not in self._last_seen:
                continue
            self._last_seen[key] = (subscriber, current)
            try:
                subscriber(previous, current)
            except Exception:
                log.exception("metadata.subscriber_failed", index=current.index)
