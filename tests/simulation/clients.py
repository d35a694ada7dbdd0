"""Clients: each has one request under way, and asks again under the same id until it knows the outcome.

May live here: the retry rules of the product's log (`vimraft.metadata.pysyncobj.proposals`) on simulated
time, and above them what a caller does when a manager dies or answers "unknown": the same request, at another
manager. A request of which *every* attempt was certainly not done may be given up; then it must never take
effect.
"""

import math
import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pysyncobj import FAIL_REASON

from tests.simulation.checks import Checks
from tests.simulation.machine import Machine
from tests.simulation.world import World
from vimraft.metadata.pysyncobj.proposals import (
    FIRST_ATTEMPT_S,
    MAX_ATTEMPT_S,
    NO_ANSWER,
    NOT_DONE,
    RETRY_PAUSE_S,
)

SESSION_S = (0.5, 4.0)
READ_SHARE = 0.2
GIVE_UP_SHARE = 0.3


class Application(Protocol):
    """What the commands are."""

    def write(self, client: str, sequence: int) -> bytes: ...
    def read(self, client: str, sequence: int) -> bytes: ...

    def position(self, result: Any) -> int | None:
        """Of a result; None: refused by the state machine, which no request here deserves."""
        ...

    def read_position(self, node: Any) -> int:
        """Of the state that a reader gets now."""
        ...

    def holds(self, node: Any) -> set[bytes] | None: ...
    def counts(self, node: Any) -> dict[str, int] | None: ...
    def digest(self, node: Any) -> str: ...


class Client:
    def __init__(
        self,
        name: str,
        world: World,
        checks: Checks,
        application: Application,
        machines: Callable[[], Sequence[Machine]],
        think_s: float,
        *,
        may_give_up: bool,
        beat_s: float = 0.0,
    ) -> None:
        self.name = name
        self._world = world
        self._checks = checks
        self._application = application
        self._machines = machines
        self._think_s = think_s
        self._may_give_up = may_give_up
        """Not where the network repeats messages: then a copy of a refused one may still be accepted."""
        self._beat_s = beat_s
        self._random: random.Random = world.fork_random(name)
        self._sequence = 0
        self.idle = True
        self.stopping = False
        self.refused_by_state = 0
        self.finished = 0

    def start(self) -> None:
        self._begin_after(self._random.random() * self._think_s)

    def _begin_after(self, pause_s: float) -> None:
        when, beat_s = self._world.now + pause_s, self._beat_s
        self._world.at(math.ceil(when / beat_s) * beat_s if beat_s else when, self._begin)

    def _begin(self) -> None:
        if self.stopping:
            return
        self.idle = False
        self._sequence += 1
        self._is_read = self._random.random() < READ_SHARE
        self._id = f"{self.name}:{self._sequence}".encode()
        make = self._application.read if self._is_read else self._application.write
        self._data = make(self.name, self._sequence)
        self._floor = self._checks.completed
        self._doubt = False
        # All that begin at this beat ask the same machine, so that it has several commands in one round.
        self._choice = round(self._world.now / self._beat_s) if self._beat_s else None
        self._open_session()

    def _open_session(self) -> None:
        machines = [machine for machine in self._machines() if machine.up]
        if not machines:
            self._world.after(0.2, self._open_session)
            return
        together, self._choice = self._choice, None
        self._machine = (
            self._random.choice(machines) if together is None else machines[together % len(machines)]
        )
        self._life = self._machine.life
        self._deadline = self._world.now + self._random.uniform(*SESSION_S)
        self._attempt_s = FIRST_ATTEMPT_S
        self._session_doubt = False
        self._token: object = None
        self._step()

    # --- one session: as Proposals.until ------------------------------------------------------------

    def _step(self) -> None:
        machine = self._machine
        now = self._world.now
        if not machine.up or machine.life != self._life:
            self._end_session(True)
            return
        if now >= self._deadline:
            self._end_session(self._session_doubt)
            return
        token = self._token = object()
        if machine.node._getLeader() is None:
            self._world.after(RETRY_PAUSE_S, self._settle, token, None, FAIL_REASON.MISSING_LEADER)
            return
        until = min(self._deadline, now + self._attempt_s)

        def done(result: Any, code: int) -> None:
            machine.answer(self._settle, token, result, code)

        with machine.running():
            machine.kind.submit(machine.node, self._data, done)
        machine.wake_at(now)
        self._world.at(until, self._settle, token, None, NO_ANSWER)

    def _settle(self, token: object, result: Any, code: int) -> None:
        if token is not self._token:
            return
        self._token = None
        if code == FAIL_REASON.SUCCESS:
            self._finish(result)
            return
        if code not in NOT_DONE:
            self._session_doubt = True
            if code == NO_ANSWER:
                self._attempt_s = min(2 * self._attempt_s, MAX_ATTEMPT_S)
        self._world.after(RETRY_PAUSE_S, self._step)

    def machine_ended(self, machine: Machine) -> None:
        """The connection to the manager is gone at once."""
        if not self.idle and getattr(self, "_token", None) is not None and machine is self._machine:
            self._token = None
            self._end_session(True)

    def _end_session(self, doubt: bool) -> None:
        self._token = None
        self._doubt = self._doubt or doubt
        if self._may_give_up and not self._doubt and self._random.random() < GIVE_UP_SHARE:
            self._world.note(self.name, "gives up", self._id.decode())
            if not self._is_read:
                self._checks.given_up(self._id)
            self._next()
            return
        self._world.after(self._random.uniform(0.02, 0.3), self._open_session)

    def _finish(self, result: Any) -> None:
        position = self._application.position(result)
        if self._is_read:
            position = self._application.read_position(self._machine.node)
        if position is None:
            self._checks.violate("false refusal", f"{self._id!r} was refused by the tables: {result!r}")
        else:
            self._checks.done(self._id.decode(), None if self._is_read else self._id, position, self._floor)
            self.finished += 1
            self._world.note(
                self.name, "read" if self._is_read else "written", self._id.decode(), f"at {position}"
            )
        self._next()

    def _next(self) -> None:
        self.idle = True
        if not self.stopping:
            self._begin_after(self._random.random() * 2 * self._think_s)
