"""What a client of the log may rely on: deadlines, request ids, retries, and three outcomes.

May live here: everything between `propose` and the node's queue, on the asyncio side; nothing of it is
anywhere else. A proposal is sent again, under the same (client, sequence), until its deadline; apply
answers a repeated one with the first outcome, so asking again is how an unknown one is resolved.
- Applied or Rejected: the tables' word, committed and applied here.
- Unavailable: certainly not in the log, by *any* attempt.
- UnknownOutcome: one attempt at least may be in the log (INV-1, INV-8). Ask again with the same id.

What waits is bounded: lanes (one command each under way), and a queue before them.
"""

import asyncio
import functools
from collections import deque
from collections.abc import Callable
from typing import Final

import structlog
from pysyncobj import FAIL_REASON

from vimraft.core.ids import ClientId
from vimraft.metadata.port import Unavailable, UnknownOutcome
from vimraft.metadata.requests import PROPOSAL_LANES, Lanes

log = structlog.get_logger(__name__)

MAX_PENDING_PROPOSALS: Final = 2_048
RETRY_PAUSE_S: Final = 0.02
FIRST_ATTEMPT_S: Final = 1.0
MAX_ATTEMPT_S: Final = 8.0
"""Without an answer an attempt is repeated, each time after twice as long: a slow cluster is not fed
duplicates, and a lost answer costs a second."""
SWEEP_S: Final = 0.02
"""How late a deadline may be noticed."""
CLOSED: Final = -1
NO_ANSWER: Final = -2

NOT_DONE: Final = {
    FAIL_REASON.QUEUE_FULL: "the command queue is full",
    FAIL_REASON.MISSING_LEADER: "no leader",
    FAIL_REASON.NOT_LEADER: "the leader has just changed",
    FAIL_REASON.REQUEST_DENIED: "the leader does not accept it now",
    FAIL_REASON.DISCARDED: "a new leader replaced it",
}
"""Certainly not in the log. Every other failure leaves it open."""

Result = tuple[bytes | None, int]
"""(outcome bytes, FAIL_REASON, CLOSED or NO_ANSWER)"""
_YOUR_TURN: Final[Result] = (None, FAIL_REASON.SUCCESS)
Callback = Callable[[bytes | None, int], None]
Submit = Callable[[Callback], None]


class Answers:
    """From the node's thread to the loop's: one wake-up for all answers of a round, and for the subscribers
    to the tables."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tell_subscribers: Callable[[], None]) -> None:
        self._loop = loop
        self._tell_subscribers = tell_subscribers
        self._changed = False
        self._queue: deque[tuple[asyncio.Future[Result], bytes | None, int]] = deque()
        self._scheduled = False

    def put(self, future: "asyncio.Future[Result]", result: bytes | None, code: int) -> None:
        """The node's thread; it will `flush`."""
        self._queue.append((future, result, code))

    def changed(self) -> None:
        """The tables have been replaced. The node's thread; it will `flush`."""
        self._changed = True

    def flush(self) -> None:
        """The node's thread. Never raises."""
        if self._scheduled or not (self._queue or self._changed):
            return
        self._scheduled = True
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:
            log.debug("raft.answers_after_close")

    def _deliver(self) -> None:
        self._scheduled = False  # before anything is looked at: what comes later schedules again
        if self._changed:
            self._changed = False
            self._tell_subscribers()
        queue = self._queue
        while queue:
            future, result, code = queue.popleft()
            _settle(future, (result, code))


