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
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
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
Callback = Callable[[bytes | None, int], None]
Submit = Callable[[Callback], None]


class Answers:
    """From the node's thread to the loop's: one wake-up for all answers of a round, and for the subscribers
    to the tables."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tell_subscribers: Callable[[], None]) -> None:
        self._loop = loop
        self._tell_subscribers = tell_subscribers
        self._changed = False
        self._queue: deque[tuple[asyncio.Future[Result], Result]] = deque()
        self._scheduled = False

    def put(self, future: "asyncio.Future[Result]", result: Result) -> None:
        """The node's thread; it will `flush`."""
        self._queue.append((future, result))

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
            future, result = queue.popleft()
            _settle(future, result)


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
        self._lane_free = asyncio.Semaphore(PROPOSAL_LANES)
        self._waiting = 0
        self._pending: set[asyncio.Future[Result]] = set()
        self._closed = False

    @asynccontextmanager
    async def lane(self, deadline: float) -> AsyncIterator[tuple[ClientId, int]]:
        """A (client, sequence) for one command. Raises Unavailable."""
        if self._waiting >= MAX_PENDING_PROPOSALS:
            raise Unavailable(f"{self._waiting} proposals are waiting already")
        if self._lane_free.locked():
            self._waiting += 1
            try:
                async with asyncio.timeout_at(deadline):
                    await self._lane_free.acquire()
            except TimeoutError:
                raise Unavailable(f"{PROPOSAL_LANES} earlier proposals are not finished") from None
            finally:
                self._waiting -= 1
        else:
            await self._lane_free.acquire()  # at once
        lane, client, sequence = self._lanes.take()
        try:
            yield client, sequence
        finally:
            self._lanes.give(lane)
            self._lane_free.release()

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

    async def attempt(self, submit: Submit, until: float) -> Result:
        """One; its result, or (None, NO_ANSWER) at `until` (the loop's time)."""
        future: asyncio.Future[Result] = self._loop.create_future()

        def done(result: bytes | None, code: int) -> None:
            self.answers.put(future, (result, code))

        self._pending.add(future)
        timer = self._loop.call_at(until, _settle, future, (None, NO_ANSWER))
        try:
            submit(done)
            return await future
        finally:
            timer.cancel()
            self._pending.discard(future)

    def close(self) -> None:
        """All under way end, in doubt."""
        self._closed = True
        for future in list(self._pending):
            _settle(future, (None, CLOSED))


def _settle(future: "asyncio.Future[Result]", result: Result) -> None:
    if not future.done():
        future.set_result(result)
