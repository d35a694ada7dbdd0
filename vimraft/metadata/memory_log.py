"""A log in one process for tests: several `Log`s that share one sequence of commands.

May live here: the fake only. It keeps the promises of the port (order, exactly once, Unavailable
against UnknownOutcome) without Raft: the sequence itself is the majority, and a log is either
connected to it or cut off. Every log applies for itself, so nondeterminism would show as divergence.
Members are addresses with the id of the node that may speak there; observers apply and never lead.
All methods belong to one event loop.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from vimraft.core.apply import apply
from vimraft.core.codec import decode_outcome
from vimraft.core.commands import Barrier, Command, Outcome
from vimraft.core.tables import State
from vimraft.metadata.port import LogStatus, MemberRole, PeerStatus, Subscriber, Unavailable, UnknownOutcome
from vimraft.metadata.requests import Lanes, client_of_request, encode
from vimraft.metadata.subscriptions import Subscriptions


class Member(NamedTuple):
    node_id: str
    voter: bool


class MemoryCluster:
    """The shared sequence. `log(name)` gives the same Log for the same name."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []
        self.logs: dict[str, MemoryLog] = {}
        self.members: dict[str, Member] = {}

    def log(self, name: str) -> "MemoryLog":
        """A voter from the start."""
        if name not in self.logs:
            self.members[name] = Member(_node_id(name, 1), voter=True)
            self.logs[name] = MemoryLog(self, name)
        return self.logs[name]

    def fresh(self, name: str) -> "MemoryLog":
        """A node with an empty disk that asks to be let in; the one before it at this name is gone."""
        before = self.logs.get(name)
        self.logs[name] = MemoryLog(self, name, 1 if before is None else before.life + 1)
        self.admit(name)
        return self.logs[name]

    def admit(self, name: str) -> None:
        """Whom the members let in receives everything."""
        log, member = self.logs.get(name), self.members.get(name)
        if log is not None and not log.away:
            log.connected = member is not None and member.node_id in ("", log.node_id)
            log.catch_up()

    def cut_off(self, name: str) -> None:
        """From now on `propose` at `name` raises Unavailable, and it applies nothing."""
        self.logs[name].away = True
        self.logs[name].connected = False

    def heal(self, name: str) -> None:
        self.logs[name].away = False
        self.admit(name)

    def lose_replies(self, name: str, count: int = 1) -> None:
        """The next `count` proposals at `name` are applied everywhere, but raise UnknownOutcome."""
        self.logs[name].replies_to_lose = count

    def append(self, data: bytes) -> None:
        self.entries.append(data)
        for log in self.logs.values():
            log.catch_up()


def _node_id(name: str, life: int) -> str:
    return f"{name}/{life}"


class MemoryLog:
    """Implements vimraft.metadata.port.Log."""

    def __init__(self, cluster: MemoryCluster, name: str, life: int = 1) -> None:
        self.connected = life == 1 and name in cluster.members
        self.away = False
        self.life = life
        self.persisted_index = 0
        """What `persist` was last asked for."""
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
            before = self._state
            self._state, outcome = apply(before, data)
            if self._subscriptions is not None:
                self._subscriptions.passed(before, self._state)
            self._outcomes.append(outcome)
        if self._subscriptions is not None:
            self._subscriptions.publish()

    async def propose(
        self, command: Command, *, who: str, deadline_ms: int, request_id: str | None = None
    ) -> Outcome:
        del deadline_ms  # nothing here takes time
        if request_id is not None:
            return await self._commit(
                encode(client_of_request(request_id), 1, who, command, level=self._state.level)
            )
        lane, client, sequence = self._lanes.take()  # nothing below waits while it holds the lane
        self._lanes.give(lane)
        return await self._commit(encode(client, sequence, who, command, level=self._state.level))

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

    @property
    def node_id(self) -> str:
        return _node_id(self._name, self.life)

    async def persist(self, *, deadline_ms: int) -> None:
        del deadline_ms
        self.persisted_index = self._state.index

    def status(self) -> LogStatus:
        members = self._cluster.members
        connected = sorted(n for n, log in self._cluster.logs.items() if log.connected)
        leader = next((name for name in connected if name in members and members[name].voter), None)
        leader = leader if self.connected else None
        own = members.get(self._name)
        role: MemberRole = "joining" if own is None else "voter" if own.voter else "observer"
        return LogStatus(
            self_address=self._name,
            leader_address=leader,
            is_leader=leader == self._name,
            has_quorum=self.connected,
            term=1,
            raft_applied=len(self._outcomes),
            raft_commit=len(self._cluster.entries) if self.connected else len(self._outcomes),
            log_entries=len(self._cluster.entries),
            role=role,
            node_id=self.node_id,
            cluster="memory",
            generation=1,
            peers=tuple(self._peer(name) for name in sorted(members) if name != self._name),
        )

    def _peer(self, name: str) -> PeerStatus:
        member, log = self._cluster.members[name], self._cluster.logs.get(name)
        stranger = log is not None and member.node_id not in ("", log.node_id)
        connected = self.connected and log is not None and log.connected
        return PeerStatus(
            address=name,
            node_id=member.node_id,
            voter=member.voter,
            connected=connected,
            last_contact_ms=0 if connected else None,
            match_index=len(log._outcomes) if connected and log is not None else None,
            refused="its identity has changed" if stranger else "",
        )

    async def add_member(
        self, raft_address: str, *, node_id: str = "", voter: bool = True, deadline_ms: int
    ) -> None:
        await self.barrier(deadline_ms=deadline_ms)
        members = self._cluster.members
        known = members.get(raft_address)
        if known is not None and node_id and known.node_id not in ("", node_id):
            raise Unavailable(f"{raft_address} is a member under another identity: remove that one first")
        if known is not None and voter and not known.voter and not self._caught_up(raft_address):
            raise Unavailable(f"{raft_address} has not caught up yet")
        named = node_id or (known.node_id if known else "")
        members[raft_address] = Member(named, voter or (known is not None and known.voter))
        self._cluster.admit(raft_address)

    def _caught_up(self, name: str) -> bool:
        log = self._cluster.logs.get(name)
        return log is not None and log.connected and len(log._outcomes) == len(self._cluster.entries)

    async def remove_member(self, raft_address: str, *, deadline_ms: int) -> None:
        await self.barrier(deadline_ms=deadline_ms)
        members = self._cluster.members
        if raft_address == self._name:
            raise Unavailable(f"{raft_address} cannot remove itself: ask another manager")
        if not any(member.voter for name, member in members.items() if name != raft_address):
            raise Unavailable(f"{raft_address} is the last voter")
        members.pop(raft_address, None)
        self._cluster.admit(raft_address)

    async def close(self) -> None:
        self._closed = True
