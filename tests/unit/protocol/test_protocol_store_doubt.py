"""A copy whose flush failed is no source for a takeover, as long as there is another one in step."""

import msgspec

from tests.unit.protocol.owner_world import PARIS, ROME, A, B, copy, two
from vimraft.core.ids import LocalName
from vimraft.protocol.asks import AskKind
from vimraft.protocol.effects import Answered, BackendFlush, Keep, StoreEffect
from vimraft.protocol.maps import VolumeMap
from vimraft.protocol.messages import Done, IoFailed, Result, Session
from vimraft.protocol.owner_effects import StoreRequest
from vimraft.protocol.regions import StoreRecord
from vimraft.protocol.store import Store

OWNER = Session(PARIS, "i1", 1)


class Rome:
    def __init__(self, first: VolumeMap) -> None:
        self.store = Store(ROME, "b1", StoreRecord())
        self.map = first
        self.answers: dict[int, Result] = {}
        self._number = 0
        self.run(self.store.applied(first, {ROME: "b1"}, 0))

    def run(self, effects: list[StoreEffect], *, flushes: bool = True) -> None:
        for effect in effects:
            if isinstance(effect, Keep):
                self.run(self.store.persisted(effect.token, True, 0), flushes=flushes)
            elif isinstance(effect, BackendFlush):
                self.run(self.store.backend_done(effect.token, "ok" if flushes else "error", b"", 0))
            elif isinstance(effect, Answered):
                self.answers[effect.answer.number] = effect.answer.result

    def ask(self, kind: AskKind, name: LocalName, *, flushes: bool = True) -> Result:
        self._number += 1
        request = StoreRequest(
            self._number, self.map.volume, name, kind, self.map.epoch, OWNER.incarnation, OWNER.number,
            0, 0, b"", False, False, (), "", 0,
        )  # fmt: skip
        self.run(self.store.request(OWNER, request, 0), flushes=flushes)
        return self.answers[self._number]


def test_a_doubtful_copy_does_not_seal_beside_another() -> None:
    rome = Rome(two())
    assert rome.ask("flush", B, flushes=False) == IoFailed(B)
    assert rome.ask("seal", LocalName("")) == IoFailed(B)


def test_the_only_copy_in_step_seals_whatever_its_flush_said() -> None:
    alone = msgspec.structs.replace(two(), copies=(copy(A, PARIS, state="stale"), copy(B, ROME)))
    rome = Rome(alone)
    assert rome.ask("flush", B, flushes=False) == IoFailed(B)
    assert isinstance(rome.ask("seal", LocalName("")), Done)
