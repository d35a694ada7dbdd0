"""The engine over fake real volumes, against a bytearray that does the same."""

import errno
import itertools
import time
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.plane import MIB, eventually, volume
from tests.plane_fakes import SECTOR, FakeSite, in_thread, simple_volume
from vimraft.core.ids import LABEL_BYTES
from vimraft.data.errors import IoError, OpenError, wire_errno
from vimraft.data.feed import BackendSpec, PeerSpec, PlaneSegment, Problem
from vimraft.data.handle import Handle

SECTORS = 96


@st.composite
def layouts(draw: st.DrawFn) -> list[PlaneSegment]:
    """Tile SECTORS sectors with segments on three real volumes, no two on the same place."""
    cuts = sorted(draw(st.sets(st.integers(1, SECTORS - 1), max_size=12)))
    ends = [*cuts, SECTORS]
    starts = [0, *cuts]
    free = dict.fromkeys(("s:0", "s:1", "s:2"), 0)
    segments = []
    for start, end in zip(starts, ends, strict=True):
        real = draw(st.sampled_from(sorted(free)))
        at = free[real] + draw(st.integers(0, 3))
        free[real] = at + end - start
        segments.append(
            PlaneSegment(start * SECTOR, (end - start) * SECTOR, real, LABEL_BYTES + at * SECTOR, "")
        )
    return draw(st.permutations(segments))


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, int, int, int]:
    start = draw(st.integers(0, SECTORS - 1))
    length = draw(st.integers(1, SECTORS - start))
    kind = draw(st.sampled_from(["read", "write", "fua", "zero", "trim", "flush", "extents"]))
    return kind, start * SECTOR, length * SECTOR, draw(st.integers(1, 255))


@given(layouts(), st.lists(requests(), max_size=25), st.booleans())
def test_split_requests_do_what_a_flat_disk_does(
    segments: list[PlaneSegment], steps: list[tuple[str, int, int, int]], parallel: bool
) -> None:
    site = FakeSite(parallel=parallel)
    site.install(volume("v", 1, *segments, size_bytes=SECTORS * SECTOR))
    handle, _ = site.plane.open("v")
    model = bytearray(SECTORS * SECTOR)
    for kind, offset, length, fill in steps:
        data = bytes([fill]) * length
        if kind in ("write", "fua"):
            handle.write(memoryview(data), offset, kind == "fua")
            model[offset : offset + length] = data
        elif kind == "zero":
            handle.zero(offset, length, may_trim=bool(fill & 1), fua=bool(fill & 2), fast=False)
            model[offset : offset + length] = bytes(length)
        elif kind == "trim":
            handle.trim(offset, length, fua=False)
            model[offset : offset + length] = bytes(length)
        elif kind == "flush":
            handle.flush()
        elif kind == "extents":
            runs = handle.extents(offset, length)
            assert runs[0][0] == offset
            assert sum(run for _, run, _ in runs) == length
            assert all(b[0] == a[0] + a[1] for a, b in itertools.pairwise(runs))
        buffer = bytearray(length)
        handle.read(memoryview(buffer), offset)
        assert buffer == model[offset : offset + length]
    whole = bytearray(len(model))
    handle.read(memoryview(whole), 0)
    assert whole == model
    assert handle.busy == 0
    site.close()


def read(handle: Handle, offset: int = 0, length: int = SECTOR) -> bytes:
    buffer = bytearray(length)
    handle.read(memoryview(buffer), offset)
    return bytes(buffer)


def write(handle: Handle, data: bytes, offset: int = 0) -> None:
    handle.write(memoryview(data), offset, False)


def failure(action: object, *args: object) -> int:
    with pytest.raises(IoError) as raised:
        action(*args)
    return raised.value.number


def test_who_opens_a_volume_that_was_built_elsewhere_just_now_waits_for_its_tables() -> None:
    site = FakeSite()
    site.install()
    opener, opened = in_thread(lambda: site.plane.open("v"))
    assert opener.is_alive()
    site.install(simple_volume(8))
    opener.join(5)
    ((handle, _),) = cast(list[tuple[Handle, None]], opened)
    assert read(handle) == bytes(SECTOR)
    began = time.monotonic()
    with pytest.raises(OpenError, match="no virtual volume is called 'w'"):
        site.plane.open("w")
    assert 0.9 < time.monotonic() - began < 5


