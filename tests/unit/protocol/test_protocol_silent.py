"""A store that does not answer in time: its copy leaves the in-sync set at once, not after three timeouts."""

import msgspec
import pytest
from msgspec.structs import replace

from tests.unit.protocol.owner_world import PARIS, ROME, A, B, S, World, after, two
from vimraft.core.commands import Retire
from vimraft.protocol.asks import Answer
from vimraft.protocol.balance import Preference
from vimraft.protocol.owner_effects import StoreRequest

TIMEOUT_S = 10
RETIRED = Retire(two().volume, 5, PARIS, (B,), "r1")


def still(*kinds: str):
    return lambda request: "silent" if not kinds or request.kind in kinds else "done"


def world_with_a_record() -> World:
    world = World(two())
    world.owner.desk.record = "r1"
    return world


def test_its_copy_is_retired_after_one_timeout() -> None:
    world = world_with_a_record()
    world.stores[ROME].how = still()
    write = world.write(7)
    world.wait(TIMEOUT_S - 0.1)
    assert world.proposed == []
    world.wait(0.2)
    assert [propose.command for propose in world.proposed] == [RETIRED]
    assert world.how(write) is None
    world.renew()
    world.apply(after(two(), B="stale"))
    world.decide()
    assert world.how(write) == "done"
    assert world.bytes_at(PARIS, A) == 7


def test_what_was_sent_to_it_meanwhile_does_not_hold_up_the_drain() -> None:
    world = world_with_a_record()
    world.stores[ROME].how = still()
    first = world.write(7)
    world.wait(TIMEOUT_S + 0.1)
    second = world.write(8, first=1 << 20)
    world.renew()
    world.apply(after(two(), B="stale"))
    world.decide()
    assert [world.how(first), world.how(second)] == ["done", "done"]


def test_one_that_answered_since_is_drained() -> None:
    world = world_with_a_record()
    world.stores[ROME].how = still("write", "zero")
    world.write(7)
    world.wait(TIMEOUT_S + 0.1)
    late = world.stores[ROME].seen[-1].number
    world.run(world.owner.answer(ROME, Answer(late, "done", "b1"), world.now))
    zero = world.ask("zero", 2 << 20, 3 << 20)
    world.renew()
    world.apply(after(two(), B="stale"))
    assert world.how(zero) is None
    assert world.owner.desk.map.epoch == 5, "it may answer"


def test_an_owner_that_stood_still_itself_asks_again() -> None:
    world = world_with_a_record()
    world.stores[ROME].how = still()
    write = world.write(7)
    world.now += 20 * S
    world.renew()
    world.run(world.owner.timer(world.now))
    world.stores[ROME].how = lambda request: "done"
    world.wait(1)
    assert world.how(write) == "done"
    assert world.proposed == []


def test_a_flush_is_asked_for_again() -> None:
    """A disk may be busy with one for long."""
    world = world_with_a_record()
    world.stores[ROME].how = still("flush")
    flush = world.ask("flush")
    world.wait(TIMEOUT_S + 0.1)
    world.stores[ROME].how = lambda request: "done"
    world.wait(1)
    assert world.how(flush) == "done"
    assert world.proposed == []


def test_nobody_is_retired_when_all_are_silent() -> None:
    world = world_with_a_record()
    world.stores[PARIS].how = world.stores[ROME].how = still()
    write = world.write(7)
    world.wait(TIMEOUT_S + 1)
    assert world.proposed == []
    world.stores[PARIS].how = world.stores[ROME].how = lambda request: "done"
    world.wait(TIMEOUT_S + 1)
    assert world.how(write) == "done"


def test_a_connection_of_an_older_session_that_ends_late_ends_nothing_newer() -> None:
    world = world_with_a_record()
    world.stores[ROME].how = still("write")
    world.write(7)
    older = world.stores[ROME].seen[-1].session
    world.run(world.owner.store_lost(ROME, world.now, older))
    world.wait(1)
    newer = world.stores[ROME].seen[-1].session
    assert newer > older
    sent = len(world.stores[ROME].seen)
    world.run(world.owner.store_lost(ROME, world.now, older))
    world.wait(1)
    assert len(world.stores[ROME].seen) == sent
    world.write(8, first=1 << 20)
    assert world.stores[ROME].seen[-1].session == newer


