"""A store that refuses to clear a region is asked again after a pause only, and the owner flushes."""

from tests.unit.protocol.owner_world import PARIS, ROME, World, two


def kinds(world: World, kind: str) -> int:
    return sum(seen.kinds().count(kind) for seen in world.stores.values())


def test_a_refused_clearing_is_tried_again_after_a_while_and_a_flush() -> None:
    world = World(two())
    world.write(1)
    for store in (PARIS, ROME):
        world.stores[store].how = lambda request: "failed" if request.kind == "clear" else "done"
    world.wait(11)
    world.ask("flush")
    asked, flushed = kinds(world, "clear"), kinds(world, "flush")
    assert asked == 2, "once at each store"
    world.wait(1)
    assert asked < kinds(world, "clear") <= asked + 2 * 6
    assert kinds(world, "flush") > flushed
    for store in (PARIS, ROME):
        world.stores[store].how = lambda request: "done"
    world.wait(1)
    assert len(world.owner.desk.tracker) == 0
