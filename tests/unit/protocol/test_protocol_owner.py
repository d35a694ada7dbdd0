"""The owner: who gets a write before it is acknowledged, and what happens when somebody does not."""

from typing import Any

import pytest

from tests.unit.protocol.owner_world import LEASE_NS, OSLO, PARIS, ROME, A, B, S, World, after, copy, two
from vimraft.core.commands import Retire
from vimraft.protocol.asks import Answer
from vimraft.protocol.maps import REGION_BYTES, VolumeMap
from vimraft.protocol.owner_effects import Installed, Invalidate
from vimraft.protocol.rules import Rules


def failing(kind: str):
    return lambda request: "failed" if request.kind == kind else "done"


def silent(kind: str):
    return lambda request: "silent" if request.kind == kind else "done"


def test_a_write_is_acknowledged_when_all_in_sync_copies_have_it() -> None:
    world = World(two())
    assert world.how(world.write(7)) == "done"
    assert world.bytes_at(PARIS, A) == world.bytes_at(ROME, B) == 7
    assert world.byte(world.read()) == 7


def test_a_write_waits_for_the_slowest_copy() -> None:
    world = World(two())
    world.stores[ROME].how = silent("write")
    write = world.write(7)
    assert world.how(write) is None
    assert world.proposed == []


def test_a_copy_that_spans_stores_is_written_piece_by_piece() -> None:
    spanning = VolumeMap(two().volume, 10, 5, PARIS, two().size_bytes, (copy(A, PARIS), copy(B, ROME, OSLO)))
    world = World(spanning)
    middle = 4 * REGION_BYTES
    world.write(9, middle - 4096, 8192)
    assert world.bytes_at(ROME, B, middle - 1) == world.bytes_at(OSLO, B, middle) == 9
    world.stores[PARIS].how = failing("read")
    read = world.read(middle - 512, 1024)
    assert world.replies[read].data == bytes([9]) * 1024


def test_a_copy_counts_only_when_all_its_stores_have_the_write() -> None:
    spanning = VolumeMap(two().volume, 10, 5, PARIS, two().size_bytes, (copy(A, PARIS), copy(B, ROME, OSLO)))
    world = World(spanning)
    world.stores[OSLO].how = failing("write")
    write = world.write(9, 4 * REGION_BYTES - 4096, 8192)
    assert world.how(write) is None
    assert isinstance(world.proposed[0].command, Retire)
    assert world.proposed[0].command.replicas == (B,)


def test_who_missed_a_write_is_retired_before_it_is_acknowledged() -> None:
    world = World(two())
    world.stores[ROME].how = failing("write")
    write = world.write(7)
    command = world.proposed[0].command
    assert isinstance(command, Retire)
    assert (command.epoch, command.owner, command.replicas) == (5, PARIS, (B,))
    world.decide()
    assert world.how(write) is None, "applied elsewhere is not applied here"
    retired = after(two(), B="stale")
    world.apply(retired)
    assert world.how(write) is None, "the retired side may still serve reads"
    world.installed(ROME, retired.index - 1)
    assert world.how(write) is None
    world.installed(ROME, retired.index)
    assert world.how(write) == "done"
    assert world.stores[PARIS].seen[-1].epoch == 6, "the region carries the new epoch"


def test_the_lease_of_the_retired_side_may_run_out_instead() -> None:
    world = World(two())
    world.stores[ROME].how = failing("write")
    write = world.write(7)
    world.apply(after(two(), B="stale"))
    world.wait(1.25 * LEASE_NS / S - 0.1)
    assert world.how(write) is None
    world.wait(0.2)
    assert world.how(write) == "done"


def test_without_waiting_for_the_retired_side_the_acknowledgement_comes_at_once() -> None:
    world = World(two(), rules=Rules(wait_for_retired_side=False))
    world.stores[ROME].how = failing("write")
    write = world.write(7)
    world.apply(after(two(), B="stale"))
    assert world.how(write) == "done"


def test_without_retiring_first_a_write_is_acknowledged_that_a_copy_missed() -> None:
    world = World(two(), rules=Rules(retire_before_ack=False))
    world.stores[ROME].how = failing("write")
    assert world.how(world.write(7)) == "done"
    assert world.proposed == []


