"""What a manager does for volumes with copies, put together: proposals, rejoin, claims, moves of ownership.

May live here: composition, and routing of what the two processes say. The rules are in the parts.
"""

import asyncio
import time
from collections.abc import Callable
from itertools import count

import structlog

from vimraft.core.ids import ManagerName
from vimraft.core.tables import State
from vimraft.data.feed import (
    Boot,
    Hello,
    MoveDone,
    MoveOwnerTo,
    Proposal,
    VerifyCopies,
    VerifyTold,
)
from vimraft.metadata.port import Log
from vimraft.site.feeder import Feeder, Said
from vimraft.site.proposals import Proposals
from vimraft.site.rejoin import Rejoiner
from vimraft.site.takeover import Claimer

log = structlog.get_logger(__name__)

MAX_MOVES = 64
"""Of ownership, asked for and not answered."""
MAX_VERIFIES = 64
"""Comparisons of copies, likewise."""


class CopiesPart:
    """`able`: the export is up, and may own."""

    def __init__(
        self, replicated_log: Log, me: ManagerName, export: Feeder, *, able: Callable[[], bool]
    ) -> None:
        self._export = export
        self._proposals = Proposals(replicated_log, me, export)
        self._rejoiner = Rejoiner(replicated_log, me)
        self._claimer = Claimer(replicated_log, me, able=lambda: able() and self._rejoiner.ready())
        self._moves: dict[int, asyncio.Future[MoveDone]] = {}
        self._verifies: dict[str, list[asyncio.Future[VerifyTold]]] = {}
        self._tokens = count(time.time_ns())
        """Not used before, by no manager process whose answer may still come."""

    def start(self) -> None:
        self._rejoiner.start()
        self._claimer.start()

    async def stop(self) -> None:
        await self._claimer.stop()
        await self._rejoiner.stop()
        await self._proposals.stop()

    def tables_changed(self, state: State) -> None:
        self._claimer.look(state)
        self._rejoiner.look()

    def may_own(self) -> bool:
        """As far as the stores here are concerned, a lease may be granted."""
        return self._rejoiner.ready()

    def said(self, hello: Hello, message: Said) -> None:
        match message:
            case Proposal():
                self._proposals.take(hello.instance, message)
            case Boot():
                self._rejoiner.take(message)
            case VerifyTold():
                for asked in self._verifies.pop(message.id, ()):
                    if not asked.done():
                        asked.set_result(message)
            case MoveDone():
                waiting = self._moves.pop(message.token, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)

    async def move_owner(self, volume: str, new_owner: str, timeout_s: float) -> MoveDone:
        """Asks the export, which owns the volume. Raises TimeoutError: it may still happen."""
        if len(self._moves) >= MAX_MOVES:
            return MoveDone(0, False, f"{MAX_MOVES} other moves are under way; try again later")
        token = next(self._tokens)
        answer: asyncio.Future[MoveDone] = asyncio.get_running_loop().create_future()
        self._moves[token] = answer
        self._export.ask(MoveOwnerTo(token, volume, new_owner))
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        finally:
            self._moves.pop(token, None)

    async def verify(self, wanted: VerifyCopies, timeout_s: float) -> VerifyTold:
        """Asks the export, which owns the volume, or says that it does not. Raises TimeoutError."""
        if len(self._verifies) >= MAX_VERIFIES:
            return VerifyTold(wanted.id, "busy", wanted.tally, f"{MAX_VERIFIES} others are under way")
        answer: asyncio.Future[VerifyTold] = asyncio.get_running_loop().create_future()
        self._verifies.setdefault(wanted.id, []).append(answer)
        self._export.ask(wanted)
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        finally:
            self._forget(wanted.id, answer)

    def _forget(self, verify_id: str, answer: "asyncio.Future[VerifyTold]") -> None:
        waiting = self._verifies.get(verify_id, [])
        if answer in waiting:
            waiting.remove(answer)
        if not waiting:
            self._verifies.pop(verify_id, None)
