"""A planned move: no request fails, and the former owner does nothing while it is undecided."""

from tests.unit.protocol.owner_world import PARIS, ROME, World, after, two
from vimraft.core.commands import MoveOwner
from vimraft.protocol.handover import HandOver


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
