"""Proposals are asked for under one id until they are decided; boots are told before a lease is granted."""

import asyncio

import pytest

from tests.copies_cases import CopyTables, two_copies
from tests.unit.site.test_formation import until
from vimraft.core.codec import encode_request
from vimraft.core.commands import Command, Outcome, Rejoin, Request, Retire
from vimraft.core.tables import State
from vimraft.data.feed import Boot, Decided, Proposal
from vimraft.metadata.memory_log import MemoryCluster, MemoryLog
from vimraft.metadata.port import Unavailable
from vimraft.site import proposals, rejoin
from vimraft.site.proposals import Proposals, request_id
from vimraft.site.rejoin import Rejoiner


class TablesLog:
    """Applies to given tables; is away, or loses its answers, when the test says so."""

    def __init__(self, tables: CopyTables) -> None:
        self.tables = tables
        self.asked: list[tuple[Command, str | None]] = []
        self.fail = 0
        self._known: dict[str | None, Outcome] = {}

    @property
    def state(self) -> State:
        return self.tables.state

    async def propose(
        self, command: Command, *, who: str, deadline_ms: int, request_id: str | None = None
    ) -> Outcome:
        self.asked.append((command, request_id))
        await asyncio.sleep(0)
        if request_id not in self._known:
            self._known[request_id] = self.tables.do(command)
        if self.fail:
            self.fail -= 1
            raise Unavailable("no answer")
        return self._known[request_id]


class Feeder:
    def __init__(self) -> None:
        self.sent: list[tuple[Decided, int]] = []

    def decided(self, message: Decided, index: int) -> None:
        self.sent.append((message, index))


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposals, "RETRY_S", 0.0)
    monkeypatch.setattr(rejoin, "RETRY_S", 0.0)


def retire(tables: CopyTables) -> Retire:
    return Retire(*tables.at(), ("B",), "r1")


async def test_a_proposal_is_tried_under_one_id_until_decided_and_applied_once() -> None:
    tables = two_copies()
    log, feeder = TablesLog(tables), Feeder()
    epoch = tables.volume().epoch
    log.fail = 3
    taken = Proposals(log, "m-tokyo", feeder)
    taken.take("life", Proposal(7, retire(tables)))
    await until(lambda: feeder.sent, "decided")
    assert {asked[1] for asked in log.asked} == {request_id("life", 7)}
    assert len(log.asked) == 4
    assert feeder.sent == [(Decided(7, True), tables.state.index)]
    assert tables.volume().epoch == epoch + 1


async def test_a_refusal_says_why_and_asking_again_gets_the_same_answer() -> None:
    tables = two_copies()
    log, feeder = TablesLog(tables), Feeder()
    old = retire(tables)
    tables.retire("B")
    taken = Proposals(log, "m-tokyo", feeder)
    taken.take("life", Proposal(1, old))
    await until(lambda: feeder.sent, "decided")
    taken.take("life", Proposal(1, old))
    assert [m for m, _ in feeder.sent] == [Decided(1, False, "Conflict")] * 2
    assert len(log.asked) == 1


async def test_what_an_ended_process_proposed_is_not_asked_for_any_more() -> None:
    tables = two_copies()
    log, feeder = TablesLog(tables), Feeder()
    log.fail = 1_000_000
    taken = Proposals(log, "m-tokyo", feeder)
    taken.take("life", Proposal(1, retire(tables)))
    await until(lambda: log.asked, "asked")
    log.fail = 0
    taken.take("next", Proposal(1, retire(tables)))
    await until(lambda: feeder.sent, "decided")
    assert [asked[1] for asked in log.asked][-1] == request_id("next", 1)
    assert len(feeder.sent) == 1


async def test_more_proposals_than_the_bound_are_refused_without_being_proposed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proposals, "MAX_OPEN", 1)
    tables = two_copies()
    log, feeder = TablesLog(tables), Feeder()
    taken = Proposals(log, "m-tokyo", feeder)
    taken.take("life", Proposal(1, retire(tables)))
    taken.take("life", Proposal(2, retire(tables)))
    assert feeder.sent == [(Decided(2, False, "TooMany"), tables.state.index)]
    await taken.stop()


def test_ids_fit_and_differ_whatever_the_process_calls_itself() -> None:
    ids = {request_id(name, n) for name in ("i", "x" * 200, "bad\nname") for n in (1, 2)}
    assert len(ids) == 6
    assert all(len(one) <= 64 and one.isprintable() for one in ids)


async def test_a_reboot_is_told_to_the_tables_before_a_lease_may_be_granted() -> None:
    tables = two_copies()
    log = TablesLog(tables)
    rejoiner = Rejoiner(log, "m-osaka")
    assert not rejoiner.ready(), "nobody knows the boot of the stores here yet"
    rejoiner.start()
    log.fail = 2
    rejoiner.take(Boot("two", (("v", "r9"),)))
    assert not rejoiner.ready()
    await until(rejoiner.ready, "rejoined")
    assert log.asked[0][0] == Rejoin("m-osaka", "two", (("v", "r9"),))
    assert tables.states() == "A in_sync, B stale"
    assert tables.copy("B").record == "r9"
    await rejoiner.stop()


async def test_the_same_boot_is_ready_at_once_and_who_has_no_copies_need_not_wait() -> None:
    tables = two_copies()
    log = TablesLog(tables)
    rejoiner = Rejoiner(log, "m-tokyo")
    rejoiner.take(Boot("one"))
    assert rejoiner.ready()
    assert Rejoiner(log, "m-nagoya").ready()


async def test_every_epoch_is_a_step_of_its_own_for_subscribers() -> None:
    tables = two_copies()
    cluster = MemoryCluster()
    log: MemoryLog = cluster.log("tokyo")
    log._state = tables.state
    seen: list[tuple[int, int]] = []
    log.subscribe(lambda before, after: seen.append((before.index, after.index)))
    first = log.state.index
    for number, epoch in enumerate((1, 2, 3)):
        command = (
            Retire("v", tables.volume().epoch, "m-tokyo", ("B",), "r")
            if number == 0
            else Rejoin("m-tokyo", f"boot{epoch}")
        )
        cluster.append(encode_request(Request("c", number + 1, 1, "x", command), log.state.level))
    await asyncio.sleep(0)
    assert seen == [(first, first + 1), (first + 1, first + 2), (first + 2, first + 3)]
