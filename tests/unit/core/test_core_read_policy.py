"""Which copy is read: a property of a volume, and two settings."""

from msgspec.structs import replace

from tests.copies_cases import two_copies
from tests.core_cases import three_sites
from vimraft.core.codec import decode_state, encode_state
from vimraft.core.commands import SetReadPolicy, SetSetting
from vimraft.core.reasons import Invalid, NotFound


def test_a_policy_is_set_without_a_new_epoch() -> None:
    tables = two_copies()
    before = tables.volume()
    assert before.read_policy == "balance"
    assert tables.applied(SetReadPolicy("v", "local")).volume == replace(before, read_policy="local")
    assert tables.applied(SetReadPolicy("v", "local")).volume == replace(before, read_policy="local")
    assert tables.refused(SetReadPolicy("w", "local")) == NotFound("virtual volume", "w", ("v",))


def test_a_policy_is_in_the_snapshot_and_in_the_history() -> None:
    tables = two_copies()
    tables.applied(SetReadPolicy("v", "primary"))
    assert decode_state(encode_state(tables.state)).volumes["v"].read_policy == "primary"
    assert tables.state.history[-1].what == "read-policy-primary"


def test_the_balance_has_settings_of_level_3_with_bounds() -> None:
    tables = two_copies()
    tables.applied(SetSetting("read_threshold", 9))
    tables.applied(SetSetting("read_hysteresis_percent", 50))
    assert (tables.state.settings.read_threshold, tables.state.settings.read_hysteresis_percent) == (9, 50)
    assert isinstance(tables.refused(SetSetting("read_threshold", 0)), Invalid)
    assert isinstance(three_sites().refused(SetSetting("read_threshold", 9)), NotFound)
