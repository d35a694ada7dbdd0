"""What the connections of a site learn of losses of a volume, whoever owns it (INV-3)."""

import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from vimraft.data import slow_path
from vimraft.data.errors import IoError, PeerLost
from vimraft.data.feed import VolumeMap
from vimraft.data.gate import Lease, VolumeGate
from vimraft.data.reals import RealSlot
from vimraft.data.remote import COPIES, LinkKey, Vitals
from vimraft.data.slow_path import SlowPath
from vimraft.data.volume import FORWARD, Plan, make_plan
from vimraft.protocol.losses import LossMark


def real_of(_real: str) -> RealSlot:
    raise AssertionError("a forwarding site needs no real volume")


def forwarded(owner: str, epoch: int) -> Plan:
    return make_plan(
        VolumeMap("v", 1 << 20, epoch, owner, False, False, False, "volume A", ()), "export", real_of
    )


def forwarder() -> VolumeGate:
    return VolumeGate(forwarded("a", 1), Lease(), 1.0)


def of(owner: str) -> LinkKey:
    return LinkKey(FORWARD, owner, "v")


class Owners:
    """Of one volume: what each says of its losses, and the connections that one session has to them. An owner
    fails the flush of a connection that is older than its last loss."""

    session_prefix = "s."
    unfenced = ()

    def __init__(self, gate: VolumeGate) -> None:
        self.gate = gate
        self.mark = LossMark(0)
        self.reached = True

    def new_link(self, key: LinkKey) -> "Connection":
        return Connection(self, key)


class Connection:
    def __init__(self, owners: Owners, key: LinkKey) -> None:
        self.owners = owners
        self.key = key
        self.unknown = False
        self.vitals: Vitals | None = None

    def ready(self, _epoch: int, _deadline: float) -> "Connection":
        if not self.owners.reached:
            raise PeerLost("it does not answer")
        if self.vitals is None:
            self.vitals = Vitals(COPIES, self.owners.mark.text)
            self.owners.gate.note_vitals(self.key, self.vitals)
        return self

    def drop(self) -> None:
        self.vitals = None

    def done(self) -> None:
        pass


def drive(batches: Sequence[Any], _local_work: object) -> None:
    for batch in batches:
        if batch.link.vitals.owed < batch.link.owners.mark:
            batch.error = IoError(5, "writes since the last flush may have been lost")


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> VolumeGate:
    monkeypatch.setattr(slow_path, "drive", drive)
    monkeypatch.setattr(
        slow_path, "Batch", lambda _op, link, _handle, _jobs: SimpleNamespace(link=link, error=None)
    )
    return forwarder()


def attached(gate: VolumeGate) -> tuple[SlowPath, Owners]:
    owners = Owners(gate)
    return SlowPath(gate, owners, SimpleNamespace()), owners  # type: ignore[arg-type]


def cut(handle: SlowPath) -> None:
    """The connections to the owner break."""
    handle._idle.clear()


def fails(handle: SlowPath) -> bool:
    try:
        handle.flush()
    except IoError:
        return True
    return False


def test_a_session_is_told_of_a_loss_once(gate: VolumeGate) -> None:
    handle, owners = attached(gate)
    assert not fails(handle)
    owners.mark = LossMark(7)
    assert fails(handle)
    assert not fails(handle)


def test_a_loss_whose_error_was_lost_with_the_connection_is_told_by_the_next_flush(gate: VolumeGate) -> None:
    handle, owners = attached(gate)
    assert not fails(handle)
    owners.mark = LossMark(7)
    cut(handle)
    assert fails(handle), "the owner takes the new connection for one that never relied on what is gone"
    assert not fails(handle)


def test_a_loss_is_told_when_the_owner_cannot_be_asked_what_it_was(gate: VolumeGate) -> None:
    handle, owners = attached(gate)
    assert not fails(handle)
    owners.mark = LossMark(7)
    owners.reached = False
    gate.io_timeout_s = 0.1
    assert fails(handle)
    owners.reached = True
    gate.io_timeout_s = 1.0
    assert fails(handle)
    assert not fails(handle)


def test_a_session_that_wrote_when_its_own_site_owned_the_volume_is_told_by_the_next_owner(
    gate: VolumeGate,
) -> None:
    handle, owners = attached(gate)  # no word of an owner has come here before: the volume was served here
    owners.mark = LossMark(3)
    gate.swap(forwarded("b", 3))
    assert fails(handle), "the first word of an owner says that something was lost since the session began"
    assert not fails(handle)


def test_each_session_is_told(gate: VolumeGate) -> None:
    first, owners = attached(gate)
    second = SlowPath(gate, owners, SimpleNamespace())  # type: ignore[arg-type]
    assert not fails(first)
    owners.mark = LossMark(1, 1)
    assert fails(first)
    assert fails(second)
    assert not fails(second)


def test_what_was_lost_before_a_session_began_is_nothing_to_it(gate: VolumeGate) -> None:
    first, owners = attached(gate)
    owners.mark = LossMark(1, 2)
    first.reach_peers(time.monotonic() + 1.0)
    later = SlowPath(gate, owners, SimpleNamespace())  # type: ignore[arg-type]
    assert not fails(later)


def test_an_owner_that_comes_back_in_another_boot_lost_nothing(gate: VolumeGate) -> None:
    handle, _ = attached(gate)
    for owner in ("a", "b", "a"):
        gate.note_vitals(of(owner), Vitals(COPIES, "0.0"))
    assert not fails(handle)


def test_a_volume_that_gets_a_second_copy_lost_nothing() -> None:
    gate = forwarder()
    gate.note_vitals(of("a"), Vitals("boot of a", "0"))
    gate.note_vitals(of("a"), Vitals(COPIES, "0.0"))
    assert gate.losses() == 0


def test_an_owner_of_one_copy_in_another_boot_lost_what_was_not_flushed() -> None:
    gate = forwarder()
    gate.note_vitals(of("a"), Vitals("boot 1", "0"))
    gate.note_vitals(of("a"), Vitals("boot 2", "0"))
    assert gate.losses() == 1


def test_marks_are_told_as_text() -> None:
    for mark in (LossMark(0), LossMark(7), LossMark(7, 12)):
        assert LossMark.parse(mark.text) == mark
    assert LossMark(8) > LossMark(7, 12) > LossMark(7, 3) > LossMark(7)
