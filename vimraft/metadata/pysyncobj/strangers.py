"""What is logged about callers that are no members: something, but never as much as they like.

May live here: the bounds on log lines about strangers. Whoever can reach the port could otherwise fill the
disk with messages about himself.
"""

from collections.abc import Callable
from typing import Final

import structlog

log = structlog.get_logger(__name__)

LINES_PER_WINDOW: Final = 50
WINDOW_S: Final = 10.0
MAX_REMEMBERED: Final = 256
"""Refusals whose repetition is silent."""


class Strangers:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._reasons: dict[str, str] = {}
        self._window_ends = clock() + WINDOW_S
        self._lines = 0
        self._silent = 0

    def refused(self, who: str, remote: str, why: str) -> None:
        """A proper hello of somebody who does not belong here; logged when the reason changes."""
        if self._reasons.get(who) == why:
            return
        self._reasons.pop(who, None)
        self._reasons[who] = why
        if len(self._reasons) > MAX_REMEMBERED:
            del self._reasons[next(iter(self._reasons))]
        if self._may_log():
            log.warning("raft.caller_refused", remote=remote, why=why)

    def offended(self, remote: str, why: str) -> None:
        """Bytes that no manager sends."""
        if self._may_log():
            log.warning("raft.caller_dropped", remote=remote, why=why)

    def _may_log(self) -> bool:
        now = self._clock()
        if now >= self._window_ends:
            if self._silent:
                log.warning("raft.callers_not_logged", count=self._silent)
            self._window_ends, self._lines, self._silent = now + WINDOW_S, 0, 0
        if self._lines < LINES_PER_WINDOW:
            self._lines += 1
            return True
        self._silent += 1
        return False
