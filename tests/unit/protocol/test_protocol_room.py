"""Stores have room for so many active regions; writes to further ones wait at the owner, in turn."""

import msgspec

from tests.unit.protocol.owner_world import PARIS, World, two
from vimraft.protocol.maps import REGION_BYTES


def crowded() -> World:
    world = World(two())
    world.owner.desk.limits = msgspec.structs.replace(world.owner.desk.limits, active_regions=2)
    return world


def test_a_write_that_waits_for_room_is_done_when_regions_were_cleared() -> None:
    world = crowded()
    writes = [world.write(number + 1, number * REGION_BYTES) for number in range(6)]
    world.wait(3)
    assert [world.how(write) for write in writes] == ["done"] * 6
    assert len(world.owner.desk.tracker) <= 2


def test_while_nothing_can_be_cleared_it_waits_and_asks_no_store() -> None:
    world = crowded()
    for store in world.stores.values():
        store.how = lambda request: "silent" if request.kind == "flush" else "done"
    writes = [world.write(number + 1, number * REGION_BYTES) for number in range(3)]
    assert [world.how(write) for write in writes] == ["done", "done", None]
    assert world.stores[PARIS].kinds().count("write") == 2
    world.wait(31)
    assert world.how(writes[2]) == "failed", "its time is over"


def test_writes_that_wait_for_room_keep_no_region_from_being_cleared() -> None:
    world = crowded()
    first = [world.write(number + 1, number * REGION_BYTES) for number in range(2)]
    again = [world.write(number + 3, number * REGION_BYTES + 4096) for number in (2, 0, 1)]
    assert [world.how(write) for write in first] == ["done"] * 2
    world.wait(3)
    assert [world.how(write) for write in again] == ["done"] * 3


def test_a_write_whose_time_is_over_while_it_waits_for_its_range_gives_its_room_back() -> None:
    world = crowded()
    for store in world.stores.values():
        store.how = lambda request: "silent" if request.kind == "write" else "done"
    world.write(1, REGION_BYTES - 4096)
    over_two = world.write(2, REGION_BYTES - 4096, 8192)
    assert world.owner.desk.tracker.active == (0, 1)
    world.wait(31)
    assert world.how(over_two) == "failed"
    assert world.owner.desk.tracker.active == (0,)
