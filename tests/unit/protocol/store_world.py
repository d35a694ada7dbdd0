"""A store with a disk and a backend that do what the test says."""

from vimraft.core.ids import LocalName, ManagerName, VolumeName
from vimraft.protocol.effects import Answered, BackendFlush, BackendIo, Keep, StoreEffect
from vimraft.protocol.maps import REGION_BYTES, Copy, Part, VolumeMap
from vimraft.protocol.messages import Result, Session
from vimraft.protocol.owner_effects import SetTimer, StoreRequest
from vimraft.protocol.regions import Change, StoreRecord
from vimraft.protocol.rules import ALL_RULES, Rules
from vimraft.protocol.store import Store
from vimraft.protocol.store_requests import StoreLimits

BERN, ROME = ManagerName("bern"), ManagerName("rome")
A, B = LocalName("A"), LocalName("B")
SIZE = 16 * REGION_BYTES
BLOCK = b"x" * 4096


def copy(name: LocalName, store: ManagerName, state: str = "in_sync") -> Copy:
    return Copy(name, state, (Part(0, SIZE, store),))  # type: ignore[arg-type]


def table(epoch: int, *copies: Copy, owner: ManagerName = BERN, lossy: int = 0) -> VolumeMap:
    found = copies or (copy(A, ROME), copy(B, BERN))
    return VolumeMap(VolumeName("v"), epoch, epoch, owner, SIZE, found, lossy)


class StoreWorld:
    """Of rome. `disk` is what is durable; with `auto`, what is to be kept is kept at once."""

    def __init__(
        self,
        first: VolumeMap | None = None,
        *,
        rules: Rules = ALL_RULES,
        limits: StoreLimits | None = None,
        disk: list[Change] | None = None,
        boot: str = "b1",
        auto: bool = True,
    ) -> None:
        self.disk: list[Change] = disk if disk is not None else []
        self.auto = auto
        self.now_ns = 0
        self.io: list[BackendIo | BackendFlush] = []
        self.keeps: list[Keep] = []
        self.others: list[StoreEffect] = []
        self.timer_ns = 0
        self.answers: dict[int, Result] = {}
        self.number = 0
        self.store = Store(ROME, boot, StoreRecord.of(self.disk), rules=rules, limits=limits or StoreLimits())
        self.boots = {ROME: "b1", BERN: "x"}
        self.apply(first if first is not None else table(5))

    def take(self, effects: list[StoreEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Keep):
                self.keeps.append(effect)
            elif isinstance(effect, BackendIo | BackendFlush):
                self.io.append(effect)
            elif isinstance(effect, Answered):
                assert effect.answer.number not in self.answers, "one answer for each request"
                self.answers[effect.answer.number] = effect.answer.result
            elif isinstance(effect, SetTimer):
                self.timer_ns = effect.at_ns
            else:
                self.others.append(effect)
        if self.auto and self.keeps:
            self.keep()

    def keep(self, ok: bool = True) -> None:
        keep = self.keeps.pop(0)
        if ok:
            self.disk += keep.changes
        self.take(self.store.persisted(keep.token, ok, self.now_ns))

    def apply(self, newer: VolumeMap | None) -> None:
        self.take(self.store.applied(newer, self.boots, self.now_ns))

    def ask(
        self,
        kind: str,
        at: int = 0,
        *,
        epoch: int = 5,
        name: LocalName = A,
        session: int = 1,
        life: str = "i1",
        manager: ManagerName = BERN,
        end: int | None = None,
        data: bytes | None = None,
        must: bool = False,
        regions: tuple[int, ...] = (),
        record: str = "",
        since: int = 0,
    ) -> int:
        """Returns its number."""
        self.number += 1
        data = (BLOCK if kind == "write" else b"") if data is None else data
        request = StoreRequest(
            self.number,
            VolumeName("v"),
            name,
            kind,  # type: ignore[arg-type]
            epoch,
            life,
            session,
            at,
            at + len(BLOCK) if end is None else end,
            data,
            False,
            must,
            regions,
            record,
            since,
        )
        self.take(self.store.request(Session(manager, life, session), request, self.now_ns))
        return self.number

    def done(self, outcome: str = "ok", data: bytes = b"", which: int = 0) -> None:
        effect = self.io.pop(which)
        self.finish(effect.token, outcome, data)

    def finish(self, token: int, outcome: str = "ok", data: bytes = b"") -> None:
        self.take(self.store.backend_done(token, outcome, data, self.now_ns))  # type: ignore[arg-type]

    def later(self) -> None:
        """As late as the store wants to be called."""
        self.now_ns = max(self.now_ns, self.timer_ns)
        self.take(self.store.timer(self.now_ns))

    def written(self, at: int = 0, **how: object) -> int:
        number = self.ask("write", at, **how)  # type: ignore[arg-type]
        self.done()
        return number
