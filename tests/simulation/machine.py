"""A machine: one disk, one clock that runs at its own rate, and one life of the process after another.

May live here: starting, ending, pausing and running the process, and the order of things inside one round
of it. What runs (stock or hardened) is a `Kind`. A round does what the process does between two sleeps:
take the messages that have arrived, then one round of the node. Everything that a round does happens at
`world.now + busy_s`, where slow syncs make `busy_s` grow: messages leave, and answers come, after that.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from tests.simulation.disk import CHANGES, Crashed, SimDisk
from tests.simulation.network import Connection, Network
from tests.simulation.world import World

ROUND_S = 0.0001
"""Simulated time that one round takes."""
TICK_S = 0.02
MAX_SLEEP_S = 0.15
ANSWER_S = 0.00005


class Kind(Protocol):
    """What runs on the machines."""

    name: str

    def boot(self, machine: "Machine") -> Any:
        """A node that has read its disk. Raises an Exception when it refuses to start."""
        ...

    def round(self, node: Any) -> None: ...

    def failed(self, machine: "Machine", error: Exception) -> None:
        """A round ended with an exception."""
        ...

    def submit(self, node: Any, data: bytes, done: Callable[[Any, int], None]) -> None: ...

    def ended(self, machine: "Machine", *, power: bool) -> None:
        """The process is gone; with `power` what it had started beside itself too."""
        ...


Applied = Callable[["Machine", int, bytes, bytes | None, bytes], None]
"""(machine, how many commands the state has taken, command, request that took effect, outcome)."""


class Machine:
    def __init__(self, world: World, network: Network, kind: Kind, address: str) -> None:
        self.world = world
        self.network = network
        self.kind = kind
        self.address = address
        self.name = address.split(":")[0]
        self.random = world.fork_random(address)
        self.rate = 1.0
        """Seconds of its clock in one second."""
        self.exact_rounds = False
        """Messages arrive at the end of a round, as in the product; else before it: half as many rounds."""
        self.life = 0
        self.up = False
        self.paused = False
        self.refused = ""
        """Why it does not start any more."""
        self.ended = ""
        """Why the process ended itself."""
        self.dying = ""
        """Killed, or power lost, inside a disk operation."""
        self.members: tuple[str, ...] = ()
        """As configured: those that form the cluster, or those to join."""
        self.node: Any = None
        self.endpoint: Any = None
        self.busy_s = 0.0
        self.busy_until = 0.0
        self.inbox: deque[tuple[str, Connection, str, Any]] = deque()
        self.sends: Callable[[Machine, str, Any], None] = lambda machine, target, message: None
        self.applied: Applied = lambda machine, position, data, effect, outcome: None
        self.boots = 0
        """Power losses so far."""
        self.dumping = 0
        """Snapshots being written right now."""
        self.observe: Callable[[Machine], None] = lambda machine: None
        self.on_end: Callable[[Machine, str], None] = lambda machine, why: None
        self._due: float | None = None
        self._again = False
        self.disk = SimDisk(on_operation=self.operation)
        self.sync_s = 0.0
        """How long a sync takes."""
        self.crash_in: tuple[int, str] | None = None
        """(changing operations left, how) until it dies inside one."""
        network.add(self)

    # --- what the code of the process sees (patches.Running) -----------------------------------------

    def clock(self) -> float:
        return 1000.0 + (self.world.now + self.busy_s) * self.rate

    def draw(self) -> float:
        return self.random.random()

    def wake(self) -> None:
        self._again = True

    def poll(self) -> None:
        if self.exact_rounds:
            self._take_messages()

    def is_file(self, path: str) -> bool:
        return bool(self.disk.exists(path))

    # --- life ------------------------------------------------------------------------------------------

    @contextmanager
    def running(self) -> Iterator[None]:
        """The code of this machine's process runs inside."""
        before, self.world.current = self.world.current, self
        try:
            yield
        finally:
            self.world.current = before

    def boot(self) -> None:
        if self.up or self.refused:
            return
        self.life += 1
        self.up = True
        self.dying = ""
        self.paused = False
        self.ended = ""
        self.endpoint = None
        self.inbox.clear()
        self.busy_s = 0.0
        self.world.note(self.name, "starts", f"life {self.life}")
        with self.running():
            try:
                self.node = self.kind.boot(self)
            except Crashed:
                self._died()
                return
            except Exception as error:  # noqa: BLE001 (whatever stops it)
                if self.dying:  # the node caught its own death on its way out
                    self._died()
                    return
                self.up = False
                if isinstance(error, OSError):  # such as a full disk: it is started again later
                    self.world.note(self.name, "fails to start", repr(error))
                    return
                self.refused = f"{type(error).__name__}: {error}"
                self.world.note(self.name, "refuses", self.refused)
                self.on_end(self, "refused to start")
                return
        if self.dying:
            self._died()
            return
        self.busy_until = self.world.now + self.busy_s
        self.network.came(self.address)
        self.wake_at(self.busy_until)

    def kill(self, *, power: bool = False) -> None:
        """kill -9, or power loss. While it is busy: when it has finished."""
        if not self.up:
            if power:
                self.disk.crash(self.random)  # the machine was up, only the process was not
                self.kind.ended(self, power=True)
            return
        if self.busy_until > self.world.now:
            self.world.at(self.busy_until, self._kill_life, self.life, power)
        else:
            self._kill_life(self.life, power)

    def _kill_life(self, life: int, power: bool) -> None:
        if self.up and self.life == life:
            self._end("power lost" if power else "killed", power)

    def die_now(self) -> None:
        """A child of the process met the end in a disk operation."""
        if self.up:
            self._died()

    def _died(self) -> None:
        power = self.dying == "power"
        self._end(f"{'power lost' if power else 'killed'} inside a disk operation", power)

    def _end(self, why: str, power: bool) -> None:
        self.world.note(self.name, "ends", why)
        self.up = False
        self.dying = ""
        self.paused = False
        self.on_end(self, why)
        self.node = self.endpoint = None
        self._due = None
        self.inbox.clear()
        self.network.gone(self.address, silently=power)
        if power:
            self.disk.crash(self.random)
        else:
            self.disk.kill()
        self.kind.ended(self, power=power)

    def end_itself(self, why: str) -> None:
        """The process's own decision, from inside a round."""
        self.ended = self.ended or why

    def pause(self, seconds: float) -> None:
        if self.up and not self.paused:
            self.paused = True
            self.world.note(self.name, "paused", f"{seconds:.2f}s")
            self.world.after(seconds, self._resume, self.life)

    def _resume(self, life: int) -> None:
        if self.up and self.life == life and self.paused:
            self.paused = False
            self.world.note(self.name, "resumed")
            self.wake_at(self.world.now)

    # --- messages --------------------------------------------------------------------------------------

    def wants(self, address: str) -> bool:
        return self.up and self.endpoint is not None and self.endpoint.wants(address)

    def accepts(self, address: str) -> bool:
        return self.up and self.endpoint is not None and self.endpoint.accepts(address)

    def receive(self, item: tuple[str, Connection, str, Any]) -> None:
        self.inbox.append(item)
        self.wake_at(self.world.now)

    def _take_messages(self) -> None:
        inbox = self.inbox
        for _ in range(len(inbox)):
            kind, connection, address, payload = inbox.popleft()
            self.endpoint.take(kind, connection, address, payload)
            self._again = True
            if self.dying or self.ended:
                return

    def answer(self, call: Callable[..., None], *args: Any) -> None:
        """Of a process to its client, on the same machine: lost with the process."""
        if not self.dying:
            self.world.at(self.world.now + self.busy_s + ANSWER_S, self._answer, self.life, call, args)

    def _answer(self, life: int, call: Callable[..., None], args: tuple[Any, ...]) -> None:
        if self.up and self.life == life:
            call(*args)

    # --- disk ------------------------------------------------------------------------------------------

    def operation(self, _name: str, what: str) -> None:
        if self.dying:
            raise Crashed  # whatever the node does with the first one
        if what not in CHANGES:
            return
        if self.crash_in is not None:
            left, how = self.crash_in
            self.crash_in = (left - 1, how)
            if left <= 0:
                self.crash_in = None
                self.dying = how
                raise Crashed(part=self.random.random())
        if what in ("datasync", "sync_names"):
            self.busy_s += self.sync_s

    # --- rounds ----------------------------------------------------------------------------------------

    def wake_at(self, when: float) -> None:
        when = max(when, self.busy_until, self.world.now)
        if self._due is None or when < self._due:
            self._due = when
            self.world.at(when, self._fire, when, self.life)

    def _fire(self, when: float, life: int) -> None:
        if when == self._due and life == self.life:
            self._due = None
            self.run()

    def run(self) -> None:
        if not self.up or self.paused:
            return
        world = self.world
        world.current = self
        self.busy_s = ROUND_S
        self._again = False
        try:
            if not self.exact_rounds:
                self._take_messages()
                self._again = False
            if not (self.dying or self.ended):
                self.kind.round(self.node)
        except Crashed:
            assert self.dying, "a handle of an earlier life was used"
        except Exception as error:  # noqa: BLE001 (what it means is for the kind of node to say)
            if not self.dying:
                self.kind.failed(self, error)
        finally:
            world.current = None
        if self.dying:
            self._died()
            return
        self.busy_until = world.now + self.busy_s
        self.observe(self)
        if self.ended:
            world.note(self.name, "gives up", self.ended)
            self._end(f"ended itself: {self.ended}", False)
            return
        if self._again or self.inbox:
            self.wake_at(self.busy_until)
        else:
            self.wake_at(world.now + self._sleep_s())
        self.busy_s = 0.0

    def _sleep_s(self) -> float:
        """Until the next timer of the node."""
        node = self.node
        leads = node._isLeader()
        due = node._SyncObj__newAppendEntriesTime if leads else node._SyncObj__raftElectionDeadline
        left = (due - self.clock()) / self.rate + 0.0002
        if left <= 0.0005:
            left = TICK_S  # due, but it does not act on it now
        return max(self.busy_s, min(left, MAX_SLEEP_S))
