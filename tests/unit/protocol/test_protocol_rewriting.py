"""After the last copy could not flush: what its page cache shows is written again, before it is dropped."""

from tests.unit.protocol.owner_world import PARIS, ROME, A, B, World, after, throttle, two
from tests.unit.protocol.test_protocol_resync import away, begin, go
from vimraft.core.commands import Promote
from vimraft.protocol.handover import HandOver
from vimraft.protocol.maps import REGION_BYTES
from vimraft.protocol.owner_effects import Invalidate, StoreRequest

LAST = after(two(), B="stale")


def failing(request: StoreRequest) -> str:
    return "failed" if request.kind == "flush" else "done"


def failed_flush(world: World) -> None:
    world.stores[PARIS].how = failing
    assert world.how(world.ask("flush")) == "failed"
    world.stores[PARIS].how = lambda request: "done"


def rewritten(world: World, since: int, store=PARIS) -> list[int]:
    seen = world.stores[store].seen[since:]
    return [one.first // REGION_BYTES for one in seen if one.kind == "write" and len(one.data) > 4096]


def test_every_active_region_is_read_and_written_again() -> None:
    world = World(LAST)
    for region in (1, 4):
        world.write(7, first=region * REGION_BYTES)
    since = len(world.stores[PARIS].seen)
    failed_flush(world)
    assert rewritten(world, since) == [1, 4]
    assert not world.owner.rewriting.busy
    assert world.bytes_at(PARIS, A, 4 * REGION_BYTES) == 7
    dropped = [(one.first, one.end) for one in world.other if isinstance(one, Invalidate)]
    assert dropped == [(at * REGION_BYTES, (at + 1) * REGION_BYTES) for at in (1, 4)]
    world.write(8)
    assert world.how(world.ask("flush", session="new", since=world.owner.losses.mark)) == "done"


def test_a_region_is_not_cleared_before_and_a_write_waits_for_its_turn() -> None:
    world = World(LAST)
    world.write(7)
    world.stores[PARIS].how = failing
    held: list[StoreRequest] = []

    def how(request: StoreRequest) -> str:
        if request.kind == "read" and not held:
            held.append(request)
            return "silent"
        return failing(request)

    world.stores[PARIS].how = how
    world.ask("flush")
    world.stores[PARIS].how = lambda request: "done"
    write = world.write(8)
    elsewhere = world.write(8, first=REGION_BYTES)
    assert world.how(write) is None
    assert world.how(elsewhere) == "done"
    world.ask("flush")
    world.owner.clearing.hasten()
    assert "clear" not in world.stores[PARIS].kinds() or all(
        0 not in one.regions for one in world.stores[PARIS].seen if one.kind == "clear"
    )
    answer = world.stores[PARIS].do(held[0])
    assert answer is not None
    world.run(world.owner.answer(PARIS, answer, world.now))
    assert world.how(write) == "done"
    assert world.bytes_at(PARIS, A) == 8, "it came after"
    assert not world.owner.rewriting.busy


def test_a_flush_that_fails_again_begins_again_with_what_is_under_way() -> None:
    world = World(LAST)
    for region in range(4):
        world.write(7, first=region * REGION_BYTES)
    since = len(world.stores[PARIS].seen)
    held: list[StoreRequest] = []

    def how(request: StoreRequest) -> str:
        if request.kind == "write" and len(request.data) > 4096 and len(held) < 2:
            held.append(request)
            return "silent"
        return failing(request)

    world.stores[PARIS].how = how
    world.ask("flush")
    world.ask("flush", since=world.owner.losses.mark)
    world.stores[PARIS].how = lambda request: "done"
    for request in held:
        answer = world.stores[PARIS].do(request)
        assert answer is not None
        world.run(world.owner.answer(PARIS, answer, world.now))
    assert not world.owner.rewriting.busy
    counts = {region: rewritten(world, since).count(region) for region in range(4)}
    assert all(counts[request.first // REGION_BYTES] == 3 for request in held), "sent, answered late, again"
    assert all(region.in_flight == 0 for region in world.owner.desk.tracker._regions.values())


def test_no_copy_is_promoted_before_and_it_gets_what_was_found() -> None:
    world, resync = begin(away())
    throttle(world, 64 * REGION_BYTES)
    go(world, resync)
    held: list[StoreRequest] = []

    def how(request: StoreRequest) -> str:
        if request.kind == "write" and len(request.data) > 4096 and not held:
            held.append(request)
            return "silent"
        if request.kind == "flush":
            world.stores[PARIS].data[A][5 * REGION_BYTES] = 6  # the kernel drops a page
        return failing(request)

    world.write(7, first=5 * REGION_BYTES)
    world.stores[PARIS].how = how
    world.ask("flush")
    world.wait(2)
    assert held
    assert not [one for one in world.proposed if isinstance(one.command, Promote)]
    answer = world.stores[PARIS].do(held[0])
    assert answer is not None
    world.run(world.owner.answer(PARIS, answer, world.now))
    world.stores[PARIS].how = lambda request: "done"
    world.renew()
    world.wait(1)
    assert [one for one in world.proposed if isinstance(one.command, Promote)]
    assert world.bytes_at(PARIS, A, 5 * REGION_BYTES) == world.bytes_at(ROME, B, 5 * REGION_BYTES) == 6


def test_a_move_waits_for_another_try() -> None:
    world = World(LAST)
    world.write(7)
    world.stores[PARIS].how = lambda request: "silent" if request.kind == "read" else failing(request)
    world.ask("flush")
    moving = HandOver(world.owner, ROME)
    world.stores[PARIS].how = lambda request: "done"
    world.run(moving.start(world.now))
    assert moving.phase == "failed"
    assert "written again" in moving.why


def test_it_waits_while_i_o_is_held_and_goes_on_by_the_next_map() -> None:
    world = World(LAST)
    world.write(7)
    world.run(world.owner.hold("test", world.now))
    since = len(world.stores[PARIS].seen)
    world.owner.begin(world.now)
    world.owner.lost_unflushed()
    world.run(world.owner.end())
    assert rewritten(world, since) == []
    world.run(world.owner.release("test", world.now))
    assert rewritten(world, since) == [0]
