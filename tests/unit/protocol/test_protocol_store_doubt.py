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

    def ask(self, kind: AskKind, name: LocalName, *, flushes: bool = True, must: bool = False) -> Result:
        self._number += 1
        request = StoreRequest(
            self._number, self.map.volume, name, kind, self.map.epoch, OWNER.incarnation, OWNER.number,
            0, 0, b"", False, must, (), "", 0,
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


def syncing() -> Rome:
    return Rome(msgspec.structs.replace(two(), copies=(copy(A, PARIS), copy(B, ROME, state="syncing"))))


def test_a_syncing_copy_that_could_not_flush_does_not_flush_any_more() -> None:
    """The kernel reports it once; the owner may not have heard of that."""
    rome = syncing()
    assert rome.ask("flush", B, flushes=False) == IoFailed(B)
    assert rome.ask("flush", B) == IoFailed(B)
    assert isinstance(rome.ask("seal", B), Done)
    assert rome.ask("flush", B) == IoFailed(B)


def test_it_does_when_all_that_is_active_is_copied_again() -> None:
    rome = syncing()
    assert rome.ask("flush", B, flushes=False) == IoFailed(B)
    assert isinstance(rome.ask("seal", B, must=True), Done)
    assert isinstance(rome.ask("flush", B), Done)


def test_it_does_not_take_the_doubt_with_it_when_it_leaves() -> None:
    rome = syncing()
    assert rome.ask("flush", B, flushes=False) == IoFailed(B)
    stale = msgspec.structs.replace(
        rome.map, index=11, epoch=6, copies=(copy(A, PARIS), copy(B, ROME, state="stale"))
    )
    rome.run(rome.store.applied(stale, {ROME: "b1"}, 0))
    rome.map = msgspec.structs.replace(syncing().map, index=12, epoch=7)
    rome.run(rome.store.applied(rome.map, {ROME: "b1"}, 0))
    assert isinstance(rome.ask("flush", B), Done)
