"""The store side of a volume: what it refuses, what waits, what is durable before what."""

import pytest

from tests.unit.protocol.store_world import BERN, BLOCK, ROME, SIZE, A, B, StoreWorld, copy, table
from vimraft.core.ids import LocalName, ManagerName
from vimraft.protocol import messages as m
from vimraft.protocol.effects import BackendFlush, BackendIo, Drained
from vimraft.protocol.maps import REGION_BYTES, moving_name
from vimraft.protocol.regions import Change, Doubted, FloorRaised, Marked
from vimraft.protocol.rules import without
from vimraft.protocol.store_requests import StoreLimits

DONE = m.Done()


def test_a_region_is_marked_durably_before_its_data() -> None:
    world = StoreWorld(auto=False)
    world.ask("write")
    assert not world.io
    assert world.keeps[0].changes == (Marked(A, (0,), 5),)
    world.keep()
    assert len(world.io) == 1
    world.done()
    world.ask("write", 8192)
    assert not world.keeps, "the region is marked already"
    assert len(world.io) == 1


def test_without_the_rule_data_do_not_wait_for_the_mark() -> None:
    world = StoreWorld(auto=False, rules=without("intent_before_data"))
    world.ask("write")
    assert len(world.io) == 1


def test_marks_that_come_meanwhile_share_one_batch() -> None:
    world = StoreWorld(auto=False)
    for region in range(3):
        world.ask("write", region * REGION_BYTES)
    world.ask("write", 4096)
    assert len(world.keeps) == 1
    world.keep()
    assert len(world.io) == 2
    assert world.keeps[0].changes == (Marked(A, (1,), 5), Marked(A, (2,), 5))
    world.keep()
    assert len(world.io) == 4


def test_a_region_that_is_active_is_not_marked_again() -> None:
    world = StoreWorld()
    world.written()
    world.apply(table(6))
    world.written(epoch=6)
    assert sum(isinstance(change, Marked) for change in world.disk) == 1


def cleared(world: StoreWorld, epoch: int) -> None:
    world.ask("flush", epoch=epoch)
    world.done()
    assert world.answers[world.ask("clear", epoch=epoch, regions=(0,))] == DONE


@pytest.mark.parametrize(("rule", "missed"), [(None, (0,)), ("tag_when_cleared", ())])
def test_who_left_since_a_write_may_lack_it_when_it_was_cleared_after_that(
    rule: str | None, missed: tuple[int, ...]
) -> None:
    world = StoreWorld(rules=without(rule)) if rule else StoreWorld()
    world.written()
    world.apply(table(6))
    assert world.answers[world.ask("missed", epoch=6, since=6)] == m.Done(regions=(0,)), "it is active"
    cleared(world, 6)
    assert world.answers[world.ask("missed", epoch=6, since=6)] == m.Done(regions=missed)


def test_who_left_after_a_region_was_cleared_has_it() -> None:
    world = StoreWorld()
    world.written()
    cleared(world, 5)
    world.apply(table(6))
    assert world.answers[world.ask("missed", epoch=6, since=6)] == m.Done()


def test_other_epochs_are_refused_or_wait_for_the_tables() -> None:
    world = StoreWorld()
    assert world.answers[world.ask("read", epoch=4)] == m.OldEpoch(5)
    early = world.ask("read", epoch=6)
    assert early not in world.answers
    world.apply(table(6))
    assert [effect.kind for effect in world.io] == ["read"]  # type: ignore[union-attr]
    late = world.ask("read", epoch=7)
    world.later()
    assert world.answers[late] == m.NewerEpoch(6)


def test_without_the_rule_any_epoch_and_anybody_will_do() -> None:
    world = StoreWorld(rules=without("epoch_compare"))
    world.ask("read", epoch=4)
    world.ask("read", epoch=9, manager=ManagerName("oslo"), life="o", session=2)
    assert len(world.io) + world.store.waiting == 2
    world.done()
    assert len(world.io) == 1


def test_what_waits_is_bounded() -> None:
    world = StoreWorld(limits=StoreLimits(waiting=2))
    numbers = [world.ask("read", epoch=6) for _ in range(3)]
    assert world.answers == {numbers[2]: m.TooMany()}


