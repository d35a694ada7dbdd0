"""Every invariant notices when it is broken."""

import msgspec
import pytest
from immutables import Map

from tests.copies_cases import copies, level_three
from tests.core_cases import MIB, UNIT, build, three_sites
from vimraft.core.chunked import Chunked
from vimraft.core.commands import DeleteVolume, RenewLease, Retire, TrashVolume
from vimraft.core.invariants import INVARIANTS, check, check_step
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


def two(**changes):
    """Of level 3: volume w with copies A (in sync) and B (stale), and one in the trash."""

    def damaged(_):
        s = with_copies()
        return s._replace(volumes=s.volumes.set("w", replace(s.volumes["w"], **changes)))

    return damaged


def copy(number, **changes):
    def damaged(_):
        s = with_copies()
        copies = list(s.volumes["w"].replicas)
        copies[number] = replace(copies[number], **changes)
        return two(replicas=tuple(copies))(s)

    return damaged


def trashed(**changes):
    def damaged(_):
        s = with_copies()
        ((trash_id, row),) = s.trash.items()
        return s._replace(trash=s.trash.set(trash_id, replace(row, **changes)))

    return damaged


def with_copies():
    tables = level_three()
    tables.applied(copies("w", 10, 2))
    tables.applied(copies("t", 10, 2))
    tables.applied(TrashVolume("t"))
    tables.applied(Retire("w", tables.volume("w").epoch, "m-tokyo", ("B",), "r1"))
    return tables.state


def at_level_two(s):
    return with_copies()._replace(level=2)


def site(**changes):
    return lambda s: s._replace(sites=s.sites.set("tokyo", replace(s.sites["tokyo"], **changes)))


ONE_RUN = (Segment(0, 10 * UNIT, "023a00", 0, UNIT),)
BROKEN = [
    ("INV-2", volume(owner="nobody")),
    ("INV-2", volume(epoch=0)),
    ("INV-2", volume(epoch=10_000)),
    ("INV-2", release(volume="v", epoch=9_999)),
    ("INV-4", replica(lambda r: replace(r, state="stale"))),
    ("INV-4", volume(replicas=())),
    ("INV-2", trashed(owner="nobody")),
    ("INV-2", trashed(name="w", epoch=10_000)),
    ("INV-4", copy(0, state="stale")),
    ("INV-4", copy(1, state="in_sync")),
    ("INV-4", copy(1, left_epoch=0)),
    ("INV-4", copy(1, left_epoch=10_000)),
    ("INV-4", copy(1, moving=(Segment(0, 10 * UNIT, "023a00", 0, UNIT),))),
    ("INV-4", two(lossy_epoch=10_000)),
    ("INV-4", trashed(replicas=())),
    ("INV-5", trashed(size_sectors=11 * UNIT)),
    ("INV-5", copy(0, moving=(Segment(0, 9 * UNIT, "023a00", 0, UNIT),))),
    ("INV-6", copy(0, moving=(Segment(0, 10 * UNIT, "021a00", 1, UNIT),))),
    ("INV-6", lambda _: with_copies()._replace(trash=Map())),
    ("INV-7", copy(0, moving=(Segment(0, 10 * UNIT, "022a00", 0, UNIT),))),
    ("INV-7", trashed(replicas=(Replica("X", "in_sync", ONE_RUN), Replica("Y", "stale", ONE_RUN)))),
    (
        "INV-8",
        lambda _: with_copies()._replace(trash=Map({10_000: next(iter(with_copies().trash.values()))})),
    ),
    ("INV-8", trashed(replicas=with_copies().volumes["w"].replicas)),
    ("INV-9", trashed(name="a b")),
    ("INV-9", trashed(trashed_ms=0)),
    ("INV-9", two(trashed_ms=1)),
    ("INV-9", lambda s: with_copies()._replace(boots=Map({"nobody": "one"}))),
    ("INV-9", at_level_two),
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


# Steps


def stepped(**changes):
    """The tables before, and those after a step that changed volume w so."""
    before = with_copies()
    after = before._replace(
        index=before.index + 1, volumes=before.volumes.set("w", replace(before.volumes["w"], **changes))
    )
    return before, after


def w():
    return with_copies().volumes["w"]


STEPS = [
    ("INV-2", lambda: {"epoch": w().epoch - 1}),
    ("INV-2", lambda: {"owner": "m-osaka"}),
    ("INV-2", lambda: {"size_sectors": 9}),
    ("INV-2", lambda: {"replicas": w().replicas[:1]}),
    ("INV-2", lambda: {"replicas": (replace(w().replicas[0], segments=ONE_RUN), w().replicas[1])}),
    ("INV-2", lambda: {"replicas": (replace(w().replicas[0], moving=ONE_RUN), w().replicas[1])}),
    ("INV-2", lambda: {"replicas": (w().replicas[0], replace(w().replicas[1], state="syncing"))}),
    (
        "INV-4",
        lambda: {
            "epoch": w().epoch + 1,
            "replicas": (w().replicas[0], replace(w().replicas[1], state="in_sync")),
        },
    ),
    (
        "INV-4",
        lambda: {"epoch": w().epoch + 1, "replicas": (*w().replicas, Replica("Z", "in_sync", ONE_RUN))},
    ),
]


@pytest.mark.parametrize(("invariant", "changes"), STEPS)
def test_a_step_that_no_command_may_take_is_noticed(invariant, changes):
    before, after = stepped(**changes())
    assert invariant in {violation.invariant for violation in check_step(before, after)}


def test_a_step_of_two_commands_is_none():
    state = with_copies()
    assert [v.invariant for v in check_step(state, state._replace(index=state.index + 2))] == ["INV-8"]


def test_steps_that_commands_take_violate_nothing():
    before, after = stepped(epoch=w().epoch + 1, owner="m-osaka")
    assert check_step(before, after) == []
