"""What the owner asks of a store, as the owner remembers it until the answer is there.

May live here: the memory of one message, and the forms of an answer as the parts of the owner want them.
"""

from typing import Literal, Protocol

from vimraft.core.ids import LocalName, ManagerName

WriteKind = Literal["write", "zero", "trim"]
AskKind = Literal[
    "read", "write", "zero", "trim", "flush", "checksum", "mend",
    "seal", "clear", "missed", "hand_over", "in_step", "what_is_in_step",
]  # fmt: skip
READS = frozenset(("read", "checksum"))
"""Kinds that change nothing at a backend."""
SLOW = frozenset(("flush", "checksum"))
"""Kinds with which a disk may be busy for long, and which may happen at any time: that one of them has no
answer says nothing of the store, nor of what else was asked."""
How = Literal["done", "failed", "away", "older", "busy", "full", "lost", "silent", "unsupported"]
"""`done`. `failed`: by the backend. `away`: the store lives in another boot than the tables say, has no such
copy, or cannot keep its record; that may change. `older`: the store knows a newer epoch or session, or its
tables have not caught up. `busy`: "use the other copy". `full`: no room for one more active region. `lost`:
nobody knows. `silent`: nobody knows either; the store has not answered within its time, so that asking again
would take as long. `unsupported`: the store's release does not know such a request."""


class Asker(Protocol):
    def answered(self, ask: "Ask", answer: "Answer") -> None: ...


class Answer:
    __slots__ = ("boot", "data", "how", "number", "record", "regions", "since")

    def __init__(
        self,
        number: int,
        how: How,
        boot: str = "",
        data: bytes = b"",
        regions: tuple[int, ...] = (),
        record: str = "",
        since: int = 0,
    ) -> None:
        self.number = number
        self.how = how
        self.boot = boot
        self.data = data
        self.regions = regions
        self.record = record
        self.since = since


class Ask:
    __slots__ = (
        "copy",
        "data",
        "deadline_ns",
        "end",
        "epoch",
        "first",
        "fua",
        "kind",
        "must",
        "number",
        "op",
        "record",
        "regions",
        "sent_ns",
        "session",
        "since",
        "store",
    )

    def __init__(
        self,
        kind: AskKind,
        store: ManagerName,
        copy: LocalName,
        first: int,
        end: int,
        op: Asker,
        *,
        data: bytes = b"",
        fua: bool = False,
        must: bool = False,
        regions: tuple[int, ...] = (),
        record: str = "",
        since: int = 0,
    ) -> None:
        """`must`: no "use the other copy", since there is none. Then for kinds that have them."""
        self.kind: AskKind = kind
        self.store = store
        self.copy = copy
        self.first = first
        self.end = end
        self.op = op
        self.data = data
        self.fua = fua
        self.must = must
        self.regions = regions
        self.record = record
        self.since = since
        self.number = self.session = self.epoch = 0
        self.sent_ns = self.deadline_ns = 0
