"""A planned move: no request fails, and the former owner does nothing while it is undecided."""

from msgspec.structs import replace

from tests.unit.protocol.owner_world import PARIS, ROME, S, World, after, two
from vimraft.core.commands import MoveOwner
from vimraft.protocol.handover import FEW_REGIONS, TIDY_NS, HandOver
from vimraft.protocol.maps import REGION_BYTES, Part


def test_requests_wait_while_a_volume_moves_and_are_sent_on_afterwards() -> None:
    world = World(two())
    world.run(HandOver(world.owner, ROME).start(world.now))
    assert world.proposed[0].command == MoveOwner(two().volume, 5, PARIS, ROME)
    write, read = world.write(7), world.read()
    assert world.how(write) is world.how(read) is None
    assert world.stores[PARIS].seen == []
    world.apply(after(two(), owner=ROME))
    assert world.how(write) == world.how(read) == "moved"


def test_it_waits_for_what_is_under_way() -> None:
    world = World(two())
    world.stores[ROME].how = lambda request: "silent"
    write = world.write(7)
    world.run(HandOver(world.owner, ROME).start(world.now))
    assert world.proposed == []
    world.stores[ROME].how = lambda request: "done"
    answer = world.stores[ROME].do(world.stores[ROME].seen[0])
    assert answer is not None
    world.run(world.owner.answer(ROME, answer, world.now))
    assert world.how(write) == "done"
    assert len(world.proposed) == 1


def test_when_it_is_refused_or_another_change_comes_first_the_owner_serves_on() -> None:
    world = World(two())
    moving = HandOver(world.owner, ROME)
    world.run(moving.start(world.now))
    write = world.write(7)
    world.decide("unknown")
    assert world.how(write) is None
    world.decide("rejected")
    assert world.how(write) == "done"
    world.run(HandOver(world.owner, ROME).start(world.now))
    read = world.read()
    world.apply(after(two()))
    assert world.how(read) == "done"


def wide() -> World:
    """With more regions written than are left to the new owner."""
    regions = 2 * FEW_REGIONS
    size = regions * REGION_BYTES
    first = two()
    copies = tuple(replace(c, parts=(Part(0, size, c.stores[0]),)) for c in first.copies)
    world = World(replace(first, size_bytes=size, copies=copies))
    for store in world.stores.values():
        store.data = {c.name: bytearray(size) for c in copies}
    for region in range(regions):
        world.write(1, region * REGION_BYTES)
    return world


def test_what_is_active_is_flushed_and_cleared_before_io_is_held() -> None:
    world = wide()
    world.run(HandOver(world.owner, ROME).start(world.now))
    for store in (PARIS, ROME):
        kinds = world.stores[store].kinds()
        assert kinds.index("flush") < kinds.index("clear")
    assert world.owner.desk.tracker.active == ()
    assert isinstance(world.proposed[0].command, MoveOwner)


def test_a_store_that_does_not_flush_does_not_keep_it_from_moving() -> None:
    world = wide()
    world.stores[ROME].how = lambda request: "failed" if request.kind == "clear" else "done"
    world.run(HandOver(world.owner, ROME).start(world.now))
    assert isinstance(world.proposed[0].command, MoveOwner)
    world = wide()
    world.stores[ROME].how = lambda request: "silent" if request.kind == "flush" else "done"
    world.run(HandOver(world.owner, ROME).start(world.now))
    write = world.write(7)
    assert world.how(write) == "done", "nothing is held yet"
    world.now += S
    world.renew()
    world.wait(TIDY_NS / 1e9)
    assert world.how(world.write(8)) is None


def test_nothing_is_held_for_a_move_that_nobody_would_decide() -> None:
    world = wide()
    world.own.alone = True
    hand_over = HandOver(world.owner, ROME)
    world.run(hand_over.start(world.now))
    assert hand_over.phase == "failed"
    assert "lease" in hand_over.why
    assert world.proposed == []
    assert world.how(world.write(8)) == "done"


def test_a_move_that_is_not_decided_yet_is_not_given_up_when_the_lease_grows_old() -> None:
    world = wide()
    hand_over = HandOver(world.owner, ROME)
    world.run(hand_over.start(world.now))
    world.own.alone = True
    world.wait(TIDY_NS / 1e9 + 1)
    assert hand_over.phase == "proposed"
    assert world.how(world.write(8)) is None


def test_a_flush_that_fails_while_a_volume_moves_is_told_to_every_session() -> None:
    """A disk tells it once; and the move does not go on, because they hear it from this owner."""
    world = wide()
    alone = after(world.owner.desk.newest, B="stale")
    world.apply(alone)
    world.stores[PARIS].how = lambda request: "failed" if request.kind == "flush" else "done"
    moving = HandOver(world.owner, ROME)
    world.run(moving.start(world.now))
    world.stores[PARIS].how = lambda request: "done"
    assert moving.phase == "failed"
    assert world.how(world.ask("flush")) == "failed"
