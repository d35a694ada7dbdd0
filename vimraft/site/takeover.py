"""Claims the volumes of an owner whose lease has run out.

May live here: who claims, and when. The log decides (`TakeOver` compares epoch, owner and stamp); the new
owner's export does the rest when it gets the map. Keeps INV-2: a lease counts from when its stamp was applied
here, on CLOCK_BOOTTIME, and a quarter longer; without a quorum nothing is claimed, since renewals may not
have come here.

Who claims: a manager with an in-sync copy all of its own comes first, then those with parts of one, each by
name. Those whose own lease has run out are passed over; each of the others gives the ones before it
STAGGER_NS to be faster. Two that claim at the same time do no harm: the second one gets Conflict.
"""

import asyncio
from collections.abc import Callable

import structlog

from vimraft.core.change import holders, stamp_of
from vimraft.core.commands import Rejected, TakeOver
from vimraft.core.copies import in_sync, is_copied
from vimraft.core.ids import ManagerName
from vimraft.core.tables import State, Volume
from vimraft.metadata.port import Log, LogError
from vimraft.protocol.lease import OthersLease
from vimraft.protocol.maps import map_of
from vimraft.protocol.takeover import claim
from vimraft.site.lease import boottime_ns
from vimraft.site.worker import Worker

log = structlog.get_logger(__name__)

LOOK_S = 0.25
STAGGER_NS = 500_000_000
MAX_PARALLEL = 32
"""Claims under way at once."""
PROPOSE_MS = 3_000
MS = 1_000_000


class SeenLeases(OthersLease):
    def follow(self, state: State, now_ns: int) -> None:
        self.lasts(state.settings.lease_ms * MS)
        for manager in state.managers:
            self.applied(manager, stamp_of(state, manager), now_ns)
        for manager in [name for name in self._seen if name not in state.managers]:
            self.forget(manager)


def candidates(state: State, volume: Volume) -> list[ManagerName]:
    """Who may claim it, best first."""
    complete: set[ManagerName] = set()
    some: set[ManagerName] = set()
    for replica in in_sync(volume):
        at = holders(state, replica.segments)
        some |= at
        if len(at) == 1:
            complete |= at
    return sorted(some - {volume.owner}, key=lambda name: (name not in complete, name))


class Claimer(Worker):
    """`able`: this manager's export is up and may hold a lease."""

    def __init__(
        self,
        replicated_log: Log,
        me: ManagerName,
        *,
        able: Callable[[], bool],
        clock_ns: Callable[[], int] = boottime_ns,
    ) -> None:
        super().__init__()
        self._log = replicated_log
        self._me = me
        self._able = able
        self._clock_ns = clock_ns
        self._leases = SeenLeases(0)
        self._copied: tuple[object, list[Volume]] = (None, [])

    def look(self, state: State) -> None:
        """The tables have changed."""
        self._leases.follow(state, self._clock_ns())

    def claims(self) -> list[TakeOver]:
        """What to propose now."""
        state, now_ns = self._log.state, self._clock_ns()
        if not self._able() or not self._log.status().has_quorum:
            return []
        found = []
        for volume in self._others_volumes(state):
            if not self._my_turn(state, volume, now_ns):
                continue
            by_copy = map_of(state, volume.name)
            wanted = claim(by_copy, self._me, self._leases, now_ns) if by_copy is not None else None
            if wanted is not None:
                found.append(wanted)
        return found

    def _others_volumes(self, state: State) -> list[Volume]:
        if self._copied[0] is not state.volumes:
            volumes = [v for v in state.volumes.values() if v.owner != self._me and is_copied(v)]
            self._copied = (state.volumes, volumes)
        return self._copied[1]

    def _my_turn(self, state: State, volume: Volume, now_ns: int) -> bool:
        ended_ns = self._leases.ends_ns(volume.owner)
        if ended_ns is None or now_ns < ended_ns:
            return False
        able = [
            name
            for name in candidates(state, volume)
            if name == self._me or not self._leases.ended(name, now_ns)
        ]
        return self._me in able and now_ns >= ended_ns + able.index(self._me) * STAGGER_NS

    async def _run(self) -> None:
        self.look(self._log.state)
        while True:
            await asyncio.sleep(LOOK_S)
            wanted = self.claims()
            for first in range(0, len(wanted), MAX_PARALLEL):
                await asyncio.gather(*(self._propose(one) for one in wanted[first : first + MAX_PARALLEL]))

    async def _propose(self, wanted: TakeOver) -> None:
        try:
            outcome = await self._log.propose(wanted, who=self._me, deadline_ms=PROPOSE_MS)
        except LogError as error:
            log.info("takeover.waits", volume=wanted.volume, cause=type(error).__name__)
            return
        if isinstance(outcome, Rejected):
            log.info("takeover.refused", volume=wanted.volume, reason=type(outcome.reason).__name__)
        else:
            log.warning("takeover.claimed", volume=wanted.volume, owner_before=wanted.owner)
