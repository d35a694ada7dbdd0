"""The gate: nothing runs while a plan is swapped, everything that waits goes on or is told in time."""

import errno
import random
import threading
import time

import pytest

from tests.plane import eventually, volume
from tests.plane_fakes import SECTOR, FakeSite, in_thread, simple_volume
from vimraft.core.ids import LABEL_BYTES
from vimraft.data.errors import IoError
from vimraft.data.feed import PlaneSegment
from vimraft.data.handle import Handle


def read(handle: Handle, offset: int = 0) -> bytes:
    buffer = bytearray(SECTOR)
    handle.read(memoryview(buffer), offset)
    return bytes(buffer)


def boottime_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def test_a_change_waits_for_the_running_request_and_holds_the_next() -> None:
    site = FakeSite()
    on_fake = volume("v", 1, PlaneSegment(0, 4096, "s:1", LABEL_BYTES, ""), size_bytes=4096)
    site.install(on_fake)
    slow, _ = site.plane.open("v")
    quick, _ = site.plane.open("v")
    inside, leave = threading.Event(), threading.Event()

    def linger() -> None:
        inside.set()
        assert leave.wait(10)

    site.backends["s:1"].entered = linger
    writing, _ = in_thread(lambda: slow.write(memoryview(b"w" * SECTOR), 0, False))
    assert inside.wait(5)
    changing, changed = in_thread(
        lambda: site.install(volume("v", 1, *on_fake.segments, size_bytes=4096, epoch=2))
    )
    eventually(lambda: slow.gate.held, "the gate is closed")
    reading, outcome = in_thread(lambda: read(quick))
    eventually(lambda: slow.gate.waiting == 1, "the read waits")
    assert slow.gate.plan.epoch == 1, "not swapped under a running write"
    assert not outcome
    assert not changed
    leave.set()
    for thread in (writing, changing, reading):
        thread.join(5)
    assert outcome == [b"w" * SECTOR]
    assert slow.gate.plan.epoch == 2


def test_a_drain_that_does_not_end_is_reported_and_keeps_holding() -> None:
    site = FakeSite(io_timeout_ms=200)
    site.install(simple_volume())
    handle, _ = site.plane.open("v")
    other, _ = site.plane.open("v")
    handle.busy = 1
    changing, _ = in_thread(lambda: site.install(simple_volume(epoch=2)))
    eventually(lambda: site.problems, "a problem is told")
    assert "v: a request has been running" in site.problems[0].message
    assert handle.gate.plan.epoch == 1
    with pytest.raises(IoError) as raised:
        read(other)
    assert raised.value.number == errno.EIO
    handle.busy = 0
    changing.join(5)
    assert handle.gate.plan.epoch == 2
    read(other)


@pytest.mark.parametrize("parallel", [False, True])
def test_no_request_ever_sees_two_plans(parallel: bool) -> None:
    """Every plan puts the volume on another real volume after copying it there, as a migration would; a
    write that ran across a swap would be lost."""
    site = FakeSite(parallel=parallel, io_timeout_ms=10_000)
    on = [volume("v", 1, PlaneSegment(0, 65536, f"s:{n}", LABEL_BYTES, ""), size_bytes=65536) for n in (0, 1)]
    site.install(on[0])
    stop = threading.Event()

    def client(seed: int) -> int:
        handle, _ = site.plane.open("v")
        rng, known, rounds = random.Random(seed), {}, 0
        while not stop.is_set():
            block = rng.randrange(16)
            offset = (seed * 16 + block) * SECTOR
            if block in known:
                assert read(handle, offset) == known[block]
            known[block] = rng.randbytes(SECTOR)
            handle.write(memoryview(known[block]), offset, False)
            rounds += 1
        assert all(read(handle, (seed * 16 + block) * SECTOR) == data for block, data in known.items())
        return rounds

    clients = [in_thread(lambda seed=seed: client(seed)) for seed in range(4)]
    gate = site.plane._volumes["v"]
    end = time.monotonic() + 1.5
    changes = 0

    def writes() -> int:
        return sum(handle.writes for handle in tuple(gate.handles))

    while time.monotonic() < end:
        before = writes()
        eventually(lambda before=before: writes() > before + 4, "the clients go on")
        source, target = site.backends[f"s:{changes % 2}"], site.backends[f"s:{(changes + 1) % 2}"]
        site.plane.hold(5, ("v",))
        buffer = bytearray(65536)
        source.read_into(memoryview(buffer), LABEL_BYTES)
        target.write(memoryview(buffer), LABEL_BYTES, fua=False)
        changes += 1
        site.install(on[changes % 2])
        site.plane.release(5)
    stop.set()
    for thread, _ in clients:
        thread.join(10)
    for _, outcome in clients:
        assert isinstance(outcome[0], int), outcome
    assert changes > 20
    assert not gate.held


