"""What owners are told of the load at each copy."""

import time

from msgspec.structs import replace

from tests.copies_cases import CopyTables, two_copies
from vimraft.api.schema import Heartbeat, IoRates, Pids
from vimraft.api.schema_copies import HoldReport
from vimraft.core.commands import SetReadPolicy
from vimraft.core.copies import is_copied
from vimraft.data.feed import CopyLoad, HoldTimes, IoCounters
from vimraft.protocol.balance import Preference
from vimraft.site.copies_views import hold_reports, holds_by_site, longest_of
from vimraft.site.health import Health, Heard
from vimraft.site.loads import loads_of
from vimraft.site.plane_maps import view
from vimraft.site.rates import RateWindow

BEAT = Heartbeat("", "life", 1, Pids(1, 1, 1), "", 0)


class Known(Health):
    """What managers said last."""

    def __init__(self, tables: CopyTables, **beats: Heartbeat) -> None:
        self._me = tables.volume().owner
        self._state = lambda: tables.state
        self._heard = {f"m-{name}": Heard(beat, time.monotonic()) for name, beat in beats.items()}


def reals_of(tables: CopyTables) -> list[str]:
    return [str(replica.segments[0].real_id) for replica in tables.volume().replicas]


def test_the_load_of_the_real_volumes_of_each_copy_is_told_to_the_owner_only() -> None:
    tables = two_copies()
    a, b = reals_of(tables)
    busy = IoRates(
        read_iops=100.0, write_iops=300.0, read_latency_us=1_000, write_latency_us=3_000, in_flight=7
    )
    health = Known(tables, tokyo=replace(BEAT, reals={a: busy}), osaka=replace(BEAT, reals={b: IoRates()}))
    copies = [replica.local_name for replica in tables.volume().replicas]
    expected = (CopyLoad("v", copies[0], 7, 2_500), CopyLoad("v", copies[1], 0, 0))
    assert loads_of(tables.state, health, tables.volume().owner).rows == expected
    assert loads_of(tables.state, health, "m-nagoya").rows == ()
    silent = Known(tables, tokyo=replace(BEAT, reals={a: busy}))
    assert loads_of(tables.state, silent, tables.volume().owner).rows == expected[:1]


def test_requests_under_way_at_a_real_volume_are_known_from_what_they_took() -> None:
    window = RateWindow()
    window.add(0.0, IoCounters())
    window.add(2.0, IoCounters(reads=100, writes=100, read_ns=6_000_000_000, write_ns=2_000_000_000))
    assert window.rates().in_flight == 4


def test_policy_and_settings_reach_the_owner_without_a_new_epoch() -> None:
    tables = two_copies()
    owner = tables.volume().owner
    before = (tables.state, view(tables.state, owner, "export", None))
    assert is_copied(tables.volume())
    tables.applied(SetReadPolicy("v", "local"))
    after = view(tables.state, owner, "export", before).volumes["v"]
    assert after.copies is not None
    assert after.copies.reading == Preference("local", 4, 25)
    assert after.epoch == before[1].volumes["v"].epoch


def test_holds_of_all_sites_are_put_together() -> None:
    tables = two_copies()
    said = hold_reports({"v": HoldTimes(7, 12, 3_500, 30_000, 29_000)})
    assert said == {"v": HoldReport(7, 12, 3.5, 30.0, 29.0)}
    slower = {"v": HoldReport(6, 14, 900.0, 900.0, 40.0)}
    health = Known(tables, tokyo=replace(BEAT, holds=said), osaka=replace(BEAT, holds=slower))
    by_site = holds_by_site(tables.state, health, "v")
    assert by_site == {"tokyo": said["v"], "osaka": slower["v"]}
    assert longest_of(by_site) == HoldReport(7, 14, 3.5, 900.0, 40.0)
    assert longest_of({}) == HoldReport()
