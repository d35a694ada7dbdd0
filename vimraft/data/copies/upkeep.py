"""What an owner does beside serving clients: its takeover, the resync of copies, giving the volume away.

May live here: when these begin, how often they are tried again, and what is told about them. The machines
themselves are in `vimraft.protocol`; their events are the owner's, under its lock.
"""

from collections.abc import Iterable
from typing import NamedTuple

from msgspec.structs import replace

from vimraft.core.ids import LocalName, ManagerName
from vimraft.data.copies.owner_side import OwnerSide
from vimraft.data.copies.verifying import Verifying
from vimraft.data.feed import CopiesStatus, CopyStatus, MoveDone
from vimraft.protocol.balance import CopyCounters
from vimraft.protocol.handover import HandOver
from vimraft.protocol.maps import Copy
from vimraft.protocol.owner_effects import Effect
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
        self._move_to = ManagerName("")

    def start(self) -> None:
        self._side.event(self._takeover.start)
        self._later()

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
                    again_s = self._tries[name].pause_ns / 1e9
                    self._side.shell.log(
                        "copies.resync_failed",
                        volume=self._side.volume,
                        copy=name,
                        why=resync.why,
                        again_s=again_s,
                    )
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
        self._move_token, self._move_to, self._hand_over = token, new_owner, hand_over
        self._side.event(hand_over.start)
        self.tell_move()

    def tell_move(self) -> None:
        hand_over = self._hand_over
        if hand_over is None or hand_over.phase not in ("moved", "failed"):
            return
        self._hand_over = None
        self._tell_moved(hand_over.phase == "moved", hand_over.why)

    def ended(self, owner: str) -> None:
        """This life has ended, by tables in which `owner` has the volume ("": it is gone)."""
        if self._hand_over is not None:
            why, self._hand_over = self._hand_over.why, None
            self._tell_moved(owner == self._move_to, why)

    def _tell_moved(self, moved: bool, why: str) -> None:
        message = "" if moved else f"{self._side.volume}: {why}; try again"
        self._side.shell.tell(MoveDone(self._move_token, moved, message))

    # --- figures ------------------------------------------------------------------------------------------

    def status(self) -> CopiesStatus:
        """Without the lock: each figure by itself is right."""
        newest, balance = self._owner.desk.newest, self._owner.balance
        counters = {one.copy: one for one in balance.counters}
        copies = tuple(self._copy_status(copy, counters.get(copy.name)) for copy in newest.copies)
        return CopiesStatus(newest.epoch, self._takeover.phase, copies, balance.switches)

    def _copy_status(self, copy: Copy, counters: CopyCounters | None) -> CopyStatus:
        status = CopyStatus(copy.name, copy.state)
        if counters is not None:
            status = replace(
                status,
                reads_local=counters.local,
                reads_remote=counters.remote,
                reads_copying=counters.copying,
                reads_failed=counters.failed,
                reads_busy=counters.busy,
                in_flight=counters.in_flight,
                latency_us=counters.latency_ns // 1000,
            )
        resync = self._resyncs.get(copy.name)
        if resync is None:
            return status
        p = resync.progress
        return replace(
            status, phase=p.phase, regions=p.regions, left=p.left, copied_bytes=p.copied_bytes, full=p.full
        )