@pytest.mark.parametrize("rule", [None, "boot_binding"])
def test_a_store_in_another_boot_refuses_everything_until_it_is_known(rule: str | None) -> None:
    world = StoreWorld(rules=without(rule), boot="b2") if rule else StoreWorld(boot="b2")
    numbers = [world.ask("seal"), world.ask("read", must=True)]
    refused = [world.answers.get(number) for number in numbers]
    if rule:
        assert refused == [DONE, None]
        return
    assert refused == [m.NeedsRejoin("b1")] * 2
    world.boots[ROME] = "b2"
    world.apply(table(6))
    assert world.answers[world.ask("seal", epoch=6)] == DONE


def test_only_the_owner_is_served() -> None:
    world = StoreWorld()
    assert world.answers[world.ask("read", manager=ManagerName("oslo"))] == m.NotTheOwner(BERN)


def test_a_newer_session_waits_until_the_older_one_has_ended() -> None:
    world = StoreWorld()
    first = world.ask("write")
    second = world.ask("write", session=2)
    third = world.ask("write", session=2)
    assert len(world.io) == 1
    assert isinstance(world.answers[world.ask("read", session=1)], m.OldSession)
    world.done()
    assert world.answers[first] == DONE
    assert len(world.io) == 2
    assert second not in world.answers
    assert third not in world.answers


def test_without_the_rule_sessions_are_all_one() -> None:
    world = StoreWorld(rules=without("session_compare"))
    for session in (1, 2, 1):
        world.ask("write", session=session)
    assert len(world.io) == 3


def test_a_second_life_in_one_epoch_is_refused_and_one_in_a_newer_epoch_is_newer() -> None:
    world = StoreWorld()
    world.written(session=7)
    assert isinstance(world.answers[world.ask("read", life="i2")], m.OldSession)
    world.apply(table(6))
    world.ask("read", life="i2", epoch=6)
    assert len(world.io) == 1
    assert isinstance(world.answers[world.ask("read", session=8, epoch=6)], m.OldSession)


def test_without_the_rule_a_second_life_is_let_in() -> None:
    world = StoreWorld(rules=without("reopen_on_restart"))
    world.written()
    world.ask("read", life="i2")
    assert len(world.io) == 1


def test_a_seal_waits_for_what_is_older_even_if_its_outcome_is_unknown() -> None:
    world = StoreWorld()
    write = world.ask("write")
    token = world.io[0].token
    world.done("unknown")
    assert world.answers[write] == m.Unknown()
    world.apply(table(6))
    seal = world.ask("seal", epoch=6, life="i2")
    assert not world.store.drained
    world.later()
    assert world.answers[seal] == m.NotDrained(1)
    again = world.ask("seal", epoch=6, life="i2", session=2)
    world.finish(token)
    assert world.answers[again] == m.Done(regions=(0,))
    assert world.store.drained
    assert Drained(6, 6) in world.others


def test_without_the_rule_a_seal_does_not_wait() -> None:
    world = StoreWorld(rules=without("drain_at_seal"))
    world.ask("write")
    world.apply(table(6))
    assert world.answers[world.ask("seal", epoch=6, life="i2")] == m.Done(regions=(0,))


def test_a_seal_is_durable_before_it_is_answered_and_can_be_repeated() -> None:
    world = StoreWorld(auto=False)
    seal = world.ask("seal")
    assert seal not in world.answers
    assert world.keeps[0].changes == (FloorRaised(5),)
    world.keep()
    assert world.answers[seal] == DONE
    assert world.answers[world.ask("seal")] == DONE
    assert not world.keeps


@pytest.mark.parametrize("rule", [None, "durable_seal_floor"])
def test_a_restart_remembers_a_seal_that_the_tables_do_not_have_yet(rule: str | None) -> None:
    rules = without(rule) if rule else without("shared_read_lock")
    world = StoreWorld(rules=rules)
    seal = world.ask("seal", epoch=6, life="i2")
    assert world.answers[world.ask("read")] == m.Sealed(6)
    restarted = StoreWorld(rules=rules, disk=world.disk)
    read = restarted.ask("read")
    assert restarted.answers.get(read) == (None if rule else m.Sealed(6))
    world.apply(table(6))
    assert world.answers[seal] == DONE


def test_a_write_that_waits_for_its_mark_does_not_outlive_its_epoch() -> None:
    world = StoreWorld(auto=False)
    write = world.ask("write")
    world.apply(table(6))
    world.keep()
    assert world.answers[write] == m.OldEpoch(6)
    assert not world.io


