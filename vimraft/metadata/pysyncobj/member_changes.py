"""Letting members in and out, from the asyncio side: ask, look, ask again, until it is decided.

May live here: the order of steps of each change, and what to tell when it does not happen. Whether a change
may enter the log is the leader's decision alone (`membership.refusal`); this side only asks.

A change counts as made once the members as of the entries applied here show it after a barrier. What the log
holds beyond those may still be replaced by a new leader, and came maybe after the barrier. A new voter is an
observer first, until it has caught up, so that it never costs the cluster its majority.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from pysyncobj.node import TCPNode

from vimraft.core.tables import State
from vimraft.metadata.port import LogError, Unavailable, UnknownOutcome
from vimraft.metadata.pysyncobj.members import ChangeKind, Member, encode_change
from vimraft.metadata.pysyncobj.node import RaftNode
from vimraft.metadata.pysyncobj.proposals import FIRST_ATTEMPT_S, NOT_DONE, RETRY_PAUSE_S, Proposals

PROBE_TIMEOUT_S: Final = 2.0
MIN_ATTEMPT_S: Final = 0.1
"""Nothing more is asked for when less is left: it would end in doubt for nothing."""
BARRIER_S: Final = 2.0
"""One look at the configuration; the deadline of a change allows several."""


class BarrierCall(Protocol):
    def __call__(self, *, deadline_ms: int) -> Awaitable[State]: ...


Reached = Callable[[Member | None], bool]


class MemberChanges:
    def __init__(
        self, node: RaftNode, proposals: Proposals, loop: asyncio.AbstractEventLoop, barrier: BarrierCall
    ) -> None:
        self._node = node
        self._proposals = proposals
        self._loop = loop
        self._barrier = barrier
        self._one = asyncio.Lock()

    async def add(self, address: str, node_id: str, *, voter: bool, deadline_ms: int) -> None:
        """Raises Unavailable (the member is what it was, or an observer that has not caught up yet), and
        UnknownOutcome."""
        deadline = self._loop.time() + deadline_ms / 1000

        def present(member: Member | None) -> bool:
            if member is not None and node_id and member.node_id not in ("", node_id):
                raise Unavailable(f"{address} is a member under another identity: remove that one first")
            return member is not None

        async with self._turn(deadline, address):
            if not await self._is(address, present, deadline):
                await _probe(address)
                await self._change("observe", address, node_id, present, deadline)
            if voter:
                await self._change("add", address, node_id, lambda m: m is not None and m.voter, deadline)

    async def remove(self, address: str, *, deadline_ms: int) -> None:
        """Raises Unavailable, UnknownOutcome."""
        if address == self._node.config.self_address:
            raise Unavailable(f"{address} cannot remove itself: ask another manager")
        deadline = self._loop.time() + deadline_ms / 1000
        async with self._turn(deadline, address):
            member = self._node.known_members.get(address)
            voters = [m for m in self._node.known_members.values() if m.voter]
            if member is not None and voters == [member]:
                raise Unavailable(f"{address} is the last voter")
            await self._change("rem", address, "", lambda member: member is None, deadline)

    def _turn(self, deadline: float, address: str) -> "_Turn":
        return _Turn(self._one, deadline, address)

    async def _change(
        self, kind: ChangeKind, address: str, node_id: str, reached: Reached, deadline: float
    ) -> None:
        submitted = False
        command = encode_change(kind, address, node_id)
        while True:
            try:
                if await self._is(address, reached, deadline):
                    return
            except LogError as error:
                if self._loop.time() < deadline:
                    await asyncio.sleep(RETRY_PAUSE_S)
                    continue
                if submitted:
                    raise UnknownOutcome(
                        f"membership of {address}: no confirmation before the deadline"
                    ) from error
                raise Unavailable(self._why_not(kind, address, str(error))) from error
            if deadline - self._loop.time() < MIN_ATTEMPT_S:
                if submitted:
                    raise UnknownOutcome(f"membership of {address}: no confirmation before the deadline")
                raise Unavailable(self._why_not(kind, address, "another change is under way"))
            if kind == "rem" and await self._led_by(address):
                continue
            _, code = await self._proposals.attempt(
                lambda done: self._node.change_members(command, done),
                min(deadline, self._loop.time() + FIRST_ATTEMPT_S),
            )
            submitted = submitted or code not in NOT_DONE
            await asyncio.sleep(RETRY_PAUSE_S)

    async def _is(self, address: str, reached: Reached, deadline: float) -> bool:
        """Whether the decided configuration has it so. Raises LogError."""
        left_s = min(BARRIER_S, deadline - self._loop.time())
        await self._barrier(deadline_ms=max(0, int(left_s * 1000)))
        return reached(self._node.decided_members.get(address))

    async def _led_by(self, address: str) -> bool:
        """Whether `address` is the leader; then it is asked to step aside (a leader cannot go)."""
        leader = self._node._getLeader()
        if leader is None or leader.id != address:
            return False
        self._node.ask_to_step_aside(TCPNode(address))
        await asyncio.sleep(self._node.config.heartbeat_ms / 1000)
        return True

    def _why_not(self, kind: ChangeKind, address: str, cause: str) -> str:
        member = self._node.known_members.get(address)
        if kind == "add" and member is not None and not member.voter:
            return f"{address} is an observer and has not caught up yet ({cause}): ask again later"
        return f"membership of {address} is unchanged: {cause}"


class _Turn:
    """One change at a time from here; the leader sees to the rest. Raises Unavailable."""

    def __init__(self, lock: asyncio.Lock, deadline: float, address: str) -> None:
        self._lock = lock
        self._deadline = deadline
        self._address = address

    async def __aenter__(self) -> None:
        try:
            async with asyncio.timeout_at(self._deadline):
                await self._lock.acquire()
        except TimeoutError:
            raise Unavailable(
                f"membership of {self._address} is unchanged: another change is under way"
            ) from None

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()


async def _probe(address: str) -> None:
    """Raises Unavailable when nothing listens there: a member that does not run only burdens the cluster."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except (OSError, ValueError, TimeoutError) as error:
        raise Unavailable(f"{address} does not answer ({error}): start that manager first") from None
    writer.close()
