"""Comparing the copies of a volume: what is found, what is mended, and what is not said."""

from msgspec.structs import replace

from tests.unit.protocol.owner_world import (
    OSLO,
    PARIS,
    ROME,
    SIZE,
    VOLUME,
    A,
    B,
    C,
    S,
    World,
    after,
    copy,
    throttle,
    two,
)
from vimraft.core.ids import LocalName
from vimraft.protocol.comparing import Difference, Mending, pieces
from vimraft.protocol.maps import REGION_BYTES, Copy, Part, VolumeMap
from vimraft.protocol.owner_effects import Invalidate, StoreRequest
from vimraft.protocol.verify import ALONE_NS, MAX_ATTEMPTS, MAX_DIFFERENCES, Tally, Verify

REGIONS = SIZE // REGION_BYTES
HOME = {A: PARIS, B: ROME, C: OSLO}


def three() -> VolumeMap:
    return VolumeMap(VOLUME, 10, 5, PARIS, SIZE, (copy(A, PARIS), copy(B, ROME), copy(C, OSLO)))


def world_of(first: VolumeMap) -> World:
    world = World(first)
    for one in first.copies:
        for store in one.stores:
            world.stores[store].data[one.name] = bytearray(bytes(range(256)) * (SIZE // 256))
    return world


def spoil(world: World, name: LocalName, at: int, length: int = 3) -> None:
    """Behind everybody's back."""
    data = world.stores[HOME[name]].data[name]
    data[at : at + length] = bytes(255 - byte for byte in data[at : at + length])


def begin(world: World, mending: Mending | None = None, tally: Tally | None = None) -> Verify:
    verify = Verify(world.owner, mending, tally)
    world.run(verify.start(world.now))
    return verify


def verified(world: World, mending: Mending | None = None, seconds: float = 5) -> Tally:
    verify = begin(world, mending)
    world.wait(seconds)
    assert verify.phase == "over"
    assert world.owner.desk.in_flight == 0
    assert len(world.owner.desk.ranges) == 0
    return verify.tally


def equal(world: World, *names: LocalName) -> bool:
    return len({bytes(world.stores[HOME[name]].data[name]) for name in names}) == 1


def test_equal_copies_are_told_to_be_equal() -> None:
    tally = verified(world_of(two()))
    assert (tally.regions, tally.compared, tally.differing, tally.skipped) == (REGIONS, REGIONS, 0, 0)
    assert tally.copies == {A: REGIONS, B: REGIONS}
    assert tally.clean


def test_exactly_the_regions_that_differ_are_found_and_stay_as_they_are() -> None:
    world = world_of(two())
    for region in (2, 3, 6):
        spoil(world, B, region * REGION_BYTES + 77)
    before = bytes(world.stores[ROME].data[B])
    tally = verified(world)
    assert (tally.compared, tally.differing, tally.repaired, tally.clean) == (REGIONS, 3, 0, False)
    assert tally.differences == (
        Difference(2 * REGION_BYTES, 4 * REGION_BYTES, ((A,), (B,))),
        Difference(6 * REGION_BYTES, 7 * REGION_BYTES, ((A,), (B,))),
    )
    assert bytes(world.stores[ROME].data[B]) == before
    assert "write" not in world.stores[ROME].kinds()


def test_a_difference_counts_when_it_is_seen_twice() -> None:
    world = world_of(two())
    spoil(world, B, 5)
    looked: list[StoreRequest] = []

    def mends_itself(request: StoreRequest) -> str:
        if request.kind == "checksum" and request.first == 0:
            looked.append(request)
            if len(looked) == 2:
                spoil(world, B, 5)
        return "done"

    world.stores[ROME].how = mends_itself
    assert verified(world).clean
    assert len(looked) == 2


def test_what_most_copies_hold_is_written_over_the_others_and_flushed() -> None:
    world = world_of(three())
    spoil(world, A, 10)
    spoil(world, C, 5 * REGION_BYTES)
    tally = verified(world, Mending())
    assert (tally.differing, tally.repaired, tally.clean) == (2, 2, True)
    assert equal(world, A, B, C)
    assert world.bytes_at(PARIS, A, 10) == 10
    assert [one.fua for one in world.stores[PARIS].seen if one.kind == "mend"] == [True]
    assert Invalidate(0, REGION_BYTES) in world.other
    assert all(one.repaired for one in tally.differences)


def test_of_two_copies_the_one_that_is_named_is_the_source() -> None:
    world = world_of(two())
    spoil(world, A, 10)
    assert verified(world, Mending()).repaired == 0
    tally = verified(world, Mending(B))
    assert (tally.differing, tally.repaired, tally.clean) == (1, 1, True)
    assert world.bytes_at(PARIS, A, 10) == 10
    assert not {"write", "mend"} & set(world.stores[ROME].kinds()), "nothing is written to the source"
    assert len(world.owner.desk.tracker) == 0, "a takeover does not take it for a write"


def test_where_nobody_can_tell_who_is_right_it_stays_and_is_said() -> None:
    world = world_of(three())
    spoil(world, B, 10)
    spoil(world, C, 12)
    tally = verified(world, Mending())
    assert (tally.differing, tally.repaired) == (1, 0)
    assert tally.differences[0].groups == ((A,), (B,), (C,))
    assert "nobody can tell" in tally.why


def test_writes_under_way_are_no_differences() -> None:
    world = world_of(two())
    world.stores[ROME].how = lambda request: "silent" if request.kind == "write" else "done"
    write = world.write(7, 3 * REGION_BYTES)
    assert world.bytes_at(PARIS, A, 3 * REGION_BYTES) == 7
    verify = begin(world)
    world.wait(3)
    assert verify.phase == "comparing", "that region is locked"
    assert verify.tally.done == 3
    world.stores[ROME].how = lambda request: "done"
    world.run(world.owner.store_lost(ROME, world.now))
    world.wait(1)
    assert world.how(write) == "done"
    assert verify.phase == "over"
    assert verify.tally.clean


def test_a_write_waits_for_two_looks_and_no_longer() -> None:
    world = world_of(two())
    world.stores[ROME].how = lambda request: "silent" if request.kind == "checksum" else "done"
    verify = begin(world)
    write = world.write(7)
    assert world.how(write) is None
    world.wait(2.1)
    assert world.how(write) == "done", "the lock is given up before the store is"
    world.stores[ROME].how = lambda request: "done"
    world.run(world.owner.store_lost(ROME, world.now))
    world.wait(5)
    assert verify.tally.clean


def test_reads_go_on_meanwhile() -> None:
    world = world_of(two())
    world.stores[ROME].how = lambda request: "silent" if request.kind == "checksum" else "done"
    begin(world)
    assert world.how(world.read(100)) == "done"


def test_a_copy_that_is_retired_meanwhile_is_not_said_to_be_equal() -> None:
    world = world_of(three())
    throttle(world, REGION_BYTES)
    verify = begin(world)
    world.wait(2.5)
    world.apply(after(three(), C="stale"))
    world.wait(10)
    tally = verify.tally
    assert verify.phase == "over"
    assert (tally.compared, tally.skipped) == (REGIONS, 0)
    assert tally.copies[A] == tally.copies[B] == REGIONS
    assert tally.copies[C] == 3
    assert tally.out_of_step == (C,)


def test_a_copy_that_came_back_in_the_middle_was_not_compared_everywhere() -> None:
    first = after(three(), C="syncing")
    world = world_of(first)
    throttle(world, REGION_BYTES)
    verify = begin(world)
    world.wait(2.5)
    world.apply(after(first, C="in_sync"))
    world.wait(10)
    assert verify.tally.partly == (C,)
    assert not verify.tally.clean


def test_a_store_that_is_lost_is_asked_again() -> None:
    world = world_of(two())
    world.stores[ROME].how = lambda request: "silent"
    verify = begin(world)
    world.run(world.owner.store_lost(ROME, world.now))
    world.stores[ROME].how = lambda request: "done"
    world.wait(5)
    assert verify.tally.clean


def test_a_store_that_stays_silent_is_skipped_with_the_reason() -> None:
    world = world_of(three())
    spoil(world, B, 10)
    world.stores[OSLO].how = lambda request: "older" if request.kind == "checksum" else "done"
    tally = verified(world, Mending(), seconds=30)
    assert (tally.compared, tally.skipped, tally.differing) == (0, REGIONS, 1)
    assert tally.copies == {A: REGIONS, B: REGIONS}
    assert "copy C" in tally.why
    assert tally.repaired == 0, "who is right is not decided without all of them"
    assert len([one for one in world.stores[OSLO].seen if one.first == 0]) >= MAX_ATTEMPTS


def test_a_store_of_an_older_release_is_named() -> None:
    world = world_of(two())
    world.stores[ROME].how = lambda request: "unsupported"
    tally = verified(world)
    assert (tally.compared, tally.skipped) == (0, REGIONS)
    assert "copy B at rome" in tally.why
    assert "release" in tally.why


def test_copies_that_are_cut_at_different_places_are_compared_part_by_part() -> None:
    cut = 2 * REGION_BYTES + 65536
    spanning = Copy(A, "in_sync", (Part(0, cut, PARIS), Part(cut, SIZE, OSLO)))
    world = world_of(VolumeMap(VOLUME, 10, 5, PARIS, SIZE, (spanning, copy(B, ROME))))
    assert pieces(world.owner.desk.map.in_sync, 2 * REGION_BYTES, 3 * REGION_BYTES) == [
        (2 * REGION_BYTES, cut),
        (cut, 3 * REGION_BYTES),
    ]
    spoil(world, B, cut)
    tally = verified(world)
    assert tally.differences == (Difference(cut, 3 * REGION_BYTES, ((A,), (B,))),)
    tally = verified(world, Mending(A))
    assert tally.clean
    assert world.bytes_at(ROME, B, cut) == world.bytes_at(OSLO, A, cut)


def test_a_map_that_changes_meanwhile_is_installed_and_it_goes_on() -> None:
    world = world_of(three())
    throttle(world, REGION_BYTES)
    verify = begin(world)
    for _ in range(3):
        world.wait(1.1)
        world.apply(after(world.owner.desk.newest))
    world.wait(10)
    assert world.owner.desk.map.epoch == 8
    assert verify.tally.clean


def test_the_next_owner_goes_on_where_this_one_ended() -> None:
    world = world_of(two())
    spoil(world, B, 10)
    spoil(world, B, 7 * REGION_BYTES)
    throttle(world, REGION_BYTES)
    verify = begin(world)
    world.wait(3.5)
    world.apply(after(two(), owner="rome"))
    assert verify.phase == "moved"
    known = verify.tally
    assert (known.done, known.differing) == (4, 1)
    other = world_of(two())
    spoil(other, B, 7 * REGION_BYTES)
    next_one = begin(other, tally=known)
    other.wait(5)
    assert min(one.first for one in other.stores[ROME].seen) == 4 * REGION_BYTES
    assert (next_one.tally.done, next_one.tally.compared, next_one.tally.differing) == (REGIONS, REGIONS, 2)
    assert next_one.tally.copies == {A: REGIONS, B: REGIONS}


def test_it_stops_on_demand_and_what_it_knows_stays() -> None:
    world = world_of(two())
    throttle(world, REGION_BYTES)
    verify = begin(world)
    world.wait(2.5)
    world.run(verify.stop(world.now))
    assert verify.phase == "stopped"
    assert verify.tally.done == verify.tally.compared == 3


def test_it_is_slower_while_clients_wait() -> None:
    world = world_of(two())
    throttle(world, REGION_BYTES, REGION_BYTES // 10)
    world.stores[PARIS].how = lambda request: "silent" if request.kind == "read" else "done"
    world.stores[ROME].how = world.stores[PARIS].how
    world.read()
    verify = begin(world)
    world.wait(5)
    assert verify.tally.done == 1


def test_with_one_copy_left_it_waits_and_then_says_what_it_has_not_compared() -> None:
    world = world_of(two())
    throttle(world, REGION_BYTES)
    verify = begin(world)
    world.wait(1.5)
    world.apply(after(two(), B="stale"))
    world.wait(ALONE_NS / S + 2)
    assert verify.phase == "over"
    assert (verify.tally.compared, verify.tally.skipped) == (2, REGIONS - 2)
    assert not verify.tally.clean


def test_a_copy_that_cannot_be_mended_is_told_and_may_be_mended_later() -> None:
    world = world_of(three())
    spoil(world, C, 10)
    world.stores[OSLO].how = lambda request: "failed" if request.kind == "mend" else "done"
    tally = verified(world, Mending())
    assert (tally.differing, tally.repaired) == (1, 0)
    assert "copy C could not be written" in tally.why
    assert world.proposed == []
    world.stores[OSLO].how = lambda request: "done"
    assert verified(world, Mending()).clean


def test_what_may_have_been_written_late_is_fenced() -> None:
    world = world_of(two())
    spoil(world, B, 10)
    world.stores[ROME].how = lambda request: "silent" if request.kind == "mend" else "done"
    verify = begin(world, Mending(A))
    before = world.stores[ROME].seen[-1].session
    world.wait(10.1)
    world.stores[ROME].how = lambda request: "done"
    assert world.how(world.write(9)) == "done"
    assert world.stores[ROME].seen[-1].session > before
    world.wait(5)
    assert verify.phase == "over"
    assert verify.tally.repaired == 1, "it was tried again"


def test_copies_that_are_not_in_sync_get_what_was_mended() -> None:
    away = copy(C, OSLO, state="stale", record="r1")
    world = world_of(VolumeMap(VOLUME, 10, 5, PARIS, SIZE, (copy(A, PARIS), copy(B, ROME), away)))
    world.owner.desk.record = "r1"
    spoil(world, B, 2 * REGION_BYTES)
    assert verified(world, Mending(A)).repaired == 1
    for store in (PARIS, ROME):
        noted = [one for one in world.stores[store].seen if one.kind == "hand_over"]
        assert [(one.record, one.regions) for one in noted] == [("r1", (2,))]
    world.apply(after(world.owner.desk.newest, C="syncing"))
    spoil(world, B, 5 * REGION_BYTES)
    assert verified(world, Mending(A)).repaired == 1
    assert set(world.owner.desk.missing[C]) == {5}


def test_clients_may_write_what_is_being_mended() -> None:
    world = world_of(two())
    spoil(world, B, 10)
    world.stores[ROME].how = lambda request: "silent" if request.kind == "mend" else "done"
    verify = begin(world, Mending(A))
    write = world.write(9, 0)
    assert world.how(write) is None
    world.stores[ROME].how = lambda request: "done"
    world.run(world.owner.store_lost(ROME, world.now))
    world.wait(5)
    assert world.how(write) == "done"
    assert verify.tally.repaired == 1
    assert equal(world, A, B)
    assert world.bytes_at(ROME, B) == 9


def test_only_so_many_differences_are_told_one_by_one() -> None:
    tally = Tally(
        differences=tuple(Difference(2 * n, 2 * n + 1, ((A,), (B,))) for n in range(MAX_DIFFERENCES))
    )
    world = world_of(two())
    spoil(world, B, 3 * REGION_BYTES)
    verify = begin(world, tally=replace(tally, differing=500))
    world.wait(5)
    assert len(verify.tally.differences) == MAX_DIFFERENCES
    assert verify.tally.differing == 501
