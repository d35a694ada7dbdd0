"""What an owner does beside serving clients: its takeover, the resync of copies, giving the volume away.

May live here: when these begin, how often they are tried again, and what is told about them. The machines
themselves are in `vimraft.protocol`; their events are the owner's, under its lock.
"""

from collections.abc import Iterable
from typing import NamedTuple

from vimraft.core.ids import LocalName, ManagerName
from vimraft.data.copies.owner_side import OwnerSide
from vimraft.data.copies.verifying import Verifying
from vimraft.data.feed import CopiesStatus, CopyStatus, MoveDone
from vimraft.protocol.handover import HandOver
from vimraft.protocol.maps import Copy
from vimraft.protocol.owner_effects import Effect, Installed
from vimraft.protocol.resync import Resync
from vimraft.protocol.takeover import TakeOver

TICK_S = 0.25
RETRY_FIRST_NS = 1_000_000_000
RETRY_LAST_NS = 30_000_000_000
"""Between two tries to bring a copy back."""


class _Try(NamedTuple):
    not_before_ns: int
    pause_ns: int


class Upkeep:
    def __init__(self, side: OwnerSide, cachers: Iterable[ManagerName]) -> None:
        self._side = side
        self._owner = side.owner
        self._takeover = TakeOver(side.owner, cachers)
        self._resyncs: dict[LocalName, Resync] = {}
        self._tries: dict[LocalName, _Try] = {}
        self._hand_over: HandOver | None = None
        self.verifying = Verifying(side)
        self._move_token = -1
        self._hold_ns = 0
        self._longest_hold_ns = 0

    def start(self) -> None:
        self._side.event(self._takeover.start)
        self._later()

    def installed(self, effect: Installed) -> None:
        self._hold_ns = effect.hold_ns
        self._longest_hold_ns = max(self._longest_hold_ns, effect.hold_ns)

    # --- resync -------------------------------------------------------------------------------------------

    def _later(self) -> None:
        if not self._side.closed:
            self._side.shell.timers.after(TICK_S, self._tick)

    def _tick(self) -> None:
        self._side.event(self._look)
        self.tell_move()
        self.verifying.look()
        self._later()

    def _look(self, now_ns: int) -> list[Effect]:
        effects: list[Effect] = []
        if not self._owner.serving or not self._owner.desk.ours:
            return effects
        copies = {copy.name: copy for copy in self._owner.desk.newest.copies}
        for name in [name for name in self._tries if name not in copies or copies[name].state == "in_sync"]:
            del self._tries[name]
        for name, resync in tuple(self._resyncs.items()):
            if resync.phase in ("over", "failed"):
                del self._resyncs[name]
                if resync.phase == "failed":
                    self._try_later(name, now_ns)
        for copy in copies.values():
            if self._wanted(copy, now_ns):
                resync = self._resyncs[copy.name] = Resync(self._owner, copy.name)
                effects += resync.start(now_ns)
        return effects

    def _wanted(self, copy: Copy, now_ns: int) -> bool:
        if copy.state not in ("stale", "syncing") or copy.paused or copy.name in self._resyncs:
            return False
        known = self._tries.get(copy.name)
        return known is None or now_ns >= known.not_before_ns

    def _try_later(self, name: LocalName, now_ns: int) -> None:
        known = self._tries.get(name)
        pause_ns = min(known.pause_ns * 2, RETRY_LAST_NS) if known else RETRY_FIRST_NS
        self._tries[name] = _Try(now_ns + pause_ns, pause_ns)

    # --- giving the volume away ---------------------------------------------------------------------------

    def move(self, token: int, new_owner: ManagerName) -> None:
        tell, name = self._side.shell.tell, self._side.volume
        if self._hand_over is not None:
            tell(MoveDone(token, False, f"{name}: another move is under way"))
            return
        if not self._owner.serving:
            tell(MoveDone(token, False, f"{name}: its owner does not serve yet"))
            return
        hand_over = HandOver(self._owner, new_owner)
        self._move_token, self._hand_over = token, hand_over
        self._side.event(hand_over.start)
        self.tell_move()

    def tell_move(self) -> None:
        hand_over = self._hand_over
        if hand_over is None or hand_over.phase not in ("moved", "failed"):
            return
        self._hand_over = None
        moved = hand_over.phase == "moved"
        message = "" if moved else f"{self._side.volume}: the tables changed meanwhile; try again"
        self._side.shell.tell(MoveDone(self._move_token, moved, message))

    # --- figures ------------------------------------------------------------------------------------------

    def status(self) -> CopiesStatus:
        """Without the lock: each figure by itself is right."""
        newest = self._owner.desk.newest
        reads = {counters.copy: counters.reads for counters in self._owner.counters}
        copies = tuple(self._copy_status(copy, reads.get(copy.name, 0)) for copy in newest.copies)
        hold_us, longest_us = self._hold_ns // 1000, self._longest_hold_ns // 1000
        return CopiesStatus(newest.epoch, self._takeover.phase, copies, hold_us, longest_us)

    def _copy_status(self, copy: Copy, reads: int) -> CopyStatus:
        resync = self._resyncs.get(copy.name)
        if resync is None:
            return CopyStatus(copy.name, copy.state, reads=reads)
        p = resync.progress
        return CopyStatus(copy.name, copy.state, p.phase, p.regions, p.left, p.copied_bytes, p.full, reads)
