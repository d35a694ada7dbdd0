"""The hardened node with one rule taken away: each must be caught, or the simulation proves nothing.

May live here: one function per rule, which gives what to replace where. They are put in place for the length
of a run. The table at the end names them; a test holds seeds that catch some of them.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

from msgspec import Struct

from tests.simulation.patches import replaced
from tests.simulation.settings import Timing
from tests.simulation.tables import TablesApplication
from vimraft.core.tables import State
from vimraft.metadata.pysyncobj import applying, inbox, intake, matching, records, snapshot
from vimraft.metadata.pysyncobj.durability import Durability
from vimraft.metadata.pysyncobj.elections import Elections, Standing
from vimraft.metadata.pysyncobj.inbox import Inbox
from vimraft.metadata.pysyncobj.journal import DurableJournal
from vimraft.metadata.pysyncobj.membership import Acquaintances
from vimraft.metadata.pysyncobj.node import RaftNode

Replacement = tuple[Any, dict[str, Any]]
"""(owner, attributes)"""


def _no_sync() -> list[Replacement]:
    """Acknowledged from the page cache."""

    def sync(self: DurableJournal) -> None:
        self.write()
        self._now_synced()

    return [(DurableJournal, {"sync": sync})]


def _no_term_sync() -> list[Replacement]:
    """Votes leave before the term is on disk; entries are synced as they should."""
    honest = DurableJournal.setCurrentTerm

    def set_term(self: DurableJournal, term: int, voted_for: str | None) -> None:
        urgent = self._urgent
        honest(self, term, voted_for)
        self._urgent = urgent

    return [(DurableJournal, {"setCurrentTerm": set_term})]


def _leader_counts_unsynced() -> list[Replacement]:
    """A leader syncs nothing of its own; followers do before they acknowledge."""
    honest, wrote = Durability._must_sync, DurableJournal.write

    def must_sync(self: Durability, now: float) -> bool:
        return bool(self.gate is not None and self.gate.holds) and honest(self, now)

    def write(self: DurableJournal) -> None:
        wrote(self)
        self.synced_index = self._last_index()

    return [(Durability, {"_must_sync": must_sync}), (DurableJournal, {"write": write})]


def _ack_without_term() -> list[Replacement]:
    honest = Inbox._acknowledgement

    def acknowledgement(self: Inbox, sender: Any, message: dict[str, Any]) -> None:
        honest(self, sender, {**message, "term": self._node.raftCurrentTerm})

    return [(Inbox, {"_acknowledgement": acknowledgement})]


def _no_log_matching() -> list[Replacement]:
    """A follower cuts after the previous entry, whatever comes."""

    def match(log: Any, message: dict[str, Any], committed: int, applied: int) -> matching.Match:
        return matching.Match(message)

    return [(inbox, {"match": match})]


def _matches_any_term() -> list[Replacement]:
    """The previous entry's term is not compared."""
    honest = matching.match

    def match(log: Any, message: dict[str, Any], committed: int, applied: int) -> matching.Match:
        previous = message.get("prevLogIdx")
        if previous is not None and log[0][1] <= previous <= log[-1][1]:
            message = {**message, "prevLogTerm": log[previous - log[0][1]][2]}
        return honest(log, message, committed, applied)

    return [(inbox, {"match": match})]


def _votes_by_message() -> list[Replacement]:
    def counts(self: Elections, peer: str, term: int, own_term: int, voters: Any) -> bool:
        return term == own_term

    return [(Elections, {"counts": counts})]


def _vote_for_the_behind() -> list[Replacement]:
    """Whoever asks gets the vote, however short its log."""

    def request_vote(self: Inbox, sender: Any, message: dict[str, Any]) -> None:
        own = self._node.standing()
        ahead = {"last_log_index": own.last_log_index, "last_log_term": own.last_log_term}
        self._deliver(sender, {**message, **ahead})

    def as_new_as(self: Standing, other: Standing) -> bool:
        return True

    return [(Inbox, {"_request_vote": request_vote}), (Standing, {"as_new_as": as_new_as})]


def _no_pre_vote() -> list[Replacement]:
    def deadline_passed(self: Elections, now_s: float, own: Any, voters: Any, ask: Any) -> bool:
        return self._own_id in voters

    return [(Elections, {"deadline_passed": deadline_passed})]


def _torn_tail() -> list[Replacement]:
    """Records without checksums."""
    return [(records, {"zlib": SimpleNamespace(crc32=lambda data, value=0: 0)})]


def _applies_twice() -> list[Replacement]:
    """A request that is sent again is a new one."""
    honest = TablesApplication.apply

    def apply(self: TablesApplication, state: State, data: bytes) -> tuple[State, bytes, bytes | None]:
        return honest(self, state._replace(clients=State().clients) if state.clients else state, data)

    return [(TablesApplication, {"apply": apply})]


def _early_trim() -> list[Replacement]:
    """The snapshot gets its name without having been synced."""

    class Careless:
        def __init__(self, disk: Any) -> None:
            self._disk = disk

        def __getattr__(self, name: str) -> Any:
            return getattr(self._disk, name)

        def sync_names(self) -> None: ...

        def open(self, name: str, *, create: bool = False) -> Any:
            file = self._disk.open(name, create=create)
            if name.startswith("snapshot"):
                file.datasync = lambda: None
            return file

    honest = snapshot.SnapshotExchange.__init__

    def init(self: Any, disk: Any, **given: Any) -> None:
        honest(self, Careless(disk), **given)

    return [(snapshot.SnapshotExchange, {"__init__": init})]


