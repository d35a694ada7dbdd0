"""The log port on a Raft node: proposals with deadlines, barrier, subscriptions, membership.

May live here: the asyncio side. It talks to the node's thread through `commit(callback=)` and
call_soon_threadsafe, and reads values that the node replaces as a whole.

A proposal is sent again, under the same (client, sequence), until its deadline. Whether it fails as
Unavailable or UnknownOutcome depends on *all* its attempts: one attempt that may be in the log is
enough for unknown (INV-1, INV-8).
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final, NoReturn

import structlog
from msgspec import structs
from pysyncobj import FAIL_REASON, SyncObjException
from pysyncobj.node import TCPNode

from vimraft.core.apply import apply
from vimraft.core.codec import decode_outcome
from vimraft.core.commands import Barrier, Command, Outcome, Rejected
from vimraft.core.ids import ClientId
from vimraft.core.reasons import Invalid
from vimraft.core.tables import State
from vimraft.metadata.port import (
    LogError,
    LogStatus,
    MemberRole,
    PeerStatus,
    Subscriber,
    Unavailable,
    UnknownOutcome,
)
from vimraft.metadata.pysyncobj.config import MAX_COMMAND_BYTES, PySyncObjConfig
from vimraft.metadata.pysyncobj.errors import AddressInUse
from vimraft.metadata.pysyncobj.files import DirectoryLock
from vimraft.metadata.pysyncobj.first_recovery import recover
from vimraft.metadata.pysyncobj.node import Apply, Fatal, NodeHooks, RaftNode
from vimraft.metadata.pysyncobj.ticker import Ticker
from vimraft.metadata.requests import PROPOSAL_LANES, Lanes, client_of_request, encode
from vimraft.metadata.subscriptions import Subscriptions

log = structlog.get_logger(__name__)

MAX_PENDING_PROPOSALS: Final = 2_048
RETRY_PAUSE_S: Final = 0.02
FIRST_ATTEMPT_S: Final = 1.0
MAX_ATTEMPT_S: Final = 8.0
"""Without an answer an attempt is repeated, each time after twice as long: a slow cluster is not fed
duplicates, and a lost answer costs a second."""
PROBE_TIMEOUT_S: Final = 2.0
CLOSED: Final = -1

_NOT_DONE = {
    FAIL_REASON.QUEUE_FULL: "the command queue is full",
    FAIL_REASON.MISSING_LEADER: "no leader",
    FAIL_REASON.NOT_LEADER: "the leader has just changed",
    FAIL_REASON.REQUEST_DENIED: "another membership change is under way",
    FAIL_REASON.DISCARDED: "a new leader replaced it",
}
"""Certainly not in the log. Every other failure leaves it open."""

Submit = Callable[[Callable[[object, int], None]], None]


def _exit(code: int, why: str) -> NoReturn:
    log.critical("raft.process_ends", code=code, why=why)
    os._exit(code)


async def open_log(
    config: PySyncObjConfig, *, apply_command: Apply = apply, fatal: Fatal = _exit
) -> "PySyncObjLog":
    """Start this node. Returns as soon as it runs: a leader may still be missing.

    Raises Misconfigured, DirectoryInUse, CorruptData, AddressInUse, OSError.
    """
    config.check()
    opened = PySyncObjLog(config, asyncio.get_running_loop())
    await asyncio.to_thread(opened.start, apply_command, fatal)
    return opened


class PySyncObjLog:
    """Implements vimraft.metadata.port.Log."""

    def __init__(self, config: PySyncObjConfig, loop: asyncio.AbstractEventLoop) -> None:
        """Use `open_log`."""
        self._config = config
        self._loop = loop
        self._lanes = Lanes(config.self_address)
        self._lane_free = asyncio.Semaphore(PROPOSAL_LANES)
        self._pending: set[asyncio.Future[tuple[object, int]]] = set()
        self._waiting = 0
        self._membership = asyncio.Lock()
        self._closed = False
        self._subscriptions = Subscriptions(loop, lambda: self._node.state)

    def start(self, apply_command: Apply, fatal: Fatal) -> None:
        """Blocks while it reads the disk: not in the event loop's thread."""
        config = self._config
        config.raft_dir.mkdir(parents=True, exist_ok=True)
        self._lock = DirectoryLock(config.raft_dir)
        try:
            found = recover(config)
            hooks = NodeHooks(apply=apply_command, fatal=fatal, changed=self._subscriptions.publish)
            self._node = RaftNode(config, found, hooks)
        except SyncObjException:
            self._lock.close()
            raise AddressInUse(
                f"raft address {config.self_address} cannot be listened on: another process has it, "
                "or it is no address of this host"
            ) from None
        except BaseException:
            self._lock.close()
            raise
        self._ticker = Ticker(self._node, fatal)
        self._ticker.start()
        self._ticker.first_round_done.wait()

    # --- reading ------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self._node.state

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        return self._subscriptions.add(subscriber)

    def status(self) -> LogStatus:
        """As of the node's last round, at most a tick old; without a quorum if that stands still."""
        published = self._node.published
        assert published is not None
        taken, status = published
        role: MemberRole = "voter" if self._node.is_member else "joining"
        if self._closed or time.monotonic() - taken > self._config.fallback_ms / 1000:
            return LogStatus(
                self_address=status.self_address,
                leader_address=None,
                is_leader=False,
                has_quorum=False,
                term=status.term,
                raft_applied=status.raft_applied,
                raft_commit=status.raft_commit,
                log_entries=status.log_entries,
                members=dict.fromkeys(status.members, False),
                role=role,
                peers=_peers(dict.fromkeys(status.members, False)),
            )
        return structs.replace(status, role=role, peers=_peers(status.members))

    # --- proposing ----------------------------------------------------------------------------

    async def propose(
        self, command: Command, *, who: str, deadline_ms: int, request_id: str | None = None
    ) -> Outcome:
        """Raises Unavailable, UnknownOutcome; ValueError for an impossible request id."""
        deadline = self._loop.time() + deadline_ms / 1000
        if request_id is not None:
            data = encode(client_of_request(request_id), 1, who, command, level=self.state.level)
            return await self._commit(data, deadline)
        async with self._lane(deadline) as (client, sequence):
            data = encode(client, sequence, who, command, level=self.state.level)
            return await self._commit(data, deadline)

    async def barrier(self, *, deadline_ms: int) -> State:
        await self.propose(Barrier(), who=self._config.self_address, deadline_ms=deadline_ms)
        return self._node.state

    @asynccontextmanager
    async def _lane(self, deadline: float) -> AsyncIterator[tuple[ClientId, int]]:
        if self._waiting >= MAX_PENDING_PROPOSALS:
            raise Unavailable(f"{self._waiting} proposals are waiting already")
        self._waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                await self._lane_free.acquire()
        except TimeoutError:
            raise Unavailable(f"{PROPOSAL_LANES} earlier proposals are not finished") from None
        finally:
            self._waiting -= 1
        lane, client, sequence = self._lanes.take()
        try:
            yield client, sequence
        finally:
            self._lanes.give(lane)
            self._lane_free.release()

    async def _commit(self, data: bytes, deadline: float) -> Outcome:
        if len(data) > MAX_COMMAND_BYTES:
            too_long = f"is longer than {MAX_COMMAND_BYTES} bytes"
            return Rejected(self.state.index, Invalid("command", f"{len(data)} bytes", too_long))
        result = await self._until(deadline, lambda done: self._node.commit(data, callback=done))
        assert isinstance(result, bytes)
        return decode_outcome(result)

    async def _until(self, deadline: float, submit: Submit) -> object:
        """Attempts until one succeeds. Raises Unavailable or UnknownOutcome at the deadline."""
        result: object
        in_doubt = False
        why = "no answer"
        attempt_s = FIRST_ATTEMPT_S
        while True:
            if self._closed:
                why = "this log is closed"
            elif (now := self._loop.time()) < deadline:
                if self.status().leader_address is None:
                    result, code = None, FAIL_REASON.MISSING_LEADER  # known without asking: not done
                else:
                    result, code = await self._attempt(submit, min(deadline, now + attempt_s))
                if code == FAIL_REASON.SUCCESS:
                    return result
                if code in _NOT_DONE:
                    why = _NOT_DONE[code]
                else:
                    in_doubt = True
                    attempt_s = min(2 * attempt_s, MAX_ATTEMPT_S)
                await asyncio.sleep(min(RETRY_PAUSE_S, max(0.0, deadline - self._loop.time())))
                continue
            if in_doubt:
                raise UnknownOutcome(f"{self._config.self_address}: {why} before the deadline")
            raise Unavailable(f"{self._config.self_address}: {why}")

    async def _attempt(self, submit: Submit, until: float) -> tuple[object, int]:
        future: asyncio.Future[tuple[object, int]] = self._loop.create_future()

        def settle(result: object, code: int) -> None:
            if not future.done():
                future.set_result((result, code))

        def done(result: object, code: int) -> None:
            # In the node's thread. Must not raise: PySyncObj would apply the entry a second time.
            try:
                self._loop.call_soon_threadsafe(settle, result, code)
            except RuntimeError:
                log.debug("raft.answer_after_close", code=code)

        self._pending.add(future)
        try:
            submit(done)
            async with asyncio.timeout_at(until):
                return await future
        except TimeoutError:
            return None, FAIL_REASON.UNKNOWN_OUTCOME
        finally:
            self._pending.discard(future)

    # --- membership ---------------------------------------------------------------------------

    @property
    def node_id(self) -> str:
        return self.status().node_id

    async def persist(self, *, deadline_ms: int) -> None:
        """The journal as it is now promises nothing about power loss: there is nothing to wait for."""

    async def add_member(
        self, raft_address: str, *, node_id: str = "", voter: bool = True, deadline_ms: int
    ) -> None:
        """Every member votes: this node knows no observers, and names no ids. The new node must be running
        (opened with the present members): from the moment the change is in the log it counts for the
        majority. Raises Unavailable, UnknownOutcome."""
        del node_id, voter
        await self._change_member(raft_address, True, deadline_ms)

    async def remove_member(self, raft_address: str, *, deadline_ms: int) -> None:
        """Any member but this one: ask another manager to remove this node."""
        if raft_address == self._config.self_address:
            raise Unavailable(f"{raft_address} cannot remove itself: ask another manager")
        await self._change_member(raft_address, False, deadline_ms)

    async def _change_member(self, address: str, present: bool, deadline_ms: int) -> None:
        deadline = self._loop.time() + deadline_ms / 1000
        change = self._node.addNodeToCluster if present else self._node.removeNodeFromCluster
        submitted = False
        try:
            async with asyncio.timeout_at(deadline), self._membership:
                while True:
                    # In the log before the barrier and still there after it: decided.
                    before = (address in self._node.known_members) == present
                    await self.barrier(deadline_ms=self._left_ms(deadline))
                    if before and (address in self._node.known_members) == present:
                        return
                    if present and not submitted:
                        await _probe(address)
                    if not present and await self._led_by(address):
                        continue
                    submitted = True
                    await self._attempt(
                        lambda done: change(address, done), min(deadline, self._loop.time() + FIRST_ATTEMPT_S)
                    )
                    await asyncio.sleep(RETRY_PAUSE_S)
        except (LogError, TimeoutError) as error:
            if submitted:
                raise UnknownOutcome(
                    f"membership of {address}: no confirmation before the deadline"
                ) from error
            raise Unavailable(f"membership of {address} is unchanged: {error or 'deadline'}") from error

    async def _led_by(self, address: str) -> bool:
        """Whether `address` is the leader; then it is asked to step aside (a leader cannot go)."""
        if self.status().leader_address != address:
            return False
        self._node.ask_to_step_aside(TCPNode(address))
        await asyncio.sleep(self._config.heartbeat_ms / 1000)
        return True

    def _left_ms(self, deadline: float) -> int:
        return max(0, int((deadline - self._loop.time()) * 1000))

    # --- the end ------------------------------------------------------------------------------

    async def close(self) -> None:
        """Proposals under way end as UnknownOutcome. A leader hands over first. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for future in list(self._pending):
            if not future.done():
                future.set_result((None, CLOSED))
        self._ticker.stop()
        await asyncio.to_thread(self._ticker.join)
        self._lock.close()


def _peers(members: Mapping[str, bool]) -> tuple[PeerStatus, ...]:
    return tuple(
        PeerStatus(address, node_id="", voter=True, connected=up, last_contact_ms=None, match_index=None)
        for address, up in sorted(members.items())
    )


async def _probe(address: str) -> None:
    """Raises Unavailable when nothing listens there: such a member would only weaken the cluster."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except (OSError, ValueError, TimeoutError) as error:
        raise Unavailable(f"{address} does not answer ({error}): start that manager first") from None
    writer.close()
