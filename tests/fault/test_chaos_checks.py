"""The checkers of chaos can fail: blocks that lie, and promises that are broken."""

import pytest
from drills.blocks import BLOCK_BYTES, Blocks, decode, encode
from drills.layout import Volume
from drills.promises import may_disconnect, may_fail, may_lose, patience, resumes, touched
from drills.report import FaultRun

TIMEOUT_S = 30.0


def one(name: str, sites: tuple[str, ...] = ("tokyo",), owner: str = "tokyo") -> Volume:
    return Volume(name, 1 << 20, owner, (frozenset(sites),), frozenset({f"{sites[0]}:1"}))


def two(*sites: str) -> Volume:
    copies = tuple(frozenset({site}) for site in sites)
    return Volume("two", 1 << 20, sites[0], copies, frozenset(f"{site}:1" for site in sites))


def fault(name: str, site: str, **options: object) -> FaultRun:
    return FaultRun(name, site, options, injected_s=1.0, healed_s=5.0)


def read(blocks: Blocks, tag: int | None) -> str:
    return blocks.read(0, tag, blocks.expect(0))


def written(blocks: Blocks, session: int = 1) -> int:
    tag = blocks.next_tag()
    blocks.unknown(0, tag)
    blocks.written(0, tag, session)
    return tag


def test_blocks_tell_where_they_belong() -> None:
    data = encode(7, 3, 9)
    assert decode(7, 3, data) == 9
    assert decode(7, 4, data) is None
    assert decode(8, 3, data) is None
    assert decode(7, 3, data[:2048] + encode(7, 3, 8)[2048:]) is None  # torn
    assert decode(7, 3, bytes(BLOCK_BYTES)) == 0


def test_a_stale_read_is_noticed() -> None:
    blocks = Blocks(1)
    old, new = written(blocks), written(blocks)
    assert read(blocks, new) == ""
    assert "tag" in read(blocks, old)
    assert read(blocks, None) != ""


def test_a_write_of_unknown_outcome_may_show_or_not_until_it_was_read() -> None:
    blocks = Blocks(1)
    old = written(blocks)
    new = blocks.next_tag()
    blocks.unknown(0, new)
    assert read(blocks, old) == ""
    assert read(blocks, new) == ""
    assert read(blocks, old) != ""


def test_a_read_may_return_what_was_written_after_it_was_sent() -> None:
    blocks = Blocks(1)
    old = written(blocks)
    expected = blocks.expect(0)
    new = written(blocks)
    assert blocks.read(0, new, expected) == ""
    assert blocks.read(0, old, expected) == ""
    assert read(blocks, old) != ""


def test_a_power_loss_may_take_only_what_was_not_flushed() -> None:
    blocks = Blocks(1)
    older = written(blocks)
    stable = written(blocks)
    blocks.flushed({0}, 1)
    written(blocks)
    blocks.power_lost()
    assert read(blocks, older) != ""
    assert read(blocks, stable) == ""


def test_a_flush_that_succeeds_although_writes_of_its_session_were_lost_is_noticed() -> None:
    blocks = Blocks(1)
    stable = written(blocks)
    blocks.flushed({0}, 1)
    written(blocks)
    blocks.power_lost()
    blocks.flushed({0}, 1)
    assert read(blocks, stable) != ""


def test_a_flush_of_a_later_session_does_not_vouch_for_the_writes_of_an_earlier_one() -> None:
    blocks = Blocks(1)
    stable = written(blocks)
    blocks.flushed({0}, 1)
    written(blocks)
    blocks.power_lost()
    blocks.flushed({0}, 2)
    assert read(blocks, stable) == ""


@pytest.mark.parametrize(
    ("one_fault", "through", "may_notice"),
    [
        (fault("kill-manager", "tokyo"), "tokyo", False),
        (fault("kill-export", "tokyo"), "osaka", True),
        (fault("kill-export", "nagoya"), "osaka", False),
        (fault("pause-store", "tokyo"), "osaka", False),
        (fault("partition", "tokyo"), "tokyo", False),
        (fault("partition", "tokyo"), "osaka", True),
        (fault("partition", "tokyo", peer="nagoya"), "osaka", False),
        (fault("slow-disk", "tokyo", real="tokyo:1"), "tokyo", True),
        (fault("slow-disk", "tokyo", real="tokyo:2"), "tokyo", False),
        (fault("power-loss", "nagoya"), "tokyo", False),
    ],
)
def test_who_may_notice_a_fault(one_fault: FaultRun, through: str, *, may_notice: bool) -> None:
    assert bool(touched([one_fault], one("alone"), through, 3)) is may_notice


