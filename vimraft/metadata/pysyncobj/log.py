"""The log port on a Raft node: opening, reading, proposing, membership, closing.

May live here: the asyncio side of the port, put together. It talks to the node's thread through the
node's queue and call_soon_threadsafe, and reads values that the node replaces as a whole. What a proposal
may rely on is in `proposals`, how members change in `member_changes`.
"""

import asyncio
import functools
import gc
import os
import sys
from collections.abc import Callable
from typing import Final, NoReturn

import structlog
from msgspec import structs
from pysyncobj import SyncObjException

from vimraft.core.apply import apply
from vimraft.core.codec import decode_outcome
from vimraft.core.commands import Barrier, Command, Outcome, Rejected
from vimraft.core.reasons import Invalid
from vimraft.core.tables import State
from vimraft.metadata.port import LogStatus, Subscriber, Unavailable
from vimraft.metadata.pysyncobj import selfcheck
from vimraft.metadata.pysyncobj.config import PySyncObjConfig
from vimraft.metadata.pysyncobj.disk import DirectoryLock, OsDisk
from vimraft.metadata.pysyncobj.environment import operating_system
from vimraft.metadata.pysyncobj.errors import AddressInUse
from vimraft.metadata.pysyncobj.member_changes import MemberChanges
from vimraft.metadata.pysyncobj.member_transport import MemberTransport
from vimraft.metadata.pysyncobj.node import Apply, Fatal, NodeHooks, RaftNode
from vimraft.metadata.pysyncobj.proposals import Callback, Proposals
from vimraft.metadata.pysyncobj.records import MAX_COMMAND_BYTES
from vimraft.metadata.pysyncobj.recovery import recover
from vimraft.metadata.pysyncobj.ticker import Ticker
from vimraft.metadata.requests import client_of_request, encode
from vimraft.metadata.subscriptions import Subscriptions

log = structlog.get_logger(__name__)

GC_THRESHOLDS: Final = (20_000, 20, 20)
"""The tables are millions of objects that live long and hold no cycles. At the default of 700 new objects
Python looks for cycles at every dozen commands, and each time also at old ones: a sixth of the time."""
SWITCH_S: Final = 0.001
"""So long another thread may keep the interpreter from the node's, which commits wait for (default 0.005)."""
STALE_STATUS_S: Final = 2.0
"""A node whose rounds stand still for this long is not believed any more (or for its fallback time)."""


def _exit(code: int, why: str) -> NoReturn:
    log.critical("raft.process_ends", code=code, why=why)
    os._exit(code)


async def open_log(
    config: PySyncObjConfig, *, apply_command: Apply = apply, fatal: Fatal = _exit
) -> "PySyncObjLog":
    """Start this node. Returns as soon as it runs: a leader may still be missing, but the tables are those
    that it knew to be decided when it ended, or newer.

    Raises Misconfigured, DirectoryInUse, CorruptData, AddressInUse, SyncFailed, OSError.
    """
    selfcheck.check()
    config.check()
    gc.set_threshold(*GC_THRESHOLDS)
    sys.setswitchinterval(SWITCH_S)
    opened = PySyncObjLog(config, asyncio.get_running_loop())
    await asyncio.to_thread(opened.start, apply_command, fatal)
    return opened