def test_a_request_beyond_the_end_or_off_the_grid_is_invalid() -> None:
    site = FakeSite()
    site.install(simple_volume(8))
    handle, _ = site.plane.open("v")
    assert failure(read, handle, 8 * SECTOR) == errno.EINVAL
    assert failure(read, handle, 7 * SECTOR, 2 * SECTOR) == errno.EINVAL
    assert failure(read, handle, 1) == errno.EINVAL
    assert failure(write, handle, b"x" * 100) == errno.EINVAL
    assert handle.errors == 4
    assert handle.busy == 0


@pytest.mark.parametrize(
    ("number", "seen"),
    [
        (errno.ENOSPC, errno.ENOSPC),
        (errno.EDQUOT, errno.ENOSPC),
        (errno.EROFS, errno.EPERM),
        (errno.EBUSY, errno.EIO),
        (errno.ETIMEDOUT, errno.EIO),
        (errno.ENOENT, errno.EIO),
        (errno.ESTALE, errno.EIO),
        (errno.EAGAIN, errno.EIO),
        (errno.ENOMEM, errno.ENOMEM),
        (None, errno.EIO),
    ],
)
def test_errnos_that_the_wire_would_garble_are_translated(number: int | None, seen: int) -> None:
    assert wire_errno(number) == seen


def test_an_error_of_a_real_volume_reaches_the_client_and_the_manager_once() -> None:
    site = FakeSite()
    site.install(volume("v", 1, PlaneSegment(0, MIB, "s:1", LABEL_BYTES, "")))
    handle, _ = site.plane.open("v")
    site.backends["s:1"].failing = errno.ENOSPC
    for _ in range(3):
        assert failure(write, handle, b"x" * SECTOR) == errno.ENOSPC
    assert [(problem.real, problem.kind) for problem in site.problems] == [("s:1", "io")]
    site.backends["s:1"].failing = 0
    write(handle, b"x" * SECTOR)


def test_a_failed_flush_is_told_and_reported() -> None:
    site = FakeSite()
    site.install(simple_volume())
    handle, _ = site.plane.open("v")
    site.backends["s:0"].broken = "a flush failed"
    assert failure(handle.flush) == errno.EIO
    assert site.problems[0].kind == "flush"
    assert failure(write, handle, b"x" * SECTOR) == errno.EIO, "a broken volume takes no writes"


def test_a_flush_reaches_every_real_volume_whoever_wrote() -> None:
    site = FakeSite()
    segments = [PlaneSegment(n * 4096, 4096, f"s:{n}", LABEL_BYTES, "") for n in range(3)]
    site.install(volume("v", 1, *segments, size_bytes=3 * 4096))
    writer, _ = site.plane.open("v")
    other, _ = site.plane.open("v")
    write(writer, b"x" * 4096, 4096)
    other.flush()
    assert [site.backends[f"s:{n}"].flushes for n in range(3)] == [1, 1, 1]


def test_a_loss_fails_one_flush_of_each_handle_that_was_open() -> None:
    """INV-3."""
    site = FakeSite()
    site.install(simple_volume())
    one, _ = site.plane.open("v")
    two, _ = site.plane.open("v")
    site.backends["s:0"].losses += 1
    late, _ = site.plane.open("v")
    assert failure(one.flush) == errno.EIO
    one.flush()
    assert failure(two.flush) == errno.EIO
    two.flush()
    late.flush()


def test_a_device_that_went_away_is_opened_anew_and_counts_as_a_loss() -> None:
    site = FakeSite()
    site.install(simple_volume())
    handle, _ = site.plane.open("v")
    write(handle, b"x" * SECTOR)
    gone = site.backends["s:0"]
    gone.fd = -1
    site.install(simple_volume(epoch=2))
    gone.failing = errno.ENODEV
    assert failure(read, handle) == errno.EIO
    assert [problem.kind for problem in site.problems] == ["missing"]
    site.plane.reopen_missing()
    eventually(lambda: gone.closed, "it is opened anew")
    assert read(handle) == b"x" * SECTOR
    assert failure(handle.flush) == errno.EIO
    handle.flush()


