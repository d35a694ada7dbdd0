"""Moving an owner and giving a site up: who does it, and what is refused."""

import asyncio
from types import SimpleNamespace

import pytest

from tests.copies_cases import CopyTables, two_copies
from tests.core_cases import build
from vimraft.api.advice import from_exception
from vimraft.api.errors import Refused
from vimraft.api.errors_copies import AnswersStill, MoveUndecided, NotMoved, OneCopyOnly
from vimraft.api.schema_copies import ForceLostRequest, MoveOwnerRequest
from vimraft.core.commands import Applied, Command, MoveOwner, SetHandingOver
from vimraft.core.tables import State
from vimraft.data.feed import CopiesStatus, CopyStatus, MoveDone, MoveOwnerTo
from vimraft.site import copy_changes, hand_over
from vimraft.site.copies_board import CopiesBoard
from vimraft.site.copies_part import CopiesPart
from vimraft.site.copies_views import progress_of
from vimraft.site.copy_changes import CopyOperations
from vimraft.site.hand_over import ended


class Export:
    """Answers as the test says."""

    def __init__(self, tables: CopyTables) -> None:
        self.tables = tables
        self.part: CopiesPart
        self.refusal = ""
        self.silent = False

    def ask(self, message: MoveOwnerTo) -> None:
        if self.silent:
            return
        if not self.refusal:
            self.tables.applied(MoveOwner(*self.tables.at(message.volume), message.new_owner))
        hello = SimpleNamespace(instance="i")
        self.part.said(hello, MoveDone(message.token, not self.refusal, self.refusal))


class Site(SimpleNamespace):
    @property
    def state(self) -> State:
        return self.tables.state

    async def fresh_state(self) -> State:
        return self.state

    async def record(self, *_: object) -> None: ...

    async def barrier(self, *, deadline_ms: int) -> State:
        return self.state


class Operations(CopyOperations):
    def __init__(self, me: str = "m-tokyo") -> None:
        tables = two_copies()
        self.tables = tables
        self.export = Export(tables)
        self.site = Site(tables=tables, me=me, feeders={}, moving_owner=set(), copies=CopiesBoard())
        self.site.log = self.site
        self.health = SimpleNamespace(is_up=lambda name: name != "m-osaka")
        self.copies_part = CopiesPart(self.site, me, self.export, able=lambda: True)
        self.export.part = self.copies_part

    async def _commit(self, command: Command, who: str, request_id: str | None) -> Applied:
        return self.tables.applied(command)


def to(manager: str) -> MoveOwnerRequest:
    return MoveOwnerRequest(manager=manager)


async def test_the_owner_hands_over_through_its_export() -> None:
    case = Operations()
    reply = await case.move_owner("v", to("m-osaka"), who="ann")
    assert reply.volume.owner == "m-osaka"
    again = await case.move_owner("v", to("m-osaka"), who="ann")
    assert again.volume.epoch == reply.volume.epoch, "asked again it is done already"


async def test_what_the_export_says_comes_back_in_words() -> None:
    case = Operations()
    case.export.refusal = "m-osaka is not heard"
    with pytest.raises(NotMoved) as raised:
        await case.move_owner("v", to("m-osaka"), who="ann")
    advice = from_exception(raised.value)
    assert "m-osaka is not heard" in advice.reply.message
    assert "vimraft vol show v" in advice.reply.remedy


async def test_an_export_that_does_not_answer_leaves_it_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy_changes, "MOVE_WAIT_S", 0.01)
    case = Operations()
    case.export.silent = True
    with pytest.raises(MoveUndecided) as raised:
        await case.move_owner("v", to("m-osaka"), who="ann")
    assert from_exception(raised.value).reply.code == "unknown_outcome"


async def test_a_volume_of_one_copy_goes_where_its_data_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hand_over, "LOOK_S", 0.001)
    case = Operations()
    case.tables.applied(build("one", 195))  # more than there is at tokyo: it goes on at osaka
    with pytest.raises(OneCopyOnly):
        await case.move_owner("one", to("m-nagoya"), who="ann")
    moving = asyncio.create_task(case.move_owner("one", to("m-osaka"), who="ann"))
    while not (case.tables.state.volumes["one"].handing_over or moving.done()):
        await asyncio.sleep(0)
    with pytest.raises(NotMoved, match="one"):
        await case.move_owner("one", to("m-osaka"), who="bob")
    state = case.tables.state
    said = {"one": CopiesStatus(state.volumes["one"].epoch, "over", ())}
    assert ended(state, "m-tokyo", said, case.site.moving_owner) == [], "it is under way"
    case.site.copies.volumes = said
    assert (await moving).volume.owner == "m-osaka"
    assert not case.site.moving_owner


def test_the_owner_takes_the_mark_away_once_it_serves() -> None:
    tables = two_copies()
    tables.applied(SetHandingOver(*tables.at(), True))
    tables.applied(MoveOwner(*tables.at(), "m-osaka"))
    epoch = tables.volume().epoch
    for said in (CopiesStatus(epoch, "sealing", ()), CopiesStatus(epoch - 1, "over", ())):
        assert ended(tables.state, "m-osaka", {"v": said}, ()) == []
    over = {"v": CopiesStatus(epoch, "over", ())}
    assert ended(tables.state, "m-tokyo", over, ()) == []
    assert ended(tables.state, "m-osaka", over, ()) == [SetHandingOver(*tables.at(), False)]


async def test_strangers_are_refused() -> None:
    case = Operations()
    for name, manager in (("v", "m-kyoto"), ("w", "m-osaka")):
        with pytest.raises(Refused):
            await case.move_owner(name, to(manager), who="ann")


async def test_a_silent_manager_is_given_up_by_its_name_or_its_sites_and_no_other() -> None:
    case = Operations()
    for name in ("m-nagoya", "nagoya", "m-tokyo"):
        with pytest.raises(AnswersStill):
            await case.force_lost(ForceLostRequest(name=name), who="ann", request_id=None)
    with pytest.raises(Refused):
        await case.force_lost(ForceLostRequest(name="kyoto"), who="ann", request_id=None)
    await case.force_lost(ForceLostRequest(name="osaka"), who="ann", request_id=None)
    assert case.tables.states() == "A in_sync, B failed"


def test_rates_and_times_left_are_of_the_last_seconds() -> None:
    board = CopiesBoard()

    def said(copied: int, left: int) -> dict[str, CopiesStatus]:
        copy = CopyStatus("B", "syncing", "copying", regions=10, left=left, copied_bytes=copied << 20)
        return {"v": CopiesStatus(7, "over", (CopyStatus("A", "in_sync"), copy), 5)}

    board.add(0.0, said(0, 10))
    board.add(2.0, said(4, 6))
    shown = progress_of(board)["v"]
    assert (shown.switches, shown.epoch) == (5, 7)
    idle, running = shown.copies
    assert (idle.rate_bytes_s, idle.eta_seconds) == (0.0, None)
    assert running.rate_bytes_s == 2 << 20
    assert running.eta_seconds == 3.0
    assert (running.left_bytes, running.total_bytes) == (6 << 20, 10 << 20)
    board.add(3.0, said(1, 9))
    assert board.rate_bytes_s("v", "B") == 0.0, "another resync began"
    board.add(4.0, {})
    assert progress_of(board) == {}
