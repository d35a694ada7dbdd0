"""A loss that a failed flush told of comes into the tables, so that owners that follow tell the sessions."""

from tests.unit.protocol.owner_world import PARIS, World, after, two
from vimraft.core.commands import LoseUnflushed
from vimraft.protocol.losses import LossMark

LAST = after(two(), B="stale")


def lose(world: World, session: str = "c1") -> LossMark:
    """As its session knows it then."""
    known = world.owner.losses.mark
    world.stores[PARIS].how = lambda request: "failed" if request.kind == "flush" else "done"
    reply = world.replies[world.ask("flush", session=session, since=known)]
    world.stores[PARIS].how = lambda request: "done"
    assert reply.how == "failed"
    return reply.told


def reports(world: World) -> list[int]:
    """Epochs by which it was proposed."""
    return [one.command.epoch for one in world.proposed if isinstance(one.command, LoseUnflushed)]


def test_who_was_told_is_not_told_again_by_the_next_map_and_all_others_are() -> None:
    world = World(LAST)
    told = lose(world)
    assert reports(world) == [LAST.epoch]
    world.decide()
    lossy = after(LAST, lossy="yes")
    world.apply(lossy)
    assert told == LossMark(lossy.epoch)
    assert world.how(world.ask("flush", session="c1", since=told)) == "done"
    assert world.how(world.ask("flush", session="c2", since=LossMark(LAST.epoch))) == "failed"
    world.wait(5)
    assert reports(world) == [LAST.epoch], "once"
    following = World(lossy)
    assert following.how(following.ask("flush", session="c2", since=LossMark(LAST.epoch))) == "failed"
    assert following.how(following.ask("flush", session="c1", since=told)) == "done"


def test_it_is_said_again_when_another_change_came_first() -> None:
    world = World(LAST)
    lose(world)
    world.apply(after(LAST))
    world.decide("rejected")
    world.wait(1)
    assert reports(world)[-1] == LAST.epoch + 1
    said = len(reports(world))
    world.wait(5)
    assert len(reports(world)) == said, "it is undecided"


def test_it_is_said_again_when_it_was_refused() -> None:
    world = World(LAST)
    lose(world)
    world.decide("rejected")
    world.wait(1)
    assert reports(world) == [LAST.epoch, LAST.epoch]


def test_another_loss_before_the_map_is_said_by_the_next_one() -> None:
    world = World(LAST)
    first = lose(world)
    second = lose(world, "c2")
    assert second > first
    assert reports(world) == [LAST.epoch]
    world.decide()
    lossy = after(LAST, lossy="yes")
    world.apply(lossy)
    assert reports(world) == [LAST.epoch, lossy.epoch]
    world.decide()
    world.apply(after(lossy, lossy="yes"))
    assert reports(world) == [LAST.epoch, lossy.epoch]
    assert world.how(world.ask("flush", session="c1", since=first)) == "failed"