def test_a_real_volume_that_cannot_be_opened_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    site = FakeSite()
    site.missing.add("s:0")
    site.install(simple_volume())
    handle, _ = site.plane.open("v")
    assert failure(read, handle) == errno.EIO
    assert site.problems == [Problem("s:0", "missing", "real volume s:0: fake:0: not there")]
    assert site.plane.problems() == site.problems
    site.plane.reopen_missing()
    assert len(site.problems) == 1, "the same problem is told once"
    site.missing.clear()
    monkeypatch.setattr("vimraft.data.real_table.REOPEN_S", 0.0)
    site.plane._reals._next_reopen = 0.0
    site.plane.reopen_missing()
    eventually(lambda: handle.gate.plan.reals[0].backend, "it is opened")
    assert read(handle) == bytes(SECTOR)
    assert site.plane.problems() == []


def test_a_changed_spec_moves_io_to_the_new_backend_and_closes_the_old() -> None:
    site = FakeSite()
    site.install(simple_volume())
    handle, _ = site.plane.open("v")
    old = site.backends["s:0"]
    spec = site.specs[0]
    site.specs = (
        BackendSpec(spec.real, "fake:moved", spec.label_id, spec.cluster_id, spec.capacity_bytes, ""),
        *site.specs[1:],
    )
    site.install(simple_volume())
    eventually(lambda: old.closed, "the old one is closed")
    assert read(handle) == bytes(SECTOR)


def test_a_map_that_changes_nothing_holds_nothing() -> None:
    site = FakeSite()
    site.install(simple_volume())
    handle, _ = site.plane.open("v")
    handle.busy = 1  # a request that never ends: a drain would wait for it
    assert site.install(simple_volume()) == 0


def test_a_store_refuses_clients_and_ranges_that_it_does_not_hold() -> None:
    site = FakeSite()
    site.plane.role = "store"
    hole_first = volume("v", 1, PlaneSegment(4096, 4096, "s:0", LABEL_BYTES, ""), size_bytes=16384)
    site.install(hole_first, peers=(PeerSpec("b", "", ""),))
    with pytest.raises(OpenError):
        site.plane.open("v")
    handle, name = site.plane.open(".segments/v/1/b~life~0/1")
    write(handle, b"x" * 4096, 4096)
    assert failure(read, handle, 0) == errno.EIO
    assert failure(read, handle, 8192) == errno.EIO
    assert failure(read, handle, 4096, 8192) == errno.EIO
    site.plane.close(handle, name)


def test_resolving_in_a_volume_of_100_000_segments_takes_microseconds() -> None:
    site = FakeSite()
    count = 100_000
    segments = [
        PlaneSegment(n * SECTOR, SECTOR, "s:0", LABEL_BYTES + (n * 7919 % 2048) * SECTOR, "")
        for n in range(count)
    ]
    site.install(volume("v", 1, *segments, size_bytes=count * SECTOR))
    handle, _ = site.plane.open("v")
    plan = handle.gate.plan
    start = time.perf_counter()
    for n in range(2_000):
        plan.pieces([(n * 49 % count * SECTOR, SECTOR)])
    took_us = (time.perf_counter() - start) / 2_000 * 1e6
    assert took_us < 50, f"{took_us:.1f} us: not O(log n)"


def test_counters_outlive_their_connections() -> None:
    site = FakeSite()
    site.install(simple_volume())
    handle, name = site.plane.open("v")
    write(handle, b"x" * 4096)
    read(handle)
    site.plane.close(handle, name)
    volumes, reals, held = site.plane.stats()
    assert (volumes["v"].writes, volumes["v"].write_bytes, volumes["v"].reads) == (1, 4096, 1)
    assert volumes["v"].connections == 0
    assert (reals["s:0"].writes, reals["s:0"].reads) == (1, 1)
    assert held == 0


def test_a_client_that_comes_before_the_first_map_waits_for_it() -> None:
    site = FakeSite()
    thread, outcome = in_thread(lambda: site.plane.open("v")[0].size_bytes)
    assert not outcome
    site.install(simple_volume(16))
    eventually(lambda: outcome, "the client is let in")
    thread.join(5)
    assert outcome == [16 * SECTOR]


def test_a_map_that_moves_to_other_real_volumes_is_no_loss() -> None:
    site = FakeSite()
    site.install(simple_volume())
    handle, _ = site.plane.open("v")
    site.backends["s:0"].losses = 3
    assert failure(handle.flush) == errno.EIO
    site.install(volume("v", 1, PlaneSegment(0, MIB, "s:1", LABEL_BYTES, ""), epoch=2))
    handle.flush()
    site.backends["s:1"].losses = 1
    site.install(simple_volume(epoch=3))
    assert failure(handle.flush) == errno.EIO, "what was lost before the move still counts"
    handle.flush()
