"""The network between machines: connections that are FIFO and break as a whole, over paths with faults.

May live here: paths (delay, loss, duplication, cuts; each direction for itself), connections on them, and
who is told when one breaks. A connection behaves as TCP does: what is lost is sent again and delays all
that follows, a cut holds everything back until it heals or the connection times out, and a break takes
what was under way with it. On top of that, for nodes that claim to stand it: messages twice, and messages
of a broken connection that arrive late, beside those of the next one.
"""

import random
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tests.simulation.world import World

if TYPE_CHECKING:
    from tests.simulation.machine import Machine

RETRANSMIT_S = 0.2
FIRST_REPEAT_S = 0.05
REPEATS_SPREAD = 60
"""A repeated message comes up to so many times later than the first that may come."""
CONNECT_S = 0.02
RETRY_S = 0.2
TIMEOUT_S = 3.5
"""A connection whose one direction is cut for so long breaks."""


class Path:
    """One direction between two machines."""

    __slots__ = ("cut", "cut_count", "delay_s", "duplicate", "jitter_s", "loss", "random")

    def __init__(self, rng: random.Random) -> None:
        self.random = rng
        """Of its own: in which order a node sends to several others must not matter."""
        self.delay_s = 0.0005
        self.jitter_s = 0.0002
        self.loss = 0.0
        self.duplicate = 0.0
        self.cut = False
        self.cut_count = 0


class Connection:
    __slots__ = ("alive", "last", "late", "lives", "machines", "network", "number", "stalled")

    def __init__(self, network: "Network", a: "Machine", b: "Machine", number: int) -> None:
        self.network = network
        self.machines = (a, b)
        self.lives = {a.address: a.life, b.address: b.life}
        self.last = {a.address: 0.0, b.address: 0.0}
        self.stalled: dict[str, list[Any]] = {a.address: [], b.address: []}
        self.alive = True
        self.late = False
        self.number = number

    def other(self, address: str) -> "Machine":
        a, b = self.machines
        return b if a.address == address else a

    def send(self, source: str, payload: Any, departure: float, *, once: bool = False) -> None:
        """`once`: not even a faulty network repeats it."""
        network = self.network
        path = network.paths[source, self.other(source).address]
        rng = path.random
        delay = path.delay_s + rng.random() * path.jitter_s
        if path.loss and rng.random() < path.loss:
            delay += RETRANSMIT_S
        arrival = max(self.last[source], departure + delay)
        self.last[source] = arrival
        network.world.at(arrival, self._arrive, source, payload)
        if path.duplicate and not once and rng.random() < path.duplicate:
            network.world.at(
                arrival + FIRST_REPEAT_S * REPEATS_SPREAD ** rng.random(), self._arrive, source, payload
            )

    def _arrive(self, source: str, payload: Any) -> None:
        target = self.other(source)
        if not self.alive and not self.late:
            return
        if not target.up or target.life != self.lives[target.address]:
            return
        stalled = self.stalled[source]
        if stalled or self.network.paths[source, target.address].cut:
            stalled.append(payload)
            return
        target.receive(("message", self, source, payload))

    def flush(self, source: str) -> None:
        """The cut has healed: what waited goes on, in order."""
        waiting, self.stalled[source] = self.stalled[source], []
        for payload in waiting:
            self.send(source, payload, self.network.world.now)


class Network:
    def __init__(self, world: World) -> None:
        self.world = world
        self.random: random.Random = world.fork_random("network")
        self.machines: dict[str, Machine] = {}
        self.paths: dict[tuple[str, str], Path] = {}
        self.connections: dict[tuple[str, str], Connection] = {}
        self.late_messages = False
        """Whether a break may let messages of the old connection arrive beside the new one's."""
        self._number = 0

    def add(self, machine: "Machine") -> None:
        for other in self.machines:
            for ends in ((machine.address, other), (other, machine.address)):
                self.paths[ends] = Path(self.world.fork_random(f"{ends[0]}>{ends[1]}"))
        self.machines[machine.address] = machine

    # --- connections ------------------------------------------------------------------------------

    def connect_soon(self, a: str, b: str, delay_s: float = CONNECT_S) -> None:
        self.world.after(delay_s * (0.5 + self.random.random()), self._connect, *sorted((a, b)))

    def _connect(self, a: str, b: str) -> None:
        first, second = self.machines[a], self.machines[b]
        if not ((first.wants(b) and second.accepts(a)) or (second.wants(a) and first.accepts(b))):
            return  # whoever wants it later asks again
        known = self.connections.get((a, b))
        if known is not None and known.alive:
            return
        if self.paths[a, b].cut or self.paths[b, a].cut or first.paused or second.paused:
            self.connect_soon(a, b, RETRY_S)
            return
        self._number += 1
        made = self.connections[a, b] = Connection(self, first, second, self._number)
        first.receive(("connected", made, b, None))
        second.receive(("connected", made, a, None))

    def break_connection(self, a: str, b: str, *, told_after_s: float = 0.0) -> None:
        """What is under way is lost; the ends are told, each in its own time."""
        key = (a, b) if a < b else (b, a)
        connection = self.connections.pop(key, None)
        if connection is None or not connection.alive:
            return
        connection.alive = False
        connection.late = self.late_messages and self.random.random() < 0.3
        for address in key:
            self.world.after(told_after_s * self.random.random(), self._tell_lost, connection, address)
        self.connect_soon(a, b, RETRY_S + told_after_s)

    def _tell_lost(self, connection: Connection, address: str) -> None:
        machine = self.machines[address]
        if machine.up and machine.life == connection.lives[address]:
            machine.receive(("lost", connection, connection.other(address).address, None))

    def gone(self, address: str, *, silently: bool) -> None:
        """The process at `address` has ended; after a power loss nobody says goodbye."""
        for other in self.machines:
            if other != address:
                self.break_connection(address, other, told_after_s=TIMEOUT_S if silently else 0.01)

    def came(self, address: str) -> None:
        for other in self.machines:
            if other != address:
                self.connect_soon(address, other)

    # --- faults -----------------------------------------------------------------------------------

    def cut(self, source: str, target: str) -> None:
        path = self.paths[source, target]
        path.cut = True
        path.cut_count += 1
        self.world.after(TIMEOUT_S, self._time_out, source, target, path.cut_count)

    def _time_out(self, source: str, target: str, count: int) -> None:
        path = self.paths[source, target]
        if path.cut and path.cut_count == count:
            self.break_connection(source, target, told_after_s=0.5)

    def heal(self, source: str, target: str) -> None:
        path = self.paths[source, target]
        if not path.cut:
            return
        path.cut = False
        connection = self.connections.get((source, target) if source < target else (target, source))
        if connection is not None and connection.alive:
            connection.flush(source)

    def separate(self, some: Iterable[str], others: Iterable[str]) -> None:
        others = list(others)
        for a in some:
            for b in others:
                self.cut(a, b)
                self.cut(b, a)

    def heal_all(self) -> None:
        for source, target in self.paths:
            self.heal(source, target)
