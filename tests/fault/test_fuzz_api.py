"""A few hundred of the inputs that `python -m tests.fault.fuzz_api` sends ten thousand of."""

from pathlib import Path

import pytest

from tests.fault.fuzz_api import fuzz


@pytest.mark.cluster
@pytest.mark.timeout(180)
def test_nothing_that_strangers_send_has_an_effect(tmp_path: Path) -> None:
    assert fuzz(tmp_path / "c", inputs=400, seed=20_260_102) == []
