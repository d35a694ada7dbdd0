"""Real volumes that take long to open, to flush or to drain: only who needs them waits, and not for ever."""

import errno
import threading
import time

import pytest

from tests.plane import eventually, volume
from tests.plane_fakes import SECTOR, FakeSite, in_thread, simple_volume
from vimraft.core.ids import LABEL_BYTES
from vimraft.data.errors import IoError
from vimraft.data.feed import BackendSpec, MapUpdate, PlaneSegment, VolumeMap
from vimraft.data.handle import Handle
from vimraft.data.workers import Workers


def on(real: str, name: str = "w", **changes: object) -> VolumeMap:
    return volume(name, 1, PlaneSegment(0, 4096, real, LABEL_BYTES, ""), size_bytes=4096, **changes)


def read(handle: Handle) -> bytes:
    buffer = bytearray(SECTOR)
    handle.read(memoryview(buffer), 0)
    return bytes(buffer)


def silent(site: FakeSite, *reals: str) -> None:
    site.silent |= {real: threading.Event() for real in reals}


def answer(site: FakeSite) -> None:
    for event in site.silent.values():
        event.set()


def test_a_silent_real_volume_delays_neither_the_first_map_nor_the_next_change() -> None:
    site = FakeSite()
    silent(site, "s:1", "s:2")
    start = time.monotonic()
    site.install(simple_volume(), on("s:1"))
    handle, _ = site.plane.open("v")
    assert read(handle) == bytes(SECTOR)
    site.plane.reopen_missing()
    site.install(on("s:0", "u"), full=False)
    assert time.monotonic() - start < 2.0
    answer(site)


def test_io_to_a_real_volume_that_is_being_opened_waits_and_goes_on() -> None:
    site = FakeSite()
    silent(site, "s:1")
    site.install(on("s:1"))
    handle, _ = site.plane.open("w")
    reading, outcome = in_thread(lambda: read(handle))
    flushing, flushed = in_thread(site.plane.open("w")[0].flush)
    eventually(lambda: handle.gate.waiting == 2, "both wait")
    answer(site)
    reading.join(5)
    flushing.join(5)
    assert outcome == [bytes(SECTOR)]
    assert flushed == [None]
    assert not site.problems


def test_io_to_a_real_volume_that_stays_silent_fails_after_the_io_timeout() -> None:
    site = FakeSite(io_timeout_ms=200)
    silent(site, "s:1")
    site.install(on("s:1"))
    handle, _ = site.plane.open("w")
    for request in (lambda: read(handle), handle.flush):
        with pytest.raises(IoError) as raised:
            request()
        assert raised.value.number == errno.EIO
        assert "s:1" in str(raised.value)
    answer(site)


def test_of_a_request_that_waits_for_one_real_volume_the_rest_is_done_once() -> None:
    """INV-5: a part that was acknowledged inside is not written again later."""
    site = FakeSite()
    silent(site, "s:1")
    both = (PlaneSegment(0, 4096, "s:2", LABEL_BYTES, ""), PlaneSegment(4096, 4096, "s:1", LABEL_BYTES, ""))
    site.install(volume("w", 1, *both, size_bytes=8192))
    handle, _ = site.plane.open("w")
    written: list[int] = []
    site.backends["s:2"].entered = lambda: written.append(1)
    writing, outcome = in_thread(lambda: handle.write(memoryview(b"x" * 8192), 0, 0))
    eventually(lambda: handle.gate.waiting == 1, "it waits for the other half")
    answer(site)
    writing.join(5)
    assert outcome == [None]
    assert written == [1]


def test_an_open_that_was_superseded_meanwhile_is_closed_again() -> None:
    site = FakeSite()
    silent(site, "s:1")
    site.install(on("s:1"))
    eventually(lambda: site.plane._reals.slot("s:1").opening, "it is being opened")
    site.specs = tuple(spec for spec in site.specs if spec.real != "s:1")
    site.install()
    answer(site)
    eventually(lambda: "s:1" in site.backends and site.backends["s:1"].closed, "closed")
    assert site.plane._reals.slot("s:1").backend is None


