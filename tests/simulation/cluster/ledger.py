"""The replicated log as the managers see it: one order of commands, the real tables, answers that get lost.

May live here: proposing (accepted later, or never, or nobody is told), and following at each manager's own
pace. A manager takes part while it hears a majority of the others and the log is not away for it. Every entry
is applied once, by `vimraft.core.apply`; each manager is given the tables after each entry, in order.
"""

import random
from collections.abc import Callable, Iterable
from typing import Final

from tests.simulation.world import World
from vimraft.core import codec
from vimraft.core.apply import apply
from vimraft.core.commands import Command, Outcome, Request
from vimraft.core.ids import ClientId, ManagerName, VolumeName
from vimraft.core.invariants import check, check_step
from vimraft.core.tables import State, Volume

TIMEOUT_S: Final = 1.5
"""A proposer that has heard nothing knows nothing."""
CHECKED_EVERY: Final = 16
"""All invariants of the tables are checked after so many entries; those of a step after each."""
FOLLOW_AGAIN_S: Final = 0.2
MAX_SET_BACK: Final = 30
"""Entries that a manager which starts again does not know to be committed."""
MAX_LURKS: Final = 20
"""How often an entry of a cut-off proposer tries to get in later, before it is lost."""

Answered = Callable[[Outcome | None], None]
"""None: nobody knows; it may be applied yet."""
Follower = Callable[[list[State]], None]


class Ledger:
    def __init__(
        self,
        world: World,
        rng: random.Random,
        first: State,
        managers: Iterable[ManagerName],
        hears: Callable[[str, str], bool],
        commit_s: float,
        loss: float,
    ) -> None:
        """`hears`: both directions between two managers work. `loss`: share of answers that get lost."""
        self.world = world
        self.random = rng
        self.states = [first]
        """After each entry; an index is `first.index` and its place."""
        self.managers = tuple(managers)
        self.away: set[ManagerName] = set()
        """Managers for which the log is not there."""
        self.deaf: set[ManagerName] = set()
        """What they propose gets in, and they hear of nothing."""
        self.loss = loss
        self.commit_s = commit_s
        self.follow_s = commit_s
        self.broken: list[str] = []
        """Invariants of the tables that did not hold."""
        self.rows: dict[tuple[VolumeName, int], Volume] = {}
        """What each epoch of a volume was."""
        self.on_change: list[Callable[[Volume, Volume], None]] = []
        self._hears = hears
        self._followers: dict[ManagerName, Follower] = {}
        self._at: dict[ManagerName, int] = {}
        self._awake: set[ManagerName] = set()
        self._note_rows(first)

    @property
    def state(self) -> State:
        return self.states[-1]

    def takes_part(self, manager: ManagerName) -> bool:
        if manager in self.away:
            return False
        heard = sum(self._hears(manager, other) for other in self.managers)
        return 2 * heard > len(self.managers)

    # --- proposing --------------------------------------------------------------------------------

    def propose(self, manager: ManagerName, client: str, command: Command, answered: Answered) -> None:
        """`client` names this request for ever: under the same name the same command has effect once."""
        request = Request(ClientId(client), 1, 1_000, manager, command)
        data = codec.encode_request(request, self.state.level)
        deadline_s = self.world.now + TIMEOUT_S
        self._commit_later(manager, data, answered, deadline_s, 0)

    def _commit_later(
        self, manager: ManagerName, data: bytes, answered: Answered | None, deadline_s: float, lurks: int
    ) -> None:
        delay_s = self.commit_s * (0.5 + self.random.random())
        self.world.after(delay_s, self._commit, manager, data, answered, deadline_s, lurks)

    def _commit(
        self, manager: ManagerName, data: bytes, answered: Answered | None, deadline_s: float, lurks: int
    ) -> None:
        if not self.takes_part(manager):
            self._unknown(answered, deadline_s)
            if lurks < MAX_LURKS and self.random.random() < 0.7:
                delay_s = 0.3 + self.random.random()
                self.world.after(delay_s, self._commit, manager, data, None, deadline_s, lurks + 1)
            return
        if self.random.random() < self.loss:
            self._unknown(answered, deadline_s)
            return
        outcome = self._append(data)
        if self.random.random() < self.loss or manager in self.deaf:
            self._unknown(answered, deadline_s)
        elif answered is not None:
            self.world.after(self.commit_s * self.random.random(), answered, outcome)

    def _unknown(self, answered: Answered | None, deadline_s: float) -> None:
        if answered is not None:
            self.world.at(deadline_s, answered, None)

    def _append(self, data: bytes) -> Outcome:
        before = self.state
        after, encoded = apply(before, data)
        outcome = codec.decode_outcome(encoded)
        self.states.append(after)
        found = check_step(before, after)
        if len(self.states) % CHECKED_EVERY == 0:
            found += check(after)
        self.broken += [f"{one.invariant}: {one.what}" for one in found]
        if after.volumes is not before.volumes:
            for name, row in sorted(after.volumes.items()):
                old = before.volumes.get(name)
                if old is not None and old is not row:
                    for call in self.on_change:
                        call(old, row)
        self._note_rows(after)
        for manager in self.managers:
            self._wake(manager)
        return outcome

    def _note_rows(self, state: State) -> None:
        for name, row in state.volumes.items():
            self.rows.setdefault((name, row.epoch), row)

    # --- following --------------------------------------------------------------------------------

    def follow(self, manager: ManagerName, follower: Follower) -> None:
        """From the present tables on: `follower` is called with the tables after each further entry."""
        self._followers[manager] = follower
        self._at.setdefault(manager, 0)

    def set_back(self, manager: ManagerName) -> None:
        """It starts again: what was committed it knows again when it hears of it from the others."""
        at = self._at.get(manager, 0)
        self._at[manager] = max(0, at - self.random.randrange(MAX_SET_BACK))
        self._wake(manager)

    def applied(self, manager: ManagerName) -> State:
        return self.states[self._at.get(manager, 0)]

    def _wake(self, manager: ManagerName) -> None:
        if manager not in self._awake:
            self._awake.add(manager)
            self.world.after(self.follow_s * 3 * self.random.random() ** 2, self._step, manager)

    def _step(self, manager: ManagerName) -> None:
        if not self.takes_part(manager) or manager in self.deaf:
            self.world.after(FOLLOW_AGAIN_S, self._step, manager)
            return
        self._awake.discard(manager)
        at = self._at[manager]
        newer = self.states[at + 1 :]
        if not newer:
            return
        if self.random.random() < 0.2:
            newer = newer[: self.random.randrange(1, len(newer) + 1)]
        self._at[manager] = at + len(newer)
        if self._at[manager] < len(self.states) - 1:
            self._wake(manager)
        self._followers[manager](newer)
