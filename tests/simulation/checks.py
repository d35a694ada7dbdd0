"""What must hold, whatever happens: one predicate each, from the nodes' own structures.

May live here: the checks and what they have to remember. They look at PySyncObj's term, log, commit index
and office, and at what leaves over the wire; never at what a node reports about itself. Positions are those
of the state machine (how many commands it has taken), indexes those of the Raft log.

- *election safety*: one leader a term, by the votes of a majority; *one vote* a term;
- *terms* on the wire never go back;
- *log matching*: (index, term) names one command and one history before it, on all nodes, for ever;
- *commit*: what one node knows as committed is never another entry anywhere; a new leader has all of it;
- *state machine*: the same command, and the same outcome, at the same position on all nodes;
- *exactly once*: a request takes effect at one position; one that was refused for certain at none;
- *linearizable*: whatever is completed lies at a later position than all that was completed before it began;
- at the end: nothing acknowledged is missing, all nodes are equal, everything has been decided.
"""

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from tests.simulation.machine import Machine
from tests.simulation.world import World

MAX_VIOLATIONS = 3
"""Kept of each kind; what goes wrong once goes wrong everywhere."""


class Violation(Struct, frozen=True):
    kind: str
    text: str
    at_s: float

    def __str__(self) -> str:
        return f"{self.kind}: {self.text} (at {self.at_s} s)"


class _Seen:
    """A node's log as it was after its last round."""

    __slots__ = ("applied", "commit", "first", "last", "leader", "life", "terms")

    def __init__(self, life: int) -> None:
        self.life = life
        self.applied = 0
        self.first = 0
        self.last = (0, 0)
        self.terms: dict[int, int] = {}
        self.commit = 0
        self.leader = False


