"""What every client of a chaos run has: a thread that asks, waits at the valve, and notes what it saw.

May live here: the valve, the loop, what is counted. Keeps: a client goes on through every error; an error
leaves an outcome unknown, never failed.
"""

import threading
import time
from dataclasses import dataclass, field
from typing import NamedTuple

MAX_KEPT_ERRORS = 20
RETRY_S = 0.2


class Valve:
    """Shut while a round is checked."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self.ended = threading.Event()

    def open(self) -> None:
        self._open.set()

    def shut(self) -> None:
        self._open.clear()

    def end(self) -> None:
        self.ended.set()
        self._open.set()

    def pass_through(self) -> bool:
        """Waits while it is shut; False at the end."""
        self._open.wait()
        return not self.ended.is_set()

    def is_shut(self) -> bool:
        return not self._open.is_set()


class Failure(NamedTuple):
    at_s: float
    text: str
    answered: bool
    """It was the answer to a request; else the connection ended or was not made."""


@dataclass
class Seen:
    """By one client. Counters grow; `longest_…` and `failures` are of the present round."""

    reads: int = 0
    writes: int = 0
    flushes: int = 0
    errors: int = 0
    longest_s: float = 0.0
    """Without a good answer, while it wanted one."""
    longest_at_s: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    """The first of each kind."""
    last_errors: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def new_round(self) -> None:
        self.longest_s = self.longest_at_s = 0.0
        self.failures = []
        self.violations = []

    def failed(self, error: Exception, *, answered: bool) -> None:
        text = f"{type(error).__name__}: {error}"
        self.errors += 1
        self.last_errors = [*self.last_errors, text][-MAX_KEPT_ERRORS:]
        if len(self.failures) < MAX_KEPT_ERRORS and text not in {each.text for each in self.failures}:
            self.failures.append(Failure(time.time(), text, answered))

    def waited(self, seconds: float) -> None:
        if seconds > self.longest_s:
            self.longest_s, self.longest_at_s = seconds, time.time()


class Client(threading.Thread):
    def __init__(self, name: str, valve: Valve, pace_s: float) -> None:
        super().__init__(name=name, daemon=True)
        self.seen = Seen()
        self.quiet = threading.Event()
        """Set while it waits at the valve with nothing in flight."""
        self._valve = valve
        self._pace_s = pace_s

    def one(self) -> bool:
        """One request; False when there was no good answer."""
        raise NotImplementedError

    def settle(self) -> None:
        """The last request of a round."""

    def run(self) -> None:
        answered_s = time.monotonic()
        while not self._valve.ended.is_set():
            if self._valve.is_shut():
                self.settle()
                self.quiet.set()
                if not self._valve.pass_through():
                    break
                self.quiet.clear()
                answered_s = time.monotonic()
                continue
            good, now_s = self.one(), time.monotonic()
            if good:
                self.seen.waited(now_s - answered_s)
                answered_s = now_s
            elif self._valve.is_shut():
                self.seen.waited(now_s - answered_s)  # for all that it wanted, in vain
            self._valve.ended.wait(self._pace_s if good else RETRY_S)
        self.quiet.set()
