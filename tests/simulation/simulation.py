"""One seed, from start to verdict.

May live here: putting world, network, machines, clients, faults and checks together, and what is asked of the
cluster once everything has healed: a leader, every request decided, all nodes equal, nothing missing.
"""

import gc
import time
from contextlib import AbstractContextManager
from typing import Final, Protocol

from msgspec import Struct

from tests.simulation.checks import Checks, Violation
from tests.simulation.clients import Application, Client
from tests.simulation.faults import Faults
from tests.simulation.machine import Kind, Machine
from tests.simulation.network import Network
from tests.simulation.patches import simulated
from tests.simulation.settings import Settings
from tests.simulation.world import Runaway, World

RECOVERY_S: Final = 20.0
"""After the last fault: election, catching up, every client's answer (an attempt of theirs alone may last
4 s, and a connection that was cut 3.5 s)."""
STEP_S: Final = 0.25


class Cluster(Protocol):
    """A kind of node, with what belongs to it."""

    kind: Kind
    application: Application

    def installed(self) -> AbstractContextManager[None]: ...
    def settings(self, world: World) -> Settings: ...

    def belongs(self, machine: Machine, leader: Machine) -> bool:
        """Whether it has to have everything in the end."""
        ...

    def prepare(self, run: "Run") -> None:
        """Further faults, checks of its own."""
        ...


class Report(Struct, frozen=True):
    seed: int
    violations: tuple[Violation, ...]
    digest: str
    acknowledged: int
    events: int
    elections: int
    cpu_ms: float


class Run:
    def __init__(self, seed: int, cluster: Cluster) -> None:
        self.world = World(seed)
        self.cluster = cluster
        self.settings = settings = cluster.settings(self.world)
        self.network = Network(self.world)
        self.network.late_messages = settings.late_messages
        self.checks = Checks(self.world)
        self.machines = [self.make_machine(number) for number in range(1, settings.machines + 1)]
        addresses = tuple(machine.address for machine in self.machines)
        for machine in self.machines:
            machine.members = addresses
        self.checks.may_vote.update(addresses)
        self._paths_set: set[tuple[str, str]] = set()
        self.use_path_settings()
        self.faults = Faults(self.world, self.network, self.machines, settings)
        self.clients = [
            Client(
                f"c{number}",
                self.world,
                self.checks,
                cluster.application,
                lambda: self.machines,
                settings.think_s,
                may_give_up=settings.duplicate == 0.0,
                beat_s=settings.beat_s,
            )
            for number in range(settings.clients)
        ]

    def use_path_settings(self) -> None:
        """For the paths of machines that are new."""
        settings = self.settings
        for ends, path in self.network.paths.items():
            if ends not in self._paths_set:
                self._paths_set.add(ends)
                path.delay_s, path.jitter_s = settings.delay_s, settings.jitter_s
                path.loss, path.duplicate = settings.loss, settings.duplicate

    def make_machine(self, number: int) -> Machine:
        settings = self.settings
        machine = Machine(self.world, self.network, self.cluster.kind, f"n{number}:1")
        machine.rate = 1.0 + settings.drift * (2 * machine.random.random() - 1)
        machine.exact_rounds = settings.exact_rounds
        machine.sync_s = settings.sync_s
        machine.observe = self.checks.observe
        machine.sends = self.checks.sends
        machine.applied = self.checks.applied
        machine.on_end = self._machine_ended
        return machine

    def _machine_ended(self, machine: Machine, why: str) -> None:
        for client in self.clients:
            client.machine_ended(machine)

    def go(self) -> None:
        world = self.world
        self.cluster.prepare(self)
        world.note("WORLD", "settings", self.settings)
        for machine in self.machines:
            world.after(machine.random.random() * 0.2, machine.boot)
        for client in self.clients:
            client.start()
        self.faults.start()
        world.run_until(self.settings.duration_s)
        for client in self.clients:
            client.stopping = True
        self.faults.stop()
        self._recover()
        self._verdict()

    def _recover(self) -> None:
        world = self.world
        end = world.now + RECOVERY_S
        while world.now < end:
            world.run_until(world.now + STEP_S)
            if not self._unsettled():
                return
            for machine in self.machines:
                machine.boot()  # what ended itself is started again, as a service would be
        for problem in self._unsettled():
            self.checks.violate("liveness", problem)

    def _unsettled(self) -> list[str]:
        problems = [f"{client.name} waits" for client in self.clients if not client.idle]
        leader = self.faults.leader()
        if leader is None:
            return [*problems, "no leader"]
        target = leader.node.raftCommitIndex
        if target != leader.node._SyncObj__raftLog[-1][1]:
            problems.append(f"the leader's log is not committed ({target})")
        for machine in self.machines:
            if machine.refused or not self.cluster.belongs(machine, leader):
                continue  # reported as such, or none of ours
            if not machine.up:
                problems.append(f"{machine.name} is down")
            elif machine.node.raftLastApplied != target:
                problems.append(f"{machine.name} has applied {machine.node.raftLastApplied} of {target}")
        return problems

    def _verdict(self) -> None:
        application = self.cluster.application
        digests: dict[str, list[str]] = {}
        applied = max((machine.node.raftLastApplied for machine in self.machines if machine.up), default=0)
        leader = self.faults.leader()
        for machine in self.machines:
            if leader is not None and not self.cluster.belongs(machine, leader):
                continue
            if not machine.up:
                self.checks.violate("refuses to start", f"{machine.name}: {machine.refused}")
                continue
            node = machine.node
            self.checks.whole_log(machine)
            if node.raftLastApplied < applied:
                continue  # a matter of liveness, and reported as such
            self.checks.nothing_lost(machine, application.holds(node), application.counts(node))
            digests.setdefault(application.digest(node), []).append(machine.name)
        if len(digests) > 1:
            self.checks.violate("divergence", f"different states at the end: {sorted(digests.values())}")
        self.world.note("WORLD", "end", f"{len(self.checks.acknowledged)} acknowledged")


def run_seed(seed: int, cluster: Cluster) -> tuple[Report, World]:
    started = time.process_time()
    gc.disable()  # nodes are full of cycles, and short-lived: one collection a run does
    run = Run(seed, cluster)
    with simulated(lambda: run.world.current), cluster.installed():
        try:
            run.go()
        except Runaway as error:
            run.checks.violate("runaway", str(error))
        finally:
            gc.enable()
    report = Report(
        seed=seed,
        violations=tuple(run.checks.violations),
        digest=run.world.digest(),
        acknowledged=len(run.checks.acknowledged),
        events=run.world.count,
        elections=len(run.checks.leaders),
        cpu_ms=(time.process_time() - started) * 1000,
    )
    return report, run.world