def _trim_in_place() -> list[Replacement]:
    """Compaction empties the journal before it is written again, as PySyncObj does."""
    honest = DurableJournal._rewrite

    def rewrite(self: DurableJournal) -> None:
        self._file.truncate(0)
        honest(self)

    return [(DurableJournal, {"_rewrite": rewrite})]


def _stranger_welcome() -> list[Replacement]:
    """A wiped disk may come back under its old address."""
    return [(Acquaintances, {"knows": lambda self, address, node_id: True})]


def _many_changes() -> list[Replacement]:
    """Membership changes overlap."""
    return [(intake, {"refusal": lambda change, members, progress: ""})]


def _old_snapshots() -> list[Replacement]:
    """A received snapshot is taken whatever this node has already."""
    return [(applying.Applying, {"wants": lambda self, found: True})]


def _answers_at_once() -> list[Replacement]:
    """The leader tells its client before a majority has the entry."""
    honest = RaftNode.append

    def append(self: RaftNode, command: bytes) -> tuple[int, int]:
        place = honest(self, command)
        self._SyncObj__raftCommitIndex = place[0]
        return place

    return [(RaftNode, {"append": append})]


def _commits_old_terms() -> list[Replacement]:
    """Any acknowledged entry is committed, also one of an earlier term (Raft, figure 8)."""
    honest = Inbox._acknowledgement

    def acknowledgement(self: Inbox, sender: Any, message: dict[str, Any]) -> None:
        honest(self, sender, message)
        node = self._node
        if not node._isLeader() or not message.get("success"):
            return
        matches = sorted(node._SyncObj__raftMatchIndex[peer] for peer in node._SyncObj__otherNodes)
        needed = (len(matches) + 1) // 2
        decided = min(matches[len(matches) - needed], node.journal.synced_index)
        if decided > node.raftCommitIndex:
            node._SyncObj__raftCommitIndex = decided

    return [(Inbox, {"_acknowledgement": acknowledgement})]


_STORM = {
    "faults": ("isolate-leader", "kill-leader", "pause-leader", "one-way"),
    "duplicate": 0.4,
    "think_s": 0.1,
}
_RACES = {
    "machines": 5,
    "timing": Timing(election_min_s=0.7, election_max_s=0.72),
    "faults": ("kill-leader", "kill", "isolate-leader"),
    "duplicate": 0.4,
    "delay_s": 0.03,
    "jitter_s": 0.05,
    "drift": 0.0,
}
_COMPACTION = {"faults": ("compaction-kill", "compaction-power", "crash-in-disk")}
_POWER = {"faults": ("power", "power-all", "kill-leader", "crash-in-disk"), "fault_every_s": 0.4}
_WIPES = {"faults": ("wipe", "kill-leader")}
_MEMBERS = {"machines": 5, "faults": ("members", "members", "members", "partition"), "fault_every_s": 0.4}
_LAGGING = {"faults": ("pause", "cut", "slow-link"), "duplicate": 0.5, "think_s": 0.1, "beat_s": 0.0}


class Mutation(Struct, frozen=True):
    replacements: Callable[[], list[Replacement]]
    settings: dict[str, Any] = {}
    """Fields of Settings that are set so that the rule matters often; others come from the seed."""


MUTATIONS: dict[str, Mutation] = {
    "no-sync-before-ack": Mutation(_no_sync),
    "no-term-sync": Mutation(_no_term_sync, _POWER),
    "commit-unsynced": Mutation(_leader_counts_unsynced),
    "ack-without-term": Mutation(_ack_without_term, _STORM),
    "no-log-matching": Mutation(_no_log_matching),
    "matches-any-term": Mutation(_matches_any_term, _STORM),
    "votes-by-message": Mutation(_votes_by_message, _RACES),
    "vote-for-the-behind": Mutation(_vote_for_the_behind),
    "torn-tail-accepts-anything": Mutation(_torn_tail),
    "resend-applies-twice": Mutation(_applies_twice),
    "snapshot-unsynced": Mutation(_early_trim, _COMPACTION),
    "trim-in-place": Mutation(_trim_in_place, _COMPACTION),
    "wiped-disk-welcome": Mutation(_stranger_welcome, _WIPES),
    "many-changes-at-once": Mutation(_many_changes, _MEMBERS),
    "old-snapshots": Mutation(_old_snapshots, _LAGGING),
    "answers-at-once": Mutation(_answers_at_once),
    "commits-old-terms": Mutation(_commits_old_terms, {**_STORM, "machines": 5}),
    "no-pre-vote": Mutation(_no_pre_vote),
}
"""`no-pre-vote` breaks no promise but that terms stay; a test of its own looks at that."""


@contextmanager
def mutated(name: str | None) -> Iterator[None]:
    """Raises KeyError for a name that is not in MUTATIONS."""
    with ExitStack() as stack:
        for owner, attributes in MUTATIONS[name].replacements() if name is not None else ():
            stack.enter_context(replaced(owner, **attributes))
        yield