class Checks:
    def __init__(self, world: World) -> None:
        self._world = world
        self.violations: list[Violation] = []
        self.committed: dict[int, tuple[int, bytes]] = {}
        self.highest_commit = 0
        self.leaders: dict[int, tuple[str, int]] = {}
        self.highest_term = 0
        self.may_vote: set[str] = set()
        self.must_not_vote: set[str] = set()
        """Wiped: what they have promised is forgotten."""
        self.entry_seen: Callable[[bytes], None] = lambda command: None
        """Called with each new entry of any log."""
        self.completed = 0
        """The highest position of anything completed."""
        self.acknowledged: dict[bytes, int] = {}
        self.effects: dict[bytes, int] = {}
        self.refused: set[bytes] = set()
        """Requests that certainly have not, and never will, take effect."""
        self._entries: dict[tuple[int, int], tuple[bytes, int | None]] = {}
        self._applied: dict[int, tuple[bytes, bytes]] = {}
        self._votes: dict[tuple[str, int], str] = {}
        self._terms_sent: dict[str, int] = {}
        self._seen: dict[str, _Seen] = {}

    def violate(self, kind: str, text: str) -> None:
        self._world.note("CHECK", kind, text)
        if sum(found.kind == kind for found in self.violations) < MAX_VIOLATIONS:
            self.violations.append(Violation(kind, text, round(self._world.now, 4)))

    # --- after every round --------------------------------------------------------------------------

    def observe(self, machine: Machine) -> None:
        node = machine.node
        seen = self._seen.get(machine.address)
        if seen is None or seen.life != machine.life:
            seen = self._seen[machine.address] = _Seen(machine.life)
        log = node._SyncObj__raftLog
        if len(log) == 0 or log[-1][1] - log[0][1] + 1 != len(log):
            self.violate("log gap", f"{machine.name}: its {len(log)} entries do not follow each other")
            return
        first, last = log[0][1], (log[-1][1], log[-1][2])
        if seen.last != last or seen.first != first:
            self._log_changed(machine, log, seen, first, last)
        commit = node._SyncObj__raftCommitIndex
        if commit != seen.commit:
            self._commit_changed(machine, log, seen, commit)
        applied = node._SyncObj__raftLastApplied
        if applied < seen.applied:
            self.violate("applied went back", f"{machine.name} from {seen.applied} to {applied}")
        seen.applied = applied
        leader = node._isLeader()
        if leader != seen.leader:
            seen.leader = leader
            if leader:
                self._became_leader(machine, log)

    def _log_changed(
        self, machine: Machine, log: Any, seen: _Seen, first: int, last: tuple[int, int]
    ) -> None:
        terms = seen.terms
        index = last[0]
        entries = self._entries
        while index >= first:
            command, own_index, term = log[index - first]
            if terms.get(index) == term and index <= seen.last[0]:
                break
            before = log[index - first - 1][2] if index > first else None
            if own_index != index:
                self.violate("log gap", f"{machine.name} has entry {own_index} in the place of {index}")
                return
            known = entries.get((index, term))
            if known is None:
                entries[index, term] = (command, before)
                self.entry_seen(command)
            elif known[0] != command or (before is not None and known[1] not in (None, before)):
                self.violate(
                    "log matching", f"{machine.name} entry {index} of term {term} differs from another's"
                )
            elif known[1] is None:
                entries[index, term] = (command, before)
            terms[index] = term
            index -= 1
        seen.first, seen.last = first, last

    def _commit_changed(self, machine: Machine, log: Any, seen: _Seen, commit: int) -> None:
        first, last = seen.first, seen.last[0]
        for index in range(max(first, seen.commit + 1), min(commit, last) + 1):
            command, _, term = log[index - first]
            known = self.committed.get(index)
            if known is None:
                self.committed[index] = (term, command)
            elif known != (term, command):
                self.violate(
                    "committed entry replaced",
                    f"{machine.name} committed entry {index} of term {term}; it was one of term {known[0]}",
                )
        seen.commit = commit
        self.highest_commit = max(self.highest_commit, min(commit, last))

    def _became_leader(self, machine: Machine, log: Any) -> None:
        term = machine.node.raftCurrentTerm
        self._world.note(machine.name, "leads", f"term {term}", f"last {log[-1][1]}")
        self.highest_term = max(self.highest_term, term)
        known = self.leaders.setdefault(term, (machine.address, machine.life))
        if known != (machine.address, machine.life):
            self.violate("election safety", f"{machine.name} leads in term {term}, and so does {known[0]}")
        if not self._is_voter(machine.address):
            self.violate("no voter leads", f"{machine.name} leads in term {term}")
        voters = {machine.address, *(other.id for other in machine.node._SyncObj__otherNodes)}
        votes = sum(self._votes.get((voter, term)) == machine.address for voter in voters)
        if 2 * votes <= len(voters):
            self.violate(
                "no majority", f"{machine.name} leads in term {term} with {votes} votes of {len(voters)}"
            )
        first, last = log[0][1], log[-1][1]
        for index, (committed_term, command) in self.committed.items():
            if committed_term >= term or index < first:
                continue
            if index > last:
                self.violate(
                    "leader completeness",
                    f"{machine.name} leads in term {term} with entries up to {last}; {self.highest_commit} "
                    "was committed",
                )
                return
            if log[index - first][2] != committed_term or log[index - first][0] != command:
                self.violate(
                    "leader completeness", f"{machine.name} leads in term {term} with another entry {index}"
                )
                return

    def _is_voter(self, address: str) -> bool:
        return address in self.may_vote and address not in self.must_not_vote

    # --- on the wire --------------------------------------------------------------------------------

    def sends(self, machine: Machine, target: str, message: Any) -> None:
        if not isinstance(message, dict):
            return
        kind = message.get("type")
        if kind not in ("request_vote", "response_vote", "append_entries"):
            return
        address, term = machine.address, message["term"]
        if kind != "append_entries":
            choice = address if kind == "request_vote" else target
            known = self._votes.setdefault((address, term), choice)
            if known != choice:
                self.violate(
                    "two votes", f"{machine.name} votes for {choice} in term {term}, and for {known}"
                )
            if kind == "response_vote" and not self._is_voter(address):
                self.violate("vote of a non-voter", f"{machine.name} votes in term {term}")
        sent = self._terms_sent.get(address, 0)
        if term < sent:
            self.violate("term went back", f"{machine.name} speaks of term {term} after {sent} ({kind})")
        else:
            self._terms_sent[address] = term

    # --- the state machine --------------------------------------------------------------------------

    def applied(
        self, machine: Machine, position: int, data: bytes, effect: bytes | None, outcome: bytes
    ) -> None:
        known = self._applied.get(position)
        if known is None:
            self._applied[position] = (data, outcome)
        elif known != (data, outcome):
            self.violate("divergence", f"{machine.name} applied another command at position {position}")
            return
        if effect is None:
            return
        before = self.effects.setdefault(effect, position)
        if before != position:
            self.violate("applied twice", f"{effect!r} took effect at {before} and at {position}")
        if effect in self.refused:
            self.violate(
                "false refusal", f"{effect!r} takes effect at {position}; its client was told: never"
            )

    # --- clients ------------------------------------------------------------------------------------

    def done(self, who: str, request: bytes | None, position: int, floor: int) -> None:
        """Completed; `floor` was `completed` when it began. `request`: of a write."""
        if position < floor:
            self.violate("not linearizable", f"{who}: position {position} after {floor} was completed")
        self.completed = max(self.completed, position)
        if request is not None:
            self.acknowledged[request] = position

    def given_up(self, request: bytes) -> None:
        self.refused.add(request)
        if request in self.effects:
            self.violate("false refusal", f"{request!r} took effect at {self.effects[request]}")

    # --- the end ------------------------------------------------------------------------------------

    def whole_log(self, machine: Machine) -> None:
        """Every entry, not only what has changed."""
        seen = self._seen[machine.address] = _Seen(machine.life)
        log = machine.node._SyncObj__raftLog
        if len(log) == 0 or log[-1][1] - log[0][1] + 1 != len(log):
            return  # has been reported
        self._log_changed(machine, log, seen, log[0][1], (log[-1][1], log[-1][2]))
        self._commit_changed(machine, log, seen, machine.node._SyncObj__raftCommitIndex)

    def nothing_lost(self, machine: Machine, holds: set[bytes] | None, counts: dict[str, int] | None) -> None:
        """`holds`: the requests in its state; `counts`: how many of each client's."""
        if holds is not None:
            lost = sorted(set(self.acknowledged) - holds)
            if lost:
                self.violate(
                    "acknowledged write lost", f"{machine.name} lacks {len(lost)}, first {lost[0]!r}"
                )
        if counts is not None:
            expected: dict[str, int] = {}
            for request in self.acknowledged:
                client = request.decode().split(":")[0]
                expected[client] = expected.get(client, 0) + 1
            for client, count in sorted(expected.items()):
                have = counts.get(client, 0)
                if have < count:
                    self.violate(
                        "acknowledged write lost", f"{machine.name} has {have} of {client}'s {count}"
                    )
                elif have > count:
                    self.violate("applied twice", f"{machine.name} has {have} of {client}'s {count}")
