"""What clients saw: every request with its beginning and its end, in one order.

May live here: the history and the making of tags. A stamp is a number that only grows; it orders beginnings
and ends exactly, where simulated times may be equal.

Each sector that a client writes carries a tag of its own, so that a read says which write it saw. Zeros and
trims write `ZERO`, which is also what was there at first.
"""

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

SECTOR = 512
ZERO = 0
UNENDED = 1 << 62
GARBLED = -1
"""A sector that nobody ever wrote like this."""

Kind = Literal["read", "write", "zero", "trim", "flush"]
How = Literal["open", "done", "failed", "gone"]
"""`open`: no answer yet. `failed`: EIO by the owner, after which all copies are made equal. `gone`: nobody
knows, it may take effect whenever it likes."""


class Operation(Struct):
    number: int
    client: str
    session: str
    volume: str
    kind: Kind
    first: int
    """Sector."""
    sectors: int
    tags: tuple[int, ...]
    """One a sector: written, or (once it is done) read."""
    fua: bool
    begin: int
    began_s: float
    end: int | None = None
    ended_s: float = 0.0
    how: How = "open"

    @property
    def writes(self) -> bool:
        return self.kind in ("write", "zero", "trim")


class Loss(Struct):
    """The last in-sync copy lost power, or could not flush: what was not flushed may be gone."""

    volume: str
    epoch: int
    stamp: int
    """When the tables said so. Nothing was read or written between the power cut and then."""
    since: int
    """When the power was cut: whoever was told later knows."""
    until: int | None = None
    """After a failed flush: when all that was to be dropped has been. Reads before see one or the other."""
    told: bool = True
    """Sessions must hear of it."""


class Session(Struct, frozen=True):
    name: str
    volume: str
    begin: int
    since_epoch: int


class Record:
    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.losses: list[Loss] = []
        self.cuts: dict[str, list[int]] = {}
        """Of power, by site."""
        self.sessions: dict[str, Session] = {}
        self._stamp = 0

    def stamp(self) -> int:
        self._stamp += 1
        return self._stamp

    def session(self, name: str, volume: str, since_epoch: int) -> None:
        self.sessions[name] = Session(name, volume, self.stamp(), since_epoch)

    def begin(
        self,
        client: str,
        session: str,
        volume: str,
        kind: Kind,
        now_s: float,
        *,
        first: int = 0,
        sectors: int = 0,
        fua: bool = False,
    ) -> Operation:
        number = len(self.operations) + 1
        tags: tuple[int, ...] = ()
        if kind == "write":
            tags = tuple(tag_of(number, at) for at in range(sectors))
        elif kind in ("zero", "trim"):
            tags = (ZERO,) * sectors
        made = Operation(
            number, client, session, volume, kind, first, sectors, tags, fua, self.stamp(), now_s
        )
        self.operations.append(made)
        return made

    def end(self, operation: Operation, how: How, now_s: float, data: bytes = b"") -> None:
        assert operation.how == "open", f"operation {operation.number} ended twice"
        operation.how, operation.ended_s = how, now_s
        operation.end = self.stamp()
        if operation.kind == "read" and how == "done":
            operation.tags = tags_in(data)

    def cut(self, site: str) -> None:
        self.cuts.setdefault(site, []).append(self.stamp())

    def lost(self, volume: str, epoch: int, sites: Iterable[str] = (), *, told: bool = True) -> None:
        """`sites`: where the last copy lies. `told`: sessions hear of it only now."""
        stamp = self.stamp()
        before = next((loss for loss in reversed(self.losses) if loss.volume == volume), None)
        last = 0 if before is None else before.stamp
        cuts = [cut for site in sites for cut in self.cuts.get(site, []) if cut > last]
        since = min(cuts) if cuts else stamp if before is None else before.since
        self.losses.append(Loss(volume, epoch, stamp, since, told=told))

    def not_flushed(self, volume: str, *, told: bool) -> Loss:
        """The caller sets `until` when it is over."""
        stamp = self.stamp()
        made = Loss(volume, 0, stamp, stamp, UNENDED, told)
        self.losses.append(made)
        return made


def tag_of(number: int, at: int) -> int:
    return number << 8 | at


def bytes_of(tags: tuple[int, ...]) -> bytes:
    return b"".join([tag.to_bytes(8, "big") * (SECTOR // 8) for tag in tags])


def tags_in(data: bytes) -> tuple[int, ...]:
    found = []
    for at in range(0, len(data), SECTOR):
        tag = data[at : at + 8]
        same = data[at : at + SECTOR] == tag * (SECTOR // 8)
        found.append(int.from_bytes(tag, "big") if same else GARBLED)
    return tuple(found)
