"""Reads at the owner: of one in-sync copy, tried again at another one on error.

May live here: the life of one read from when it is sent. Keeps INV-4 and INV-5: it is sent only while the
owner may serve reads, checked after it arrived, and answered only while it still may: a message may lie about
for long before a store that knows nothing newer reads for it. It goes to in-sync copies of the installed map,
under the shared lock.

A read that spans stores is followed piece by piece: a piece that failed is read from another copy, which may
have it at other stores.
"""

from collections.abc import Callable, Sequence

from vimraft.core.ids import LocalName
from vimraft.protocol.asks import Answer, Ask
from vimraft.protocol.balance import Balance
from vimraft.protocol.desk import Desk
from vimraft.protocol.maps import Copy

MAX_READ_ATTEMPTS = 3
"""Rounds through all copies, whose disks all say so, before an error goes to the client; between two of them
time passes. Copies that cannot be reached are waited for until the client's time is over."""
_NONE: frozenset[LocalName] = frozenset()


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
        self._tried: dict[tuple[int, int], frozenset[LocalName]] = {}
        self._busy: dict[tuple[int, int], frozenset[LocalName]] = {}
        """Of those: copies that said "use the other copy", and have to do it when no other one could."""
        self._broken: dict[tuple[int, int], frozenset[LocalName]] = {}
        """Of those that were tried: whose disk failed."""
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
        tried = self._tried.get((first, end), _NONE)
        left: Sequence[Copy] = self._desk.map.in_sync
        must = len(left) == 1
        if tried:
            untried = [copy for copy in left if copy.name not in tried]
            if not untried:
                busy = self._busy.pop((first, end), _NONE)
                untried = [copy for copy in left if copy.name in busy]
                must = must or bool(untried)
            left = untried or left
            must = must or len(untried) == 1
        copy = self._balance.choose(left, self._desk.now_ns)
        asks: list[Ask] = []
        for part in copy.split(first, end):
            asks.append(Ask("read", part.store, copy.name, part.first, part.end, self, must=must))
            self._tried[(part.first, part.end)] = tried | {copy.name}
        return asks

    def answered(self, ask: Ask, answer: Answer) -> None:
        desk = self._desk
        self._under_way -= 1
        took_ns = desk.now_ns - ask.sent_ns
        how = "silent" if desk.behind(ask, answer) else answer.how
        self._balance.ended(ask.copy, how, took_ns, desk.now_ns, copying=not self._rightful)
        exhausted = False
        if how == "done":
            self._found.append((ask.first, answer.data))
        else:
            piece = (ask.first, ask.end)
            self._wait.append(piece)
            if how == "older":
                self._tried.pop(piece, None)
            elif how == "busy" and not ask.must:
                self._busy[piece] = self._busy.get(piece, _NONE) | {ask.copy}
            elif how == "failed" or not self._rightful:
                self._broken[piece] = self._broken.get(piece, _NONE) | {ask.copy}
            names = desk.map.in_sync_names
            exhausted = names <= self._tried.get(piece, _NONE) and names.isdisjoint(
                self._busy.get(piece, _NONE)
            )
        if self._under_way == 0:
            desk.in_flight -= 1
        if self.over:
            return
        if self._under_way == 0 and not self._wait:
            self._end()
        elif how == "older" or exhausted:
            self._wait_a_while(exhausted and names <= self._broken.get(piece, _NONE))
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
            self._broken.pop(piece, None)
        self.send()

    def settle(self) -> None:
        """The right to read, or the end of a hold, may have come."""
        if self._timer is None:
            self.send()

    def map_changed(self) -> None:
        self._tried.clear()
        self._broken.clear()
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
        ended, self._ended = self._ended, _nothing
        ended(data)


def _nothing(_data: bytes | None) -> None:
    """What has ended refers to nobody: a cycle would keep its data until the collector comes."""
