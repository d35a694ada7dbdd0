"""What goes wrong, and when: drawn from the seed, undone at the end.

May live here: one method per kind of fault named in `settings`. Every fault ends by itself after a while, so
that faults of different kinds overlap; `stop` ends them all, after which the cluster has to recover.
"""

import random
from collections.abc import Callable
from typing import Any

from tests.simulation.machine import Machine
from tests.simulation.network import Network
from tests.simulation.settings import Settings
from tests.simulation.world import World

LONG_S = (0.3, 4.0)
DOWN_S = (0.05, 2.5)
FULL_SLACK_BYTES = 300


class Faults:
    def __init__(self, world: World, network: Network, machines: list[Machine], settings: Settings) -> None:
        self._world = world
        self._network = network
        self._machines = machines
        self._settings = settings
        self._random: random.Random = world.fork_random("faults")
        self.stopped = False
        self._slowed: list[Any] = []
        self.further: dict[str, Callable[[], None]] = {}
        """Kinds that only one kind of node knows (membership, wiped disks)."""

    def start(self) -> None:
        if self._settings.faults:
            self._world.after(1.5 + self._gap(), self._next)

    def _gap(self) -> float:
        return self._random.expovariate(1 / self._settings.fault_every_s)

    def _next(self) -> None:
        if self.stopped:
            return
        name = self._random.choice(self._settings.faults)
        own = self.further.get(name)
        if own is not None:
            own()
        else:
            getattr(self, "_" + name.replace("-", "_"))()
        self._world.after(self._gap(), self._next)

    def stop(self) -> None:
        """Everything heals, everybody is started."""
        self.stopped = True
        self._world.note("FAULTS", "end")
        for path, delay_s in self._slowed:
            path.delay_s = delay_s
        for path in self._network.paths.values():
            path.loss = 0.0
            path.duplicate = 0.0
        self._network.heal_all()
        for machine in self._machines:
            machine.disk.capacity_bytes = None
            machine.disk.fail_sync = False
            machine.crash_in = None
            machine.sync_s = 0.0
            machine.boot()

    # --- helpers ----------------------------------------------------------------------------------------

    def note(self, what: str, *details: Any) -> None:
        self._world.note("FAULT", what, *details)

    def _up(self) -> list[Machine]:
        return [machine for machine in self._machines if machine.up]

    def _any(self) -> Machine:
        return self._random.choice(self._machines)

    def _pair(self) -> tuple[Machine, Machine]:
        a, b = self._random.sample(self._machines, 2)
        return a, b

    def leader(self) -> Machine | None:
        """The one of the highest term."""
        leaders = [machine for machine in self._up() if machine.node._isLeader()]
        return max(leaders, key=lambda machine: machine.node.raftCurrentTerm, default=None)

    def _for_a_while(self, call: Callable[..., None], *args: Any, span: tuple[float, float] = LONG_S) -> None:
        self._world.after(self._random.uniform(*span), call, *args)

    # --- network ----------------------------------------------------------------------------------------

    def _cut(self) -> None:
        a, b = self._pair()
        self.note("cut", a.name, b.name)
        self._separate([a], [b])

    def _one_way(self) -> None:
        a, b = self._pair()
        self.note("one-way", f"{a.name} -x-> {b.name}")
        self._network.cut(a.address, b.address)
        self._for_a_while(self._network.heal, a.address, b.address)

    def _partition(self) -> None:
        some = self._random.sample(self._machines, self._random.randint(1, len(self._machines) - 1))
        others = [machine for machine in self._machines if machine not in some]
        self.note("partition", *(machine.name for machine in some), "|", *(m.name for m in others))
        self._separate(some, others)

    def _isolate_leader(self) -> None:
        leader = self.leader()
        if leader is None:
            return
        self.note("isolate", leader.name)
        self._separate([leader], [machine for machine in self._machines if machine is not leader])

    def _separate(self, some: list[Machine], others: list[Machine]) -> None:
        pairs = [(a.address, b.address) for a in some for b in others]
        for a, b in pairs:
            self._network.cut(a, b)
            self._network.cut(b, a)

        def heal() -> None:
            for a, b in pairs:
                self._network.heal(a, b)
                self._network.heal(b, a)

        self._for_a_while(heal)

    def _break(self) -> None:
        a, b = self._pair()
        self.note("break", a.name, b.name)
        self._network.break_connection(a.address, b.address, told_after_s=self._random.random() * 0.3)

    def _slow_link(self, a: Machine | None = None, b: Machine | None = None) -> None:
        if a is None or b is None:
            a, b = self._pair()
        path = self._network.paths[a.address, b.address]
        before = path.delay_s
        if any(slow is path for slow, _ in self._slowed):
            return
        self._slowed.append((path, before))
        path.delay_s = self._random.uniform(0.05, 0.6)
        self.note("slow", f"{a.name} -> {b.name}", f"{path.delay_s:.3f}s")

        def normal() -> None:
            path.delay_s = before
            self._slowed = [slow for slow in self._slowed if slow[0] is not path]

        self._for_a_while(normal)

    # --- machines ---------------------------------------------------------------------------------------

    def _stop_machine(self, machine: Machine, *, power: bool) -> None:
        machine.kill(power=power)
        self._for_a_while(machine.boot, span=DOWN_S)

    def _kill(self) -> None:
        self._stop_machine(self._any(), power=False)

    def _power(self) -> None:
        self._stop_machine(self._any(), power=True)

    def _kill_leader(self) -> None:
        leader = self.leader()
        if leader is not None:
            self._stop_machine(leader, power=self._random.random() < 0.3)

    def _kill_all(self) -> None:
        self.note("kill all")
        for machine in self._machines:
            self._stop_machine(machine, power=False)

    def _power_all(self) -> None:
        self.note("power loss of all")
        for machine in self._machines:
            self._stop_machine(machine, power=True)

    def _pause(self) -> None:
        self._any().pause(self._random.uniform(*LONG_S))

    def _pause_leader(self) -> None:
        leader = self.leader()
        if leader is not None:
            leader.pause(self._random.uniform(*LONG_S))

    def _crash_in_disk(self) -> None:
        machine = self._any()
        how = self._random.choice(("killed", "power"))
        machine.crash_in = (self._random.randint(0, 25), how)
        self.note("crash soon", machine.name, how)
        self._world.after(self._random.uniform(0.5, 3.0), self._restart_if_down, machine)

    def _restart_if_down(self, machine: Machine) -> None:
        machine.crash_in = None
        machine.boot()

    def _compaction_power(self) -> None:
        self._compaction_kill("power")

    def _compaction_kill(self, how: str = "killed", tries: int = 200) -> None:
        """All of them, while a snapshot is being written somewhere."""
        if self.stopped or tries == 0:
            return
        if any(machine.up and machine.dumping for machine in self._machines):
            self.note("end of all in a compaction", how)
            for machine in self._machines:
                if machine.dumping and self._random.random() < 0.7:
                    machine.crash_in = (self._random.randint(0, 12), how)
                    self._for_a_while(self._restart_if_down, machine, span=DOWN_S)
                else:
                    self._stop_machine(machine, power=how == "power")
            return
        self._world.after(0.01, self._compaction_kill, how, tries - 1)

    def _lag_and_kill(self) -> None:
        """A follower lags, the other is paused, the leader dies while the first catches up."""
        leader = self.leader()
        if leader is None:
            return
        others = [machine for machine in self._up() if machine is not leader]
        if len(others) < 2:
            return
        self._random.shuffle(others)
        self._slow_link(leader, others[0])
        others[1].pause(self._random.uniform(0.3, 1.2))
        self._world.after(self._random.uniform(0.2, 1.5), lambda: self._stop_machine(leader, power=False))

    def _disk_full(self) -> None:
        machine = self._any()
        machine.disk.capacity_bytes = machine.disk.used_bytes() + self._random.randint(0, FULL_SLACK_BYTES)
        self.note("disk full", machine.name)

        def freed() -> None:
            machine.disk.capacity_bytes = None
            machine.boot()

        self._for_a_while(freed)

    def _slow_disk(self) -> None:
        machine = self._any()
        before = self._settings.sync_s
        machine.sync_s = self._random.uniform(0.01, 0.3)
        self.note("slow disk", machine.name, f"{machine.sync_s:.3f}s")

        def normal() -> None:
            machine.sync_s = before

        self._for_a_while(normal)

    def _clock_step(self) -> None:
        """Of the wall clock, which no node may look at for its timers."""
        self._world.wall_offset_s += self._random.uniform(-86_400, 86_400)
        self.note("wall clock", f"{self._world.wall_offset_s:.0f}s")
