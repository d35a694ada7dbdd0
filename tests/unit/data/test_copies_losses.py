"""What a forwarding site learns of losses of a volume with copies, whoever owns it (INV-3)."""

from vimraft.data.feed import VolumeMap
from vimraft.data.gate import Lease, VolumeGate
from vimraft.data.reals import RealSlot
from vimraft.data.remote import COPIES, LinkKey, Vitals
from vimraft.data.volume import FORWARD, make_plan


def real_of(_real: str) -> RealSlot:
    raise AssertionError("a forwarding site needs no real volume")


def forwarder() -> VolumeGate:
    volume = VolumeMap("v", 1 << 20, 1, "a", False, False, False, "volume A", ())
    return VolumeGate(make_plan(volume, "export", real_of), Lease(), 1.0)


def of(owner: str) -> LinkKey:
    return LinkKey(FORWARD, owner, "v")


def test_an_owner_that_comes_back_in_another_boot_lost_nothing() -> None:
    gate = forwarder()
    for owner in ("a", "b", "a"):
        gate.note_vitals(of(owner), Vitals(COPIES, "0"))
    assert gate.losses() == 0


def test_a_loss_that_another_owner_tells_of_counts_once() -> None:
    gate = forwarder()
    gate.note_vitals(of("a"), Vitals(COPIES, "0"))
    for _ in range(2):
        gate.note_vitals(of("b"), Vitals(COPIES, "7"))
    gate.note_vitals(of("a"), Vitals(COPIES, "7"))
    assert gate.losses() == 1


def test_what_happened_before_this_site_asked_is_no_loss_to_its_clients() -> None:
    gate = forwarder()
    gate.note_vitals(of("b"), Vitals(COPIES, "7"))
    assert gate.losses() == 0


def test_a_volume_that_gets_a_second_copy_lost_nothing() -> None:
    gate = forwarder()
    gate.note_vitals(of("a"), Vitals("boot of a", "0"))
    gate.note_vitals(of("a"), Vitals(COPIES, "0"))
    assert gate.losses() == 0


def test_an_owner_of_one_copy_in_another_boot_lost_what_was_not_flushed() -> None:
    gate = forwarder()
    gate.note_vitals(of("a"), Vitals("boot 1", "0"))
    gate.note_vitals(of("a"), Vitals("boot 2", "0"))
    assert gate.losses() == 1