class Proposals:
    def __init__(
        self,
        name: str,
        loop: asyncio.AbstractEventLoop,
        leader_known: Callable[[], bool],
        tell_subscribers: Callable[[], None],
    ) -> None:
        """`name`: this node's, for client ids and messages."""
        self._name = name
        self._loop = loop
        self._leader_known = leader_known
        self.answers = Answers(loop, tell_subscribers)
        self._lanes = Lanes(name)
        self._waiting: deque[asyncio.Future[Result]] = deque()
        """For a lane, in the order in which they came; each is settled by whoever gives one back."""
        self._promised = 0
        """Free lanes that belong to those whose turn has come, but who have not run yet."""
        self._pending: dict[asyncio.Future[Result], float] = {}
        """Under way → until when (the loop's time)."""
        self._sweeping = False
        self._closed = False

    def free_lane(self) -> tuple[int, ClientId, int] | None:
        """As `lane` gives it, if nobody has to wait."""
        return self._lanes.take() if self._lanes.free > self._promised else None

    async def lane(self, deadline: float) -> tuple[int, ClientId, int]:
        """(lane, client, sequence) for one command; give the lane back. Raises Unavailable."""
        if self._lanes.free <= self._promised:
            await self._turn(deadline)
        return self._lanes.take()

    async def _turn(self, deadline: float) -> None:
        waiting = self._waiting
        if len(waiting) >= MAX_PENDING_PROPOSALS:
            raise Unavailable(f"{len(waiting)} proposals are waiting already")
        turn = self._expect(deadline)
        waiting.append(turn)
        try:
            _, code = await turn
        except asyncio.CancelledError:
            if turn.cancelled() or turn.result() != _YOUR_TURN:
                waiting.remove(turn)
            else:
                self._promised -= 1  # it was ours already: the next one has it
                self._next_turn()
            raise
        finally:
            del self._pending[turn]
        if code == _YOUR_TURN[1]:
            self._promised -= 1
            return
        waiting.remove(turn)
        closed = "this log is closed" if code == CLOSED else f"{PROPOSAL_LANES} earlier ones are not finished"
        raise Unavailable(f"{self._name}: {closed}")

    def give_lane(self, lane: int) -> None:
        self._lanes.give(lane)
        self._next_turn()

    def _next_turn(self) -> None:
        for _ in range(len(self._waiting)):
            turn = self._waiting[0]
            if not turn.done():
                self._waiting.popleft()
                self._promised += 1
                turn.set_result(_YOUR_TURN)
                return
            self._waiting.rotate(-1)  # its own task takes it out

    async def until(self, deadline: float, submit: Submit) -> bytes | None:
        """Attempts until one succeeds. Raises Unavailable or UnknownOutcome at the deadline."""
        in_doubt = False
        why = "no answer"
        attempt_s = FIRST_ATTEMPT_S
        while True:
            if self._closed:
                why = "this log is closed"
            elif (now := self._loop.time()) < deadline:
                if not self._leader_known():
                    result, code = None, FAIL_REASON.MISSING_LEADER  # known without asking: not done
                else:
                    result, code = await self.attempt(submit, min(deadline, now + attempt_s))
                if code == FAIL_REASON.SUCCESS:
                    return result
                if code in NOT_DONE:
                    why = NOT_DONE[code]
                else:
                    in_doubt = True
                    if code == NO_ANSWER:
                        attempt_s = min(2 * attempt_s, MAX_ATTEMPT_S)
                await asyncio.sleep(min(RETRY_PAUSE_S, max(0.0, deadline - self._loop.time())))
                continue
            if in_doubt:
                raise UnknownOutcome(f"{self._name}: {why} before the deadline")
            raise Unavailable(f"{self._name}: {why}")

    @property
    def alone(self) -> bool:
        """One at most is under way."""
        return len(self._pending) <= 1

    async def attempt(self, submit: Submit, until: float) -> Result:
        """One; its result, or (None, NO_ANSWER) at `until` (the loop's time)."""
        future = self._expect(until)
        try:
            submit(functools.partial(self.answers.put, future))
            return await future
        finally:
            del self._pending[future]

    def _expect(self, until: float) -> "asyncio.Future[Result]":
        """A result to come; (None, NO_ANSWER) at `until`, within SWEEP_S. Who waits for it takes it out of
        `_pending`."""
        future: asyncio.Future[Result] = self._loop.create_future()
        self._pending[future] = until
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(SWEEP_S, self._sweep)
        return future

    def _sweep(self) -> None:
        # One timer for all: one for each would cost more than the rest of a proposal.
        now = self._loop.time()
        for future, until in self._pending.items():
            if until <= now:
                _settle(future, (None, NO_ANSWER))
        if self._pending:
            self._loop.call_later(SWEEP_S, self._sweep)
        else:
            self._sweeping = False

    def close(self) -> None:
        """All under way end, in doubt."""
        self._closed = True
        for future in list(self._pending):
            _settle(future, (None, CLOSED))


def _settle(future: "asyncio.Future[Result]", result: Result) -> None:
    if not future.done():
        future.set_result(result)