def test_nobody_is_retired_when_no_complete_copy_has_the_write() -> None:
    world = World(two())
    for store in (PARIS, ROME):
        world.stores[store].how = failing("write")
    assert world.how(world.write(7)) == "failed"
    assert world.proposed == []


@pytest.mark.parametrize("how", ["lost", "away"])
@pytest.mark.parametrize("kind", ["write", "read", "flush"])
@pytest.mark.parametrize("first", [two(), after(two(), B="stale")], ids=["two", "one"])
def test_stores_that_cannot_be_reached_are_waited_for(first: VolumeMap, kind: str, how: str) -> None:
    world = World(first)
    for store in (PARIS, ROME):
        world.stores[store].how = lambda request: how if request.kind == kind else "done"
    request = world.ask(kind, 0, 4096, data=b"7" * 4096 if kind == "write" else b"")
    world.wait(20)
    assert world.how(request) is None
    assert world.proposed == []
    for store in (PARIS, ROME):
        world.stores[store].how = lambda _request: "done"
    world.renew()
    world.installed(ROME, 0)
    world.wait(1)
    assert world.how(request) == "done"


@pytest.mark.parametrize("kind", ["write", "read", "flush"])
def test_an_error_comes_when_the_time_for_it_is_over(kind: str) -> None:
    world = World(two())
    for store in (PARIS, ROME):
        world.stores[store].how = lambda request: "lost" if request.kind == kind else "done"
    request = world.ask(kind, 0, 4096, data=b"7" * 4096 if kind == "write" else b"")
    world.wait(29.9)
    assert world.how(request) is None
    world.wait(0.2)
    assert world.how(request) == "failed"


def test_a_disk_that_fails_beside_a_store_that_cannot_be_reached_is_no_error_yet() -> None:
    world = World(two())
    world.stores[PARIS].how = failing("write")
    world.stores[ROME].how = lambda request: "lost" if request.kind == "write" else "done"
    write = world.write(7)
    world.wait(20)
    assert world.how(write) is None
    world.stores[ROME].how = lambda _request: "done"
    world.wait(1)
    assert [command.command.replicas for command in world.proposed] == [(A,)]  # type: ignore[union-attr]


def test_an_owner_that_stood_still_takes_nothing_for_failed() -> None:
    """Both stores have answered meanwhile, and it looks at the time first."""
    world = World(two())
    for store in (PARIS, ROME):
        world.stores[store].how = lambda _request: "silent"
    writes = [world.write(7, first=at * 4096) for at in range(4)]
    for store in (PARIS, ROME):
        world.stores[store].how = lambda _request: "done"
    world.now += 15 * S
    world.run(world.owner.timer(world.now))
    world.wait(1)
    assert [world.how(write) for write in writes] == ["done"] * 4


def test_the_error_of_the_last_in_sync_copy_goes_to_the_client() -> None:
    world = World(after(two(), B="stale"))
    world.stores[PARIS].how = failing("write")
    assert world.how(world.write(7)) == "failed"
    assert world.proposed == []


def test_without_a_quorum_a_write_ends_with_an_error_and_never_with_success() -> None:
    world = World(two())
    world.stores[ROME].how = failing("write")
    write = world.write(7)
    world.wait(29.9)
    assert world.how(write) is None
    world.wait(0.2)
    assert world.how(write) == "failed"
    assert any(isinstance(effect, Invalidate) for effect in world.other)


def test_after_an_error_nobody_reads_there_until_all_copies_are_equal() -> None:
    world = World(two())
    world.stores[ROME].how = failing("write")
    world.write(7)
    world.wait(30.1)
    world.renew()
    read = world.read()
    elsewhere = world.read(REGION_BYTES)
    assert world.how(read) is None
    assert world.how(elsewhere) == "done"
    world.stores[ROME].how = lambda request: "done"
    world.wait(1)
    assert world.how(read) == "done"
    assert world.bytes_at(PARIS, A) == world.bytes_at(ROME, B) == world.byte(read)
    assert world.stores[ROME].seen[-1].session > 1, "a late copy of the write belongs to an older session"


