"""Waiting until nothing runs on volumes whose gates are closed, each for itself.

May live here: the wait, what breaks requests off, what is reported. Keeps: however long it takes, nothing is
done to a volume while a request of it runs; a volume that does not drain does not delay the others.
"""

import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from vimraft.data.gate import DRAIN_POLL_FIRST_S, DRAIN_POLL_LAST_S

DRAIN_PATIENCE_S = 1.0
"""A drain that takes longer breaks the connections to peers in use (their requests are sent again)."""


class Closed(Protocol):
    """The gate of a volume, or the store of a volume with copies: nothing new gets in."""

    name: str

    @property
    def idle(self) -> bool: ...

    @property
    def real_names(self) -> list[str]: ...


class Drain(NamedTuple):
    gate: Closed
    then: Callable[[], None]
    """Called as soon as no request of this volume runs."""


def drain_all(
    drains: list[Drain],
    io_timeout_s: float,
    *,
    break_off: Callable[[str], None],
    stuck: Callable[[Closed, float], None],
) -> None:
    """`break_off(volume)` every `DRAIN_PATIENCE_S`; `stuck(gate, seconds)` once, after the I/O timeout."""
    start = time.monotonic()
    next_break_s = DRAIN_PATIENCE_S
    reported = False
    pause_s = DRAIN_POLL_FIRST_S
    while True:
        left = []
        for drain in drains:
            if drain.gate.idle:
                drain.then()
            else:
                left.append(drain)
        drains = left
        if not drains:
            return
        waited_s = time.monotonic() - start
        if waited_s >= next_break_s:
            next_break_s += DRAIN_PATIENCE_S
            for drain in drains:
                break_off(drain.gate.name)
        if waited_s > io_timeout_s + DRAIN_PATIENCE_S and not reported:
            reported = True
            for drain in drains:
                stuck(drain.gate, waited_s)
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, DRAIN_POLL_LAST_S)
