"""Medians, percentiles, ratios and verdicts."""

import pytest

from bench.results import (
    Row,
    Sample,
    Target,
    judge,
    judge_absolute,
    latencies,
    median,
    paired,
    percentile,
    ratio,
)


def sample(iops: float, p50_us: float = 10.0) -> Sample:
    return Sample(iops, iops * 0.004, p50_us, p50_us * 2)


def test_a_median_is_taken_field_by_field() -> None:
    assert median([Sample(1, 30, 5, 9), Sample(3, 10, 6, 7), Sample(2, 20, 4, 8)]) == (2, 20, 5, 8)
    assert median([sample(1), sample(3)]).iops == 2


@pytest.mark.parametrize(("percent", "expected"), [(50, 50), (99, 99), (100, 100), (1, 1), (0, 1)])
def test_a_percentile_is_a_value_that_occurred(percent: float, expected: float) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == expected


def test_percentiles_of_few_and_of_none() -> None:
    assert percentile([7.0], 99) == 7.0
    assert percentile([1.0, 2.0, 3.0], 50) == 2.0
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_latencies_of_operations_in_a_row() -> None:
    assert latencies([0.001, 0.003, 0.002]) == (pytest.approx(500.0), 0.0, 2_000.0, 3_000.0)


def test_ratios_are_ours_over_the_peers() -> None:
    assert ratio(sample(90), sample(100), "iops") == pytest.approx(0.9)
    assert paired([sample(1), sample(4)], [sample(2), sample(2)], "iops") == [0.5, 2.0]
    with pytest.raises(ZeroDivisionError):
        ratio(sample(1), sample(0), "iops")
    with pytest.raises(ValueError, match="argument 2 is longer"):
        paired([sample(1)], [sample(1), sample(2)], "iops")


def test_a_floor_is_met_from_its_value_on() -> None:
    peer = [sample(100)] * 3
    assert (
        judge("c", [sample(90), sample(89), sample(95)], peer, "peer", Target("iops", floor=0.9)).met is True
    )
    assert judge("c", [sample(89.9)] * 3, peer, "peer", Target("iops", floor=0.9)).met is False


def test_a_ceiling_is_met_up_to_its_value() -> None:
    peer = [sample(1, p50_us=10)] * 2
    assert judge("c", [sample(1, p50_us=30)] * 2, peer, "peer", Target("p50_us", ceiling=3)).met is True
    assert judge("c", [sample(1, p50_us=31)] * 2, peer, "peer", Target("p50_us", ceiling=3)).met is False


def test_a_verdict_shows_the_ratio_of_medians_and_the_spread_of_the_rounds() -> None:
    verdict = judge(
        "cell", [sample(50), sample(120), sample(90)], [sample(100)] * 3, "peer", Target("iops", floor=0.5)
    )
    assert verdict[:5] == ("cell", "90/s", "100/s peer", "0.90 (0.50–1.20)", "≥ 0.5 ×")


def test_a_comparison_without_a_target_is_neither_met_nor_missed() -> None:
    verdict = judge("c", [sample(1)], [sample(2)], "peer", Target("iops"))
    assert (verdict.target, verdict.met) == ("", None)


@pytest.mark.parametrize(("value", "met"), [(49.9, True), (50.0, False)])
def test_an_absolute_limit_must_not_be_reached(value: float, met: bool) -> None:
    assert judge_absolute("c", "p99", value, 50, "ms").met is met


def test_a_row_has_exactly_the_agreed_keys_and_a_note_only_if_there_is_one() -> None:
    row = Row("cell", "work", "vimraft", Sample(1.23456, 2, 3, 4))
    keys = ["cell", "workload", "system", "iops", "mbps", "p50_us", "p99_us"]
    assert list(row.as_json()) == keys
    assert row.as_json()["iops"] == 1.235
    assert list(row._replace(note="busy").as_json()) == [*keys, "note"]
