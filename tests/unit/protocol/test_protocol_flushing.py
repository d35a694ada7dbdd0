"""FLUSH and clearing at the owner; FUA; what sessions are told after a loss."""

from tests.unit.protocol.owner_world import PARIS, ROME, A, B, S, World, after, copy, two
from vimraft.core.commands import LoseUnflushed, Retire
from vimraft.protocol.losses import LossMark
from vimraft.protocol.maps import VolumeMap
from vimraft.protocol.owner_effects import Reply
from vimraft.protocol.rules import Rules
from vimraft.protocol.tracker import CLEAR_AFTER_NS


def failing(kind: str):
    return lambda request: "failed" if request.kind == kind else "done"


def test_a_flush_goes_to_every_in_sync_copy() -> None:
    world = World(two())
    assert world.how(world.ask("flush")) == "done"
    assert world.stores[PARIS].kinds() == world.stores[ROME].kinds() == ["flush"]


def test_flushes_that_come_while_one_runs_share_the_next_one() -> None:
    world = World(two())
    world.stores[ROME].how = lambda request: "silent"
    first, second, third = world.ask("flush"), world.ask("flush"), world.ask("flush")
    world.stores[ROME].how = lambda request: "done"
    answer = world.stores[ROME].do(world.stores[ROME].seen[0])
    assert answer is not None
    world.run(world.owner.answer(ROME, answer, world.now))
    assert [world.how(one) for one in (first, second, third)] == ["done"] * 3
    assert world.stores[PARIS].kinds() == ["flush", "flush"]


def test_a_copy_whose_flush_failed_is_retired_and_not_asked_again() -> None:
    world = World(two())
    world.stores[ROME].how = failing("flush")
    flush = world.ask("flush")
    world.wait(2)
    assert world.how(flush) is None
    assert world.stores[ROME].kinds() == ["flush"]
    assert world.proposed[0].command == Retire(two().volume, 5, PARIS, (B,), "")
    world.decide()
    world.apply(after(two(), B="stale"))
    assert world.how(flush) == "done"


def test_the_last_copy_is_never_retired_and_every_session_is_told_of_its_failed_flush() -> None:
    world = World(after(two(), B="stale"))
    world.stores[PARIS].how = failing("flush")
    began = LossMark(world.owner.desk.newest.epoch)
    first = world.replies[world.ask("flush", session="c1", since=began)]
    assert first.how == "failed"
    assert [one.command for one in world.proposed] == [LoseUnflushed(two().volume, 6, PARIS)]
    world.stores[PARIS].how = lambda request: "done"
    assert world.how(world.ask("flush", session="c1", since=first.told)) == "done"
    assert world.how(world.ask("flush", session="c2", since=began)) == "failed"
    assert world.how(world.ask("flush", session="c2", since=world.owner.losses.mark)) == "done"
    world.stores[PARIS].how = failing("flush")
    assert world.replies[world.ask("flush", session="c1", since=first.told)].told > first.told
    world.stores[PARIS].how = lambda request: "done"
    assert world.how(world.ask("flush", session="c2", since=first.told)) == "failed", "it knows one"


def test_a_write_with_fua_carries_it_to_all_copies() -> None:
    world = World(two())
    world.write(7, fua=True)
    assert world.stores[PARIS].seen[0].fua
    assert world.stores[ROME].seen[0].fua


def test_after_a_loss_the_first_flush_of_every_older_session_fails() -> None:
    alone = after(two(), B="stale")
    world = World(alone)
    world.ask("flush", session="old")
    lossy = after(alone, lossy="yes")
    world.apply(lossy)
    reply = world.replies[world.ask("flush", session="old", since=LossMark(6))]
    assert reply == Reply(reply.id, "failed", told=LossMark(lossy.epoch))
    again = world.ask("flush", session="old", since=LossMark(6))
    assert world.how(again) == "failed", "the answer may have been lost"
    assert world.how(world.ask("flush", session="old", since=reply.told)) == "done"
    assert world.how(world.ask("flush", session="new", since=LossMark(lossy.epoch))) == "done"


def test_without_the_lossy_rule_nobody_is_told() -> None:
    alone = after(two(), B="stale")
    world = World(alone, rules=Rules(lossy_mark=False))
    world.apply(after(alone, lossy="yes"))
    assert world.how(world.ask("flush", since=LossMark(6))) == "done"


