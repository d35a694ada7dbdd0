"""What several tests of the Raft layer begin with."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.raft_bench import Bench
from tests.raft_cases import free_addresses
from tests.raft_links import LinkEnd, Make


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.node.close()


@pytest.fixture
def make() -> Iterator[Make]:
    """Ends of links that are closed after the test."""
    ends: list[LinkEnd] = []

    def build(address: str, *others: str, **options: Any) -> LinkEnd:
        end = LinkEnd(address, others, **options)
        ends.append(end)
        return end

    yield build
    for end in ends:
        end.close()


@pytest.fixture
def two() -> tuple[str, str]:
    """Addresses; the second dials."""
    low, high = sorted(free_addresses(2))
    return low, high
