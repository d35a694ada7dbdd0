"""Elections: who may stand, who is heard, whose vote counts.

May live here: decisions, without sockets and clocks: times, terms and logs come in as arguments. PySyncObj
runs the election itself (term, votes, majority); this module says when it may, and which votes it sees.

What stock PySyncObj lacks:
- *Pre-vote* (Ongaro, §9.6): before a node raises the term it asks whether it could win. Peers that hear a
  leader say nothing, so a node that was paused or cut off comes back without deposing anyone.
- *Votes by node*: PySyncObj counts messages; a repeated one would count twice.
- *A newer term, wherever it is seen, ends an office*: see `node`.

Keeps: who is no voter never stands; only the word of distinct voters, given for the very term in question,
counts. Anyone may be *asked*: a member that has not yet received the change that makes it a voter must
answer, or the change could cost the cluster its majority; the asker counts its own voters only.
"""

from collections.abc import Callable, Collection
from typing import Any, Final, NamedTuple

PRE_VOTE: Final = "vimraft_pre_vote"
"""{type, term, last_log_index, last_log_term}: `term` is the one that the asker would stand in."""
PRE_VOTE_REPLY: Final = "vimraft_pre_vote_reply"
"""{type, term, granted}. Granted: `term` is the one that was asked for. Else: the sender's current term, in
answer to a message of an older one, so that whoever is behind learns it; other refusals are silence."""


class Standing(NamedTuple):
    """What a node brings to an election."""

    term: int
    last_log_index: int
    last_log_term: int

    def as_new_as(self, other: "Standing") -> bool:
        """Raft §5.4.1."""
        return (self.last_log_term, self.last_log_index) >= (other.last_log_term, other.last_log_index)


class Elections:
    def __init__(self, own_id: str, election_min_s: float) -> None:
        self._own_id = own_id
        self._election_min_s = election_min_s
        self._heard_s: float | None = None
        self._asked: tuple[int, float] | None = None
        """(term, when) of our own round that is not won or over."""
        self._granted: set[str] = set()
        self._may_stand_in = 0
        """The term for which a majority has granted; 0: none."""
        self._votes: tuple[int, set[str]] = (0, set())

    # --- hearing a leader -------------------------------------------------------------------------

    def heard_leader(self, now_s: float) -> None:
        self._heard_s = now_s
        self.give_up()

    def lost_leader(self) -> None:
        """It said so itself, or its process is certainly gone."""
        self._heard_s = None

    def leader_is_live(self, now_s: float) -> bool:
        return self._heard_s is not None and now_s - self._heard_s < self._election_min_s

    @property
    def heard_s(self) -> float | None:
        return self._heard_s

    # --- standing ---------------------------------------------------------------------------------

    def deadline_passed(
        self, now_s: float, own: Standing, voters: Collection[str], ask: Callable[[str, dict[str, Any]], None]
    ) -> bool:
        """True: stand now. Else every other voter has been asked; try again at the next deadline.

        `voters`: ids in force here, this node's among them if it is one."""
        if self._own_id not in voters:
            self.give_up()
            return False
        if self._may_stand_in == own.term + 1:
            self.give_up()
            return True
        self._asked, self._granted, self._may_stand_in = (own.term + 1, now_s), {self._own_id}, 0
        if _majority(self._granted, voters):
            self.give_up()
            return True  # alone
        for voter in sorted(voters):  # an order that does not depend on hashes
            if voter != self._own_id:
                ask(voter, {"type": PRE_VOTE, **own._replace(term=own.term + 1)._asdict()})
        return False

    def granted(self, peer: str, term: int, own: Standing, voters: Collection[str]) -> bool:
        """`peer` would vote for us in `term`. True: a majority would; stand at once."""
        if self._asked is None or self._asked[0] != term or term != own.term + 1 or peer not in voters:
            return False
        self._granted.add(peer)
        if self._own_id not in voters or not _majority(self._granted, voters):
            return False
        self._asked, self._may_stand_in = None, term
        return True

    def give_up(self) -> None:
        """Our own round is over."""
        self._asked, self._may_stand_in = None, 0
        self._granted = set()

    # --- being asked ------------------------------------------------------------------------------

    def grant(self, now_s: float, peer: str, asked: Standing, own: Standing, *, leading: bool) -> bool:
        """Whether to answer `peer` with PRE_VOTE_REPLY. It promises nothing: no disk, no term.

        `leading`: this node leads and hears a majority."""
        if leading or self.leader_is_live(now_s) or asked.term <= own.term or not asked.as_new_as(own):
            return False
        if self._asked is not None and now_s - self._asked[1] < self._election_min_s / 2:
            # Both ask at once. If both stood, each would vote for itself and nobody win: one gives way.
            if own.as_new_as(asked) and peer < self._own_id:
                return False
            self.give_up()
        return True

    # --- counting ---------------------------------------------------------------------------------

    def counts(self, peer: str, term: int, own_term: int, voters: Collection[str]) -> bool:
        """Whether PySyncObj may count a vote for `term` from `peer`: once, of a voter, for this term."""
        if term != own_term or peer not in voters:
            return False
        if self._votes[0] != term:
            self._votes = (term, set())
        if peer in self._votes[1]:
            return False
        self._votes[1].add(peer)
        return True


def _majority(some: Collection[str], voters: Collection[str]) -> bool:
    return sum(one in voters for one in some) > len(voters) / 2