def test_a_region_left_alone_is_cleared_after_a_flush_and_not_before() -> None:
    world = World(two())
    world.write(7)
    flushes = False
    world.stores[ROME].how = lambda request: "silent" if request.kind == "flush" and not flushes else "done"
    world.now += 2 * CLEAR_AFTER_NS
    world.renew()
    world.read()
    assert "clear" not in world.stores[PARIS].kinds()
    flushes = True
    world.run(world.owner.store_lost(ROME, world.now))
    world.wait(1)
    world.read()
    for store in (PARIS, ROME):
        cleared = [one for one in world.stores[store].seen if one.kind == "clear"]
        assert [one.regions for one in cleared] == [(0,)]
    assert len(world.owner.desk.tracker) == 0


def test_a_write_after_the_flush_keeps_its_region_active() -> None:
    world = World(two())
    world.write(7)
    world.ask("flush")
    world.stores[ROME].how = lambda request: "silent" if request.kind == "flush" else "done"
    world.write(8)
    world.now += 2 * CLEAR_AFTER_NS
    world.renew()
    world.read()
    assert "clear" not in world.stores[PARIS].kinds()


def test_a_region_is_not_cleared_while_a_write_to_it_failed() -> None:
    world = World(two())
    world.stores[ROME].how = failing("write")
    world.write(7)
    world.ask("flush")
    world.now += 2 * CLEAR_AFTER_NS
    world.read(1 << 20)
    assert "clear" not in world.stores[PARIS].kinds()


def test_a_flush_in_another_boot_clears_nothing() -> None:
    world = World(two())
    world.write(7)
    world.stores[ROME].boot = "b2"
    world.ask("flush")
    world.now += 2 * CLEAR_AFTER_NS
    world.renew()
    world.read()
    assert "clear" not in world.stores[PARIS].kinds()


def test_a_store_without_room_gets_some_by_a_flush_and_the_write_goes_on() -> None:
    alone = VolumeMap(two().volume, 10, 5, PARIS, two().size_bytes, (copy(A, PARIS),))
    world = World(alone)
    world.write(7)

    def full(request) -> str:
        cleared = "clear" in world.stores[PARIS].kinds()
        return "full" if request.kind == "write" and not cleared else "done"

    world.stores[PARIS].how = full
    write = world.write(8, 2 << 20)
    world.wait(1)
    assert world.how(write) == "done"
    assert world.proposed == []


def test_a_flush_covers_writes_of_all_epochs() -> None:
    world = World(two())
    world.write(7)
    world.apply(after(two()))
    world.now += S
    world.ask("flush")
    assert world.stores[ROME].seen[-1].kind == "flush"
    assert world.stores[ROME].seen[-1].epoch == 6


def test_a_copy_that_could_not_flush_goes_before_one_that_does_not_answer() -> None:
    """The other one has what was acknowledged and not flushed; only it does."""
    world = World(two())
    world.owner.desk.record = "r1"
    world.write(7)
    world.stores[ROME].how = lambda request: "silent"
    world.stores[PARIS].how = failing("flush")
    write, flush = world.write(8), world.ask("flush")
    retire = Retire(two().volume, 5, PARIS, (A,), "r1")
    assert [one.command for one in world.proposed] == [retire]
    world.wait(11)
    assert [one.command for one in world.proposed] == [retire], "and nobody else while that is not decided"
    world.renew()
    world.apply(after(two(), A="stale"))
    world.decide()
    world.stores[ROME].how = lambda request: "done"
    world.wait(11)
    assert (world.how(write), world.how(flush)) == ("done", "done")
    assert world.bytes_at(ROME, B) == 8


def test_when_no_copy_could_flush_nobody_is_retired_by_that() -> None:
    world = World(two())
    world.owner.desk.record = "r1"
    world.stores[PARIS].how = world.stores[ROME].how = failing("flush")
    assert world.how(world.ask("flush")) == "failed"
    world.decide("rejected", at=0)
    world.stores[PARIS].how = lambda request: "done"
    world.stores[ROME].how = failing("write")
    world.write(7)
    assert Retire(two().volume, 5, PARIS, (B,), "r1") in [one.command for one in world.proposed]


def test_a_failed_write_with_fua_at_the_last_copy_is_told_to_every_session() -> None:
    """A flush was part of it."""
    world = World(after(two(), B="stale"))
    world.stores[PARIS].how = lambda request: "failed" if request.fua else "done"
    assert world.how(world.write(7, fua=True)) == "failed"
    world.stores[PARIS].how = lambda request: "done"
    known = LossMark(world.owner.desk.newest.epoch)
    assert world.how(world.ask("flush", session="other", since=known)) == "failed"
    assert LoseUnflushed(two().volume, 6, PARIS) in [one.command for one in world.proposed]
