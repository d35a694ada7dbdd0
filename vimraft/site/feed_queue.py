"""What waits to be sent to one data-plane process: tables one after another, and what follows them.

May live here: the order and the bounds. No sockets, no frames. Keeps:
- Tables that bring a new epoch of a volume with copies (`brings_epoch`) are sent by themselves, in the order
  of the log; all others only as the newest. More than MAX_WAITING of the former: the oldest are left out, and
  the feeder sees an epoch skipped.
- A decision is sent after the tables that it brought.
"""

from collections import deque

from vimraft.core.tables import State
from vimraft.data.feed import Asked, Decided, LeaseRow, Leases
from vimraft.metadata.subscriptions import brings_epoch

MAX_WAITING = 128
"""Tables. The process queues twice as many messages."""
MAX_ANSWERS = 1_024


class FeedQueue:
    def __init__(self) -> None:
        self._newest: State | None = None
        self._waiting: deque[tuple[State, bool]] = deque()
        """With: it must be sent by itself."""
        self._decided: deque[tuple[int, Decided]] = deque(maxlen=MAX_ANSWERS)
        self._asked: deque[Asked] = deque(maxlen=MAX_ANSWERS)

    def publish(self, state: State) -> None:
        before, self._newest = self._newest, state
        must = before is not None and brings_epoch(before, state)
        if self._waiting and not self._waiting[-1][1]:
            self._waiting.pop()
        elif len(self._waiting) >= MAX_WAITING:
            self._waiting.popleft()
        self._waiting.append((state, must))

    def decided(self, message: Decided, index: int) -> None:
        """`index`: of the tables in which it was decided."""
        self._decided.append((index, message))

    def ask(self, message: Asked) -> None:
        self._asked.append(message)

    def restart(self) -> None:
        """Another connection: it gets the newest tables whole. Decisions are asked for again."""
        self._waiting.clear()
        self._decided.clear()
        self._asked.clear()
        if self._newest is not None:
            self._waiting.append((self._newest, False))

    def next_state(self) -> State | None:
        return self._waiting.popleft()[0] if self._waiting else None

    def after(self, index: int) -> list[Decided | Asked]:
        """What may go out once tables of this index have."""
        ready: list[Decided | Asked] = [message for at, message in self._decided if at <= index]
        self._decided = deque(
            [(at, message) for at, message in self._decided if at > index], maxlen=MAX_ANSWERS
        )
        ready += self._asked
        self._asked.clear()
        return ready


def leases_of(state: State) -> Leases:
    rows = tuple(
        LeaseRow(lease.manager, lease.incarnation, lease.counter, lease.installed_index)
        for _, lease in sorted(state.leases.items())
    )
    return Leases(index=state.index, rows=rows, lease_ms=state.settings.lease_ms)