class PySyncObjLog:
    """Implements vimraft.metadata.port.Log."""

    def __init__(self, config: PySyncObjConfig, loop: asyncio.AbstractEventLoop) -> None:
        """Use `open_log`."""
        self._config = config
        self._loop = loop
        self._closed = False
        self._wakes = False
        """The node's thread will be woken at the end of this turn of the loop."""
        self._stale_s = max(STALE_STATUS_S, config.fallback_ms / 1000)
        self._subscriptions = Subscriptions(loop, lambda: self._node.state)
        self._proposals = Proposals(
            config.self_address,
            loop,
            lambda: self.status().leader_address is not None,
            self._subscriptions.deliver,
        )

    def start(self, apply_command: Apply, fatal: Fatal) -> None:
        """Blocks while it reads the disk: not in the event loop's thread."""
        config = self._config
        config.raft_dir.mkdir(parents=True, exist_ok=True)
        self._lock = DirectoryLock(config.raft_dir)
        try:
            disk = OsDisk(config.raft_dir)
            found = recover(disk, config)

            def apply(state: State, data: bytes) -> tuple[State, bytes]:
                after, outcome = apply_command(state, data)
                self._subscriptions.passed(state, after)
                return after, outcome

            hooks = NodeHooks(
                apply=apply,
                fatal=fatal,
                changed=self._proposals.answers.changed,
                answered=self._proposals.answers.flush,
            )
            self._node = RaftNode(config, found, hooks, operating_system(disk, MemberTransport))
        except SyncObjException:
            self._lock.close()
            raise AddressInUse(
                f"raft address {config.self_address} cannot be listened on: another process has it, "
                "or it is no address of this host"
            ) from None
        except BaseException:
            self._lock.close()
            raise
        self._members = MemberChanges(self._node, self._proposals, self._loop, self.barrier)
        self._ticker = Ticker(self._node, fatal)
        self._ticker.start()
        self._ticker.first_round_done.wait()

    # --- reading ------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self._node.state

    @property
    def node_id(self) -> str:
        return self._node.identity.node_id

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        return self._subscriptions.add(subscriber)

    def status(self) -> LogStatus:
        """As of one of the node's last rounds, but never older than a change of term, leader or members that
        anyone was told of; without a quorum if the rounds stand still."""
        published = self._node.published
        assert published is not None
        taken, status = published
        if not self._closed and self._node.clock() - taken <= self._stale_s:
            return status
        return structs.replace(
            status,
            leader_address=None,
            is_leader=False,
            has_quorum=False,
            peers=tuple(structs.replace(peer, connected=False) for peer in status.peers),
        )

    # --- proposing ----------------------------------------------------------------------------

    async def propose(
        self, command: Command, *, who: str, deadline_ms: int, request_id: str | None = None
    ) -> Outcome:
        """Raises Unavailable, UnknownOutcome; ValueError for an impossible request id."""
        deadline = self._loop.time() + deadline_ms / 1000
        if request_id is not None:
            data = encode(client_of_request(request_id), 1, who, command, level=self.state.level)
            return await self._commit(data, deadline)
        lane, client, sequence = self._proposals.free_lane() or await self._proposals.lane(deadline)
        try:
            data = encode(client, sequence, who, command, level=self.state.level)
            return await self._commit(data, deadline)
        finally:
            self._proposals.give_lane(lane)

    async def barrier(self, *, deadline_ms: int) -> State:
        await self.propose(Barrier(), who=self._config.self_address, deadline_ms=deadline_ms)
        return self._node.state

    async def _commit(self, data: bytes, deadline: float) -> Outcome:
        if len(data) > MAX_COMMAND_BYTES:
            too_long = f"is longer than {MAX_COMMAND_BYTES} bytes"
            return Rejected(self.state.index, Invalid("command", f"{len(data)} bytes", too_long))
        result = await self._proposals.until(deadline, functools.partial(self._submit, data))
        assert result is not None
        return decode_outcome(result)

    def _submit(self, data: bytes, done: Callback) -> None:
        # The node's thread would begin with the first of those that this turn of the loop proposes, and
        # share the interpreter with the rest: an entry, a message and a sync for a few.
        self._node.queue(data, done)
        if self._proposals.alone:
            self._node.wake()
        elif not self._wakes:
            self._wakes = True
            self._loop.call_soon(self._wake)

    def _wake(self) -> None:
        self._wakes = False
        self._node.wake()

    async def persist(self, *, deadline_ms: int) -> None:
        """Everything applied here at the call survives a power cut here on return. Raises Unavailable."""
        if self._closed:
            raise Unavailable("this log is closed")
        until = self._loop.time() + deadline_ms / 1000
        _, code = await self._proposals.attempt(lambda done: self._node.persist(lambda: done(None, 0)), until)
        if code != 0:
            why = self.status().problem or "the disk has not answered before the deadline"
            raise Unavailable(f"{self._config.self_address}: {why}")

    # --- membership ---------------------------------------------------------------------------

    async def add_member(
        self, raft_address: str, *, node_id: str = "", voter: bool = True, deadline_ms: int
    ) -> None:
        """Raises Unavailable, UnknownOutcome."""
        await self._members.add(raft_address, node_id, voter=voter, deadline_ms=deadline_ms)

    async def remove_member(self, raft_address: str, *, deadline_ms: int) -> None:
        """Any member but this one: ask another manager to remove this node."""
        await self._members.remove(raft_address, deadline_ms=deadline_ms)

    # --- the end ------------------------------------------------------------------------------

    async def close(self) -> None:
        """Proposals under way end as UnknownOutcome. A leader hands over first. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._proposals.close()
        self._ticker.stop()
        await asyncio.to_thread(self._ticker.join)
        self._lock.close()
