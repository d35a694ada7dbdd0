"""Some seeds of the simulation, as it is meant to be: nothing is violated, and a seed is a run."""

import pytest

from tests.simulation.cluster.__main__ import main
from tests.simulation.cluster.mutations import MUTATIONS
from tests.simulation.cluster.simulation import run_seed
from vimraft.protocol.rules import NAMES


@pytest.mark.parametrize("seed", range(1, 25))
def test_no_seed_violates_anything(seed: int) -> None:
    report, _ = run_seed(seed)
    assert report.violations == ()
    assert report.acknowledged > 0


CAUGHT = {
    "session_compare": 4,
    "reopen_on_restart": 74,
    "check_lease": 10,
    "drain_at_seal": 45,
    "boot_binding": 32,
    "hold_before_own_promotion": 83,
    "retire_before_ack": 10,
    "seal_before_serving": 10,
    "lossy_mark": 2,
    "shared_read_lock": 24,
    "epoch_compare": 23,
    "stamp_compare": 9,
    "wait_for_retired_side": 9,
    "tag_when_cleared": 5,
    "intent_before_data": 139,
    "owner_only_clearing": 106,
    "returning_own_regions": 216,
    "equalise_after_eio": 16,
    "doubt_after_failed_flush": 71,
    "equalise_at_takeover": 152,
    "durable_seal_floor": 58,
    "retire_needs_complete_replica": 23,
    "durable_sole_holder_mark": 9,
    "losses_in_tables": 20,
    "rewrite_after_failed_flush": 9,
}
"""A seed for each rule."""


def test_every_rule_has_a_seed() -> None:
    assert CAUGHT.keys() == MUTATIONS.keys() == set(NAMES)


@pytest.mark.parametrize("rule", CAUGHT)
def test_a_rule_that_is_missing_is_noticed(rule: str) -> None:
    without, _ = run_seed(CAUGHT[rule], rule, MUTATIONS[rule])
    assert without.violations
    control, _ = run_seed(CAUGHT[rule], None, MUTATIONS[rule])
    assert control.violations == (), "and nothing else"


def test_a_seed_is_a_run() -> None:
    first, second = (run_seed(7)[1].world.digest() for _ in range(2))
    assert first == second


def test_the_last_line_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "1:2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 seeds, 0 violations"
