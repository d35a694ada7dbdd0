"""A few hundred of the inputs that `python -m tests.fault.fuzz_raft_port` sends ten thousand of."""

from pathlib import Path

import pytest

from tests.fault.fuzz_raft_port import fuzz


@pytest.mark.cluster
@pytest.mark.timeout(180)
async def test_nothing_that_strangers_send_has_an_effect(tmp_path: Path) -> None:
    assert await fuzz(tmp_path, inputs=400, seed=20_260_101) == []
