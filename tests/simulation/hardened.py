"""The product's node on the simulated machine: the same code, with a disk, a clock, randomness and a
transport of the simulation's.

May live here: the environment, the transport, starting and ending. Links begin with the product's handshake
and messages go through its wire format. A snapshot is written some time after
it was asked for.
"""

import random
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
from pysyncobj.node import Node, TCPNode

from tests.simulation.disk import Crashed
from tests.simulation.endpoint import Endpoint
from tests.simulation.machine import Machine
from tests.simulation.mutations import MUTATIONS, mutated
from tests.simulation.network import Connection
from tests.simulation.operator import Operator
from tests.simulation.patches import replaced
from tests.simulation.settings import Settings, choose
from tests.simulation.tables import FIRST_TABLES, TablesApplication
from tests.simulation.world import World
from vimraft.core.tables import State
from vimraft.metadata.pysyncobj import identity, node, snapshot
from vimraft.metadata.pysyncobj.applying import EXIT_BUG
from vimraft.metadata.pysyncobj.config import PySyncObjConfig
from vimraft.metadata.pysyncobj.environment import Environment, Job
from vimraft.metadata.pysyncobj.gate import GatedTransport
from vimraft.metadata.pysyncobj.handshake import Handshake, Hello, encode_frame
from vimraft.metadata.pysyncobj.members import parse_change
from vimraft.metadata.pysyncobj.node import Dead, NodeHooks, RaftNode
from vimraft.metadata.pysyncobj.recovery import recover
from vimraft.metadata.pysyncobj.wire import decode, encode

FAILED_ROUND_S = 0.02
REFUSED_RETRY_S = 0.5
STATUS_S = 1.0
"""Nobody reads it here."""
WRITING_S = (0.0, 0.15)
CHUNK_BYTES = 1024
"""Of a snapshot on the wire: several messages each."""


class _Unhurried:
    """In the place of `time` where a snapshot is written: it never pauses."""

    @staticmethod
    def thread_time() -> float:
        return 0.0

    @staticmethod
    def sleep(seconds: float) -> None: ...


class _Frame(bytes):
    """Of a handshake."""


class _Link(Endpoint):
    """An endpoint whose connections begin with the handshake."""

    def __init__(self, machine: Machine, transport: "SimTransport") -> None:
        self._transport = transport
        self._handshakes: dict[str, tuple[Connection, Handshake]] = {}
        self.contacts: tuple[str, ...] = ()
        self.guests: dict[str, tuple[Node, Hello]] = {}
        super().__init__(
            machine,
            encode=encode,
            decode=decode,
            connected=transport._onNodeConnected,
            disconnected=transport._onNodeDisconnected,
            received=transport.received,
        )

    def take(self, kind: str, connection: Connection, address: str, payload: Any) -> None:
        if kind == "connected":
            self._begin(connection, address)
            return
        shaking = self._handshakes.get(address)
        if shaking is not None and shaking[0] is connection:
            if isinstance(payload, _Frame):
                self._continue(connection, shaking[1], address, payload)
            elif kind == "lost":
                del self._handshakes[address]
            return
        if isinstance(payload, _Frame):
            return  # of a link that this end has given up
        if kind == "message" and self._connections.get(address) is not connection and not connection.late:
            return
        if address not in self.guests:
            super().take(kind, connection, address, payload)
        elif kind == "message":
            self._received(self.guests[address][0], self._decode(payload))
        elif self._connections.get(address) is connection:
            del self._connections[address], self.guests[address]
            self._disconnected(TCPNode(address))

    # --- members that this node does not know yet ---------------------------------------------------

    def wants(self, address: str) -> bool:
        return address in (self.nodes or self.contacts)

    def accepts(self, address: str) -> bool:
        return True

    def look_at_guests(self) -> None:
        """As MemberTransport does."""
        network = self._transport.network
        for address, (_, peer) in list(self.guests.items()):
            member = self.nodes.get(address)
            if member is not None and network.knows(address, peer.node_id):
                del self.guests[address]
                self._connected(member)
            elif peer.config_index <= network.decided_index() and not network.decided(address, peer.node_id):
                del self.guests[address]
                self._connections.pop(address, None)
                self._disconnected(TCPNode(address))
                self._machine.network.break_connection(self._machine.address, address)

    def _begin(self, connection: Connection, address: str) -> None:
        machine = self._machine
        other = connection.other(machine.address)
        dials = self.wants(address) and (machine.address > address or not other.wants(machine.address))
        handshake = Handshake(
            self._transport.network,
            is_member=self.nodes.__contains__,
            dialled=address if dials else None,
            certificate_addresses=lambda: None,
        )
        self._handshakes[address] = (connection, handshake)
        if dials:
            self._say(connection, encode_frame(handshake.hello()))

    def _say(self, connection: Connection, frame: bytes) -> None:
        machine = self._machine
        if not machine.dying:
            departure = machine.world.now + machine.busy_s
            connection.send(machine.address, _Frame(frame), departure, once=True)

    def _continue(self, connection: Connection, handshake: Handshake, address: str, payload: bytes) -> None:
        step = handshake.receive(payload)
        if step.send is not None:
            self._say(connection, encode_frame(step.send))
        if step.refused:
            del self._handshakes[address]
            self._transport.refused(address, step.refused)
            machine = self._machine
            machine.world.note(machine.name, "refuses link", address, step.refused)
            if not machine.dying:
                # After what has been said, with its reason, has arrived.
                machine.world.after(
                    REFUSED_RETRY_S, machine.network.break_connection, machine.address, address
                )
        elif step.up:
            del self._handshakes[address]
            peer = handshake.peer
            assert peer is not None
            self._transport.clusters[address] = (peer.cluster, peer.generation, peer.birth)
            if handshake.guest:
                self._connections[address] = connection
                self.guests[address] = (TCPNode(address), peer)
            else:
                self.guests.pop(address, None)
                super().take("connected", connection, address, None)