def test_a_full_list_of_active_regions_waits_for_flush_and_clear() -> None:
    world = StoreWorld(limits=StoreLimits(active_regions=1))
    world.written()
    assert world.answers[world.ask("write", REGION_BYTES)] == m.NoRoom(1)
    assert world.answers[world.ask("clear", regions=(0,))] == m.NotFlushed(0)
    flush = world.ask("flush")
    world.done()
    assert world.answers[flush] == DONE
    assert world.answers[world.ask("clear", regions=(0,))] == DONE
    world.written(REGION_BYTES)
    assert world.store.record.copy(A).tags.since(5) == (0, 1), "tags stay"


def test_a_flush_covers_only_writes_that_ended_before_it_began() -> None:
    world = StoreWorld()
    world.ask("write")
    world.ask("flush")
    world.done(which=1)
    assert world.answers[world.ask("clear", regions=(0,))] == m.NotFlushed(0)
    world.done()
    assert world.answers[world.ask("clear", regions=(0,))] == m.NotFlushed(0)


def test_only_the_owner_clears() -> None:
    for rules, left in ((without("check_lease"), {0}), (without("owner_only_clearing"), set())):
        world = StoreWorld(rules=rules)
        world.written()
        world.ask("flush")
        world.done()
        assert world.store.record.copy(A).active == left


def test_flushes_that_come_meanwhile_share_the_next_one() -> None:
    world = StoreWorld()
    numbers = [world.ask("flush") for _ in range(3)]
    assert len(world.io) == 1
    world.done()
    assert list(world.answers) == numbers[:1]
    assert len(world.io) == 1
    world.done()
    assert list(world.answers) == numbers


def test_a_failed_flush_stays_failed_for_the_boot_and_is_not_repeated() -> None:
    world = StoreWorld()
    first, second = world.ask("flush"), world.ask("flush")
    world.done("error")
    assert world.answers == {first: m.IoFailed(A), second: m.IoFailed(A)}
    assert not world.io
    assert Doubted(A, "b1") in world.disk
    again = StoreWorld(disk=world.disk)
    assert again.answers[again.ask("flush")] == m.IoFailed(A)
    assert again.answers[again.ask("read")] == m.IoFailed(A)
    again.apply(table(6, copy(A, ROME, "syncing"), copy(B, BERN)))
    again.ask("flush", epoch=6)
    assert isinstance(again.io[0], BackendFlush)


def test_the_only_copy_in_step_is_read_although_it_could_not_flush() -> None:
    world = StoreWorld(table(5, copy(A, ROME)))
    world.ask("flush")
    world.done("error")
    world.ask("read")
    assert len(world.io) == 1


def test_without_the_rule_a_failed_flush_is_forgotten() -> None:
    world = StoreWorld(rules=without("doubt_after_failed_flush"))
    world.ask("flush")
    world.done("error")
    world.ask("flush")
    world.ask("read")
    assert len(world.io) == 2


def test_copies_are_served_by_their_state_and_place() -> None:
    world = StoreWorld(table(5, copy(A, ROME, "syncing"), copy(B, BERN)))
    assert world.answers[world.ask("read")] == m.NotServed(A, "syncing")
    assert world.answers[world.ask("write", name=B)] == m.NotServed(B, "")
    assert world.answers[world.ask("write", SIZE)] == m.NotServed(A, "syncing")
    assert world.answers[world.ask("write", data=b"short")] == m.NotServed(A, "syncing")
    world.written()
    world.apply(table(6, copy(A, ROME, "stale"), copy(B, BERN)))
    assert world.answers[world.ask("write", epoch=6)] == m.NotServed(A, "stale")
    assert world.answers[world.ask("seal", epoch=6, name=A)] == m.Done(regions=(0,))


def test_busy_reads_are_sent_to_the_other_copy_where_there_is_one() -> None:
    world = StoreWorld(limits=StoreLimits(busy_reads=1))
    world.ask("read")
    assert world.answers[world.ask("read")] == m.Busy()
    world.ask("read", must=True)
    assert len(world.io) == 2


def test_backend_errors_are_told_and_reads_bring_data() -> None:
    world = StoreWorld()
    bad, good = world.ask("read"), world.ask("read")
    world.done("error")
    world.done(data=BLOCK)
    assert world.answers == {bad: m.IoFailed(A), good: m.Done(BLOCK)}


