"""A store that does not answer in time: its copy leaves the in-sync set at once, not after three timeouts."""

from tests.unit.protocol.owner_world import PARIS, ROME, A, B, S, World, after, two
from vimraft.core.commands import Retire

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
    world.stores[ROME].how = still("write")
    world.write(7)
    world.wait(TIMEOUT_S + 0.1)
    world.stores[ROME].how = still("zero")
    world.write(8, first=1 << 20)
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
