"""Every invariant notices when it is broken."""

import msgspec
import pytest

from tests.core_cases import MIB, UNIT, build, three_sites
from vimraft.core.chunked import Chunked
from vimraft.core.commands import DeleteVolume, RenewLease
from vimraft.core.invariants import INVARIANTS, check
from vimraft.core.tables import ClientResult, Lease, MapChange, Replica, Run, Segment, Settings, State

replace = msgspec.structs.replace


def healthy():
    tables = three_sites()
    tables.applied(build("gone", 3))
    tables.applied(DeleteVolume("gone"))
    tables.applied(build("v", 150))
    tables.applied(RenewLease("m-tokyo", "life", 1, 0))
    return tables.state


def volume(**changes):
    return lambda s: s._replace(volumes=s.volumes.set("v", replace(s.volumes["v"], **changes)))


def replica(change):
    def broken(s):
        first = s.volumes["v"].replicas[0]
        return volume(replicas=(change(first),))(s)

    return broken


def segments(change):
    return replica(lambda r: replace(r, segments=tuple(change(list(r.segments)))))


def real(**changes):
    return lambda s: s._replace(reals=s.reals.set(("022a00", 0), replace(s.reals["022a00", 0], **changes)))


def release(**changes):
    return lambda s: s._replace(releases=s.releases.set(1, replace(s.releases[1], **changes)))


def second_copy(s):
    first = s.volumes["v"].replicas[0]
    return volume(replicas=(first, replace(first, local_name="Z")))(s)


def site(**changes):
    return lambda s: s._replace(sites=s.sites.set("tokyo", replace(s.sites["tokyo"], **changes)))


BROKEN = [
    ("INV-2", volume(owner="nobody")),
    ("INV-2", volume(epoch=0)),
    ("INV-2", volume(epoch=10_000)),
    ("INV-2", release(volume="v", epoch=9_999)),
    ("INV-4", replica(lambda r: replace(r, state="stale"))),
    ("INV-4", volume(replicas=())),
    ("INV-5", segments(lambda old: old[1:])),
    ("INV-5", segments(lambda old: old[:1])),
    ("INV-5", segments(lambda old: [*old, old[-1]])),
    ("INV-5", segments(lambda old: [replace(old[0], real_first=old[0].real_first + 1), *old[1:]])),
    ("INV-5", segments(lambda old: [replace(old[0], sectors=old[0].sectors - 1), *old[1:]])),
    ("INV-5", volume(size_sectors=150 * UNIT + 1)),
    ("INV-5", volume(size_sectors=0)),
    ("INV-6", segments(lambda old: [*old[:-1], replace(old[-1], real_first=0)])),
    ("INV-6", segments(lambda old: [*old[:-1], replace(old[-1], real_first=90 * UNIT)])),
    ("INV-6", segments(lambda old: [*old[:-1], replace(old[-1], lun=7)])),
    ("INV-6", real(free=())),
    ("INV-6", real(free=(Run(1, 100),))),
    ("INV-6", real(free=(Run(60, 41), Run(54, 6)))),
    ("INV-6", real(free=(Run(54, 1), Run(55, 46)))),
    ("INV-6", real(free=(Run(54, 0), Run(56, 47)))),
    ("INV-6", real(capacity_units=99)),
    ("INV-6", release(waiting=())),
    ("INV-6", release(waiting=("nobody",))),
    ("INV-6", release(segments=())),
    ("INV-7", second_copy),
    ("INV-8", lambda s: s._replace(clients=s.clients.set("c", ClientResult(1, s.index + 1, b"")))),
    (
        "INV-8",
        lambda s: s._replace(
            clients=s.clients.update({f"c{n}": ClientResult(1, 1, b"") for n in range(5_000)})
        ),
    ),
    ("INV-8", lambda s: s._replace(history=Chunked(s.history[::-1]))),
    ("INV-8", lambda s: s._replace(history=Chunked([MapChange(s.index + 1, 0, "", "", "")]))),
    ("INV-8", lambda s: s._replace(history=Chunked([s.history[0]] * 2_000))),
    ("INV-8", lambda s: s._replace(next_release_id=1)),
    ("INV-8", lambda s: s._replace(next_local_number=0)),
    ("INV-9", lambda s: s._replace(managers=s.managers.set("x", s.managers["m-tokyo"]))),
    ("INV-9", lambda s: s._replace(volumes=s.volumes.set("x", s.volumes["v"]))),
    ("INV-9", lambda s: s._replace(releases=s.releases.set(2, s.releases[1]))),
    ("INV-9", site(manager="nobody")),
    ("INV-9", site(priority=("atlantis",))),
    ("INV-9", site(name="a b")),
    ("INV-9", lambda s: s._replace(sites=s.sites.delete("tokyo"))),
    ("INV-9", lambda s: s._replace(storages=s.storages.delete("021a00"))),
    ("INV-9", real(site="tokyo")),
    ("INV-9", real(volume_class="\n")),
    ("INV-9", real(label_id="label-021a00-0")),
    ("INV-9", real(lun=4)),
    ("INV-9", lambda s: s._replace(leases=s.leases.set("x", Lease("x", "life", 1, 0)))),
    ("INV-9", lambda s: s._replace(settings=Settings(unit_bytes=MIB, lease_ms=1))),
    ("INV-9", lambda s: s._replace(cluster_id="")),
]


def test_healthy_tables_violate_nothing():
    assert check(healthy()) == []
    assert check(State()) == []


@pytest.mark.parametrize(("invariant", "damage"), BROKEN)
def test_damage_is_noticed_and_named(invariant, damage):
    found = {violation.invariant: violation.what for violation in check(damage(healthy()))}
    assert invariant in found
    assert found[invariant]


def test_every_predicate_is_tested_here():
    assert {name for name, _ in INVARIANTS} == {name for name, _ in BROKEN}


def test_two_volumes_on_one_unit_are_both_named():
    state = healthy()
    twin = replace(
        state.volumes["v"],
        name="twin",
        size_sectors=UNIT,
        replicas=(Replica("Q", "in_sync", (Segment(0, UNIT, "022a00", 0, 5 * UNIT),)),),
    )
    state = state._replace(volumes=state.volumes.set("twin", twin), next_local_number=9)
    (what,) = [v.what for v in check(state) if v.invariant == "INV-6" and "held by" in v.what][:1]
    assert "virtual volume v" in what
    assert "virtual volume twin" in what
