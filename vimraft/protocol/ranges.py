"""The range lock of one volume: writes exclusive, reads shared, first come first served, bounded.

May live here: the lock and its index; it knows tokens and byte ranges, nothing of requests. Keeps INV-3 and
INV-5 on the owner's side: two writes that overlap reach every replica in the same order, and a read never
sees half of one. A region that resync copies is locked the same way.

An entry waits exactly for the earlier entries that it conflicts with (overlap, and not both shared), held or
waiting. So nobody is overtaken by a later conflicting entry (fair), there is no cycle to deadlock in, and
entries that do not meet never wait for each other.
"""

from collections.abc import Iterable

BUCKET_BYTES = 64 << 10
"""Entries are found through the buckets that they touch."""
MAX_BUCKETS_EACH = 32
"""An entry over more buckets than this is *wide*: everybody compares himself with it instead."""
MAX_LOCKED = 4_096
"""Entries held and waiting. Whoever is refused waits outside, in order."""


class _Entry:
    __slots__ = ("behind", "end", "exclusive", "first", "high", "low", "token", "waits_for")

    def __init__(self, token: int, first: int, end: int, exclusive: bool) -> None:
        self.token = token
        self.first = first
        self.end = end
        self.exclusive = exclusive
        self.low = first // BUCKET_BYTES
        self.high = (end - 1) // BUCKET_BYTES
        """First and last bucket."""
        self.waits_for = 0
        self.behind: list[_Entry] = []

    @property
    def wide(self) -> bool:
        return self.high - self.low >= MAX_BUCKETS_EACH

    def conflicts(self, other: "_Entry") -> bool:
        return (
            (self.exclusive or other.exclusive)
            and self.first < other.end
            and other.first < self.end
            and self is not other
        )


class RangeLock:
    """Tokens are the caller's, each used once at a time."""

    def __init__(self, *, shared_reads: bool = True, exclusive_writes: bool = True) -> None:
        """`shared_reads` False: reads lock nothing at all; `exclusive_writes` False: nothing conflicts.
        Both only to show what they are there for (`Rules`)."""
        self._shared_reads = shared_reads
        self._exclusive_writes = exclusive_writes
        self._entries: dict[int, _Entry] = {}
        self._buckets: dict[int, dict[int, _Entry]] = {}
        self._wide: dict[int, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, token: int) -> bool:
        return token in self._entries

    @property
    def full(self) -> bool:
        return len(self._entries) >= MAX_LOCKED

    def holds(self, token: int) -> bool:
        """Granted, and not released yet."""
        entry = self._entries.get(token)
        return entry is not None and entry.waits_for == 0

    def acquire(self, token: int, first: int, length: int, *, exclusive: bool) -> bool:
        """True: granted now. False: it waits, and a later `release` names it. The caller has looked at
        `full` before; `length` > 0."""
        assert token not in self._entries, f"token {token} has a range already"
        assert not self.full, "the range lock is full"
        assert length > 0 <= first, f"no range: {first}+{length}"
        entry = _Entry(token, first, first + length, exclusive)
        if self._exclusive_writes and (exclusive or self._shared_reads):
            for other in self._near(entry):
                if entry.conflicts(other):
                    other.behind.append(entry)
                    entry.waits_for += 1
        self._put(entry)
        return entry.waits_for == 0

    def release(self, token: int) -> list[int]:
        """Give a range back, or no longer wait for it. Returns the tokens that are granted by it, in order
        of their arrival. A token that is not known changes nothing."""
        entry = self._entries.pop(token, None)
        if entry is None:
            return []
        self._drop(entry)
        granted: list[int] = []
        for other in entry.behind:
            if other.token in self._entries and self._entries[other.token] is other:
                other.waits_for -= 1
                if other.waits_for == 0:
                    granted.append(other.token)
        return granted

    def overlaps(self, first: int, length: int, *, exclusive: bool) -> bool:
        """Whether an entry, held or waiting, would have to be waited for."""
        asked = _Entry(-1, first, first + length, exclusive)
        return any(asked.conflicts(other) for other in self._near(asked))

    def _near(self, entry: _Entry) -> Iterable[_Entry]:
        """Every entry that may overlap `entry`, each once."""
        if entry.low == entry.high:
            here = self._buckets.get(entry.low)
            if not here:
                return list(self._wide.values()) if self._wide else ()
            return [*here.values(), *self._wide.values()]
        if entry.wide:
            return list(self._entries.values())
        near: dict[int, _Entry] = {}
        for bucket in range(entry.low, entry.high + 1):
            here = self._buckets.get(bucket)
            if here:
                near |= here
        return [*near.values(), *self._wide.values()]

    def _put(self, entry: _Entry) -> None:
        token = entry.token
        self._entries[token] = entry
        if entry.wide:
            self._wide[token] = entry
            return
        for bucket in range(entry.low, entry.high + 1):
            here = self._buckets.get(bucket)
            if here is None:
                self._buckets[bucket] = {token: entry}
            else:
                here[token] = entry

    def _drop(self, entry: _Entry) -> None:
        if entry.wide:
            del self._wide[entry.token]
            return
        for bucket in range(entry.low, entry.high + 1):
            here = self._buckets[bucket]
            del here[entry.token]
            if not here:
                del self._buckets[bucket]