def moved(spec: BackendSpec) -> BackendSpec:
    return BackendSpec(spec.real, "fake:moved", spec.label_id, spec.cluster_id, spec.capacity_bytes, "")


def test_no_flush_succeeds_before_the_former_life_of_a_real_volume_was_flushed() -> None:
    """INV-3."""
    site = FakeSite()
    site.install(simple_volume())
    handle, _ = site.plane.open("v")
    handle.write(memoryview(b"x" * SECTOR), 0, 0)
    old = site.backends["s:0"]
    go_on = threading.Event()
    really_flush = old.flush

    def flush_slowly() -> None:
        assert go_on.wait(10)
        really_flush()

    old.flush = flush_slowly  # type: ignore[method-assign]
    site.specs = (moved(site.specs[0]), *site.specs[1:])
    site.install(simple_volume())
    flushing, flushed = in_thread(handle.flush)
    eventually(lambda: handle.gate.waiting == 1, "the flush waits")
    read(handle)
    assert not flushed
    go_on.set()
    flushing.join(5)
    assert flushed == [None]
    assert old.flushes == 1


def test_a_last_flush_that_fails_fails_the_next_flush_of_the_client() -> None:
    """INV-3."""
    site = FakeSite()
    site.install(simple_volume())
    handle, _ = site.plane.open("v")
    handle.write(memoryview(b"x" * SECTOR), 0, 0)
    old = site.backends["s:0"]
    old.broken = "it failed"
    site.specs = (moved(site.specs[0]), *site.specs[1:])
    site.install(simple_volume())
    with pytest.raises(IoError):
        handle.flush()
    handle.flush()


def test_a_volume_that_does_not_drain_delays_no_other_of_the_same_change() -> None:
    site = FakeSite(io_timeout_ms=100)
    site.install(on("s:0", "stuck"), on("s:1", "free"), on("s:2", "gone"))
    stuck, _ = site.plane.open("stuck")
    free, _ = site.plane.open("free")
    gone, _ = site.plane.open("gone")
    stuck.busy = gone.busy = 1
    changing, outcome = in_thread(
        lambda: site.install(on("s:0", "stuck", epoch=2), on("s:1", "free", epoch=2))
    )
    eventually(lambda: free.gate.plan.epoch == 2, "the free one is changed")
    read(free)
    assert stuck.gate.plan.epoch == 1
    assert site.plane.installed_index == 1
    stuck.busy = 0
    eventually(lambda: stuck.gate.plan.epoch == 2, "then the other")
    assert not outcome, "what was removed still runs"
    gone.busy = 0
    changing.join(5)
    assert isinstance(outcome[0], int)
    assert site.plane.installed_index == 2


def test_a_map_that_cannot_be_understood_leaves_no_volume_held() -> None:
    site = FakeSite()
    site.install(simple_volume())
    handle, _ = site.plane.open("v")
    handle.busy = 1
    nonsense = volume("x", 1, None, size_bytes=4096)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        site.plane.install(MapUpdate(2, False, 2_000, (simple_volume(epoch=2), nonsense)))
    handle.busy = 0
    assert not handle.gate.held
    read(handle)


def test_workers_are_few_and_one_job_that_raises_costs_no_other() -> None:
    failures: list[Exception] = []
    workers = Workers("test", 2, failures.append)
    go_on = threading.Event()
    running: list[int] = []
    done: list[str] = []

    def long() -> None:
        running.append(1)
        assert go_on.wait(5)

    for _ in range(2):
        workers.submit(long, urgent=False)
    eventually(lambda: len(running) == 2, "both run")
    workers.submit(lambda: done.append("later"), urgent=False)
    workers.submit(lambda: done.append(str(1 // 0)), urgent=True)
    workers.submit(lambda: done.append("first"), urgent=True)
    assert not done
    go_on.set()
    eventually(lambda: len(done) == 2, "all are done")
    assert [type(error) for error in failures] == [ZeroDivisionError]
    eventually(lambda: workers._threads == 0, "the threads end")
    workers.submit(lambda: done.append("again"), urgent=False)
    eventually(lambda: done[-1] == "again", "they come again")
