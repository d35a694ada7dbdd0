"""Audit's tests 1 and 2: the leader dies while followers lag; all die during compaction.

A few trials each; `python -m tests.fault.trials` runs them by the hundred. A failure prints its seed.
"""

import random
from pathlib import Path

import pytest

from tests.fault.kills import kill_all_during_compaction, lagging_follower

pytestmark = pytest.mark.cluster

TRIALS = range(2)


def _rng() -> random.Random:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.mark.parametrize("trial", TRIALS)
async def test_a_leader_killed_while_followers_catch_up_takes_nothing_with_it(
    tmp_path: Path, trial: int
) -> None:
    found = await lagging_follower(tmp_path, _rng())
    assert found.good, found
    assert found.acknowledged > 25


@pytest.mark.parametrize("trial", TRIALS)
async def test_nothing_acknowledged_is_lost_when_all_die_at_any_step_of_compaction(
    tmp_path: Path, trial: int
) -> None:
    found = await kill_all_during_compaction(tmp_path, _rng())
    assert found.good, found
    assert found.acknowledged > 0
