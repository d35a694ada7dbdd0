"""The Raft node: PySyncObj with one replicated method, and the guards that need its inside.

May live here: the SyncObj subclass. All methods run in the node's own thread (see ticker.py), but
`commit` and `wake`, which any thread may call. Attributes named _SyncObj__… are PySyncObj's private
ones; the version is pinned, and each use says what it repairs.

Keeps: `state` is replaced, never changed, so other threads read it without a lock; apply is total,
and if it fails all the same the process ends before anything diverges (INV-8).
"""

import time
from collections.abc import Callable
from typing import Any, Final

import structlog
from msgspec import Struct
from pysyncobj import SyncObj, replicated
from pysyncobj.node import Node

from vimraft.core.tables import State
from vimraft.metadata.port import LogStatus
from vimraft.metadata.pysyncobj.config import PySyncObjConfig
from vimraft.metadata.pysyncobj.first_members import MembersFile, is_membership, save_members
from vimraft.metadata.pysyncobj.first_recovery import Recovered, TrimmingJournal
from vimraft.metadata.pysyncobj.first_snapshot import Snapshot, SnapshotExchange
from vimraft.metadata.pysyncobj.matching import match
from vimraft.metadata.pysyncobj.transport import MemberTransport

log = structlog.get_logger(__name__)

EXIT_BUG: Final = 70
EXIT_DATA: Final = 74
COMPACTION_RETRY_S: Final = 5.0
COMPACTION_PAUSE_S: Final = 0.1
STATUS_S: Final = 0.05
PINGS_PER_TIMEOUT: Final = 4
_PING = "vimraft_ping"
_STEP_ASIDE = "vimraft_step_aside"

Apply = Callable[[State, bytes], tuple[State, bytes]]
Fatal = Callable[[int, str], None]


class Dead(Exception):
    """`fatal` was called and came back (tests): the node must do nothing more."""


class NodeHooks(Struct, frozen=True):
    apply: Apply
    fatal: Fatal
    """(exit code, why): does not return in production."""
    changed: Callable[[], None]
    """`state` has been replaced."""


