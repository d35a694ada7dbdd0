"""Takeover: what must be true before a new owner serves."""

from tests.unit.protocol.owner_world import (
    LEASE_NS,
    OSLO,
    PARIS,
    ROME,
    SIZE,
    A,
    B,
    S,
    World,
    after,
    copy,
    two,
)
from vimraft.core import commands
from vimraft.core.commands import LeaseStamp, Retire
from vimraft.core.ids import ManagerName
from vimraft.protocol.lease import OthersLease
from vimraft.protocol.maps import REGION_BYTES, VolumeMap
from vimraft.protocol.rules import Rules
from vimraft.protocol.takeover import TakeOver, claim

ALL = Rules()
REMOTE = VolumeMap(two().volume, 10, 5, PARIS, SIZE, (copy(A, ROME), copy(B, OSLO)))


def begin(first: VolumeMap, *cachers: ManagerName, rules: Rules = ALL, **how) -> tuple[World, TakeOver]:
    world = World(first, serve=False, rules=rules)
    for store, behaviour in how.items():
        world.stores[ManagerName(store)].how = behaviour
    takeover = TakeOver(world.owner, cachers)
    return world, takeover


def go(world: World, takeover: TakeOver) -> None:
    world.run(takeover.start(world.now))


def silent(request) -> str:
    return "silent"


def sealing_never(request) -> str:
    return "silent" if request.kind == "seal" else "done"


def test_clients_wait_until_all_stores_have_sealed() -> None:
    world, takeover = begin(REMOTE, oslo=silent)
    world.stores[ROME].how = silent
    write = world.write(7)
    go(world, takeover)
    assert takeover.phase == "sealing"
    assert world.how(write) is None
    world = World(REMOTE, serve=False)
    write, read, flush = world.write(7), world.read(), world.ask("flush")
    go(world, TakeOver(world.owner, ()))
    assert [world.how(one) for one in (write, read, flush)] == ["done"] * 3
    assert world.stores[ROME].kinds()[0] == "seal"


def test_with_no_complete_copy_sealed_it_waits() -> None:
    spanning = VolumeMap(two().volume, 10, 5, PARIS, SIZE, (copy(A, ROME, OSLO),))
    world, takeover = begin(spanning, oslo=silent)
    go(world, takeover)
    world.run(world.owner.store_lost(OSLO, world.now))
    world.wait(20)
    assert takeover.phase == "sealing"
    assert world.proposed == []
    world.stores[OSLO].how = lambda request: "done"
    world.run(world.owner.store_lost(OSLO, world.now))
    world.wait(1)
    assert takeover.phase == "over"


def test_without_asking_for_all_of_a_copy_it_goes_by_a_part() -> None:
    spanning = VolumeMap(two().volume, 10, 5, PARIS, SIZE, (copy(A, ROME, OSLO),))
    world, takeover = begin(spanning, oslo=sealing_never, rules=Rules(retire_needs_complete_replica=False))
    go(world, takeover)
    assert takeover.phase == "over"


def test_a_copy_that_has_not_sealed_is_retired_when_another_has() -> None:
    world, takeover = begin(REMOTE, oslo=lambda request: "failed")
    go(world, takeover)
    assert world.proposed == []
    world.wait(1.1)
    assert world.proposed[0].command == Retire(REMOTE.volume, 5, PARIS, (B,), "r1")
    write = world.write(7)
    world.decide()
    retired = after(REMOTE, B="stale")
    world.apply(retired)
    assert world.how(write) is None
    world.installed(OSLO, retired.index)
    assert takeover.phase == "over"
    assert world.how(write) == "done"


def test_nobody_waits_for_the_seal_of_a_manager_whose_lease_has_run_out() -> None:
    world, takeover = begin(REMOTE, oslo=silent)
    world.wait(1.25 * LEASE_NS / S)
    go(world, takeover)
    assert world.proposed[0].command == Retire(REMOTE.volume, 5, PARIS, (B,), "r1")


