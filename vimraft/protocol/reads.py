"""Reads at the owner: of one in-sync copy, tried again at another one on error.

May live here: the life of one read from when it is sent. Keeps INV-4 and INV-5: it is sent only while the
owner may serve reads, checked after it arrived, and answered only while it still may: a message may lie about
for long before a store that knows nothing newer reads for it. It goes to in-sync copies of the installed map,
under the shared lock.

A read that spans stores is followed piece by piece: a piece that failed is read from another copy, which may
have it at other stores.
"""

from collections.abc import Callable

from vimraft.core.ids import LocalName
from vimraft.protocol.asks import Answer, Ask
from vimraft.protocol.balance import Balance
from vimraft.protocol.desk import Desk

MAX_READ_ATTEMPTS = 3
"""Rounds through all copies before an error goes to the client; between two of them time passes."""


class Read:
    def __init__(
        self,
        desk: Desk,
        balance: Balance,
        first: int,
        end: int,
        ended: Callable[[bytes | None], None],
        *,
        rightful: bool = True,
    ) -> None:
        """`ended(data)`, or None when no copy could be read. `rightful`: only while the owner may serve
        reads; copying between copies needs no such right, because nobody is told."""
        self._desk = desk
        self._balance = balance
        self.first = first
        self.end = end
        self._ended = ended
        self._rightful = rightful
        self._found: list[tuple[int, bytes]] = []
        self._tried: dict[tuple[int, int], set[LocalName]] = {}
        self._wait: list[tuple[int, int]] = [(first, end)]
        """Pieces to be asked for."""
        self._under_way = 0
        self._rounds = 0
        self._timer: int | None = None
        self.over = False

    def send(self) -> None:
        """Ask for every piece that is waiting; or wait for the right, or for the end of a hold."""
        desk = self._desk
        if self.over or not self._wait:
            return
        if desk.held or (self._rightful and not desk.may_read()):
            desk.parked[id(self)] = self
            return
        desk.parked.pop(id(self), None)
        wait, self._wait = self._wait, []
        if self._under_way == 0:
            desk.in_flight += 1
        asks = [ask for first, end in wait for ask in self._asks(first, end)]
        self._under_way += len(asks)
        for ask in asks:
            self._balance.began(ask.copy, ask.store, copying=not self._rightful)
            ask.sent_ns = desk.now_ns
            desk.ask(ask)

    def _asks(self, first: int, end: int) -> list[Ask]:
        tried = self._tried.get((first, end), set())
        copies = self._desk.map.in_sync
        left = [copy for copy in copies if copy.name not in tried] or list(copies)
        copy = self._balance.choose(left, self._desk.now_ns)
        asks: list[Ask] = []
        for part in copy.split(first, end):
            must = len(left) == 1
            asks.append(Ask("read", part.store, copy.name, part.first, part.end, self, must=must))
            self._tried[(part.first, part.end)] = tried | {copy.name}
        return asks

    def answered(self, ask: Ask, answer: Answer) -> None:
        desk = self._desk
        self._under_way -= 1
        took_ns = desk.now_ns - ask.sent_ns
        self._balance.ended(ask.copy, answer.how, took_ns, desk.now_ns, copying=not self._rightful)
        piece = (ask.first, ask.end)
        exhausted = False
        if answer.how == "done":
            self._found.append((ask.first, answer.data))
        else:
            self._wait.append(piece)
            if answer.how == "older":
                self._tried.pop(piece, None)
            exhausted = {copy.name for copy in desk.map.in_sync} <= self._tried.get(piece, set())
        if self._under_way == 0:
            desk.in_flight -= 1
        if self.over:
            return
        if self._under_way == 0 and not self._wait:
            self._end()
        elif answer.how == "older" or exhausted:
            self._wait_a_while(exhausted)
        else:
            self.send()

    def _end(self) -> None:
        if self._rightful and not self._desk.may_read():
            self._found.clear()
            self._wait = [(self.first, self.end)]
            self.send()
            return
        self._found.sort()
        data = self._found[0][1] if len(self._found) == 1 else b"".join(part for _, part in self._found)
        self._over(data)

    def _wait_a_while(self, exhausted: bool) -> None:
        if self._timer is not None:
            return
        self._rounds += exhausted
        if self._rounds >= MAX_READ_ATTEMPTS:
            self._over(None)
        else:
            self._timer = self._desk.later(self._desk.limits.retry_ns, self._retry)
            self._desk.parked[id(self)] = self

    def _retry(self) -> None:
        self._timer = None
        for piece in self._wait:
            self._tried.pop(piece, None)
        self.send()

    def settle(self) -> None:
        """The right to read, or the end of a hold, may have come."""
        if self._timer is None:
            self.send()

    def map_changed(self) -> None:
        self._tried.clear()
        self.send()

    def give_up(self) -> None:
        self._over(None)

    def _over(self, data: bytes | None) -> None:
        if self.over:
            return
        self.over = True
        self._desk.parked.pop(id(self), None)
        if self._timer is not None:
            self._desk.never(self._timer)
        self._ended(data)
