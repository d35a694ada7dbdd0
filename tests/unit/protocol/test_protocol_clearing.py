"""Clearing by the owner: when it flushes by itself, how often it asks, and who hears of what that lost."""

from tests.unit.protocol.owner_world import PARIS, ROME, S, World, after, two
from vimraft.protocol.losses import LossMark
from vimraft.protocol.maps import REGION_BYTES


def kinds(world: World, kind: str) -> int:
    return sum(seen.kinds().count(kind) for seen in world.stores.values())


def later(world: World, seconds: int) -> None:
    """Leases are renewed every second: what looks at the time is called."""
    for _ in range(seconds):
        world.now += S
        world.renew()
        world.run(world.owner.leases_changed({}, world.now))


def test_a_refused_clearing_is_tried_again_after_a_while_and_a_flush() -> None:
    world = World(two())
    world.write(1)
    for store in (PARIS, ROME):
        world.stores[store].how = lambda request: "failed" if request.kind == "clear" else "done"
    world.wait(11)
    world.ask("flush")
    asked, flushed = kinds(world, "clear"), kinds(world, "flush")
    assert asked >= 2, "once at each store, or tried again meanwhile"
    world.wait(1)
    assert asked < kinds(world, "clear") <= asked + 2 * 6
    assert kinds(world, "flush") > flushed
    for store in (PARIS, ROME):
        world.stores[store].how = lambda request: "done"
    world.wait(1)
    assert len(world.owner.desk.tracker) == 0


def test_what_clients_left_alone_and_never_flush_is_flushed_and_cleared() -> None:
    world = World(two())
    world.write(1)
    later(world, 11)
    assert (kinds(world, "flush"), kinds(world, "clear")) == (2, 2)
    assert len(world.owner.desk.tracker) == 0
    later(world, 60)
    assert kinds(world, "flush") == 2, "there is nothing else to clear"


def test_what_the_last_copy_lost_is_cleared_although_its_new_boot_is_heard_of_after_the_map() -> None:
    alone = after(two(), B="stale")
    world = World(alone)
    world.write(1)
    world.stores[PARIS].boot = "b2"
    world.apply(after(alone, lossy="yes"))
    world.write(2, REGION_BYTES)
    assert set(world.owner.desk.tracker.active) == {0, 1}
    later(world, 25)
    assert len(world.owner.desk.tracker) == 0, "there is no later map that could say so"


def test_a_boot_without_a_loss_in_the_map_keeps_what_was_written_before_it() -> None:
    world = World(two())
    world.write(1)
    world.stores[PARIS].boot = "b2"
    world.write(2, REGION_BYTES)
    later(world, 25)
    assert set(world.owner.desk.tracker.active) == {0}, "it may be gone from that page cache"


def test_a_flush_of_its_own_that_fails_at_the_last_copy_is_told_to_every_session() -> None:
    world = World(after(two(), B="stale"))
    world.write(1)
    world.stores[PARIS].how = lambda request: "failed" if request.kind == "flush" else "done"
    later(world, 11)
    assert kinds(world, "flush") > 0
    world.stores[PARIS].how = lambda request: "done"
    epoch = world.owner.desk.newest.epoch
    assert world.how(world.ask("flush", since=LossMark(epoch))) == "failed", "the kernel tells a failure once"
