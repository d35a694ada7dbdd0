"""The Raft node: PySyncObj, with what it lacks put around it.

May live here: the SyncObj subclass, which puts the parts together and takes over those of PySyncObj's
methods that are wrong (each says why). All methods run in the node's own thread (see ticker.py), but
`commit`, `persist`, `wake` and `ask_to_step_aside`, which any thread may call. Names that begin with
_SyncObj__ are PySyncObj's private ones; the version is pinned, and `selfcheck` looks that they are there.

Order of a round (`pump`): sync and release what the last one left · PySyncObj's timers, the leader's count,
apply, new commands · sync and release, while the followers do the same · messages.

Keeps: the leader counts, and anyone applies, only what is on its own disk; the commit index is in the file
before anything is applied; `state` is replaced, never changed, so other threads read it without a lock;
apply is total, and if it fails all the same the process ends before anything diverges (INV-8).
"""

from collections.abc import Callable
from typing import Any, Final, NoReturn

import structlog
from msgspec import Struct, structs
from pysyncobj import SyncObj
from pysyncobj.node import Node

from vimraft.core.tables import State
from vimraft.metadata.port import LogStatus
from vimraft.metadata.pysyncobj import commits
from vimraft.metadata.pysyncobj.applying import Applying
from vimraft.metadata.pysyncobj.compaction import Compaction
from vimraft.metadata.pysyncobj.config import PySyncObjConfig
from vimraft.metadata.pysyncobj.durability import COMMIT_SYNC_S, Durability
from vimraft.metadata.pysyncobj.elections import Elections, Standing
from vimraft.metadata.pysyncobj.environment import Environment
from vimraft.metadata.pysyncobj.errors import SyncFailed
from vimraft.metadata.pysyncobj.handover import HandOver
from vimraft.metadata.pysyncobj.handshake import NetworkIdentity
from vimraft.metadata.pysyncobj.identity import adopt, supersede
from vimraft.metadata.pysyncobj.inbox import PING, STEP_ASIDE, Inbox
from vimraft.metadata.pysyncobj.intake import Answer, Intake
from vimraft.metadata.pysyncobj.journal_hook import handing
from vimraft.metadata.pysyncobj.members import Member, is_membership
from vimraft.metadata.pysyncobj.outbox import Outbox
from vimraft.metadata.pysyncobj.peers import Peers
from vimraft.metadata.pysyncobj.records import REGULAR
from vimraft.metadata.pysyncobj.recovery import Recovered
from vimraft.metadata.pysyncobj.snapshot import SnapshotExchange
from vimraft.metadata.pysyncobj.status import status_of

log = structlog.get_logger(__name__)

EXIT_DATA: Final = 74
STATUS_S: Final = 0.05
PINGS_PER_TIMEOUT: Final = 4
_FOLLOWER, _LEADER = 0, 2

Apply = Callable[[State, bytes], tuple[State, bytes]]
Fatal = Callable[[int, str], None]


class Dead(Exception):
    """`fatal` was called and came back (tests): the node must do nothing more."""


class NodeHooks(Struct, frozen=True):
    apply: Apply
    fatal: Fatal
    """(exit code, why): does not return in production."""
    changed: Callable[[], None]
    """`state` has been replaced; once for all that a round applies."""
    answered: Callable[[], None] = lambda: None
    """Callbacks of commands have been called; at least once in each round that did."""