def test_without_equalising_after_an_error_the_copies_differ() -> None:
    world = World(two(), rules=Rules(equalise_after_eio=False))
    world.stores[ROME].how = failing("write")
    world.write(7)
    world.wait(30.1)
    world.renew()
    assert world.how(world.read()) == "done"
    assert world.bytes_at(PARIS, A) == 7
    assert world.bytes_at(ROME, B) == 0


def test_a_lost_store_is_asked_again_in_a_newer_session_before_it_is_retired() -> None:
    world = World(two())
    world.stores[ROME].how = silent("write")
    write = world.write(7)
    world.run(world.owner.store_lost(ROME, world.now))
    world.stores[ROME].how = lambda request: "done"
    world.wait(1)
    assert world.how(write) == "done"
    assert world.stores[ROME].seen[-1].session > world.stores[ROME].seen[0].session
    assert world.proposed == []


def test_a_store_that_never_answers_is_retired() -> None:
    world = World(two())
    world.stores[ROME].how = lambda request: "silent"
    world.write(7)
    world.run(world.owner.store_lost(ROME, world.now))
    world.wait(1)
    world.run(world.owner.store_lost(ROME, world.now))
    world.wait(1)
    world.run(world.owner.store_lost(ROME, world.now))
    assert [propose.command for propose in world.proposed] == [Retire(two().volume, 5, PARIS, (B,), "")]


def test_a_parked_write_does_not_block_a_drain_and_a_running_one_does() -> None:
    world = World(two())
    world.stores[ROME].how = failing("write")
    world.write(7)
    world.run(world.owner.hold("move", world.now))
    assert world.owner.drained
    world = World(two())
    world.stores[ROME].how = silent("write")
    world.write(7)
    world.run(world.owner.hold("move", world.now))
    assert not world.owner.drained


