"""Epochs of volumes with copies reach the process one by one, in order with leases and decisions."""

import asyncio
from pathlib import Path

import pytest

from tests.copies_cases import CopyTables, two_copies
from tests.core_cases import build
from tests.unit.site.test_feeder import Listener, Process
from vimraft.core.commands import RenewLease, ReopenVolumes, Retire
from vimraft.data.feed import (
    Boot,
    Decided,
    Hello,
    Installed,
    Leases,
    MapUpdate,
    MoveOwnerTo,
    Proposal,
    Role,
    ToPlane,
    Welcome,
    encode_frame,
)
from vimraft.metadata.subscriptions import brings_epoch
from vimraft.site.feed_queue import MAX_WAITING, FeedQueue
from vimraft.site.feeder import Feeder


class Case:
    def __init__(self, path: Path, role: Role = "export") -> None:
        self.tables: CopyTables = two_copies()
        self.listener = Listener()
        self.feeder = Feeder(role, path, "m-tokyo", "inc", self.listener)
        self.feeder.publish(self.tables.state)
        self.process: Process

    async def begin(self) -> None:
        await self.feeder.start()
        await self.connect()

    async def connect(self) -> MapUpdate:
        self.process = Process(self.feeder.path)
        self.process.hello()
        assert isinstance(await self.process.hear(), Welcome)
        full = await self.process.hear()
        assert isinstance(full, MapUpdate)
        self.process.say(Installed(full.index, 0))
        if self.feeder.role == "export":
            assert isinstance(await self.process.hear(), Leases)
        return full

    def do(self, command: object) -> None:
        self.tables.applied(command)
        self.feeder.publish(self.tables.state)

    async def hear(self, kind: type) -> ToPlane:
        """The next message of a kind."""
        while True:
            message = await self.process.hear()
            if isinstance(message, kind):
                return message


@pytest.fixture
async def case(tmp_path: Path):
    case = Case(tmp_path / "feed")
    await case.begin()
    yield case
    await case.feeder.stop()


def reopen() -> ReopenVolumes:
    return ReopenVolumes("m-tokyo", "inc")


async def test_every_epoch_of_a_volume_with_copies_is_sent_though_many_come_at_once(case: Case) -> None:
    first = case.tables.volume().epoch
    for _ in range(5):
        case.do(reopen())
    epochs = []
    for _ in range(5):
        message = await case.hear(MapUpdate)
        assert isinstance(message, MapUpdate)
        epochs.append(message.volumes[0].epoch)
    assert epochs == [first + n for n in range(1, 6)]
    assert case.listener.skipped == 0


async def test_what_does_not_concern_copies_is_sent_as_the_newest_only(case: Case) -> None:
    for name in ("a", "b", "c"):
        case.do(build(name, 1))
    message = await case.hear(MapUpdate)
    assert isinstance(message, MapUpdate)
    assert sorted(v.name for v in message.volumes) == ["a", "b", "c"]


async def test_a_lease_table_follows_the_tables_it_is_of(case: Case) -> None:
    await asyncio.sleep(0)
    case.do(reopen())
    case.do(RenewLease("m-osaka", "life", 2, 7))
    assert isinstance(await case.process.hear(), MapUpdate)
    leases = await case.process.hear()
    assert isinstance(leases, Leases)
    rows = {row.manager: (row.counter, row.installed_index) for row in leases.rows}
    assert rows["m-osaka"] == (2, 7)
    assert leases.lease_ms == case.tables.state.settings.lease_ms
    assert leases.index == case.tables.state.index


async def test_the_store_gets_no_lease_tables(tmp_path: Path) -> None:
    case = Case(tmp_path / "store", "store")
    await case.feeder.start()
    case.process = Process(case.feeder.path)

    case.process.socket.send(encode_frame(Hello("store", 1, "i", "b", "m-tokyo", -1)))
    assert isinstance(await case.process.hear(), Welcome)
    assert isinstance(await case.process.hear(), MapUpdate)
    case.do(RenewLease("m-osaka", "life", 2, 7))
    case.do(reopen())
    assert isinstance(await case.process.hear(), MapUpdate)
    await case.feeder.stop()


async def test_a_decision_goes_out_after_the_map_that_it_brought(case: Case) -> None:
    index = case.tables.state.index + 1
    case.feeder.decided(Decided(3, True), index)
    case.do(reopen())
    first, second = await case.process.hear(), await case.process.hear()
    assert isinstance(first, MapUpdate)
    assert first.index == index
    assert second == Decided(3, True)


async def test_a_move_is_asked_for(case: Case) -> None:
    case.feeder.ask(MoveOwnerTo(5, "v", "m-osaka"))
    assert await case.hear(MoveOwnerTo) == MoveOwnerTo(5, "v", "m-osaka")


async def test_an_epoch_skipped_while_the_process_was_not_connected_is_told(case: Case) -> None:
    case.process.socket.close()
    async with asyncio.timeout(5):
        while case.feeder.hello is not None:
            await asyncio.sleep(0.01)
    case.do(reopen())
    case.do(reopen())
    await case.connect()
    assert case.listener.skipped == 1


async def test_what_the_process_says_about_copies_reaches_the_listener(case: Case) -> None:
    said = [Proposal(1, Retire("v", 1, "m-tokyo", ("B",), "r")), Boot("b", (("v", "r"),))]
    for message in said:
        case.process.say(message)
    async with asyncio.timeout(5):
        while case.listener.said != said:
            await asyncio.sleep(0.01)


def test_the_queue_is_bounded_and_keeps_the_newest() -> None:
    tables, queue = two_copies(), FeedQueue()
    queue.publish(tables.state)
    for _ in range(MAX_WAITING + 10):
        before = tables.state
        tables.applied(reopen())
        assert brings_epoch(before, tables.state)
        queue.publish(tables.state)
    sent = []
    while (state := queue.next_state()) is not None:
        sent.append(state.index)
    assert len(sent) == MAX_WAITING
    assert sent[-1] == tables.state.index