class RaftNode(SyncObj):
    def __init__(
        self, config: PySyncObjConfig, found: Recovered, hooks: NodeHooks, environment: Environment
    ) -> None:
        """Listens on the address at once. Raises SyncObjException ('BindError')."""
        # Before super(): PySyncObj looks at every attribute of `self` while it is being made.
        self.config = config
        self.journal = found.journal
        self.journal.slack_bytes = config.journal_slack_bytes
        self.identity = found.identity
        self.state = State() if found.snapshot is None else found.snapshot.state
        self.dead = False
        self.clock = environment.clock
        self.elections = Elections(config.self_address, config.election_min_ms / 1000)
        self.peers = Peers(self, found, environment.disk)
        self.configuration = self.peers.configuration
        self.acquaintances = self.peers.acquaintances
        self.network = NetworkIdentity(
            identity=found.identity,
            address=config.self_address,
            tls=config.tls,
            knows=self.acquaintances.knows,
            named=self.acquaintances.named,
            config_index=lambda: self.configuration.index,
            decided_index=lambda: self.configuration.index_at(self.raftLastApplied),
            decided=self._was_member,
            superseded=self._supersede,
        )
        self.hooks = hooks
        self._environment = environment
        self.durability = Durability(
            found.journal, environment.clock, full=self._disk_full, lost=self.end_for_data
        )
        self.intake = Intake(self)
        self._inbox = Inbox(self)
        self._outbox = Outbox(self)
        self.hand_over = HandOver(self)
        self._step_aside_asked: Node | None = None
        self._woken = False
        self._applying = Applying(self)
        self._recovered = False
        now = environment.clock()
        self.started_s = self._last_pump = now
        self._next_ping = self._next_status = now
        self.compaction = Compaction(self, now)
        self._status_of: tuple[object, ...] | None = None
        self._published: tuple[float, LogStatus] | None = None
        self._make(found)

    def _make(self, found: Recovered) -> None:
        own, environment = self.config.self_address, self._environment
        with handing(found.journal):
            super().__init__(
                own,
                sorted(self.configuration.voters() - {own}),
                self.config.to_pysyncobj(),
                transportClass=environment.make_transport,
            )
        self._SyncObj__needLoadDumpFile = False
        # A response to an earlier life must not be taken for one to this.
        self._SyncObj__commandsLocalCounter = environment.random.getrandbits(48)
        # The stock node takes the stored commit index as it is, also when the journal is shorter.
        self._SyncObj__raftCommitIndex = min(self._SyncObj__raftCommitIndex, self.last_index)
        if found.snapshot is not None:
            self._SyncObj__raftLastApplied = found.snapshot.index
            self._SyncObj__raftCommitIndex = max(self._SyncObj__raftCommitIndex, found.snapshot.index)
        self.exchange = self._SyncObj__serializer = SnapshotExchange(
            environment.disk,
            current=self._applying.current,
            wanted=self._applying.wants,
            install=self._applying.install,
            failed=self.compaction.failed,
            lost=self.end_for_data,
            background=environment.background,
            congested=lambda peer: self.transport.congested(peer),  # noqa: PLW0108 - it is set below
        )
        self.transport = self._SyncObj__transport
        self.durability.gate = self.transport
        self.transport.setOnMessageReceivedCallback(self._receive)
        for verb in ("status", "add", "remove", "set_version", "transfer"):
            self.transport.setOnUtilityMessageCallback(verb, None)
        self.addOnTickCallback(self.durability.settle)
        self.transport.call_also(self.peers.contacts)
        self.peers.reconcile()

    # --- commands, from any thread ----------------------------------------------------------------

    def commit(self, data: bytes, callback: Answer) -> None:
        """`callback(outcome bytes or None, FAIL_REASON)` is called in the node's thread."""
        self.queue(data, callback)
        self.wake()

    def queue(self, data: bytes, callback: Answer) -> None:
        """As `commit`, by who will call `wake` once all that is to go together is queued."""
        self.intake.put(REGULAR + data, callback)

    def change_members(self, command: bytes, callback: Answer) -> None:
        """`command`: members.encode_change."""
        self._applyCommand(command, callback)

    def persist(self, done: Callable[[], None]) -> None:
        """Call `done` once all that is applied here survives a power cut."""
        self.durability.when_synced(done)
        self.wake()

    def ask_to_step_aside(self, leader: Node) -> None:
        """Have `leader` hand its office to another node."""
        self._step_aside_asked = leader
        self.wake()

    def wake(self) -> None:
        """End the sleep of the node's thread; once per round is enough."""
        if not self._woken:
            self._woken = True
            self._SyncObj__pipeNotifier.notify()

    def _applyCommand(  # noqa: N802 (PySyncObj's name)
        self,
        command: bytes,
        callback: Any,
        commandType: int | None = None,  # noqa: N803
    ) -> None:
        assert commandType is None
        self.intake.put(command, callback)
        self.wake()

    def _checkCommandsToApply(self) -> None:  # noqa: N802
        # PySyncObj sends a message to every follower for each command, and one before for the commit
        # index; here all of that goes in one.
        appended = self.intake.take()
        if (appended or self._applying.untold) and self._isLeader():
            self._SyncObj__sendAppendEntries()
        self._applying.untold = False
        if appended and not self._SyncObj__otherNodes:
            self.wake()  # alone: no answer will arrive, so the next round must not sleep

    # --- the loop ---------------------------------------------------------------------------------

    def pump(self, wait_s: float) -> None:
        """One round: sync, timers, commands, messages. The first one brings the tables first to where they
        have been. Raises Dead."""
        if not self._recovered:
            self._recovered = True
            self._applying.recovered()
        self._woken = False  # before the queues are looked at: what comes later wakes again
        now = self.clock()
        if now - self._last_pump > self.config.election_min_ms / 2000:
            # After a pause (SIGSTOP, a long snapshot) the leader's messages wait unread: read them
            # before calling it dead.
            self._SyncObj__raftElectionDeadline = now + self.config.election_max_ms / 1000
        self._last_pump = now
        self.durability.settle()
        commits.advance(self)
        self.doTick(min(wait_s, COMMIT_SYNC_S) if self.durability.commit_waits else wait_s)
        if self.dead:
            raise Dead
        self.hooks.answered()
        now = self.clock()
        self.peers.note()
        self.compaction.look(now)
        self.hand_over.look()
        self._ping_if_due(now)
        if self._step_aside_asked is not None:
            self.send(self._step_aside_asked, {"type": STEP_ASIDE})
            self._step_aside_asked = None
        # The members too: who has been told of a change must not be shown an older status.
        seen = (self.raftCurrentTerm, self._getLeader(), self.disk_problem, self.known_members)
        if now >= self._next_status or seen != self._status_of:
            self._status_of = seen
            self._next_status = now + STATUS_S
            self._published = (now, status_of(self, now))

    def _receive(self, sender: Node, message: Any) -> None:
        if self.dead:
            raise Dead
        self._inbox.receive(sender, message)
        if self.dead:
            raise Dead

    def send(self, peer: Node, message: dict[str, Any]) -> bool:
        sent: bool = self.transport.send(peer, message)
        return sent

    def _ping_if_due(self, now: float) -> None:
        # Followers have nothing to say to each other; a link silent for connection_timeout is closed
        # on its next use, which would be a vote request, lost with it.
        if now < self._next_ping:
            return
        self._next_ping = now + self.config.connection_timeout_ms / 1000 / PINGS_PER_TIMEOUT
        for node in self._SyncObj__otherNodes | self._SyncObj__readonlyNodes | self.transport.guests:
            self.send(node, {"type": PING})

    def end_for_data(self, why: str) -> NoReturn:
        self.end(EXIT_DATA, why)

    def end(self, code: int, why: str) -> NoReturn:
        self.dead = True
        self.hooks.fatal(code, why)
        raise Dead(why)

    # --- the disk ---------------------------------------------------------------------------------

    @property
    def disk_problem(self) -> str:
        return self.durability.problem

    def _disk_full(self, problem: str) -> None:
        if self._SyncObj__raftState != _FOLLOWER:
            self.step_down(problem)

    # --- terms and elections ----------------------------------------------------------------------

    @property
    def last_index(self) -> int:
        index: int = self.journal[-1][1]
        return index

    def _was_member(self, address: str, node_id: str) -> bool:
        member = self.peers.decided.get(address)
        return member is not None and member.node_id in ("", node_id)

    def standing(self) -> Standing:
        _, index, term = self.journal[-1]
        return Standing(self.raftCurrentTerm, index, term)

    @property
    def is_voter(self) -> bool:
        return self.config.self_address in self.configuration.voters()

    def see_term(self, term: int) -> None:
        """A member is in `term`: if that is newer, so are we, as a follower."""
        if term > self.raftCurrentTerm:
            was_leader = self._isLeader()
            self._SyncObj__setCurrentTerm(term, None)
            self.step_down("a newer term") if was_leader else self.follow_nobody()

    def step_down(self, why: str) -> None:
        log.warning("raft.steps_down", term=self.raftCurrentTerm, why=why)
        self.follow_nobody()

    def follow_nobody(self) -> None:
        self._SyncObj__setState(_FOLLOWER)
        self._SyncObj__raftLeader = None
        self._SyncObj__transferInProgress = False
        self._SyncObj__onLeaderChanged()

    def heard_leader(self, leader: Node) -> None:
        self.elections.heard_leader(self.clock())
        if not self.identity.cluster:
            self._adopt(self.transport.cluster_of(leader))

    def _supersede(self, generation: int) -> None:
        """A member is in a later generation: what this one decides would be lost, so it decides nothing."""
        if self.identity.superseded_by >= generation:
            return
        try:
            self.identity = supersede(self._environment.disk, self.identity, generation)
        except OSError as error:
            log.error("raft.identity_not_written", problem=str(error))
            self.identity = structs.replace(self.identity, superseded_by=generation)
        self.network.identity = self.identity
        self.elections.lost_leader()
        self.step_down(f"generation {generation} of this cluster is in force")

    def _adopt(self, cluster: tuple[str, int, str]) -> None:
        """A node that joins: the first leader that knows it tells which cluster it has come into."""
        if not cluster[0]:
            return
        try:
            self.identity = adopt(self._environment.disk, self.identity, *cluster)
        except OSError as error:
            log.error("raft.identity_not_written", problem=str(error))
            return
        self.network.identity = self.identity
        log.info("raft.joined", cluster=cluster[0], generation=cluster[1])

    def _SyncObj__setState(self, state: int) -> None:  # noqa: N802
        # PySyncObj leaves a leader that steps down with a deadline long past: it would stand at once.
        if self._SyncObj__raftState == _LEADER and state != _LEADER:
            self._postpone_election()
            self.exchange.stop_sending()
        super()._SyncObj__setState(state)

    def _postpone_election(self) -> None:
        self._SyncObj__raftElectionDeadline = self.clock() + self._SyncObj__generateRaftTimeout()
        self.elections.give_up()

    def _SyncObj__connectedToAnyone(self) -> bool:  # noqa: N802
        """PySyncObj asks this once its election deadline has passed, and stands if it is True."""
        if self.disk_problem or self.barred or not self.is_voter:
            self._SyncObj__transferInProgress = False
            self._postpone_election()
            return False
        if self._SyncObj__transferInProgress:
            return True  # the leader itself has asked for it
        voters = {node.id: node for node in self._SyncObj__otherNodes}

        def ask(peer: str, message: dict[str, Any]) -> None:
            self.send(voters[peer], message)

        stand = self.elections.deadline_passed(
            self.clock(), self.standing(), self.configuration.voters(), ask
        )
        if not stand:
            self._SyncObj__raftElectionDeadline = self.clock() + self._SyncObj__generateRaftTimeout()
        return stand

    def _SyncObj__onBecomeLeader(self) -> None:  # noqa: N802
        # Alone among observers, PySyncObj would tell them of a term that is not on disk yet, and another life
        # of this node might lead in it once more.
        self.durability.settle()
        if self.disk_problem:
            self.follow_nobody()
            return
        super()._SyncObj__onBecomeLeader()
        self.elections.give_up()
        self.peers.name_all()
        # Alone, PySyncObj counts in the very same round: have it on disk before.
        self.durability.settle()

    def has_quorum(self, now: float) -> bool:
        """PySyncObj's own answer counts TCP links, which a stopped peer keeps up."""
        since = now - self.config.fallback_ms / 1000
        if self._isLeader():
            others = self._SyncObj__otherNodes
            answered = sum(self._SyncObj__lastResponseTime.get(node, since) > since for node in others)
            return answered + 1 > (len(others) + 1) / 2
        heard = self.elections.heard_s
        return heard is not None and heard > since and self._getLeader() is not None

    def talks_to(self, peer: Node) -> bool:
        return peer in self._SyncObj__otherNodes or peer in self._SyncObj__readonlyNodes

    @property
    def barred(self) -> bool:
        """It must not have a part in any election: it might be somebody who has forgotten."""
        members = self.configuration.members
        known = bool(members) and not self.identity.superseded_by
        named = members.get(self.config.self_address)
        if named is not None and named.node_id not in ("", self.identity.node_id):
            return True  # another one has its place
        return not known or bool(self.peers.formation.waits_for())

    def _SyncObj__onNodeConnected(self, peer: Node) -> None:  # noqa: N802
        super()._SyncObj__onNodeConnected(peer)
        self.peers.formation.meet(peer.id)

    def _SyncObj__sendAppendEntries(self) -> None:  # noqa: N802
        self._outbox.send()

    def _SyncObj__onNodeDisconnected(self, peer: Node) -> None:  # noqa: N802
        super()._SyncObj__onNodeDisconnected(peer)
        self.exchange.cancelTransmisstion(peer)
        if peer == self._getLeader():
            # Answers to what we forwarded are lost with the link; the stock node waits for ever.
            self._SyncObj__onLeaderChanged()

    # --- the log ----------------------------------------------------------------------------------

    def append(self, command: bytes) -> tuple[int, int]:
        """As the leader; (index, term) of the entry."""
        index, term = self.last_index + 1, self.raftCurrentTerm
        self.journal.add(command, index, term)
        if is_membership(command):
            self.peers.appended(index, command)
        return index, term

    def _SyncObj__deleteEntriesFrom(self, first: int) -> None:  # noqa: N802
        super()._SyncObj__deleteEntriesFrom(first)
        self.peers.cut(first)

    def _SyncObj__deleteEntriesTo(self, first: int) -> None:  # noqa: N802
        self.compaction.written(first)

    def trim(self, first: int) -> None:
        """Have the log begin with that entry. A snapshot that ends with the next one is on stable storage."""
        try:
            super()._SyncObj__deleteEntriesTo(first)
        except SyncFailed as error:
            self.end_for_data(str(error))
        self.configuration.compact(first + 1)  # PySyncObj keeps the snapshot's last two entries

    def _SyncObj__applyLogEntries(self) -> bool:  # noqa: N802
        self._applying.committed()
        return False  # the followers are told together with new commands: see _checkCommandsToApply

    def _SyncObj__doApplyCommand(self, command: bytes) -> bytes | list[bytes] | None:  # noqa: N802
        return self._applying.one(command)

    def _SyncObj__loadDumpFile(self, clearJournal: bool) -> None:  # noqa: N802, N803
        assert clearJournal
        self._applying.received()

    @property
    def known_members(self) -> dict[str, Member]:
        """The members as of the last round. Any thread."""
        return self.peers.noted

    @property
    def decided_members(self) -> dict[str, Member]:
        """The members as of what is applied here. Any thread."""
        return self.peers.decided

    # --- status and end ---------------------------------------------------------------------------

    @property
    def problem(self) -> str:
        """Why this node cannot do its part; "" when it can."""
        published = self._published
        return published[1].problem if published else ""

    @property
    def published(self) -> tuple[float, LogStatus] | None:
        """(clock, status) as of the last round. Any thread."""
        return self._published

    def close(self) -> None:
        self.destroy()
        self.exchange.close()
        self._environment.background.close()
