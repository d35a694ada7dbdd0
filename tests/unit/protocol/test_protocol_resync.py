"""Resync: what a copy gets that was away, and when it counts again."""

import resource
import time

import msgspec
import pytest

from tests.unit.protocol.owner_world import (
    OSLO,
    PARIS,
    ROME,
    SIZE,
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
from vimraft.core.commands import BeginResync, MoveSegments, Promote, Retire
from vimraft.protocol.maps import REGION_BYTES, Copy, Part, VolumeMap
from vimraft.protocol.owner_effects import StoreRequest
from vimraft.protocol.resync import Resync
from vimraft.protocol.rules import Rules

ALL = Rules()


def away(record: str = "r1", **more) -> VolumeMap:
    back = copy(B, ROME, state="stale", left_epoch=4, record=record, **more)
    return VolumeMap(two().volume, 10, 5, PARIS, SIZE, (copy(A, PARIS), back))


def begin(first: VolumeMap, rules: Rules = ALL) -> tuple[World, Resync]:
    world = World(first, rules=rules)
    world.owner.desk.record = "r1"
    world.stores[PARIS].data[A] = bytearray(b"a" * SIZE)
    world.stores[ROME].data[B] = bytearray(b"b" * SIZE)
    world.stores[PARIS].missed = (1,)
    world.stores[ROME].active = (3,)
    return world, Resync(world.owner, B)


def go(world: World, resync: Resync) -> VolumeMap:
    """As far as the copy is syncing."""
    world.run(resync.start(world.now))
    syncing = after(world.owner.desk.newest, B="syncing")
    world.decide()
    world.apply(syncing)
    return syncing


def copied(world: World) -> list[int]:
    return [one.first // REGION_BYTES for one in world.stores[ROME].seen if one.kind == "write"]


def test_it_gets_what_was_written_since_it_left_and_what_was_active_at_its_own_stores() -> None:
    world, resync = begin(away())
    world.run(resync.start(world.now))
    assert world.stores[ROME].kinds() == ["seal"]
    assert world.proposed[0].command == BeginResync(two().volume, 5, PARIS, B, "r1")
    world.apply(after(away(), B="syncing"))
    asked = [one for one in world.stores[PARIS].seen if one.kind == "missed"]
    assert [one.since for one in asked] == [5]
    world.wait(1)
    assert copied(world) == [3, 1], "what is active there first: it needs no room"
    assert world.bytes_at(ROME, B, REGION_BYTES) == ord("a")
    assert world.bytes_at(ROME, B, 2 * REGION_BYTES) == ord("b"), "nothing more"
    assert world.stores[ROME].kinds()[-2:] == ["flush", "hand_over"]
    assert world.proposed[-1].command == Promote(two().volume, 6, PARIS, B, ((ROME, "b1"),))


def test_without_its_own_regions_it_keeps_what_nobody_else_has() -> None:
    world, resync = begin(away(), Rules(returning_own_regions=False))
    go(world, resync)
    world.wait(1)
    assert copied(world) == [1]


@pytest.mark.parametrize("record", ["", "other"])
def test_without_the_record_that_the_tables_name_it_gets_everything(record) -> None:
    world, resync = begin(away(record))
    go(world, resync)
    world.wait(1)
    assert sorted(copied(world)) == list(range(8))
    assert resync.progress.full
    assert world.stores[ROME].data[B] == world.stores[PARIS].data[A]


def test_a_source_that_began_another_record_gives_everything() -> None:
    world, resync = begin(away())
    world.stores[PARIS].record = "begun anew"
    go(world, resync)
    world.wait(1)
    assert sorted(copied(world)) == list(range(8))


def test_nothing_is_acknowledged_from_before_the_promotion_until_it_is_decided_and_applied_here() -> None:
    world, resync = begin(away())
    syncing = go(world, resync)
    world.wait(1)
    assert resync.phase == "promoting"
    write, flush = world.write(7), world.ask("flush")
    assert world.bytes_at(ROME, B) == 7
    world.decide()
    assert world.how(write) is None, "applied elsewhere is not applied here"
    world.apply(after(syncing, B="in_sync"))
    assert resync.phase == "over"
    assert world.how(write) == world.how(flush) == "done"


def test_a_copy_that_missed_a_write_while_its_promotion_was_undecided_is_retired_again() -> None:
    world, resync = begin(away())
    syncing = go(world, resync)
    world.wait(1)
    world.stores[ROME].how = lambda request: "failed"
    write = world.write(7)
    world.apply(after(syncing, B="in_sync"))
    assert world.how(write) is None
    assert isinstance(world.proposed[-1].command, Retire)


def test_without_the_hold_it_would_have_been_acknowledged() -> None:
    world, resync = begin(away(), Rules(hold_before_own_promotion=False))
    go(world, resync)
    world.wait(1)
    world.stores[ROME].how = lambda request: "failed"
    assert world.how(world.write(7)) == "done"


def test_a_refused_promotion_lets_acknowledgements_go_on() -> None:
    world, resync = begin(away())
    go(world, resync)
    world.wait(1)
    write = world.write(7)
    world.decide("unknown")
    assert world.how(write) is None
    world.decide("rejected")
    assert world.how(write) == "done"
    assert resync.phase == "failed"


def test_a_write_that_it_misses_meanwhile_puts_its_region_back() -> None:
    world, resync = begin(away())
    fail = True
    world.stores[ROME].how = lambda request: (
        "failed" if fail and request.kind == "write" and request.first == 6 * REGION_BYTES else "done"
    )
    throttle(world, REGION_BYTES)
    go(world, resync)
    assert world.how(world.write(7, 6 * REGION_BYTES)) == "done"
    fail = False
    world.wait(10)
    assert 6 in copied(world)
    assert resync.phase == "promoting"
    assert world.bytes_at(ROME, B, 6 * REGION_BYTES) == 7


def test_what_it_gets_later_is_not_written_to_it_before() -> None:
    world, resync = begin(away())
    throttle(world, REGION_BYTES)
    world.stores[PARIS].missed = (1, 2)
    world.stores[ROME].active = ()
    go(world, resync)
    assert copied(world) == [1]
    for region in (1, 2):
        assert world.how(world.write(7, region * REGION_BYTES)) == "done"
    assert copied(world) == [1, 1], "region 2 is still to come, whole"
    world.write(8, 2 * REGION_BYTES - 4096, 8192)
    assert copied(world) == [1, 1, 1], "a part of this one is not to come"
    world.wait(3)
    assert resync.phase == "promoting"
    for at, byte in ((REGION_BYTES, 7), (2 * REGION_BYTES - 4096, 8), (2 * REGION_BYTES, 8)):
        assert world.bytes_at(ROME, B, at) == byte
    assert (
        world.stores[ROME].data[B][REGION_BYTES : 3 * REGION_BYTES]
        == (world.stores[PARIS].data[A][REGION_BYTES : 3 * REGION_BYTES])
    )


def test_it_is_throttled_and_slower_while_clients_wait() -> None:
    world, resync = begin(away(""))
    throttle(world, REGION_BYTES, REGION_BYTES // 10)
    go(world, resync)
    assert len(copied(world)) == 1
    world.wait(3.01)
    assert len(copied(world)) == 4
    assert resync.progress.left == 4
    world.stores[PARIS].how = lambda request: "silent" if request.end == 512 else "done"
    world.ask("read", 0, 512)
    world.wait(2)
    assert len(copied(world)) == 5


def test_it_fails_when_the_copy_was_retired_before_its_beginning_was_installed_here() -> None:
    world, resync = begin(away())
    world.run(resync.start(world.now))
    world.stores[PARIS].how = lambda request: "silent"
    world.write(7)
    syncing = after(world.owner.desk.newest, B="syncing")
    world.decide()
    world.apply(syncing)
    assert world.owner.desk.map is not world.owner.desk.newest, "the write holds it up"
    world.apply(after(syncing, B="stale"))
    assert resync.phase == "failed", "nothing would ever begin anew"


def test_reads_go_on_in_a_region_that_is_copied_and_writes_wait() -> None:
    world, resync = begin(away())
    world.stores[ROME].how = lambda request: "silent" if request.kind == "write" else "done"
    go(world, resync)
    assert world.how(world.read(3 * REGION_BYTES)) == "done"
    write = world.write(7, 3 * REGION_BYTES)
    assert world.how(write) is None
    assert world.how(world.write(7, 2 * REGION_BYTES)) == "done"


def test_a_paused_copy_rests() -> None:
    world, resync = begin(away(paused=True))
    go(world, resync)
    world.wait(5)
    assert copied(world) == []


def test_it_goes_on_when_the_tables_say_so() -> None:
    world, resync = begin(away(paused=True))
    go(world, resync)
    world.wait(5)
    paused = world.owner.desk.newest
    resumed = tuple(msgspec.structs.replace(one, paused=False) for one in paused.copies)
    world.apply(msgspec.structs.replace(paused, index=paused.index + 1, copies=resumed))
    world.wait(1)
    assert copied(world) == [3, 1]


def test_a_copy_whose_store_does_not_seal_is_left_alone() -> None:
    world, resync = begin(away())
    world.stores[ROME].how = lambda request: "failed"
    world.run(resync.start(world.now))
    assert resync.phase == "failed"
    assert world.proposed == []


def test_a_copy_that_keeps_failing_is_taken_out_of_the_resync() -> None:
    world, resync = begin(away(""))
    world.stores[ROME].how = lambda request: "failed" if request.kind == "write" else "done"
    go(world, resync)
    world.wait(5)
    assert resync.phase == "failed"
    assert world.proposed[-1].command == Retire(two().volume, 6, PARIS, (B,), "r1")


def test_a_sole_holder_gives_his_right_up_durably_before_he_promotes_elsewhere() -> None:
    world, resync = begin(away())
    world.disk = False
    go(world, resync)
    world.wait(1)
    assert isinstance(world.proposed[-1].command, BeginResync), "not before the mark is kept"
    mark = world.persisted[0]
    assert not world.right.serves(True, 6)
    world.run(world.owner.persisted(mark.token, world.now))
    assert isinstance(world.proposed[-1].command, Promote)


def test_segments_that_move_are_copied_whole_and_switched() -> None:
    moving = Copy(C, "syncing", (copy(A, OSLO).parts[0],), moves=A)
    part = msgspec.structs.replace(moving.parts[0], first=2 * REGION_BYTES, end=4 * REGION_BYTES)
    first = VolumeMap(
        two().volume, 10, 5, PARIS, SIZE, (copy(A, PARIS), msgspec.structs.replace(moving, parts=(part,)))
    )
    world = World(first)
    world.stores[PARIS].data[A] = bytearray(b"a" * SIZE)
    resync = Resync(world.owner, C)
    world.run(resync.start(world.now))
    world.wait(1)
    assert world.stores[OSLO].data[C][2 * REGION_BYTES : 4 * REGION_BYTES] == b"a" * 2 * REGION_BYTES
    assert world.proposed[-1].command == MoveSegments(two().volume, 5, PARIS, A, ((OSLO, "b1"),))
    assert world.now >= S


def test_clearing_a_region_that_a_resync_waits_for_is_no_harm() -> None:
    world, resync = begin(away(""))
    go(world, resync)
    world.wait(1)
    assert resync.phase == "promoting"
    world.ask("flush")
    world.now += 60 * S
    world.renew()
    world.read()
    assert all(region.in_flight == 0 for region in world.owner.desk.tracker._regions.values())


def test_a_store_without_room_gets_first_what_is_active_there_by_now() -> None:
    """That may be something else than at the beginning: clients have written meanwhile."""
    world, resync = begin(away())
    world.stores[PARIS].missed = tuple(range(8))
    world.run(resync.start(world.now))
    syncing = after(world.owner.desk.newest, B="syncing")
    rome = world.stores[ROME]
    rome.active = (6, 7)

    def how(request: StoreRequest) -> str:
        region = request.first // REGION_BYTES
        if request.kind == "clear":
            rome.active = tuple(one for one in rome.active if one not in request.regions)
        if request.kind != "write" or region in rome.active:
            return "done"
        if len(rome.active) >= 2:
            return "full"
        rome.active += (region,)
        return "done"

    rome.how = how
    world.apply(syncing)
    world.wait(20)
    assert resync.phase == "promoting"
    asked = [one.first // REGION_BYTES for one in rome.seen if one.kind == "write"]
    assert len(asked) < 50, "it is not tried again and again"


def resumed(world: World, first: VolumeMap) -> list[int]:
    """Another owner brings it back; what is copied."""
    again = World(first)
    again.owner.desk.record = "r1"
    again.stores = world.stores
    for store in again.stores.values():
        store.seen.clear()
        store.how = lambda request: "done"
    resync = Resync(again.owner, B)
    again.run(resync.start(again.now))
    again.apply(after(first, B="syncing"))
    again.wait(1)
    assert resync.phase == "promoting"
    return copied(again)


def interrupted(world: World, resync: Resync) -> VolumeMap:
    """Two of six regions are in step for good when the copy is gone again."""
    world.owner.desk.limits = msgspec.structs.replace(world.owner.desk.limits, in_step_regions=2)
    world.stores[PARIS].missed = (0, 1, 2, 3, 4, 5)
    world.stores[ROME].active = ()
    writes = 0

    def how(request: StoreRequest) -> str:
        nonlocal writes
        writes += request.kind == "write"
        return "silent" if request.kind == "write" and writes > 2 else "done"

    world.stores[ROME].how = how
    go(world, resync)
    world.wait(1)
    assert [one.regions for one in world.stores[ROME].seen if one.kind == "in_step"] == [(0, 1)]
    stale = after(world.owner.desk.newest, B="stale")
    return msgspec.structs.replace(stale, epoch=stale.epoch + 1)


def test_the_next_attempt_goes_on_where_this_one_ended() -> None:
    world, resync = begin(away())
    first = interrupted(world, resync)
    world.stores[PARIS].missed_since = lambda since: (0, 1, 2, 3, 4, 5) if since == 5 else ()
    assert resumed(world, first) == [2, 3, 4, 5]


def test_what_was_written_since_it_was_in_step_is_copied_again() -> None:
    world, resync = begin(away())
    first = interrupted(world, resync)
    world.stores[PARIS].missed_since = lambda since: (0, 1, 2, 3, 4, 5) if since == 5 else (1,)
    assert resumed(world, first) == [1, 2, 3, 4, 5]


def test_what_is_active_at_its_own_stores_is_copied_again_though_it_was_in_step() -> None:
    world, resync = begin(away())
    first = interrupted(world, resync)
    world.stores[PARIS].missed_since = lambda since: (0, 1, 2, 3, 4, 5) if since == 5 else ()
    world.stores[ROME].active = (0,)
    assert resumed(world, first) == [0, 2, 3, 4, 5]


def test_what_is_in_step_by_another_record_is_copied_again() -> None:
    world, resync = begin(away())
    first = interrupted(world, resync)
    world.stores[PARIS].missed_since = lambda since: (0, 1, 2, 3, 4, 5) if since == 5 else ()
    since, regions, _ = world.stores[ROME].in_step
    world.stores[ROME].in_step = (since, regions, "r0")
    assert resumed(world, first) == [0, 1, 2, 3, 4, 5]


def test_what_the_copy_could_not_flush_is_not_in_step() -> None:
    world, resync = begin(away())
    world.owner.desk.limits = msgspec.structs.replace(world.owner.desk.limits, in_step_regions=1)
    world.stores[PARIS].missed = (0, 1)
    world.stores[ROME].active = ()
    world.stores[ROME].how = lambda request: "failed" if request.kind == "flush" else "done"
    go(world, resync)
    world.wait(1)
    assert "in_step" not in world.stores[ROME].kinds()
    assert resync.phase == "failed"


@pytest.mark.parametrize("why", ["its manager is gone", "the lease was renewed long ago"])
def test_it_does_not_ask_for_the_promotion_while_nobody_would_decide(why: str) -> None:
    """I/O would be held for as long: the right to serve without a lease is given up before it is asked."""
    world, resync = begin(away())
    if "gone" in why:
        world.own.alone = True
    else:
        world.now += 3 * S
    go(world, resync)
    world.wait(1)
    assert (resync.phase, len(world.proposed)) == ("copying", 1)
    assert world.how(world.write(7)) == "done", "the owner has the only copy in step: it serves"
    world.renew()
    world.installed(ROME, 0)
    world.wait(0.5)
    assert isinstance(world.proposed[-1].command, Promote)


def test_it_begins_anew_when_the_last_copy_lost_what_was_not_flushed() -> None:
    """The copy has what was written to both; the other one has it no more."""
    world, resync = begin(away())
    world.stores[PARIS].missed = (1, 2)
    throttle(world, REGION_BYTES)
    syncing = go(world, resync)
    while not copied(world):
        world.wait(0.1)
    assert resync.phase == "copying"
    world.write(7, first=copied(world)[0] * REGION_BYTES)
    lossy = after(syncing, lossy="yes")
    world.apply(lossy)
    world.wait(3)
    assert resync.phase == "failed"
    assert world.owner.desk.newest.copy(B).state == "syncing", "what it has need not be copied again"
    asked = len(world.stores[PARIS].seen)
    throttle(world, 64 * REGION_BYTES)
    anew = Resync(world.owner, B)
    world.run(anew.start(world.now))
    assert "missed" in [one.kind for one in world.stores[PARIS].seen[asked:]]
    world.renew()
    world.wait(1)
    assert anew.phase == "promoting"


@pytest.mark.parametrize("kind", ["missed", "what_is_in_step"])
def test_what_it_asked_before_the_loss_does_not_count_either(kind: str) -> None:
    world, resync = begin(away())
    store = world.stores[PARIS if kind == "missed" else ROME]
    kept: list[StoreRequest] = []
    store.how = lambda request: "silent" if request.kind == kind and not kept.append(request) else "done"
    syncing = go(world, resync)
    world.apply(after(syncing, lossy="yes"))
    assert kept
    assert resync.phase == "failed"
    assert not [one for one in world.proposed if isinstance(one.command, Promote)]


def test_a_full_copy_of_a_very_large_volume_holds_nothing_up() -> None:
    """No event may take long, since I/O waits meanwhile."""
    size = 10 << 40
    parts = (Copy(A, "in_sync", (Part(0, size, PARIS),)), Copy(B, "stale", (Part(0, size, ROME),)))
    world = World(VolumeMap(two().volume, 10, 5, PARIS, size, parts))
    world.stores[PARIS].how = lambda request: "silent" if request.kind == "read" else "done"
    resync = Resync(world.owner, B)
    began, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    go(world, resync)
    assert resync.progress.left == size // REGION_BYTES
    assert [one.kind for one in world.stores[PARIS].seen].count("read") == 4
    assert time.process_time() - began < 1, "20 s with a Python object for each region"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 100 << 10, "KiB"
