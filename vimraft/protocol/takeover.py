"""What a new owner does before it serves: seal, retire, equalise, flush, wait for who may use an older map.

May live here: that sequence. Keeps INV-2, INV-3 and INV-5:

- A copy counts only when *all* its stores have sealed: nothing older runs in its backends or will be let in.
- One complete copy in sync has sealed: the others that have not are retired; after a grace, if a manager that
  may be there still is to seal them. None has: wait.
- The union of all active regions is made equal from one sealed copy to the others, then flushed. Where only
  one copy is in sync there is nothing to make equal.
- Clients, reads too, wait until every manager that may serve by an older map has installed the new one, or
  its lease has run out.

A restart of an owner is a takeover from itself (a new epoch), and goes the same way.
"""

from collections.abc import Iterable
from functools import partial
from typing import Literal

from vimraft.core import commands
from vimraft.core.ids import LocalName, ManagerName
from vimraft.protocol.asks import Answer, Ask
from vimraft.protocol.copying import Equalise
from vimraft.protocol.lease import OthersLease
from vimraft.protocol.maps import REGION_BYTES, Copy, VolumeMap
from vimraft.protocol.owner import Owner
from vimraft.protocol.owner_effects import Effect, Serving
from vimraft.protocol.writes import End

MAX_PARALLEL = 8
"""Regions being equalised at once."""
Phase = Literal["sealing", "equalising", "flushing", "waiting", "over"]
_NO_COPY = LocalName("")


def claim(newest: VolumeMap, me: ManagerName, others: OthersLease, now_ns: int) -> commands.TakeOver | None:
    """What to propose when the owner's lease has run out; None: not now. The log decides: it compares the
    epoch, the owner and the stamp that was seen to run out."""
    if newest.owner == me or newest.sole() or not others.ended(newest.owner, now_ns):
        return None
    stamp = others.stamp(newest.owner)
    return commands.TakeOver(newest.volume, newest.epoch, newest.owner, stamp, me)


class TakeOver:
    """Drives an `Owner` that does not serve yet; its events are the owner's."""

    def __init__(self, owner: Owner, cachers: Iterable[ManagerName]) -> None:
        """`cachers`: all managers that may serve reads of the volume by an older map."""
        self._owner = owner
        self._desk = owner.desk
        self._cachers = tuple(cachers)
        self.phase: Phase = "sealing"
        self.sealed: dict[ManagerName, Answer] = {}
        self._asked: set[ManagerName] = set()
        self._first_ns: int | None = None
        """When one complete copy had sealed."""
        self._regions: list[int] = []
        self._running = 0

    def start(self, now_ns: int) -> list[Effect]:
        owner, desk = self._owner, self._desk
        owner.begin(now_ns)
        desk.close_gate(self._cachers, desk.map.index)
        owner.looks(self._look)
        if desk.rules.seal_before_serving:
            self._seal()
        else:
            self._serve()
        return owner.end()

    # --- sealing --------------------------------------------------------------------------------------

    def _seal(self) -> None:
        desk = self._desk
        if self.phase != "sealing" or not desk.ours:
            return
        stores = dict.fromkeys(store for copy in desk.newest.targets for store in copy.stores)
        for store in stores:
            if store not in self.sealed and store not in self._asked:
                self._asked.add(store)
                desk.ask(Ask("seal", store, _NO_COPY, 0, desk.map.size_bytes, self))

    def answered(self, ask: Ask, answer: Answer) -> None:
        self._asked.discard(ask.store)
        if answer.how == "done":
            self.sealed[ask.store] = answer
        else:
            self._desk.later(self._desk.limits.retry_ns, self._seal)

    def _complete(self) -> list[Copy]:
        enough = all if self._desk.rules.retire_needs_complete_replica else any
        return [c for c in self._desk.newest.in_sync if enough(store in self.sealed for store in c.stores)]

    def _look(self) -> None:
        desk = self._desk
        if not desk.ours:
            self.phase = "over"
            self._owner.looks_no_more(self._look)
        elif self.phase == "sealing":
            self._look_at_seals()
        elif self.phase == "waiting" and desk.gate_open():
            self._serve()

    def _look_at_seals(self) -> None:
        desk = self._desk
        complete = self._complete()
        if not complete:
            return
        if len(complete) == len(desk.newest.in_sync):
            if desk.map is desk.newest:
                self._begin_equalising(complete)
            return
        if self._first_ns is None:
            self._first_ns = desk.now_ns
            desk.later(desk.limits.seal_grace_ns, self._look)
        if not self._may_seal_yet() or desk.now_ns - self._first_ns >= desk.limits.seal_grace_ns:
            known = {copy.name for copy in complete}
            desk.record = desk.record or self._record(complete)
            desk.retire(copy.name for copy in desk.newest.in_sync if copy.name not in known)

    def _may_seal_yet(self) -> bool:
        """Some manager whose seal is missing has been heard of lately: its lease runs."""
        desk = self._desk
        missing = {store for copy in desk.newest.in_sync for store in copy.stores} - self.sealed.keys()
        return any(store == desk.me or not desk.leases.others.ended(store, desk.now_ns) for store in missing)

    def _record(self, complete: list[Copy]) -> str:
        """The id that all stores of all complete copies agree on; otherwise a new one (ids of records are
        made of the volume's epochs, which are never used twice), and who is away needs a full copy."""
        ids = {self.sealed[store].record for store in self._sources(complete)}
        return ids.pop() if len(ids) == 1 and "" not in ids else f"{self._desk.newest.epoch}"

    def _sources(self, complete: list[Copy]) -> set[ManagerName]:
        return {store for copy in complete for store in copy.stores if store in self.sealed}

    # --- equalising -----------------------------------------------------------------------------------

    def _begin_equalising(self, complete: list[Copy]) -> None:
        desk = self._desk
        self.phase = "equalising"
        desk.record = desk.record or self._record(complete)
        stores = self._sources(complete)
        active = {region for store in stores for region in self.sealed[store].regions}
        self._regions = sorted(active, reverse=True)
        desk.tracker.begin(sorted(active), desk.now_ns)  # until they are equal, nobody may clear them
        for store in sorted(stores):
            if self.sealed[store].record != desk.record:
                desk.ask(Ask("hand_over", store, _NO_COPY, 0, 0, _Ignored(), record=desk.record))
        if len(complete) == 1 or not desk.rules.equalise_at_takeover:
            desk.tracker.end(self._regions)
            self._regions.clear()
        self._next()

    def _next(self) -> None:
        desk = self._desk
        while self._regions and self._running < MAX_PARALLEL and desk.ours:
            region = self._regions.pop()
            first = region * REGION_BYTES
            end = min(first + REGION_BYTES, desk.map.size_bytes)
            self._running += 1
            ended = partial(self._equalised, region)
            Equalise(desk, self._owner.balance, first, end, ended).start()
        if not self._running and not self._regions and self.phase == "equalising":
            self.phase = "flushing"
            self._owner.flushing.flush(self._flushed)

    def _equalised(self, region: int, _how: End) -> None:
        self._desk.tracker.end((region,))
        self._running -= 1
        self._next()

    def _flushed(self, _how: End) -> None:
        self.phase = "waiting"
        if self._desk.gate_open():
            self._serve()

    def _serve(self) -> None:
        self.phase = "over"
        self._owner.looks_no_more(self._look)
        self._desk.effects.append(Serving(self._desk.newest.epoch))
        self._owner.serve()


class _Ignored:
    """For what is asked again by whoever needs it: another record id costs a full copy, no more."""

    def answered(self, ask: Ask, answer: Answer) -> None:
        pass