def test_what_lies_at_two_sites_needs_its_owners_manager_and_a_majority() -> None:
    spanning = one("span", ("tokyo", "osaka"))
    assert touched([fault("kill-manager", "tokyo")], spanning, "osaka", 3)
    assert not touched([fault("kill-manager", "nagoya")], spanning, "osaka", 3)
    assert touched([fault("kill-manager", "nagoya"), fault("kill-leader", "osaka")], spanning, "tokyo", 3)


def test_a_site_that_cannot_hear_of_a_new_epoch_waits_for_it() -> None:
    restarted = fault("clock-jump", "tokyo")
    cut = fault("partition", "osaka", peer="nagoya")
    assert touched([restarted, cut], one("alone"), "osaka", 3)
    assert touched([restarted, cut], one("alone"), "nagoya", 3)
    assert touched([restarted, fault("kill-manager", "osaka")], one("alone"), "osaka", 3)
    assert not touched([restarted, cut], one("alone"), "tokyo", 3)
    assert not touched([restarted, fault("kill-manager", "nagoya")], one("alone"), "osaka", 3)
    assert not touched([fault("pause-manager", "tokyo"), cut], one("alone"), "osaka", 3)


def test_io_may_fail_only_with_its_disk_or_after_the_timeout() -> None:
    volume = one("alone")
    assert may_fail([fault("disk-error", "tokyo", real="tokyo:1")], volume, TIMEOUT_S)
    assert not may_fail([fault("disk-error", "tokyo", real="tokyo:2")], volume, TIMEOUT_S)
    assert not may_fail([fault("kill-site", "tokyo")], volume, TIMEOUT_S)
    long = FaultRun("pause-export", "tokyo", {}, injected_s=1.0, healed_s=40.0)
    assert may_fail([long], volume, TIMEOUT_S)


def test_with_two_copies_the_failure_of_one_fails_no_io_and_loses_nothing() -> None:
    volume = two("tokyo", "osaka")
    here, there = (fault("disk-error", site, real=f"{site}:1") for site in ("tokyo", "osaka"))
    assert not may_fail([here], volume, TIMEOUT_S)
    assert may_fail([here, there], volume, TIMEOUT_S)
    dark = [fault("power-loss", "tokyo")]
    assert not may_lose(dark, volume)
    assert may_lose([*dark, fault("power-loss", "osaka")], volume)
    assert may_lose(dark, one("alone"))


def test_the_second_of_two_faults_may_hit_the_last_copy_in_sync() -> None:
    volume = two("tokyo", "osaka")
    away, dark = fault("partition", "tokyo"), fault("power-loss", "osaka")
    assert may_lose([away, dark], volume)
    assert may_fail([away, dark], volume, TIMEOUT_S)
    assert not may_lose([away, fault("power-loss", "nagoya")], volume)
    assert not may_lose([away, fault("kill-site", "osaka")], volume)


def test_a_copy_that_comes_and_goes_keeps_nothing() -> None:
    volume = Volume("three", 1 << 20, "tokyo", (frozenset({"tokyo"}),), frozenset(), spare="osaka")
    assert may_lose([fault("power-loss", "tokyo")], volume)
    assert touched([fault("kill-export", "osaka")], volume, "nagoya", 3)


@pytest.mark.parametrize(
    ("one_fault", "through", "goes_on"),
    [
        (fault("kill-site", "tokyo"), "osaka", True),
        (fault("kill-site", "tokyo"), "nagoya", True),
        (fault("kill-site", "tokyo"), "tokyo", False),
        (fault("pause-store", "osaka"), "tokyo", True),
        (fault("partition", "tokyo"), "nagoya", True),
        (fault("partition", "tokyo", peer="osaka"), "nagoya", False),
        (fault("partition", "tokyo", one_way=True), "nagoya", False),
        (fault("slow-disk", "tokyo", real="tokyo:1"), "osaka", False),
    ],
)
def test_io_goes_on_elsewhere_when_one_site_is_down(
    one_fault: FaultRun, through: str, *, goes_on: bool
) -> None:
    assert resumes([one_fault], two("tokyo", "osaka"), through, 3) is goes_on
    assert not resumes([one_fault], one("alone"), through, 3)
    assert not resumes([one_fault, fault("kill-site", "nagoya")], two("tokyo", "osaka"), through, 3)


def test_a_busy_machine_is_waited_for_in_proportion() -> None:
    assert patience(7.0, 2) == 1.0
    assert patience(16.0, 2) == 2.0


def test_a_connection_ends_only_with_its_export() -> None:
    assert may_disconnect([fault("kill-export", "osaka")], "osaka")
    assert not may_disconnect([fault("kill-export", "osaka")], "tokyo")
    assert not may_disconnect([fault("kill-manager", "osaka")], "osaka")
