"""A log in one process for tests: several `Log`s that share one sequence of commands.

May live here: the fake only. It keeps the promises of the port (order, exactly once, Unavailable
against UnknownOutcome) without Raft: the sequence itself is the majority, and a log is either
connected to it or cut off. Every log applies for itself, so nondeterminism would show as divergence.
All methods belong to one event loop.
"""

import asyncio
from collections.abc import Callable

from vimraft.core.apply import apply
from vimraft.core.codec import decode_outcome
from vimraft.core.commands import Barrier, Command, Outcome
from vimraft.core.tables import State
from vimraft.metadata.port import LogStatus, Subscriber, Unavailable, UnknownOutcome
from vimraft.metadata.requests import Lanes, client_of_request, encode
from vimraft.metadata.subscriptions import Subscriptions


class MemoryCluster:
    """The shared sequence. `log(name)` gives the same Log for the same name."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []
        self.logs: dict[str, MemoryLog] = {}
        self.members: set[str] = set()

    def log(self, name: str) -> "MemoryLog":
        if name not in self.logs:
            self.members.add(name)
            self.logs[name] = MemoryLog(self, name)
        return self.logs[name]

    def cut_off(self, name: str) -> None:
        """From now on `propose` at `name` raises Unavailable, and it applies nothing."""
        self.logs[name].connected = False

    def heal(self, name: str) -> None:
        self.logs[name].connected = True
        self.logs[name].catch_up()

    def lose_replies(self, name: str, count: int = 1) -> None:
        """The next `count` proposals at `name` are applied everywhere, but raise UnknownOutcome."""
        self.logs[name].replies_to_lose = count

    def append(self, data: bytes) -> None:
        self.entries.append(data)
        for log in self.logs.values():
            log.catch_up()


class MemoryLog:
    """Implements vimraft.metadata.port.Log."""

    def __init__(self, cluster: MemoryCluster, name: str) -> None:
        self.connected = True
        self.replies_to_lose = 0
        self._cluster = cluster
        self._name = name
        self._lanes = Lanes(name)
        self._state = State()
        self._outcomes: list[bytes] = []
        self._closed = False
        self._subscriptions: Subscriptions | None = None
        self.catch_up()

    @property
    def state(self) -> State:
        return self._state

    def catch_up(self) -> None:
        if not self.connected or self._closed:
            return
        for data in self._cluster.entries[len(self._outcomes) :]:
            self._state, outcome = apply(self._state, data)
            self._outcomes.append(outcome)
        if self._subscriptions is not None:
            self._subscriptions.publish()

    async def propose(
        self, command: Command, *, who: str, deadline_ms: int, request_id: str | None = None
    ) -> Outcome:
        del deadline_ms  # nothing here takes time
        if request_id is not None:
            return await self._commit(encode(client_of_request(request_id), 1, who, command))
        lane, client, sequence = self._lanes.take()  # nothing below waits while it holds the lane
        self._lanes.give(lane)
        return await self._commit(encode(client, sequence, who, command))

    async def _commit(self, data: bytes) -> Outcome:
        if not self.connected or self._closed:
            raise Unavailable(f"{self._name} is cut off from the cluster: no leader")
        self._cluster.append(data)
        outcome = decode_outcome(self._outcomes[-1])
        await asyncio.sleep(0)  # like a real log: others run before the caller does
        if self.replies_to_lose:
            self.replies_to_lose -= 1
            raise UnknownOutcome("the deadline passed before the reply came")
        return outcome

    async def barrier(self, *, deadline_ms: int) -> State:
        await self.propose(Barrier(), who=self._name, deadline_ms=deadline_ms)
        return self._state

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        if self._subscriptions is None:
            self._subscriptions = Subscriptions(asyncio.get_running_loop(), lambda: self._state)
        return self._subscriptions.add(subscriber)

    def status(self) -> LogStatus:
        connected = sorted(n for n, log in self._cluster.logs.items() if log.connected)
        leader = connected[0] if connected and self.connected else None
        return LogStatus(
            self_address=self._name,
            leader_address=leader,
            is_leader=leader == self._name,
            has_quorum=self.connected,
            term=1,
            raft_applied=len(self._outcomes),
            raft_commit=len(self._cluster.entries) if self.connected else len(self._outcomes),
            log_entries=len(self._cluster.entries),
            members={
                name: name not in self._cluster.logs or (self.connected and name in connected)
                for name in self._cluster.members
                if name != self._name
            },
        )

    async def add_member(self, raft_address: str, *, deadline_ms: int) -> None:
        await self.barrier(deadline_ms=deadline_ms)
        self._cluster.members.add(raft_address)

    async def remove_member(self, raft_address: str, *, deadline_ms: int) -> None:
        await self.barrier(deadline_ms=deadline_ms)
        self._cluster.members.discard(raft_address)

    async def close(self) -> None:
        self._closed = True
