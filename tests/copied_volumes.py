"""Maps of a volume with two copies as the data plane gets them, and requests of its owner.

Volume `v`: copy A at manager a on real volume sa:0, copy B at manager b on sb:0.
"""

from collections.abc import Callable

from tests.plane import MIB, segment
from vimraft.core.ids import LocalName, ManagerName, VolumeName
from vimraft.core.tables import ReplicaState
from vimraft.data.copies.store_side import Done
from vimraft.data.engine import host_boot_id
from vimraft.data.feed import CopiesMap, VolumeMap
from vimraft.protocol import maps
from vimraft.protocol.asks import AskKind
from vimraft.protocol.messages import Result, Session, StoreAnswer
from vimraft.protocol.owner_effects import StoreRequest

SIZE = 16 * MIB
A, B = LocalName("A"), LocalName("B")
HOME = {A: "a", B: "b"}
BOOT = host_boot_id()


def session(number: int = 1, manager: str = "a", incarnation: str = "life") -> Session:
    return Session(ManagerName(manager), incarnation, number)


def copied_map(
    me: str,
    *,
    epoch: int = 1,
    owner: str = "a",
    states: dict[LocalName, ReplicaState] | None = None,
    boots: dict[str, str] | None = None,
    index: int = 0,
) -> VolumeMap:
    chosen: dict[LocalName, ReplicaState] = states or {A: "in_sync", B: "in_sync"}
    copies = tuple(
        maps.Copy(name, state, (maps.Part(0, SIZE, ManagerName(HOME.get(name, "b"))),))
        for name, state in chosen.items()
    )
    here = {str(copy.name): (segment(0, 16, f"s{me}:0", 1),) for copy in copies if me == copy.parts[0].store}
    by_copy = maps.VolumeMap(VolumeName("v"), index or epoch, epoch, ManagerName(owner), SIZE, copies)
    return VolumeMap(
        name="v", size_bytes=SIZE, epoch=epoch, owner=owner, owned=me == owner, needs_lease=True,
        read_only=False, local_name="A", segments=(),
        copies=CopiesMap(by_copy, here, {"a": BOOT, "b": BOOT} if boots is None else boots),
    )  # fmt: skip


class Asker:
    """What an owner says, one request after the other."""

    def __init__(self, ask: Callable[[Session, StoreRequest, Done], None], copy: LocalName = B) -> None:
        self._ask = ask
        self.copy = copy
        self.session = session()
        self.epoch = 1
        self.number = 0
        self.answers: dict[int, StoreAnswer] = {}

    def make(self, kind: AskKind, first: int = 0, end: int = 0, **more: object) -> StoreRequest:
        self.number += 1
        values = {"copy": self.copy, "epoch": self.epoch, "data": b"", "fua": False, "must": False,
                  "regions": (), "record": "", "since": 0} | more  # fmt: skip
        return StoreRequest(
            number=self.number, volume=VolumeName("v"), kind=kind, first=first, end=end,
            incarnation=self.session.incarnation, session=self.session.number, **values,  # type: ignore[arg-type]
        )  # fmt: skip

    def send(self, kind: AskKind, first: int = 0, end: int = 0, **more: object) -> int:
        """Returns its number; the answer comes when it comes."""
        request = self.make(kind, first, end, **more)

        def done(answer: StoreAnswer) -> None:
            assert answer.number not in self.answers, "answered twice"
            self.answers[answer.number] = answer

        self._ask(self.session, request, done)
        return request.number

    def now(self, kind: AskKind, first: int = 0, end: int = 0, **more: object) -> Result:
        """It must be answered before `ask` returns."""
        return self.answers[self.send(kind, first, end, **more)].result

    def write(self, first: int, data: bytes, **more: object) -> Result:
        return self.now("write", first, first + len(data), data=data, **more)