def test_active_regions_of_any_store_are_equal_before_it_serves_and_carry_the_new_epoch() -> None:
    world, takeover = begin(REMOTE)
    world.stores[ROME].active, world.stores[OSLO].active = (1,), (3,)
    world.stores[ROME].data[A] = bytearray(b"a" * SIZE)
    world.stores[OSLO].data[B] = bytearray(b"b" * SIZE)
    go(world, takeover)
    assert takeover.phase == "over"
    for region in (1, 3):
        where = slice(region * REGION_BYTES, (region + 1) * REGION_BYTES)
        assert world.stores[ROME].data[A][where] == world.stores[OSLO].data[B][where]
    assert world.bytes_at(OSLO, B, 0) == ord("b"), "only what was active"
    for store in (ROME, OSLO):
        kinds = world.stores[store].kinds()
        assert kinds.count("write") == 2
        assert kinds[-1] == "flush"
    assert set(world.owner.desk.tracker.active) == {1, 3}


def test_where_one_copy_is_alone_nothing_is_written() -> None:
    alone = after(REMOTE, B="stale")
    world, takeover = begin(alone)
    world.stores[ROME].active = (1, 3)
    world.stores[ROME].data[A] = bytearray(b"a" * SIZE)
    go(world, takeover)
    assert takeover.phase == "over"
    assert "write" not in world.stores[ROME].kinds()
    assert set(world.owner.desk.tracker.active) == {1, 3}, "they are cleared when they were flushed"


def test_without_equalising_the_copies_stay_apart() -> None:
    world, takeover = begin(REMOTE, rules=Rules(equalise_at_takeover=False))
    world.stores[ROME].active = (1,)
    go(world, takeover)
    assert "write" not in world.stores[ROME].kinds()


def test_without_sealing_it_serves_at_once() -> None:
    world, takeover = begin(REMOTE, rules=Rules(seal_before_serving=False), rome=silent)
    go(world, takeover)
    assert takeover.phase == "over"


def test_nothing_is_served_while_somebody_may_serve_by_an_older_map() -> None:
    world, takeover = begin(REMOTE, ROME)
    read = world.read()
    go(world, takeover)
    assert takeover.phase == "waiting"
    assert world.how(read) is None
    world.installed(ROME, REMOTE.index)
    assert world.how(read) == "done"


def test_or_until_its_lease_has_run_out() -> None:
    world, takeover = begin(REMOTE, ROME)
    go(world, takeover)
    world.wait(1.25 * LEASE_NS / S - 0.01)
    assert takeover.phase == "waiting"
    world.wait(0.02)
    assert takeover.phase == "over"


def test_another_takeover_ends_this_one() -> None:
    world, takeover = begin(REMOTE, oslo=silent)
    write = world.write(7)
    go(world, takeover)
    world.apply(after(REMOTE, owner=ROME))
    assert takeover.phase == "over"
    assert world.how(write) == "moved"


def test_a_syncing_copy_does_not_hold_the_takeover_up() -> None:
    syncing = after(REMOTE, B="syncing")
    world, takeover = begin(syncing, oslo=silent)
    go(world, takeover)
    assert takeover.phase == "over"


def test_stores_that_disagree_on_the_record_get_a_new_one() -> None:
    world, takeover = begin(REMOTE)
    world.stores[OSLO].record = "r2"
    go(world, takeover)
    assert world.owner.desk.record == "5"
    handed = [one.record for one in world.stores[ROME].seen if one.kind == "hand_over"]
    assert handed == ["5"]


def test_a_volume_is_claimed_when_its_owners_lease_has_run_out_by_the_stamp_that_did() -> None:
    others = OthersLease(LEASE_NS)
    stamp = LeaseStamp("p1", 3)
    others.applied(PARIS, stamp, 0)
    assert claim(REMOTE, ROME, others, LEASE_NS) is None
    late = LEASE_NS * 5 // 4
    assert claim(REMOTE, ROME, others, late) == commands.TakeOver(REMOTE.volume, 5, PARIS, stamp, ROME)
    assert claim(REMOTE, PARIS, others, late) is None
    assert claim(after(two(), B="stale"), ROME, others, late) is None, "a sole holder needs no lease"