class Behind:
    """Its manager is gone: it waits for newer tables, then says so."""

    def __init__(self, world: World, patience_s: float) -> None:
        self._world = world
        self._patience_s = patience_s
        self._asked: list[StoreRequest] = []
        world.stores[ROME].how = self._how

    def _how(self, request: StoreRequest) -> str:
        self._asked.append(request)
        return "silent"

    def wait(self, seconds: float) -> None:
        """Whatever came since the last call waits as long."""
        while seconds > 0:
            asked, self._asked = self._asked, []
            self._world.wait(self._patience_s)
            seconds -= self._patience_s
            for request in asked:
                self._world.run(
                    self._world.owner.answer(ROME, Answer(request.number, "older", "b1"), self._world.now)
                )


@pytest.mark.parametrize("kind", ["write", "flush"])
def test_a_store_whose_tables_do_not_catch_up_is_given_up_too(kind: str) -> None:
    world = world_with_a_record()
    behind = Behind(world, patience_s=6)
    asked = world.write(7) if kind == "write" else world.ask("flush")
    behind.wait(6)
    world.wait(0.5)
    assert [one.command for one in world.proposed] == [RETIRED]
    world.renew()
    world.apply(after(two(), B="stale"))
    world.decide()
    assert world.how(asked) == "done"


def test_one_that_catches_up_soon_is_not() -> None:
    world = world_with_a_record()
    behind = Behind(world, patience_s=1)
    write = world.write(7)
    behind.wait(4)
    world.stores[ROME].how = lambda request: "done"
    behind.wait(1)
    world.wait(1)
    assert world.how(write) == "done"
    assert world.proposed == []


def test_a_read_goes_to_another_copy() -> None:
    world = World(replace(two(), copies=two().copies[::-1]))
    world.owner.balance.preference = Preference("primary")
    behind = Behind(world, patience_s=6)
    read = world.read()
    behind.wait(6)
    assert world.how(read) is None, "the lease is over"
    world.renew()
    world.run(world.owner.leases_changed({}, world.now))
    assert world.how(read) == "done"
    assert world.stores[ROME].kinds() == ["read"]


def test_maps_that_come_one_after_the_other_do_not_make_it_wait_for_longer() -> None:
    """Another copy comes and goes; each map is news that the store does not get."""
    world = world_with_a_record()
    behind = Behind(world, patience_s=6)
    first, newest = world.write(7), two()
    for _ in range(3):
        behind.wait(6)
        newest = after(newest)
        world.renew()
        world.apply(newest)
    assert world.owner.desk.map.epoch == newest.epoch, "no drain waits for it"
    world.wait(0.5)
    assert RETIRED in [msgspec.structs.replace(one.command, epoch=5) for one in world.proposed]
    second = world.write(8, first=1 << 20)
    world.renew()
    world.apply(after(newest, B="stale"))
    assert [world.how(first), world.how(second)] == ["done", "done"]


def test_a_slow_flush_says_nothing_of_writes() -> None:
    world = world_with_a_record()
    world.stores[ROME].how = still("flush")
    world.ask("flush")
    world.wait(TIMEOUT_S - 1)
    first = world.write(7)
    world.wait(2)
    second = world.write(8)
    assert [world.how(first), world.how(second)] == ["done", "done"]
    assert world.proposed == []


def test_a_flush_that_is_overdue_first_does_not_excuse_a_store_that_stands_still() -> None:
    world = world_with_a_record()
    world.stores[ROME].how = still()
    world.ask("flush")
    world.wait(0.1)
    world.write(7)
    world.wait(TIMEOUT_S + 0.1)
    assert [one.command for one in world.proposed] == [RETIRED]
