"""The operator: managers join, are promoted, leave and are replaced; disks are wiped; configurations are old.

May live here: the faults that only the hardened node claims to stand, and who belongs to the cluster because
of them. The steps are those of `vimraft.metadata.pysyncobj.member_changes`: an observer first, a voter once
it has caught up; each asked for again until the log shows it, or the time is over.
"""

import random
from typing import Any

from tests.simulation.disk import SimDisk
from tests.simulation.machine import Machine
from vimraft.metadata.pysyncobj.members import encode_change

MAX_MACHINES = 6
MIN_VOTERS = 3
MAX_UNDER_WAY = 3
"""Changes asked for at the same time; the leader must take them one by one."""
ASK_EVERY_S = 0.3
PATIENCE_S = 4.0


class Operator:
    def __init__(self, run: Any) -> None:
        self._run = run
        self._world = run.world
        self._random: random.Random = run.world.fork_random("operator")
        self._next_number = len(run.machines) + 1
        self._under_way = 0
        self.wiped: set[str] = set()
        self.removed: set[str] = set()
        run.faults.further = {"members": self._change, "wipe": self._wipe, "old-config": self._old_config}

    def belongs(self, machine: Machine, leader: Machine) -> bool:
        return machine.address in leader.node.configuration.members and machine.address not in self.wiped

    def _note(self, *what: Any) -> None:
        self._world.note("OPERATOR", *what)

    # --- members ------------------------------------------------------------------------------------

    def _change(self) -> None:
        leader = self._run.faults.leader()
        if self._under_way >= MAX_UNDER_WAY or leader is None:
            return
        members = leader.node.configuration.members
        voters = [a for a, member in sorted(members.items()) if member.voter and a not in self.wiped]
        observers = [a for a, member in sorted(members.items()) if not member.voter]
        choices = []
        if len(self._run.machines) < MAX_MACHINES:
            choices.append("observe")
        if observers:
            choices.append("add")
        if len(voters) > MIN_VOTERS or observers or self.wiped & members.keys():
            choices.append("rem")
        choice = self._random.choice(choices) if choices else ""
        if choice == "observe":
            self._join(voters)
        elif choice == "add":
            self._ask("add", self._random.choice(observers))
        elif choice == "rem":
            removable = observers + sorted(self.wiped & members.keys())
            if len(voters) > MIN_VOTERS:
                removable += [address for address in voters if address != leader.address]
            self._ask("rem", self._random.choice(removable))

    def _join(self, voters: list[str]) -> None:
        machine = self._run.make_machine(self._next_number)
        self._next_number += 1
        self._run.use_path_settings()
        machine.members = tuple(voters)
        self._run.machines.append(machine)
        machine.boot()
        self._ask("observe", machine.address)

    def _ask(self, kind: str, address: str) -> None:
        self._under_way += 1
        self._note(kind, address)
        if kind == "rem":
            self.removed.add(address)  # asked for: it may be gone at any time from now on
        self._again(kind, address, self._world.now + PATIENCE_S)

    def _again(self, kind: str, address: str, until: float) -> None:
        leader = self._run.faults.leader()
        machine = self._run.network.machines[address]
        if leader is not None and self._reached(kind, address, leader):
            self._under_way -= 1
            self._note(kind, address, "is in the log")
            if kind == "rem":
                self._leave(machine)
            return
        if self._world.now > until or self._run.faults.stopped:
            self._under_way -= 1
            self._note(kind, address, "is given up")
            return
        up = [one for one in self._run.machines if one.up and one is not machine]
        node_id = machine.node.identity.node_id if machine.up else ""
        if up and (kind == "rem" or node_id):
            asked = self._random.choice(up)
            with asked.running():
                asked.node.change_members(
                    encode_change(kind, address, "" if kind == "rem" else node_id), lambda _r, _c: None
                )
            asked.wake_at(self._world.now)
        self._world.after(ASK_EVERY_S, self._again, kind, address, until)

    def _reached(self, kind: str, address: str, leader: Machine) -> bool:
        node = leader.node
        if node.raftLastApplied < node.configuration.last_change:
            return False
        member = node.configuration.members.get(address)
        if kind == "rem":
            return member is None
        return member is not None and (member.voter or kind == "observe")

    def _leave(self, machine: Machine) -> None:
        """Its process is stopped, at once or some time later: it must do no harm until then."""
        if machine in self._run.machines:
            self._run.machines.remove(machine)
        self._world.after(self._random.choice((0.0, 3.0)), self._stop, machine)

    def _stop(self, machine: Machine) -> None:
        machine.kill()
        machine.refused = "was removed"

    # --- disks and configurations ---------------------------------------------------------------------

    def _wipe(self) -> None:
        """One voter at most: more would be a disaster that no protocol survives."""
        candidates = [m for m in self._run.machines if m.up and m.busy_until <= self._world.now]
        if self.wiped or len(candidates) < MIN_VOTERS or self._world.now < 3.0:
            return
        machine = self._random.choice(candidates)
        self._note("wipes", machine.name)
        self.wiped.add(machine.address)
        self._run.checks.must_not_vote.add(machine.address)
        machine.kill()
        machine.disk = SimDisk(on_operation=machine.operation)
        self._world.after(self._random.uniform(0.1, 1.0), machine.boot)

    def _old_config(self) -> None:
        """Its configuration names other first members than it began with."""
        machine = self._random.choice(self._run.machines)
        if machine.life == 0 or machine.address in self.wiped:
            return
        others = [address for address in machine.members if address != machine.address]
        machine.members = tuple(self._random.sample(others, min(2, len(others))))
        self._note("old config", machine.name, *machine.members)
        machine.kill()
        self._world.after(self._random.uniform(0.1, 1.0), machine.boot)
