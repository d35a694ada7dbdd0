"""Writes, zeros and trims of clients at the owner: fan-out, the rule of acknowledgement, parking, EIO.

May live here: the life of one such request from its arrival to its end, and what all of them wait for.
Keeps INV-2, INV-3 and INV-4:

- It goes to every in-sync and every syncing copy, in parallel, under the exclusive lock of its range; not to
  a syncing one that gets the whole region later.
- It is acknowledged when all in-sync copies of the newest applied map have it and `Desk.may_acknowledge`.
- Otherwise it is *parked*: nothing of it is under way, so that a drain does not wait for it. If a complete
  copy has it, those that failed are retired in the log first. After every change of the map it is sent
  again, to the copies of the new map: a copy that began to sync meanwhile gets it too.
- What nobody could complete until `io_timeout_ns` ends with EIO; at once, when it failed at the disks of all.
  Its range stays locked until a `Repair` has
  made all copies equal there, in a newer session at its stores.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Literal

from vimraft.core.ids import LocalName, ManagerName
from vimraft.protocol.asks import Answer, Ask, WriteKind
from vimraft.protocol.desk import Desk
from vimraft.protocol.maps import Copy, regions_of

MAX_ATTEMPTS = 3
"""Sends to a store whose connection ended, before its copy counts as failed; when it is silent, or its tables
do not catch up, it does at once."""
End = Literal["done", "failed"]


class Write:
    """One request. `ended(how)` is called once; the range lock of `token` is the caller's."""

    def __init__(
        self,
        desk: Desk,
        kind: WriteKind,
        first: int,
        end: int,
        data: bytes,
        *,
        fua: bool,
        ended: Callable[[End], None],
        acknowledged: Callable[[], None] | None = None,
        only: frozenset[LocalName] | None = None,
        impatient: bool = True,
    ) -> None:
        """`only`: write to these copies and want them alone (a copy of resync). `impatient`: end with
        `failed` when the disks of every in-sync copy have; otherwise go on trying, those too."""
        self._desk = desk
        self.kind: WriteKind = kind
        self.first = first
        self.end = end
        self.data = data
        self.fua = fua
        self._ended = ended
        self._acknowledged = acknowledged
        """Called at most once, before `ended`: syncing copies still owe an answer that nobody waits for."""
        self._only = only
        self._impatient = impatient
        self.over = False
        self.disks_failed = False
        """At every copy in sync; so it ended."""
        self._asked: dict[LocalName, int] = {}
        """Messages without an answer, per copy."""
        self._under_way = 0
        self._ok: set[LocalName] = set()
        self._failed: set[LocalName] = set()
        self._broken: set[LocalName] = set()
        """Of those, whose disk said so. Others cannot be reached, and may be again."""
        self._again: set[LocalName] = set()
        """To be sent again: refused for now, or the connection ended."""
        self._losses: Counter[LocalName] = Counter()
        """How often the connection to a copy ended."""
        self._timer: int | None = None
        self.stores: set[ManagerName] = set()

    @property
    def parked(self) -> bool:
        return self._under_way == 0

    def send(self) -> None:
        """To all copies that the installed map has for it; what earlier sends brought is forgotten."""
        desk = self._desk
        self._ok.clear()
        self._failed.clear()
        self._broken.clear()
        self._again.clear()
        wanted: Iterable[Copy] = desk.map.targets
        if self._only is not None:
            wanted = [copy for copy in wanted if copy.name in self._only]
        elif desk.missing:
            wanted = [copy for copy in wanted if copy.state != "syncing" or not self._comes_later(copy)]
        self._send_to(wanted)

    def _comes_later(self, copy: Copy) -> bool:
        """All of its regions are still to be copied there, whole, when this has ended. Sent now as well, it
        would make them active there, for as long as it takes until their turn comes: there is no room for
        so many."""
        missing = self._desk.missing.get(copy.name)
        return missing is not None and missing.covers(regions_of(self.first, self.end))

    def _send_to(self, wanted: Iterable[Copy]) -> None:
        desk, kind, fua, data = self._desk, self.kind, self.fua, self.data
        first, end = self.first, self.end
        asks: list[Ask] = []
        if desk.stuck:
            wanted, others = desk.helpful(wanted)
            self._failed.update(copy.name for copy in others)
        for copy in wanted:
            name, parts = copy.name, copy.split(first, end)
            self._asked[name] = len(parts)
            if not parts:
                self._ok.add(name)  # it has nothing of this range
            for part in parts:
                some = data if len(parts) == 1 else data[part.first - first : part.end - first]
                self.stores.add(part.store)
                asks.append(Ask(kind, part.store, name, part.first, part.end, self, data=some, fua=fua))
        if asks:
            desk.in_flight += 1
            desk.parked.pop(id(self), None)
            self._under_way = len(asks)
            for ask in asks:
                desk.ask(ask)

    def answered(self, ask: Ask, answer: Answer) -> None:
        name = ask.copy
        left = self._asked[name] = self._asked[name] - 1
        self._under_way -= 1
        if answer.how == "done":
            if left == 0 and name not in self._failed and name not in self._again:
                self._ok.add(name)
        elif answer.how in ("older", "lost", "silent", "full"):
            self._again.add(name)
            if answer.how == "lost":
                self._losses[name] += 1
            elif answer.how == "silent" or self._desk.behind(ask, answer):
                self._losses[name] = MAX_ATTEMPTS
            elif answer.how == "full":
                self._desk.room_wanted = True
        else:
            self._failed.add(name)
            if answer.how == "failed":
                self._broken.add(name)
                if self.fua:
                    self._desk.doubt((name,))
        if self._under_way == 0:
            self._desk.in_flight -= 1
            self.settle()
        elif self._acknowledged is not None and not self.over:
            desk = self._desk
            if desk.needed() <= self._ok and desk.may_acknowledge():
                call, self._acknowledged = self._acknowledged, None
                call()

    def settle(self) -> None:
        """Nothing is under way: end, or find out what to wait for. Called again when that changes."""
        desk = self._desk
        if self.over or self._under_way:
            return
        if self._only is None and not desk.newest.syncing and desk.needed() <= self._ok:
            if desk.may_acknowledge():  # the ordinary end
                self._end("done")
            else:
                desk.parked[id(self)] = self
            return
        desk.parked[id(self)] = self
        if not desk.ours:
            return
        given_up = {name for name in self._again if self._losses[name] >= MAX_ATTEMPTS}
        self._failed |= given_up
        self._again -= given_up
        self._note_syncing()
        wanted = desk.needed() if self._only is None else set(self._only)
        if wanted <= self._ok or (self._ok and not desk.rules.retire_before_ack):
            if self._only is not None or desk.may_acknowledge():
                self._end("done")
            return
        if desk.newest.epoch != desk.map.epoch:
            return  # it is sent again when that map is installed
        if self._only is not None and (desk.room_wanted or not self._again & wanted):
            self._end("failed")  # whoever copies may have another region that needs no room
        elif self._again & wanted:
            self._retry_later()
        elif wanted & self._ok:
            desk.retire(self._failed & wanted)
            self._retry_later()
        elif self._impatient and wanted <= self._broken:
            self.disks_failed = True
            self._end("failed")
        else:
            self._retry_later()

    def _note_syncing(self) -> None:
        """A syncing copy that missed it has that region to get again; nobody waits for it."""
        for copy in self._desk.newest.syncing:
            if copy.name not in self._ok and (self._only is None or copy.name in self._only):
                self._desk.misses(copy.name).add_all(regions_of(self.first, self.end))

    def _retry_later(self) -> None:
        if self._timer is None:
            self._timer = self._desk.later(self._desk.limits.retry_ns, self._retry)

    def _retry(self) -> None:
        self._timer = None
        if self.over or self._under_way or not self._desk.ours:
            return
        again = self._again | self._failed_that_may_recover()
        if again and not self._desk.held:
            self._again.clear()
            self._failed -= again
            self._broken -= again
            copies = [self._desk.map.copy(name) for name in sorted(again)]
            self._send_to([copy for copy in copies if copy is not None])
        if self.parked:
            self.settle()

    def _failed_that_may_recover(self) -> set[LocalName]:
        """Where some copy has it, those that failed are retired instead."""
        if not self._impatient:
            return self._failed
        return set() if self._ok & self._desk.needed() else self._failed - self._broken

    def map_changed(self) -> None:
        """A newer map is installed."""
        if not self.over and self.parked and self._desk.ours:
            self._losses.clear()
            self.send()
            if self.parked:
                self.settle()

    def give_up(self) -> None:
        """Its time is over: what is under way stays so, and its answers find nobody."""
        self._end("failed")

    def _end(self, how: End) -> None:
        if self.over:
            return
        self.over = True
        self._desk.parked.pop(id(self), None)
        if self._timer is not None:
            self._desk.never(self._timer)
        ended, self._ended, self._acknowledged = self._ended, _nothing, None
        ended(how)


def _nothing(_how: End) -> None:
    """What has ended refers to nobody: a cycle would keep its data until the collector comes."""