def test_shutting_down_releases_what_waits() -> None:
    site = FakeSite(io_timeout_ms=60_000)
    site.install(simple_volume())
    handle, _ = site.plane.open("v")
    site.plane.hold(1, ())
    thread, outcome = in_thread(lambda: read(handle))
    eventually(lambda: handle.gate.waiting == 1, "it waits")
    site.plane.shut_down()
    thread.join(5)
    assert isinstance(outcome[0], IoError)
    assert outcome[0].number == errno.ESHUTDOWN


def test_a_hold_of_all_volumes_also_holds_one_that_comes_later() -> None:
    site = FakeSite(io_timeout_ms=100)
    site.install()
    site.plane.hold(1, ())
    site.install(simple_volume())
    handle, _ = site.plane.open("v")
    with pytest.raises(IoError):
        read(handle)
    site.plane.release(1)
    read(handle)


def test_what_was_read_while_the_lease_ran_out_is_read_again() -> None:
    """INV-2, INV-5: the deadline counts after the data was read."""
    site = FakeSite(io_timeout_ms=5_000)
    segments = (PlaneSegment(0, 4096, "s:1", LABEL_BYTES, ""),)
    site.install(volume("v", 1, *segments, size_bytes=4096, needs_lease=True))
    backend = site.backends["s:1"]
    handle, _ = site.plane.open("v")
    reads = []
    really_read = backend.read_into

    def read_slowly(buffer: memoryview, offset: int) -> None:
        really_read(buffer, offset)
        reads.append(offset)
        if len(reads) == 1:
            site.plane.set_lease(1)  # over, and another owner writes now
            backend.write(memoryview(b"n" * SECTOR), LABEL_BYTES, fua=False)

    backend.read_into = read_slowly  # type: ignore[method-assign]
    site.plane.set_lease(boottime_ns() + 60_000_000_000)
    thread, outcome = in_thread(lambda: read(handle))
    eventually(lambda: handle.gate.waiting == 1, "it waits for a lease instead of returning old data")
    assert not outcome
    site.plane.set_lease(boottime_ns() + 60_000_000_000)
    thread.join(5)
    assert outcome == [b"n" * SECTOR]


def test_a_write_is_not_acknowledged_before_the_lease_is_back_and_runs_once() -> None:
    site = FakeSite(io_timeout_ms=5_000)
    segments = (PlaneSegment(0, 4096, "s:1", LABEL_BYTES, ""),)
    site.install(volume("v", 1, *segments, size_bytes=4096, needs_lease=True))
    writes = []

    def entered() -> None:
        writes.append(1)
        site.plane.set_lease(1)

    site.backends["s:1"].entered = entered
    handle, _ = site.plane.open("v")
    site.plane.set_lease(boottime_ns() + 60_000_000_000)
    thread, outcome = in_thread(lambda: handle.write(memoryview(b"w" * SECTOR), 0, False))
    eventually(lambda: handle.gate.waiting == 1, "its acknowledgement waits")
    site.plane.set_lease(boottime_ns() + 60_000_000_000)
    thread.join(5)
    assert outcome == [None]
    assert writes == [1]
