"""Log matching: which part of an AppendEntries message a follower still needs.

May live here: pure decisions over a journal and a message. PySyncObj cuts its journal after the
message's previous entry every time, heartbeats and repeats included, and so drops entries that it has
acknowledged. Raft (§5.3) cuts only where an entry *conflicts*; `match` restores that rule.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from vimraft.metadata.pysyncobj.snapshot import LogEntry


class Journal(Protocol):
    def __getitem__(self, item: int) -> LogEntry: ...
    def __len__(self) -> int: ...


class Match(NamedTuple):
    message: dict[str, Any]
    """What PySyncObj shall see."""
    acknowledge: int | None = None
    """Send this next index as a success: PySyncObj will not, for it sees no entries."""
    conflict: int | None = None
    """First index whose entry will be replaced."""


def match(journal: Journal, message: dict[str, Any], committed: int) -> Match:
    """`message` is an append_entries; the journal holds at least one entry, without gaps.
    `committed`: this node's commit index."""
    previous = message.get("prevLogIdx")
    if previous is None:
        # Part of a snapshot. It says nothing about our entries, but PySyncObj would commit all of
        # them up to the leader's commit index, also a tail that the leader has replaced.
        return Match({**message, "commit_index": min(message["commit_index"], committed)})
    if "transmission" in message:
        return Match(message)
    first, last = journal[0][1], journal[-1][1]
    if not first <= previous <= last or journal[previous - first][2] != message["prevLogTerm"]:
        return Match(message)  # nothing to go on from: PySyncObj asks for earlier entries
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
        trimmed = {key: value for key, value in message.items() if key not in _APPEND_KEYS}
        trimmed["commit_index"] = min(message["commit_index"], end)
        return Match(trimmed, acknowledge=end + 1)
    stripped = {
        **message,
        "prevLogIdx": end,
        "prevLogTerm": journal[end - first][2],
        "entries": list(entries[known:]),
    }
    return Match(stripped, conflict=end + 1 if end < last else None)


_APPEND_KEYS = ("prevLogIdx", "prevLogTerm", "entries")