def test_a_new_map_is_installed_when_what_runs_has_ended_and_the_hold_is_measured() -> None:
    world = World(two())
    world.stores[ROME].how = silent("write")
    first = world.write(7)
    world.apply(after(two()))
    second = world.write(8, REGION_BYTES)
    assert not any(isinstance(effect, Installed) for effect in world.other)
    assert all(request.epoch == 5 for request in world.stores[PARIS].seen)
    world.stores[ROME].how = lambda request: "done"
    world.now += S // 100
    number = world.stores[ROME].seen[0].number
    answer = world.stores[ROME].do(world.stores[ROME].seen[0])
    assert answer is not None
    assert answer.number == number
    world.run(world.owner.answer(ROME, answer, world.now))
    installed = [effect for effect in world.other if isinstance(effect, Installed)]
    assert [(one.epoch, one.hold_ns) for one in installed] == [(6, S // 100)]
    assert world.how(first) == world.how(second) == "done"
    assert world.stores[PARIS].seen[-1].epoch == 6


def test_who_is_no_longer_owner_acknowledges_nothing_and_reads_nothing() -> None:
    world = World(two())
    world.stores[ROME].how = silent("write")
    write = world.write(7)
    world.apply(after(two(), owner=ROME))
    assert world.how(write) == "moved"
    assert world.how(world.read()) == "moved"


def test_a_write_that_a_store_refuses_as_older_is_sent_again_with_the_next_map() -> None:
    world = World(two())
    world.stores[ROME].how = lambda request: "done" if request.epoch > 5 else "older"
    write = world.write(7)
    assert world.how(write) is None
    world.apply(after(two()))
    assert world.how(write) == "done"
    assert world.proposed == []


def test_a_syncing_copy_is_written_and_does_not_count() -> None:
    syncing = after(two(), B="syncing")
    world = World(syncing)
    assert world.how(world.write(7)) == "done"
    assert world.bytes_at(ROME, B) == 7
    world.stores[ROME].how = failing("write")
    assert world.how(world.write(8, 3 * REGION_BYTES)) == "done"
    assert set(world.owner.desk.missing[B]) == {3}, "it has to get that region again"


def test_writes_that_meet_go_one_after_the_other_and_a_read_never_sees_half() -> None:
    world = World(two())
    world.stores[ROME].how = silent("write")
    first, second, read = world.write(7), world.write(8, 2048), world.read()
    assert world.stores[PARIS].kinds() == ["write"]
    world.stores[ROME].how = lambda request: "done"
    answer = world.stores[ROME].do(world.stores[ROME].seen[0])
    assert answer is not None
    world.run(world.owner.answer(ROME, answer, world.now))
    assert [world.how(one) for one in (first, second, read)] == ["done"] * 3
    assert world.replies[read].data == bytes([7]) * 2048 + bytes([8]) * 2048


def test_reads_that_lock_nothing_overtake_a_write() -> None:
    world = World(two(), rules=Rules(shared_read_lock=False))
    world.stores[ROME].how = silent("write")
    world.write(7)
    assert world.how(world.read()) == "done"


def test_a_read_waits_for_the_lease() -> None:
    world = World(two(), lease=False)
    read = world.read()
    assert world.how(read) is None
    world.renew()
    world.run(world.owner.leases_changed({}, world.now))
    assert world.how(read) == "done"
    world.now += LEASE_NS
    late = world.read()
    assert world.how(late) is None
    world.wait(30.1)
    assert world.how(late) == "failed"


def test_a_read_whose_answer_comes_after_the_lease_is_not_given() -> None:
    """The store may have read long after it was asked, when another owner had acknowledged newer data."""
    world = World(two())
    world.write(1)
    for store in world.stores.values():
        store.how = lambda request: "silent"
    request = world.read()
    store, asked = next(
        (name, seen.seen[-1])
        for name, seen in world.stores.items()
        if seen.seen and seen.seen[-1].kind == "read"
    )
    world.now += LEASE_NS
    late = Answer(asked.number, "done", world.stores[store].boot, bytes([1]) * 4096)
    world.run(world.owner.answer(store, late, world.now))
    assert world.how(request) is None
    for fake in world.stores.values():
        fake.how = lambda request: "done"
    world.stores[store].data[asked.copy][0] = 2
    world.renew()
    world.run(world.owner.leases_changed({}, world.now))
    assert world.how(request) == "done"


def test_a_sole_holder_reads_without_a_lease() -> None:
    alone = VolumeMap(two().volume, 10, 5, PARIS, two().size_bytes, (copy(A, PARIS),))
    world = World(alone, lease=False)
    assert world.how(world.read()) == "done"
    world.right.give_up(5, 1)
    assert world.how(world.read()) is None


def test_without_the_check_a_read_is_served_after_the_lease() -> None:
    world = World(two(), lease=False, rules=Rules(check_lease=False))
    assert world.how(world.read()) == "done"


@pytest.mark.parametrize("how", ["failed", "busy", "lost"])
def test_a_read_goes_to_another_copy(how) -> None:
    world = World(two())
    world.write(7)
    world.stores[PARIS].how = lambda request: how if request.kind == "read" else "done"
    assert world.byte(world.read()) == 7
    counters = {one.copy: one for one in world.owner.balance.counters}
    assert (counters[A].busy if how == "busy" else counters[A].failed) == 1
    assert counters[B].reads == 1


def test_a_copy_that_said_busy_has_to_do_it_when_no_other_can() -> None:
    world = World(two())
    world.write(7)
    asked = []

    def busy(request: Any) -> str:
        asked.append(request.must)
        return "done" if request.must or request.kind != "read" else "busy"

    world.stores[PARIS].how = busy
    world.stores[ROME].how = failing("read")
    assert world.byte(world.read()) == 7, "at once, without a pause"
    assert asked[-2:] == [False, True]


def test_a_read_that_no_copy_can_serve_fails_in_the_end() -> None:
    world = World(two())
    for store in (PARIS, ROME):
        world.stores[store].how = failing("read")
    read = world.read()
    world.wait(2)
    assert world.how(read) == "failed"


def test_a_stale_copy_is_never_read() -> None:
    world = World(after(two(), A="stale"))
    world.stores[PARIS].how = lambda request: pytest.fail("it is stale")
    assert world.how(world.read()) == "done"


def test_nobody_waits_for_a_syncing_copy_but_the_next_write_there() -> None:
    world = World(after(two(), B="syncing"))
    world.stores[ROME].how = silent("write")
    first, second = world.write(7), world.write(8)
    assert world.how(first) == "done"
    assert world.how(second) is None, "they must reach it in the same order"
    assert world.how(world.ask("flush")) == "done"
    world.run(world.owner.store_lost(ROME, world.now))
    assert world.how(second) == "done"
    assert set(world.owner.desk.missing[B]) == {0}