def test_a_record_that_cannot_be_kept_ends_everything() -> None:
    world = StoreWorld(auto=False)
    write, seal = world.ask("write"), world.ask("seal")
    world.keep(ok=False)
    assert world.answers == {write: m.RecordFailed(), seal: m.RecordFailed()}
    assert world.answers[world.ask("read")] == m.RecordFailed()
    assert not world.io


def test_what_a_lost_session_asked_for_is_done_before_what_the_newer_one_asks_for_or_not_at_all() -> None:
    """A store is not told that a connection ended: its session may have others, and counts until a newer one
    comes."""
    world = StoreWorld()
    older, newer = world.ask("write", epoch=6), world.ask("write", epoch=6, session=2)
    world.apply(table(6))
    assert len(world.io) == 1, "never both at a time"
    world.done()
    assert isinstance(world.answers[older], m.OldSession)
    assert world.answers[newer] == DONE


def test_hand_over_and_missed() -> None:
    world = StoreWorld()
    assert world.answers[world.ask("hand_over", name=LocalName(""), record="r5", regions=(3, 4))] == DONE
    assert world.answers[world.ask("seal")] == m.Done(record="r5")
    world.apply(table(7))
    world.written(epoch=7)
    assert world.answers[world.ask("missed", epoch=7, since=6)] == m.Done(regions=(0,), record="r5")
    assert world.answers[world.ask("missed", epoch=7, since=5)] == m.Done(regions=(0, 3, 4), record="r5")


def test_moved_segments_bring_their_record_and_copies_that_leave_lose_theirs() -> None:
    plus = moving_name(A)
    moving = copy(plus, ROME, "syncing")
    world = StoreWorld(table(5, copy(A, BERN), moving))
    world.written(name=plus)
    world.apply(table(6, copy(A, ROME)))
    assert world.store.record.copy(A).active == {0}
    assert plus not in world.store.record.copies
    assert world.answers[world.ask("clear", epoch=6, regions=(0,))] == m.NotFlushed(0)
    world.apply(table(7, copy(B, ROME)))
    assert A not in world.store.record.copies


def test_a_volume_that_is_gone_serves_nothing_and_keeps_its_record() -> None:
    world = StoreWorld()
    world.written()
    world.apply(None)
    assert world.answers[world.ask("read")] == m.Sealed(6)
    assert world.store.record.copy(A).active == {0}
    assert world.store.drained


def test_a_mended_region_does_not_become_active_but_waits_for_a_flush_before_it_is_cleared() -> None:
    world = StoreWorld(table(5, copy(A, ROME), copy(B, ROME, "syncing")))
    number = world.ask("mend", data=BLOCK)
    assert world.io[0].kind == "write"
    world.done()
    assert world.answers[number] == DONE
    assert not world.disk, "a takeover does not take it for a write that may be missing elsewhere"
    assert world.answers[world.ask("mend", name=B, data=BLOCK)] == m.NotServed(B, "syncing")
    assert world.answers[world.ask("mend", data=b"short")] == m.NotServed(A, "in_sync")


def test_a_checksum_is_refused_like_a_read_and_touches_no_region() -> None:
    world = StoreWorld(table(5, copy(A, ROME), copy(B, ROME, "syncing")))
    number = world.ask("checksum", end=REGION_BYTES)
    assert world.io[0].kind == "checksum"
    world.done(data=b"sum")
    assert world.answers[number] == m.Done(b"sum")
    assert not world.disk, "nothing was written"
    assert world.answers[world.ask("checksum", name=B)] == m.NotServed(B, "syncing")
    assert world.answers[world.ask("checksum", end=SIZE + 1)] == m.NotServed(A, "in_sync")
    assert world.answers[world.ask("checksum", epoch=4)] == m.OldEpoch(5)
    world.ask("checksum")
    world.done("unknown")
    assert world.store.in_flight == 0, "what a read did not bring is over"


def test_what_is_active_already_needs_no_room_even_if_there_are_too_many() -> None:
    """Two copies that became one may have more than one of them may."""
    disk: list[Change] = [Marked(A, (1, 2, 3), 4)]
    world = StoreWorld(disk=disk, limits=StoreLimits(active_regions=2))
    world.ask("write", REGION_BYTES)
    assert isinstance(world.io[0], BackendIo), "its mark of this epoch is on the disk"
    assert world.answers[world.ask("write", 5 * REGION_BYTES)] == m.NoRoom(3)
