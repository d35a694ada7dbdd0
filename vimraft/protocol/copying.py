"""Making copies equal: read a range from one copy that is in sync, write it to the others, region by region.

May live here: the loop, used for a range whose write ended with EIO, for the active regions of a takeover,
and for the regions of a copy that resyncs. The caller holds the range lock.
"""

from collections.abc import Callable

from vimraft.core.ids import LocalName
from vimraft.protocol.balance import Balance
from vimraft.protocol.desk import Desk
from vimraft.protocol.maps import REGION_BYTES
from vimraft.protocol.reads import Read
from vimraft.protocol.writes import End, Write


class Equalise:
    """`only` None: all in-sync copies, by the rule of acknowledgement, for as long as it takes. `only` a
    copy: that one alone, and `ended("failed")` if it cannot."""

    def __init__(
        self,
        desk: Desk,
        balance: Balance,
        first: int,
        end: int,
        ended: Callable[[End], None],
        only: LocalName | None = None,
    ) -> None:
        self._desk = desk
        self._balance = balance
        self._at = first
        self._last = end
        self._ended = ended
        self._only = only
        self._part: Read | Write | None = None
        self.over = False

    def start(self) -> None:
        if self.over:
            return
        if self._at >= self._last:
            self._finish("done")
        else:
            self._desk.when_free(self._read)

    @property
    def _end(self) -> int:
        return min(self._last, (self._at // REGION_BYTES + 1) * REGION_BYTES)

    def _read(self) -> None:
        if self.over:
            return
        if self._desk.held:
            self._desk.waiting.append(self._read)
            return
        self._part = Read(self._desk, self._balance, self._at, self._end, self._write, rightful=False)
        self._part.send()

    def _write(self, data: bytes | None) -> None:
        if self.over:
            return
        if data is None:
            self._desk.later(self._desk.limits.retry_ns, self.start)
        elif self._desk.held:
            self._desk.waiting.append(self.start)  # whatever it read, it reads again
        else:
            only = None if self._only is None else frozenset({self._only})
            self._part = Write(
                self._desk,
                "write",
                self._at,
                self._end,
                data,
                fua=False,
                ended=self._next,
                only=only,
                impatient=self._only is not None,
            )
            self._part.send()
            if self._part.parked:
                self._part.settle()

    def _next(self, how: End) -> None:
        if how == "failed":
            self._finish("failed")
            return
        self._at = self._end
        self.start()

    def give_up(self) -> None:
        self.over = True
        if self._part is not None and not self._part.over:
            self._part.give_up()

    def _finish(self, how: End) -> None:
        if not self.over:
            self.over = True
            self._ended(how)