class _Background:
    """A snapshot is written some time later, between two rounds; a kill may come before, or inside."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def __call__(self, job: Job) -> None:
        machine = self._machine
        machine.dumping += 1
        machine.world.after(machine.random.uniform(*WRITING_S), self._run, job, machine.life)

    def _run(self, job: Job, life: int) -> None:
        machine = self._machine
        if not machine.up or machine.life != life:
            return
        machine.dumping -= 1
        with machine.running():
            try:
                job()
            except Crashed:
                assert machine.dying
        if machine.dying:
            machine.die_now()

    def close(self) -> None: ...


class SimTransport(GatedTransport):
    def __init__(self, node: Any, self_node: Node, other_nodes: set[Node]) -> None:
        super().__init__(node, self_node, other_nodes)
        self.network = node.network
        self._refusals: dict[str, str] = {}
        self.clusters: dict[str, tuple[str, int, str]] = {}
        self._clock = node.clock
        self._contacts: dict[Node, float] = {}
        self.endpoint = _Link(Hardened.world.current, self)
        for other in sorted(other_nodes, key=lambda other: str(other.id)):
            self.endpoint.add(other)
        node.addOnTickCallback(self.endpoint.look_at_guests)

    @property
    def guests(self) -> frozenset[Node]:
        return frozenset(node for node, _ in self.endpoint.guests.values())

    def call_also(self, addresses: tuple[str, ...]) -> None:
        self.endpoint.contacts = addresses
        for address in addresses:
            self.endpoint.call(address)

    def received(self, node: Node, message: Any) -> None:
        self._contacts[node] = self._clock()
        self._onMessageReceived(node, message)

    @property
    def refusals(self) -> dict[str, str]:
        return self._refusals

    def refused(self, address: str, why: str) -> None:
        self._refusals[address] = why

    def cluster_of(self, node: Node) -> tuple[str, int, str]:
        return self.clusters.get(node.id, ("", 0, ""))

    def last_contact(self, node: Node) -> float | None:
        return self._contacts.get(node)

    def is_connected(self, node: Node) -> bool:
        return self.endpoint.is_connected(node)

    def backlog_bytes(self, node: Node) -> int:
        return 0

    def congested(self, node: Node) -> bool:
        return False

    def addNode(self, node: Node) -> None:
        self.endpoint.add(node)

    def dropNode(self, node: Node) -> None:
        self._refusals.pop(node.id, None)
        self.endpoint.drop(node)

    def destroy(self) -> None: ...

    def _transmit(self, node: Node, message: Any) -> bool:
        return self.endpoint.send(node, message)


class Hardened:
    """Kind (machine.py) and Cluster (simulation.py)."""

    name = "hardened"
    world: World

    def __init__(self, mutation: str | None = None, only: tuple[str, ...] = ()) -> None:
        self._only = only
        self.kind = self
        self.application = TablesApplication()
        self._mutation = mutation

    def settings(self, world: World) -> Settings:
        Hardened.world = world
        chosen = choose(world.random, hardened=True, only=self._only)
        if self._mutation is not None:
            chosen = msgspec.structs.replace(chosen, **MUTATIONS[self._mutation].settings)
        self._settings = chosen
        self.application.first = FIRST_TABLES[chosen.level]
        self._random: random.Random = world.fork_random("ids")
        return self._settings

    @contextmanager
    def installed(self) -> Iterator[None]:
        ids = SimpleNamespace(
            uuid4=lambda: uuid.UUID(int=self._random.getrandbits(128)), uuid5=uuid.uuid5, UUID=uuid.UUID
        )
        with (
            mutated(self._mutation),
            replaced(identity, uuid=ids),
            replaced(node, STATUS_S=STATUS_S),
            replaced(snapshot, SNAPSHOT_CHUNK_BYTES=CHUNK_BYTES, time=_Unhurried),
        ):
            yield

    def prepare(self, run: Any) -> None:
        checks = run.checks

        def entry_seen(command: bytes) -> None:
            change = parse_change(command) if command[:1] == b"\x02" else None
            if change is not None and change.kind == "add":
                checks.may_vote.add(change.address)

        checks.entry_seen = entry_seen
        self._checks = checks
        self._operator = Operator(run)

    def belongs(self, machine: Machine, leader: Machine) -> bool:
        return self._operator.belongs(machine, leader)

    def config(self, machine: Machine) -> PySyncObjConfig:
        timing = self._settings.timing
        return PySyncObjConfig(
            self_address=machine.address,
            members=machine.members,
            data_dir=Path("/simulated"),
            election_min_ms=int(timing.election_min_s * 1000),
            election_max_ms=int(timing.election_max_s * 1000),
            heartbeat_ms=int(timing.heartbeat_s * 1000),
            compaction_entries=timing.compaction_entries,
            journal_slack_bytes=self._settings.journal_slack_bytes,
        )

    def boot(self, machine: Machine) -> RaftNode:
        config = self.config(machine)
        found = recover(machine.disk, config)

        def apply(state: State, data: bytes) -> tuple[State, bytes]:
            after, outcome, effect = self.application.apply(state, data)
            machine.applied(machine, after.index, data, effect, outcome)
            return after, outcome

        def fatal(code: int, why: str) -> None:
            machine.end_itself(f"exit {code}: {why}")
            if not machine.dying and machine.address not in self._operator.wiped:
                kind = "bug" if code == EXIT_BUG else "ended itself"
                self._checks.violate(kind, f"{machine.name}: exit {code}: {why}")

        return RaftNode(
            config,
            found,
            NodeHooks(apply=apply, fatal=fatal, changed=lambda: None),
            Environment(
                disk=machine.disk,
                clock=machine.clock,
                random=machine.random,
                make_transport=SimTransport,
                background=_Background(machine),
            ),
        )

    def round(self, node: RaftNode) -> None:
        node.pump(0.0)

    def failed(self, machine: Machine, error: Exception) -> None:
        if isinstance(error, Dead):
            return  # by its own decision, which has been noted
        self._checks.violate("exception in a round", f"{machine.name}: {error!r}")
        machine.busy_s += FAILED_ROUND_S

    def submit(self, node: RaftNode, data: bytes, done: Any) -> None:
        node.commit(data, done)

    def ended(self, machine: Machine, *, power: bool) -> None:
        machine.dumping = 0
        if power:
            machine.boots += 1
