"""Connections between processes: FIFO, over paths between sites that can be cut in one direction.

May live here: paths, connections, and who learns when of an end. What was sent before a connection ended for
its sender may still arrive, as long as the receiver does not know of the end: late, beside the messages of
the connection that follows.
"""

import random
from typing import Any

from tests.simulation.cluster.process import Process
from tests.simulation.world import World

TIMEOUT_S = 2.0
"""A connection whose one direction is cut for so long breaks."""
LOCAL_S = 0.00005
REFUSED_S = 0.01
MAX_LATE_S = 1.5


class Connection:
    """`ends[0]` opened it. `open` per end: false once that process knows that it is over."""

    __slots__ = ("broken", "ends", "held", "last", "lives", "open", "wire")

    def __init__(self, wire: "Wire", opener: Process, other: Process) -> None:
        self.wire = wire
        self.ends = (opener, other)
        self.lives = (opener.life, other.life)
        self.open = [True, True]
        self.broken = False
        self.last = [0.0, 0.0]
        self.held: list[list[Any]] = [[], []]

    def send(self, source: Process, payload: Any) -> None:
        """Into nothing when it is over."""
        side = 0 if source is self.ends[0] else 1
        if self.open[side] and not self.broken:
            self.wire.carry(self, side, payload)


class Wire:
    def __init__(self, world: World, rng: random.Random, delay_s: float, jitter_s: float) -> None:
        self.world = world
        self.random = rng
        self.delay_s = delay_s
        self.jitter_s = jitter_s
        self.cuts: dict[tuple[str, str], int] = {}
        """(from site, to site) → number of the cut."""
        self.slow: dict[tuple[str, str], float] = {}
        """Seconds that a path takes on top."""
        self.connections: list[Connection] = []
        self._number = 0
        self.untold = 0
        """Ends of broken connections that do not know it yet."""

    def watch(self, process: Process) -> None:
        process.on_end.append(self._ended)

    # --- connections ------------------------------------------------------------------------------

    def connect(self, opener: Process, other: Process) -> None:
        """`connected` or `refused` of the opener is called, some time later."""
        delay_s = self._delay_s(opener.site, other.site) + self._delay_s(other.site, opener.site)
        life = opener.life
        self.world.after(delay_s, self._try, opener, life, other, self.world.now + TIMEOUT_S)

    def _try(self, opener: Process, life: int, other: Process, until_s: float) -> None:
        if not opener.up or opener.life != life:
            return
        if self._whole(opener.site, other.site) and not other.paused:
            if not other.up:
                self.world.after(REFUSED_S, opener.run, life, opener.refused, other)  # type: ignore[attr-defined]
                return
            made = Connection(self, opener, other)
            self.connections.append(made)
            other.run(other.life, other.accepted, made)
            opener.run(life, opener.connected, made)  # type: ignore[attr-defined]
        elif self.world.now < until_s:
            self.world.after(0.1, self._try, opener, life, other, until_s)
        else:
            opener.run(life, opener.refused, other)  # type: ignore[attr-defined]

    def carry(self, connection: Connection, side: int, payload: Any) -> None:
        source, target = connection.ends[side], connection.ends[1 - side]
        if (source.site, target.site) in self.cuts:
            connection.held[side].append(payload)
            return
        delay_s = self._delay_s(source.site, target.site)
        when = max(self.world.now + delay_s, connection.last[side])
        connection.last[side] = when
        self.world.at(when, self._arrive, connection, 1 - side, payload)

    def _arrive(self, connection: Connection, side: int, payload: Any) -> None:
        target = connection.ends[side]
        if connection.open[side]:
            target.run(connection.lives[side], self._received, connection, side, payload)

    def _received(self, connection: Connection, side: int, payload: Any) -> None:
        if connection.open[side]:
            connection.ends[side].received(connection, payload)

    def _delay_s(self, source: str, target: str) -> float:
        if source == target:
            return LOCAL_S * (1 + self.random.random())
        return self.delay_s + self.jitter_s * self.random.random() ** 3 + self.slow.get((source, target), 0.0)

    # --- ends -------------------------------------------------------------------------------------

    def close(self, connection: Connection, *, told_after_s: float = 0.0, in_order: bool = False) -> None:
        """Each end learns of it in its own time; what is held back is lost. `in_order`: after what was sent
        to it before, as from the kernel of a process that died."""
        if connection.broken:
            return
        connection.broken = True
        self.connections.remove(connection)
        for side in (0, 1):
            late_s = told_after_s * self.random.random()
            if in_order:
                late_s = max(late_s, connection.last[1 - side] - self.world.now)
            self.untold += 1
            self.world.after(late_s, self._tell, connection, side)

    def _tell(self, connection: Connection, side: int) -> None:
        self.untold -= 1
        connection.ends[side].run(connection.lives[side], self._over, connection, side)

    def _over(self, connection: Connection, side: int) -> None:
        if connection.open[side]:
            connection.open[side] = False
            connection.ends[side].lost(connection)

    def _ended(self, process: Process) -> None:
        for connection in [one for one in self.connections if process in one.ends]:
            connection.open[connection.ends.index(process)] = False
            self.close(connection, told_after_s=0.02, in_order=True)

    def break_between(self, a: str, b: str) -> None:
        for connection in self.connections[:]:
            if {connection.ends[0].site, connection.ends[1].site} == {a, b}:
                self.close(connection, told_after_s=MAX_LATE_S)

    # --- cuts -------------------------------------------------------------------------------------

    def _whole(self, a: str, b: str) -> bool:
        return (a, b) not in self.cuts and (b, a) not in self.cuts

    def hears(self, a: str, b: str) -> bool:
        """Both directions are there."""
        return a == b or self._whole(a, b)

    def cut(self, source: str, target: str) -> None:
        self._number += 1
        self.cuts[source, target] = self._number
        self.world.after(TIMEOUT_S, self._time_out, source, target, self._number)

    def _time_out(self, source: str, target: str, number: int) -> None:
        if self.cuts.get((source, target)) == number:
            for connection in self.connections[:]:
                sites = {connection.ends[0].site, connection.ends[1].site}
                if sites == {source, target}:
                    self.close(connection, told_after_s=MAX_LATE_S)

    def heal(self, source: str, target: str) -> None:
        if self.cuts.pop((source, target), None) is None:
            return
        for connection in self.connections[:]:
            for side in (0, 1):
                if connection.ends[side].site == source and connection.ends[1 - side].site == target:
                    held, connection.held[side] = connection.held[side], []
                    for payload in held:
                        self.carry(connection, side, payload)

    def heal_all(self) -> None:
        for source, target in list(self.cuts):
            self.heal(source, target)
        self.slow.clear()
