"""Holds, leases and map changes as a connected client lives through them."""

import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nbd
import pytest

from tests.plane import MIB, Pair, connected, eventually
from vimraft.data import feed
from vimraft.data.feed import BackendSpec, MapUpdate

pytestmark = pytest.mark.cluster


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path, io_timeout_ms=3_000)
    try:
        pair.start()
        yield pair
    finally:
        pair.close()


class Background:
    """Runs `action` in a thread; keeps its result or error."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.result: object = None
        self.error: nbd.Error | None = None
        self._action = action
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.result = self._action()
        except nbd.Error as error:
            self.error = error

    def join(self, timeout_s: float = 10.0) -> None:
        self.thread.join(timeout_s)
        assert not self.thread.is_alive(), "a request hangs"


def boottime_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def hold(pair: Pair, token: int) -> None:
    pair.a.export.send(feed.Hold(token, ("v",)))
    eventually(lambda: feed.Held(token) in pair.a.export.messages, "Held")


def test_a_held_request_waits_and_goes_on_when_released(pair: Pair) -> None:
    with connected(pair.a.export.uri_of("v")) as handle:
        handle.pwrite(b"h" * 512, 0)
        hold(pair, 7)
        reading = Background(lambda: bytes(handle.pread(512, 0)))
        eventually(lambda: pair.a.export.waiting == 1, "one request waits")
        assert reading.thread.is_alive()
        pair.a.export.send(feed.Unhold(7))
        reading.join()
        assert reading.result == b"h" * 512


def test_a_request_held_for_longer_than_the_timeout_gets_eio(pair: Pair) -> None:
    with connected(pair.a.export.uri_of("v")) as handle:
        hold(pair, 8)
        reading = Background(lambda: handle.pread(512, 0))
        reading.join()
        assert reading.error is not None
        assert reading.error.errno == "EIO"
        pair.a.export.send(feed.Unhold(8))
        eventually(lambda: Background(lambda: handle.pread(512, 0)), "usable again")


def test_two_holds_are_both_to_be_released(pair: Pair) -> None:
    with connected(pair.a.export.uri_of("v")) as handle:
        hold(pair, 1)
        hold(pair, 2)
        pair.a.export.send(feed.Unhold(1))
        reading = Background(lambda: handle.pread(512, 0))
        eventually(lambda: pair.a.export.waiting == 1, "one request waits")
        pair.a.export.send(feed.Unhold(2))
        reading.join()
        assert reading.error is None


def test_sigterm_ends_the_process_at_once_though_a_request_is_held(pair: Pair) -> None:
    export = pair.a.export
    assert export.process is not None
    with connected(export.uri_of("v")) as handle:
        hold(pair, 9)
        reading = Background(lambda: handle.pread(512, 0))
        eventually(lambda: export.waiting == 1, "one request waits")
        start = time.monotonic()
        export.process.terminate()
        assert export.process.wait(5) == 0
        assert time.monotonic() - start < 1.0
        reading.join()
        assert reading.error is not None


def test_quit_flushes_and_ends(pair: Pair) -> None:
    export = pair.a.export
    assert export.process is not None
    export.send(feed.Quit())
    assert export.process.wait(5) == 0


def test_a_volume_grown_while_attached_shows_its_size_at_the_next_connection(pair: Pair) -> None:
    for site in (pair.a, pair.b):
        with connected(site.export.uri_of("v")) as old:
            before = old.get_size()
            old.pwrite(b"g" * 512, 512)
            pair.change(half_mib=pair.half_mib + 8, epoch=pair.index + 1)
            assert old.get_size() == before
            assert old.pread(512, 512) == b"g" * 512
            with connected(site.export.uri_of("v")) as new:
                assert new.get_size() == before + 16 * MIB
                new.pwrite(b"G" * 512, new.get_size() - 512)


def test_epochs_change_under_verified_io_at_both_sites(pair: Pair) -> None:
    fios = [
        subprocess.Popen(
            ["fio", "--name=v", "--ioengine=nbd", f"--uri={site.export.uri_of('v')}", "--rw=randwrite",
             "--bsrange=512-64k", "--bs_unaligned=0", "--iodepth=8", f"--offset={offset}M", "--size=16M",
             "--io_size=16M", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--verify_state_save=0",
             "--rate=8m"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=pair.directory,
        )
        for site, offset in ((pair.a, 0), (pair.b, 16))
    ]  # fmt: skip
    changes = 0
    while any(fio.poll() is None for fio in fios):
        changes += 1
        pair.change(epoch=changes + 1)
    for fio in fios:
        said = fio.communicate(timeout=30)[0].decode()
        assert fio.returncode == 0, said
    assert changes > 20
    longest_us = max(message.hold_us for message in pair.a.export.received(feed.Installed))
    assert longest_us < 1_000_000


def test_a_removed_volume_turns_its_clients_away(pair: Pair) -> None:
    with connected(pair.a.export.uri_of("v")) as handle:
        handle.pread(512, 0)
        pair.a.export.install(MapUpdate(100, False, 3_000, removed_volumes=("v",)))
        with pytest.raises(nbd.Error) as raised:
            handle.pread(512, 0)
        assert raised.value.errno == "ESHUTDOWN"
    with pytest.raises(nbd.Error), connected(pair.a.export.uri_of("v")):
        pass


def test_a_manager_that_has_not_caught_up_cannot_take_a_volume_away(pair: Pair) -> None:
    """After its restart it may know older tables than the process that it adopts."""
    export = pair.a.export
    pair.change(epoch=2)
    newest = pair.index
    with connected(export.uri_of("v")) as handle:
        handle.pwrite(b"o" * 512, 0)
        hellos = len(export.hellos)
        export.always_send(MapUpdate(newest - 1, True, 3_000))
        export.hang_up()
        eventually(lambda: len(export.hellos) > hellos + 2, "it hangs up and dials again")
        assert handle.pread(512, 0) == b"o" * 512
        pair.change_on_dial(export, epoch=3)
        export.wait_installed(pair.index)
        assert handle.pread(512, 0) == b"o" * 512


def test_quit_is_heard_from_a_manager_that_has_not_caught_up(pair: Pair) -> None:
    export = pair.a.export
    pair.change(epoch=2)
    hellos = len(export.hellos)
    export.always_send(MapUpdate(pair.index - 1, True, 3_000))
    export.hang_up()
    eventually(lambda: export.log.count("feed.older_map") > 1, "it knows more than its manager")
    assert len(export.hellos) > hellos
    export.send(feed.Quit())
    assert export.process is not None
    assert export.process.wait(10) == 0


def test_holds_of_a_manager_end_with_its_life_and_not_with_its_connection(pair: Pair) -> None:
    export = pair.a.export
    with connected(export.uri_of("v")) as handle:
        hold(pair, 7)
        hellos = len(export.hellos)
        export.hang_up()
        eventually(lambda: len(export.hellos) > hellos, "it dials again")
        reading = Background(lambda: handle.pread(512, 0))
        eventually(lambda: export.waiting == 1, "still held")
        export.always_send(feed.Welcome("a", "another life"))
        export.hang_up()
        reading.join()
        assert reading.error is None


def test_another_volume_built_under_the_same_name_is_not_served_to_old_clients(pair: Pair) -> None:
    with connected(pair.a.export.uri_of("v")) as handle:
        pair.change(local_name="volume B", epoch=2)
        with pytest.raises(nbd.Error) as raised:
            handle.pread(512, 0)
        assert raised.value.errno == "ESHUTDOWN"


def test_a_read_only_volume_takes_no_writes_at_any_site(pair: Pair) -> None:
    with connected(pair.b.export.uri_of("v")) as early:
        pair.change(read_only=True, epoch=2)
        for site in (pair.a, pair.b):
            with connected(site.export.uri_of("v")) as handle:
                assert handle.is_read_only()
                handle.pread(512, 0)
        with pytest.raises(nbd.Error) as raised:
            early.pwrite(b"w" * 512, 0)
        assert raised.value.errno == "EPERM"


def test_without_a_lease_reads_and_writes_are_held(pair: Pair) -> None:
    pair.change(needs_lease=True, epoch=2)
    for site in (pair.a, pair.b):
        pair.a.export.send(feed.LeaseUntil(0))
        with connected(site.export.uri_of("v")) as handle:
            reading = Background(lambda handle=handle: handle.pread(512, 0))
            eventually(lambda: pair.a.export.waiting == 1, "it waits for the lease")
            pair.a.export.send(feed.LeaseUntil(boottime_ns() + 60_000_000_000))
            reading.join()
            assert reading.error is None
            handle.pwrite(b"l" * 512, 0)


def test_a_lease_that_runs_out_ends_service_without_a_word_from_the_manager(pair: Pair) -> None:
    """INV-2: the export enforces the deadline itself, also when its manager is gone."""
    pair.change(needs_lease=True, epoch=2)
    with connected(pair.a.export.uri_of("v")) as handle:
        end_ns = boottime_ns() + 300_000_000
        pair.a.export.always_send()
        pair.a.export.send(feed.LeaseUntil(end_ns))
        pair.a.export.hang_up()
        served_ns: list[int] = []

        def read_for_ever() -> None:
            while True:
                handle.pread(512, 0)
                served_ns.append(boottime_ns())

        with pytest.raises(nbd.Error) as raised:
            read_for_ever()
        assert raised.value.errno == "EIO"
        assert served_ns
        assert served_ns[-1] < end_ns + 100_000_000, "served after the lease"
        assert boottime_ns() > end_ns + 2_500_000_000, "it was held for the I/O timeout first"


def test_a_missing_real_volume_fails_its_part_alone_and_is_taken_back_when_it_returns(pair: Pair) -> None:
    data = random.Random(4).randbytes(4096)
    with connected(pair.a.export.uri_of("v")) as handle:
        handle.pwrite(data, 0)
        handle.flush()
    path = pair.directory / "a0.img"
    away = pair.directory / "away"
    pair.a.export.kill()
    os.rename(path, away)
    pair.a.export.start()
    pair.a.export.wait_hello(2)
    problems = lambda: pair.a.export.received(feed.Problem)  # noqa: E731
    eventually(problems, "the problem is reported")
    assert (problems()[0].real, problems()[0].kind) == ("sa:0", "missing")
    with connected(pair.a.export.uri_of("v")) as handle:
        with pytest.raises(nbd.Error) as raised:
            handle.pread(512, 0)
        assert raised.value.errno == "EIO"
        handle.pread(512, pair.half_mib * MIB)
        os.rename(away, path)
        eventually(lambda: Background(lambda: handle.pread(512, 0)).join() or served(handle), "it is back")
        assert handle.pread(4096, 0) == data
    assert len(problems()) == 1


def served(handle: nbd.NBD) -> bool:
    try:
        handle.pread(512, 0)
    except nbd.Error:
        return False
    return True


def test_a_real_volume_with_another_label_is_not_touched(pair: Pair) -> None:
    right = pair.real_a
    pair.real_a = BackendSpec(right.real, right.uri, "0" * 32, right.cluster_id, right.capacity_bytes, "")
    pair.change(epoch=2)
    with connected(pair.a.export.uri_of("v")) as handle, pytest.raises(nbd.Error) as raised:
        handle.pwrite(b"x" * 512, 0)
    assert raised.value.errno == "EIO"
    eventually(lambda: [p.kind for p in pair.a.export.received(feed.Problem)] == ["label"], "reported once")
    pair.real_a = right
    pair.change(epoch=3)
    with connected(pair.a.export.uri_of("v")) as handle:
        handle.pwrite(b"x" * 512, 0)


def test_a_real_volume_that_the_tables_call_failed_is_not_opened(pair: Pair) -> None:
    right = pair.real_a
    pair.real_a = BackendSpec(
        right.real, right.uri, right.label_id, right.cluster_id, right.capacity_bytes, "smoke"
    )
    pair.change(epoch=2)
    with connected(pair.a.export.uri_of("v")) as handle, pytest.raises(nbd.Error) as raised:
        handle.pread(512, 0)
    assert raised.value.errno == "EIO"
