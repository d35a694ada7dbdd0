"""Log matching: which part of an AppendEntries message a follower still needs.

May live here: pure decisions over a journal and a message. PySyncObj cuts its journal after the
message's previous entry every time, heartbeats and repeats included, and so drops entries that it has
acknowledged. Raft (§5.3) cuts only where an entry *conflicts*; `match` restores that rule.

What is *decided* here (committed or applied) never conflicts in a sound cluster, so that a conflict there is
no lag to be mended but two histories, and the node must end: this node's commit index only ever rises to
what a leader has said, and only over entries that were found to match that leader's (`match` lets PySyncObj
commit nothing else); it is stored after the entries that it speaks of, in the same file, and at start never
taken for more than the entries found; what a snapshot holds is applied. Each of them was thus an entry of a
leader that counted a majority for it, and every later leader's log has it (Raft §5.4, leader completeness); a
leader never cuts its own log, so also a late message of its term says the same of it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from vimraft.metadata.pysyncobj.records import LogEntry


class Journal(Protocol):
    def __getitem__(self, item: int) -> LogEntry: ...
    def __len__(self) -> int: ...


class Match(NamedTuple):
    message: dict[str, Any]
    """What PySyncObj shall see."""
    acknowledge: int | None = None
    """Send this next index as a success: PySyncObj will not, for it sees no entries."""
    restart_from: int | None = None
    """Ask the leader for the entries from here on."""
    conflict: int | None = None
    """First index whose entry will be replaced, or would have to be: it is decided here."""


def match(journal: Journal, message: dict[str, Any], committed: int, applied: int) -> Match:
    """`message` is an append_entries; the journal holds at least one entry, without gaps.
    `committed`, `applied`: as this node knows; after a restart either may be ahead."""
    if "transmission" in message:
        return Match(message)
    if "prevLogIdx" not in message:
        # Part of a snapshot. It says nothing about our entries, but PySyncObj would commit all of
        # them up to the leader's commit index, also a tail that the leader has replaced.
        return Match(_without_entries(message, committed))
    previous = message["prevLogIdx"]
    first, last = journal[0][1], journal[-1][1]
    if (
        previous is None  # the leader was told to go on behind the end of its own log
        or not first <= previous <= last
        or journal[previous - first][2] != message["prevLogTerm"]
    ):
        decided = max(committed, applied)
        if previous is not None and first <= previous <= min(decided, last):
            return Match(_without_entries(message, committed), conflict=previous)
        # What is committed here is certainly the leader's too. PySyncObj would ask for what follows
        # our *last* entry, for ever if our log has a tail longer than the leader's, or step back by
        # one entry a heartbeat.
        return Match(_without_entries(message, committed), restart_from=decided + 1)
    entries: Sequence[LogEntry] = message["entries"]
    known = 0
    while known < len(entries):
        index, term = entries[known][1:]
        if index > last or journal[index - first][2] != term:
            break
        known += 1
    end = previous + known
    if known == len(entries) and end < last:
        # Our log is longer. The rest may be newer than this message, or a tail that nobody else
        # has: neither cut nor acknowledge it, and commit nothing of it.
        return Match(_without_entries(message, end), acknowledge=end + 1)
    stripped = {
        **message,
        "prevLogIdx": end,
        "prevLogTerm": journal[end - first][2],
        "entries": list(entries[known:]),
    }
    return Match(stripped, conflict=end + 1 if end < last else None)


def heartbeat(message: dict[str, Any], commit_at_most: int) -> dict[str, Any]:
    """`message` without anything that would have to be written down."""
    rest = _without_entries(message, commit_at_most)
    rest.pop("serialized", None)
    return rest


_APPEND_KEYS = ("prevLogIdx", "prevLogTerm", "entries")


def _without_entries(message: dict[str, Any], commit_at_most: int) -> dict[str, Any]:
    """Says who leads and in which term, and commits no entry that may not be the leader's."""
    rest = {key: value for key, value in message.items() if key not in _APPEND_KEYS}
    return {**rest, "commit_index": min(message["commit_index"], commit_at_most)}
