"""What all owners in one process share: peers' stores, threads, timers, marks, proposals.

May live here: the composition of these, and what is said to the manager. Bounded: threads by the constants
here; jobs by the requests and messages that the owners' machines bound.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from vimraft.core.ids import ManagerName
from vimraft.data.copies.leases import LeaseBook
from vimraft.data.copies.links import PeerStores
from vimraft.data.copies.marks import Marks
from vimraft.data.copies.workers import Crew, Timers
from vimraft.data.feed import Decided, FromPlane, MoveDone, Proposal, VerifyTold
from vimraft.protocol.messages import Session, StoreAnswer
from vimraft.protocol.owner_effects import Command, Decision, StoreRequest

MAX_STORE_THREADS = 16
"""Background requests to one store at a time: those of resync, of what waited, of what nobody waits for."""
MAX_LOCAL_THREADS = 8
MAX_PROPOSALS = 4_096
"""Undecided ones; a volume has a few at a time."""


class LocalStore(Protocol):
    """The store of one volume in this process."""

    def ask(self, session: Session, request: StoreRequest, done: Callable[[StoreAnswer], None]) -> None:
        """`done` is called once: before `ask` returns, or later from another thread."""


Log = Callable[..., None]


class Shell:
    def __init__(
        self,
        me: ManagerName,
        instance: str,
        directory: Path,
        *,
        address_of: Callable[[ManagerName], tuple[str, int]],
        tell: Callable[[Proposal | MoveDone | VerifyTold], None],
        log: Log,
    ) -> None:
        self.me = me
        self.instance = instance
        self.leases = LeaseBook()
        self.marks = Marks(directory)
        self.links = PeerStores(address_of)
        self.tell = tell
        self.log = log
        self.timers = Timers(self._bug)
        self.local = Crew("copies-local", MAX_LOCAL_THREADS, self._bug)
        self.durable = Crew("copies-marks", 1, self._bug)
        """One thread: marks of a volume are kept in order."""
        self._crews: dict[ManagerName, Crew] = {}
        self._lock = threading.Lock()
        self._proposals: dict[int, tuple[Proposal, Callable[[Decision], None]]] = {}
        self._numbers = 0
        self._lives = 0

    def _bug(self, error: Exception) -> None:
        self.log("copies.bug", error=repr(error))

    def next_incarnation(self) -> str:
        """Of one life of one owner: none of its session numbers is ever used by another."""
        with self._lock:
            self._lives += 1
            return f"{self.instance}.{self._lives}"

    def crew(self, store: ManagerName) -> Crew:
        """Each store has its own, so that one that is silent keeps nobody else waiting."""
        crew = self._crews.get(store)
        if crew is None:
            with self._lock:
                crew = self._crews.setdefault(store, Crew(f"copies-{store}", MAX_STORE_THREADS, self._bug))
        return crew

    # --- proposals --------------------------------------------------------------------------------------

    def propose(self, command: Command, decided: Callable[[Decision], None]) -> int:
        """Until it is decided; the number is for `withdraw`."""
        with self._lock:
            assert len(self._proposals) < MAX_PROPOSALS, "owners propose without end"
            self._numbers += 1
            number = self._numbers
            proposal = Proposal(number, command)
            self._proposals[number] = (proposal, decided)
        self.tell(proposal)
        return number

    def withdraw(self, number: int) -> None:
        """Nobody here wants to know any more; it may be decided all the same."""
        with self._lock:
            self._proposals.pop(number, None)

    def undecided(self) -> list[FromPlane]:
        """For a manager that has just connected: it goes on under the same ids."""
        with self._lock:
            return [proposal for proposal, _ in self._proposals.values()]

    def decided(self, decided: Decided) -> None:
        with self._lock:
            known = self._proposals.pop(decided.token, None)
        if known is not None:
            known[1]("applied" if decided.applied else "rejected")
