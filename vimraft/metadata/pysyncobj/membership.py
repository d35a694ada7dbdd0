"""Who the members are, as the log says, and when they may change.

May live here: decisions and bookkeeping, without PySyncObj. Raft's rule: the configuration in force is the
latest one *in the log*, committed or not; so it is a fold of the changes that the log holds over what
the log began with. When a new leader cuts a tail, the fold is taken again: nothing is "undone".

Keeps: one change at a time, each only after the leader has committed an entry of its own term; a voter is
made of an observer that has caught up; whoever speaks at an address has the node id that the log names for
it, or the one met there first.
"""

from collections.abc import Callable, Iterable
from typing import Final

import structlog
from msgspec import Struct

from vimraft.metadata.pysyncobj.members import Change, Member, Membership, fold, parse_change

log = structlog.get_logger(__name__)

MAX_MEMBERS: Final = 64
CAUGHT_UP_ENTRIES: Final = 1_000
"""An observer this far behind, or less, may become a voter: what is left takes well under a second."""


class Configuration:
    """The members in force at this node."""

    def __init__(
        self, base: Membership, entries: Iterable[tuple[bytes, int, int]], *, named: bool, index: int = 0
    ) -> None:
        """`base`: the members before the first of `entries` (command, index, term). `named`: the log names
        them (they are a snapshot's), not only the directory's first list. `index`: of the change that made
        them what they are; 0: none, or not known."""
        self._base = dict(base)
        self._base_index = index
        self._named = named
        self._changes: list[tuple[int, bytes]] = []
        for command, index, _ in entries:
            if parse_change(command) is not None:
                self._changes.append((index, command))
        self.members: dict[str, Member] = {}
        self._refold()

    def append(self, index: int, command: bytes) -> None:
        """`command` is a membership change and now entry `index`."""
        self._changes.append((index, command))
        self._refold()

    def cut(self, first: int) -> None:
        """Entries from `first` on are gone."""
        self._changes = [change for change in self._changes if change[0] < first]
        self._refold()

    def restart(self, members: Membership, index: int = 0) -> None:
        """A snapshot has replaced the log."""
        self._base, self._base_index, self._named, self._changes = dict(members), index, True, []
        self._refold()

    def compact(self, last: int) -> None:
        """Entries up to `last` are in a snapshot now."""
        self._base, self._base_index, self._named = self.at(last), self.index_at(last), True
        self._changes = [change for change in self._changes if change[0] > last]

    def at(self, index: int) -> dict[str, Member]:
        """As of that entry; not before the snapshot's."""
        return fold(self._base, (command for i, command in self._changes if i <= index))

    def index_at(self, index: int) -> int:
        """Of the newest change up to there; as `at`."""
        return max([i for i, _ in self._changes if i <= index], default=self._base_index)

    @property
    def index(self) -> int:
        """Of the newest change, wherever it is kept; 0: none, or not known."""
        return self._changes[-1][0] if self._changes else self._base_index

    @property
    def last_change(self) -> int:
        """Index of the newest change in the log; 0: none since the snapshot."""
        return self._changes[-1][0] if self._changes else 0

    def unlisted(self) -> list[Member]:
        """Members that only the directory's first list knows. The log must name them before anyone can
        learn the configuration from it; the first leader sees to that."""
        if self._named:
            return []
        changes = (parse_change(command) for _, command in self._changes)
        named = {change.address for change in changes if change is not None}
        return [member for address, member in sorted(self.members.items()) if address not in named]

    def unnamed(self) -> list[Member]:
        """Members whose node id the log does not hold: whoever comes first could speak for them. A leader
        names them when it knows the id. That changes no vote, so it is no change of the members."""
        return [member for _, member in sorted(self.members.items()) if not member.node_id]

    def _refold(self) -> None:
        self.members = fold(self._base, (command for _, command in self._changes))

    def voters(self) -> frozenset[str]:
        return frozenset(address for address, member in self.members.items() if member.voter)


class Progress(Struct, frozen=True):
    """What a leader knows when it is asked for a change."""

    own_address: str
    undecided: bool
    """A change, or the first entry of its own term, is not applied yet."""
    behind: Callable[[str], int | None]
    """Entries that a member lacks; None: it has not answered of late."""


def refusal(change: Change, members: Membership, progress: Progress) -> str:
    """Why a leader does not put `change` into its log; "" if it does."""
    address, known = change.address, members.get(change.address)
    if progress.undecided:
        return "another membership change is under way"
    if change.kind == "rem":
        if known is None:
            return f"{address} is no member"
        if address == progress.own_address:
            return f"{address} leads: it must step aside first"
        if known.voter and sum(member.voter for member in members.values()) == 1:
            return f"{address} is the last voter"
        return ""
    if known is not None and change.node_id and known.node_id not in ("", change.node_id):
        return f"{address} is a member under another identity: remove that one first"
    if change.kind == "observe":
        if known is not None:
            return f"{address} is a member already"
        return "" if len(members) < MAX_MEMBERS else f"there are {MAX_MEMBERS} members already"
    if known is None:
        return f"{address} must be an observer first"
    if known.voter:
        return f"{address} is a voter already"
    behind = progress.behind(address)
    if behind is None:
        return f"{address} has not answered of late"
    return "" if behind <= CAUGHT_UP_ENTRIES else f"{address} has not caught up: {behind} entries are missing"


class Acquaintances:
    """Which node id speaks at which address. A wiped disk has a new id: it has forgotten its votes and
    acknowledgements, and must not vote again under the old name."""

    def __init__(
        self,
        node_ids: dict[str, str],
        members: Callable[[], Membership],
        save: Callable[[dict[str, str]], None],
    ) -> None:
        """`save` makes the map durable; raises OSError."""
        self._node_ids = dict(node_ids)
        self._members = members
        self._save = save

    def knows(self, address: str, node_id: str) -> bool:
        """Whether `node_id` may speak as `address`; at first contact it is remembered, durably."""
        member = self._members().get(address)
        if member is None or not node_id:
            return False
        expected = member.node_id or self._node_ids.get(address, "")
        if expected and expected != node_id:
            return False
        if self._node_ids.get(address) != node_id:
            # Not accepted before it is on disk: after a crash another one could be the first to come.
            return self._store({**self._node_ids, address: node_id})
        return True

    def named(self, address: str, node_id: str) -> bool:
        """Whether the log itself names `node_id` for `address`."""
        member = self._members().get(address)
        return member is not None and bool(node_id) and member.node_id == node_id

    def node_id(self, address: str) -> str:
        """ "" while unknown."""
        member = self._members().get(address)
        return (member.node_id if member else "") or self._node_ids.get(address, "")

    def forget(self, address: str) -> None:
        """Its removal is decided: whoever is added there next is a new node."""
        if address in self._node_ids:
            self._store({a: n for a, n in self._node_ids.items() if a != address})

    def all(self) -> dict[str, str]:
        return dict(self._node_ids)

    def _store(self, node_ids: dict[str, str]) -> bool:
        try:
            self._save(node_ids)
        except OSError as error:
            log.error("raft.node_ids_not_written", problem=str(error))
            return False
        self._node_ids = node_ids
        return True
