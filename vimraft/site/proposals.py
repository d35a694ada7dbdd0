"""What a data-plane process proposes: into the log, again and again until it is decided, then the decision.

May live here: the tasks that ask. Keeps INV-8: one request id for one proposal, made of the life of the
process and its token, however often and by whichever manager process it is asked for. The decision goes out
after the tables that it brought (`Feeder.decided`). A proposal whose process has ended is not asked for any
more; what it proposed may still be applied, and its successor reads that in the tables.
"""

import asyncio
import hashlib

import structlog

from vimraft.core.commands import Applied
from vimraft.core.ids import ManagerName
from vimraft.data.feed import Decided, Proposal
from vimraft.metadata.port import Log, LogError
from vimraft.metadata.requests import MAX_REQUEST_ID_CHARS
from vimraft.site.feeder import Feeder

log = structlog.get_logger(__name__)

MAX_OPEN = 1_024
"""Undecided at a time. One more is refused: it was never proposed, so that this is certain."""
MAX_DECIDED = 4_096
"""Decisions remembered for a process that asks again after its connection ended."""
PROPOSE_MS = 5_000
RETRY_S = 0.2


def request_id(instance: str, token: int) -> str:
    """Printable, bounded, and another one for each (instance, token)."""
    plain = f"plane/{instance}/{token}"
    if len(plain) <= MAX_REQUEST_ID_CHARS and plain.isprintable():
        return plain
    return f"plane/{hashlib.sha256(plain.encode()).hexdigest()[:48]}"


class Proposals:
    """`feeder`: of the process that proposes (the export)."""

    def __init__(self, replicated_log: Log, me: ManagerName, feeder: Feeder) -> None:
        self._log = replicated_log
        self._me = me
        self._feeder = feeder
        self._instance = ""
        self._open: dict[int, asyncio.Task[None]] = {}
        self._decided: dict[int, tuple[Decided, int]] = {}

    def take(self, instance: str, proposal: Proposal) -> None:
        if instance != self._instance:
            self._forget(instance)
        token = proposal.token
        if token in self._decided:
            self._feeder.decided(*self._decided[token])
        elif token in self._open:
            pass  # its connection ended meanwhile; the answer goes to the present one
        elif len(self._open) >= MAX_OPEN:
            log.error("proposal.refused", token=token, cause=f"{MAX_OPEN} are undecided")
            self._feeder.decided(Decided(token, False, "TooMany"), self._log.state.index)
        else:
            self._open[token] = asyncio.create_task(self._ask(instance, proposal))

    async def stop(self) -> None:
        tasks = list(self._open.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._open.clear()

    def _forget(self, instance: str) -> None:
        self._instance = instance
        for task in self._open.values():
            task.cancel()
        self._open.clear()
        self._decided.clear()

    async def _ask(self, instance: str, proposal: Proposal) -> None:
        token, command = proposal.token, proposal.command
        what, volume = type(command).__name__, command.volume
        while True:
            try:
                outcome = await self._log.propose(
                    command,
                    who=self._me,
                    deadline_ms=PROPOSE_MS,
                    request_id=request_id(instance, token),
                )
                break
            except LogError as error:
                log.info("proposal.waits", what=what, volume=volume, cause=type(error).__name__)
            await asyncio.sleep(RETRY_S)
        applied = isinstance(outcome, Applied)
        reason = "" if isinstance(outcome, Applied) else type(outcome.reason).__name__
        log.info("proposal.decided", what=what, volume=volume, applied=applied, reason=reason)
        if instance != self._instance:
            return
        self._open.pop(token, None)
        self._decided[token] = (Decided(token, applied, reason), outcome.index)
        while len(self._decided) > MAX_DECIDED:
            del self._decided[next(iter(self._decided))]
        self._feeder.decided(*self._decided[token])
