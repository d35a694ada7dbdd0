"""Settings for all tests.

Hypothesis profiles (choose with HYPOTHESIS_PROFILE): `quick`, the default, keeps the property tests
within a minute; `long` looks twenty times as far: `HYPOTHESIS_PROFILE=long pytest tests/property`.
A failure prints the blob that reproduces it.
"""

import os
import signal
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

_COMMON = {"deadline": None, "print_blob": True, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("quick", max_examples=50, stateful_step_count=40, **_COMMON)
settings.register_profile("long", max_examples=1_000, stateful_step_count=80, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what runs in its background so, and every process started here would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A command run inside a test configures the logs of the whole process."""
    yield
    structlog.reset_defaults()
