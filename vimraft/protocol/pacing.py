"""When the next piece of a resync or of a verification may begin.

May live here: asking `Pace` and being woken. Every owner has one `Pace`: whatever copies or compares at once
shares its rate.
"""

from collections.abc import Callable

from vimraft.protocol.owner import Owner


class Pacing:
    """`go_on` is called when a piece may begin that had to wait."""

    def __init__(self, owner: Owner, go_on: Callable[[], None]) -> None:
        self._owner = owner
        self._desk = owner.desk
        self._go_on = go_on
        self._not_before_ns = 0
        self._waiting = False

    def rest(self, ns: int) -> None:
        """Nothing begins for so long: something failed that may pass."""
        self._not_before_ns = max(self._not_before_ns, self._desk.now_ns + ns)

    def may_begin(self) -> bool:
        owner, now_ns = self._owner, self._desk.now_ns
        wait_ns = max(owner.pace.wait_ns(now_ns, busy=owner.busy), self._not_before_ns - now_ns)
        if wait_ns > 0 and not self._waiting:
            self._waiting = True
            self._desk.later(wait_ns, self._waited)
        return wait_ns <= 0

    def begin(self, length_bytes: int) -> None:
        self._owner.pace.begin(length_bytes, self._desk.now_ns)

    def end(self) -> None:
        self._owner.pace.end(self._desk.now_ns)

    def _waited(self) -> None:
        self._waiting = False
        self._go_on()