class RaftNode(SyncObj):
    def __init__(self, config: PySyncObjConfig, found: Recovered, hooks: NodeHooks) -> None:
        """Listens on the address at once. Raises SyncObjException ('BindError')."""
        # Before super(): PySyncObj looks at every attribute of `self` while it is being made.
        self.state = State() if found.snapshot is None else found.snapshot.state
        self.dead = False
        self.is_member = config.self_address in found.members
        self._config = config
        self._hooks = hooks
        self._initial_members = found.initial_members
        self.known_members = frozenset[str]()
        """`members` as of the last round. Any thread."""
        self._step_aside_asked: Node | None = None
        now = time.monotonic()
        self._started = self._last_pump = now
        self._last_heard: float | None = None
        self._next_ping = self._compact_after = self._next_status = now
        self._status_of: tuple[int, Node | None] | None = None
        self._published: tuple[float, LogStatus] | None = None
        partners = sorted(found.members - {config.self_address})
        super().__init__(config.self_address, partners, config.to_pysyncobj(), transportClass=MemberTransport)
        self._SyncObj__raftLog._destroy()
        self._SyncObj__raftLog = TrimmingJournal(str(config.journal_path))
        # The stock node takes the stored commit index as it is, also when the journal is shorter.
        self._SyncObj__raftCommitIndex = min(self._SyncObj__raftCommitIndex, self._SyncObj__raftLog[-1][1])
        self._exchange = self._SyncObj__serializer = SnapshotExchange(
            config.snapshot_path,
            current_state=lambda: self.state,
            wanted=self._wants,
            install=self._install,
            recovered=None if found.snapshot is None else (found.snapshot, found.members),
            failed=self._compaction_failed,
        )
        self._SyncObj__transport.setOnMessageReceivedCallback(self._receive)

    # --- the one replicated method ----------------------------------------------------------------

    @replicated
    def commit(self, data: bytes) -> bytes:
        """Called by proposers (any thread) with `callback=`; PySyncObj runs the body at apply."""
        # PySyncObj stores its commit index once a second. What is seen here must be seen again after a
        # kill: from older tables this manager would serve a deleted volume in another one's space.
        self._SyncObj__raftLog.onOneSecondTimer()
        try:
            state, outcome = self._hooks.apply(self.state, data)
        except BaseException as error:
            # A bug. PySyncObj would try this entry again and again, also after a restart.
            log.critical("raft.apply_failed", applied=self.raftLastApplied, exc_info=True)
            self._end(EXIT_BUG, f"apply raised {error!r}")
        self.state = state
        self._hooks.changed()
        return outcome

    def _end(self, code: int, why: str) -> None:
        self.dead = True
        self._hooks.fatal(code, why)
        raise Dead(why)

    def wake(self) -> None:
        """End the sleep of the node's thread. Any thread."""
        self._SyncObj__pipeNotifier.notify()

    # --- the loop ---------------------------------------------------------------------------------

    def pump(self, wait_s: float) -> None:
        """One round: timers, commands, messages. Raises Dead."""
        now = time.monotonic()
        paused = now - self._last_pump > self._config.election_min_ms / 2000
        if paused or not self.is_member:
            # After a pause (SIGSTOP, a long snapshot) the leader's messages wait unread: read them
            # before calling it dead. And who is not a member yet must not stand for election.
            self._SyncObj__raftElectionDeadline = now + self._config.election_max_ms / 1000
        self._last_pump = now
        self.doTick(wait_s)
        if self.dead:
            raise Dead
        if self.raftLastApplied < self._exchange.loaded_index:
            # PySyncObj swallows whatever goes wrong while it loads a snapshot, and goes on without.
            self._end(EXIT_DATA, f"snapshot {self._exchange.loaded_index} was not taken in")
        now = time.monotonic()
        self._save_members()
        self._compact_if_due(now)
        self._ping_if_due(now)
        if self._step_aside_asked is not None:
            self._SyncObj__transport.send(self._step_aside_asked, {"type": _STEP_ASIDE})
            self._step_aside_asked = None
        seen = (self.raftCurrentTerm, self._getLeader())
        if now >= self._next_status or seen != self._status_of:
            self._status_of = seen
            self._publish_status(now)

    def _checkCommandsToApply(self) -> None:  # noqa: N802 (PySyncObj's name)
        before = self._SyncObj__raftLog[-1][1]
        super()._checkCommandsToApply()
        if not self._SyncObj__otherNodes and self._SyncObj__raftLog[-1][1] != before:
            self.wake()  # alone: no answer will arrive, so the next round must not sleep

    def _receive(self, node: Node, message: Any) -> None:
        kind = message.get("type") if isinstance(message, dict) else None
        if node not in self._SyncObj__otherNodes or kind is None or kind == _PING:
            return
        if kind == _STEP_ASIDE:
            self.transferLeadership()
            return
        if kind == "append_entries" and message["term"] >= self.raftCurrentTerm:
            self._receive_entries(node, message)
        else:
            self._SyncObj__onMessageReceived(node, message)
        if self.dead:
            raise Dead

    def _receive_entries(self, node: Node, message: dict[str, Any]) -> None:
        self._last_heard = time.monotonic()
        matched = match(self._SyncObj__raftLog, message, self.raftCommitIndex, self.raftLastApplied)
        if matched.conflict is not None and matched.conflict <= self.raftLastApplied:
            self._end(
                EXIT_DATA,
                f"{node.id} replaces entry {matched.conflict}, which is applied here: this node's log "
                "is not the cluster's. Remove this manager, empty its data directory and join again",
            )
        self._SyncObj__onMessageReceived(node, matched.message)
        if matched.acknowledge is not None:
            self._acknowledge(node, matched.acknowledge, success=True)
        if matched.restart_from is not None:
            self._acknowledge(node, matched.restart_from, success=False, reset=True)
        if message.get("serialized") is not None:
            # The stock node is silent until the last part: its leader would count it as lost.
            self._acknowledge(node, self._SyncObj__raftLog[-1][1] + 1, success=False)

    def _acknowledge(self, node: Node, next_index: int, *, success: bool, reset: bool = False) -> None:
        message = {"type": "next_node_idx", "next_node_idx": next_index, "reset": reset, "success": success}
        self._SyncObj__transport.send(node, message)

    def ask_to_step_aside(self, leader: Node) -> None:
        """Have `leader` hand its office to another node. Any thread."""
        self._step_aside_asked = leader
        self.wake()

    def _ping_if_due(self, now: float) -> None:
        # Followers have nothing to say to each other; a link silent for connection_timeout is closed
        # on its next use, which would be a vote request, lost with it.
        if now < self._next_ping:
            return
        self._next_ping = now + self._config.connection_timeout_ms / 1000 / PINGS_PER_TIMEOUT
        for node in self.otherNodes:
            self._SyncObj__transport.send(node, {"type": _PING})

    # --- snapshots --------------------------------------------------------------------------------

    def _compact_if_due(self, now: float) -> None:
        if self._getRaftLogSize() <= self._config.compaction_entries or now < self._compact_after:
            return
        if self._undecided_membership():
            return  # the snapshot carries the members: only decided ones
        self._compact_after = now + COMPACTION_PAUSE_S
        self.forceLogCompaction()

    def _compaction_failed(self) -> None:
        self._compact_after = time.monotonic() + COMPACTION_RETRY_S

    def _wants(self, snapshot: Snapshot) -> bool:
        journal = self._SyncObj__raftLog
        offset = snapshot.index - journal[0][1]
        known = 0 <= offset < len(journal) and journal[offset][2] == snapshot.last[2]
        return snapshot.index > self.raftLastApplied and not known

    def _install(self, snapshot: Snapshot) -> None:
        self.state = snapshot.state
        self.is_member = self.is_member or self._config.self_address in snapshot.members
        self._hooks.changed()

    # --- membership -------------------------------------------------------------------------------

    @property
    def members(self) -> frozenset[str]:
        """In force at this node, itself included once it is one."""
        # dir() in PySyncObj's constructor comes by before there are other nodes.
        others = getattr(self, "_SyncObj__otherNodes", ())
        own = {self._config.self_address} if self.is_member else set()
        return frozenset(node.id for node in others) | own

    def _undecided_membership(self) -> bool:
        journal = self._SyncObj__raftLog
        start = max(0, self.raftLastApplied + 1 - journal[0][1])
        return any(is_membership(journal[i][0]) for i in range(start, len(journal)))

    def _SyncObj__changeCluster(self, request: list[Any]) -> bool:  # noqa: N802
        # The stock leader means to allow one change at a time, but never notes that one is under way.
        if self._undecided_membership():
            return False
        return super()._SyncObj__changeCluster(request)

    def _SyncObj__doChangeCluster(self, request: list[Any], reverse: bool = False) -> bool:  # noqa: N802
        if request[1] == self._config.self_address:
            self.is_member = (request[0] == "add") != reverse
        return super()._SyncObj__doChangeCluster(request, reverse)

    def _SyncObj__doApplyCommand(self, command: bytes) -> Any:  # noqa: N802
        # Membership is in force from the moment it is in the log, and recovery has counted what the
        # journal holds. Applying old changes again would undo newer ones for a while.
        if is_membership(command):
            return None
        return super()._SyncObj__doApplyCommand(command)

    def _save_members(self) -> None:
        members = self.members
        if members == self.known_members:
            return
        self.known_members = members
        try:
            save_members(
                self._config.members_path,
                MembersFile(initial=tuple(sorted(self._initial_members)), latest=tuple(sorted(members))),
            )
        except OSError as error:
            # Not fatal: after a restart the log and the snapshot decide, this file only informs.
            log.error("raft.members_not_written", problem=str(error))
        log.info("raft.members_changed", members=sorted(members))

    # --- status -----------------------------------------------------------------------------------

    def _publish_status(self, now: float) -> None:
        self._next_status = now + STATUS_S
        leader = self._getLeader()
        others = self._SyncObj__otherNodes
        self._published = (
            now,
            LogStatus(
                self_address=self._config.self_address,
                leader_address=None if leader is None else leader.id,
                is_leader=self._isLeader(),
                has_quorum=self._has_quorum(now),
                term=self.raftCurrentTerm,
                raft_applied=self.raftLastApplied,
                raft_commit=self.raftCommitIndex,
                log_entries=self._getRaftLogSize(),
                members={node.id: node in self._SyncObj__connectedNodes for node in others},
            ),
        )

    @property
    def published(self) -> tuple[float, LogStatus] | None:
        """(monotonic time, status) as of the last round. Any thread."""
        return self._published

    def _has_quorum(self, now: float) -> bool:
        """PySyncObj's own answer counts TCP links, which a stopped peer keeps up."""
        since = now - self._config.fallback_ms / 1000
        if self._isLeader():
            others = self._SyncObj__otherNodes
            answered = sum(self._SyncObj__lastResponseTime.get(node, since) > since for node in others)
            return answered + 1 > (len(others) + 1) / 2
        heard = self._last_heard is not None and self._last_heard > since
        return heard and self._getLeader() is not None

    def close(self) -> None:
        self.destroy()
        self._exchange.close()
