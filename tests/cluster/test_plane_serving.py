"""What ordinary clients see: every tool of the NBD world against a volume that spans two sites."""

import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import nbd
import pytest

from tests.plane import MIB, Pair, Site, connected, eventually, volume
from vimraft.core.ids import LABEL_BYTES
from vimraft.data import feed
from vimraft.data.feed import PlaneSegment

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    pair = Pair(tmp_path_factory.mktemp("p"))
    try:
        pair.start()
        yield pair
    finally:
        pair.close()


def run(*argv: str, **options: object) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_nbdinfo_lists_the_volumes_and_only_them(pair: Pair) -> None:
    for site in (pair.a, pair.b):
        listed = json.loads(run("nbdinfo", "--list", "--json", site.export.uri))
        assert [export["export-name"] for export in listed["exports"]] == ["v"]
        export = listed["exports"][0]
        assert export["export-size"] == pair.mib * MIB
        assert export["can_multi_conn"]
        assert export["can_fua"]
        assert export["can_trim"]
        assert (export["block_size_minimum"], export["block_size_preferred"]) == (512, 4096)


def test_the_store_lists_nothing(pair: Pair) -> None:
    done = subprocess.run(
        ["nbdinfo", "--list", "--json", pair.b.store.uri],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode != 0 or json.loads(done.stdout)["exports"] == []


def test_an_unknown_export_is_refused_and_the_log_names_it(pair: Pair) -> None:
    with pytest.raises(nbd.Error), connected(pair.a.export.uri_of("nothing-like-it")):
        pass
    assert "nothing-like-it" in pair.a.export.log


def test_an_empty_export_name_is_refused(pair: Pair) -> None:
    with pytest.raises(nbd.Error), connected(pair.a.export.uri_of("")):
        pass


def test_data_written_at_one_site_is_read_at_the_other(pair: Pair) -> None:
    data = random.Random(1).randbytes(3 * MIB)
    middle = pair.half_mib * MIB - MIB - 512
    with connected(pair.b.export.uri_of("v")) as far, connected(pair.a.export.uri_of("v")) as near:
        far.pwrite(data, middle)
        assert near.pread(len(data), middle) == data
        near.pwrite(data[::-1], middle)
        assert far.pread(len(data), middle) == data[::-1]


def test_nbdcopy_takes_an_image_in_at_one_site_and_out_at_the_other(pair: Pair, tmp_path: Path) -> None:
    image, back = tmp_path / "in.img", tmp_path / "out.img"
    image.write_bytes(random.Random(2).randbytes(pair.mib * MIB))
    run("nbdcopy", "--flush", str(image), pair.a.export.uri_of("v"))
    run("nbdcopy", pair.b.export.uri_of("v"), str(back))
    assert back.read_bytes() == image.read_bytes()


def test_qemu_img_converts_and_compares(pair: Pair, tmp_path: Path) -> None:
    image = tmp_path / "q.img"
    image.write_bytes(random.Random(3).randbytes(MIB) * pair.mib)
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(image), pair.b.export.uri_of("v"))
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", str(image), pair.a.export.uri_of("v"))


def test_qemu_io_writes_zeroes_discards_and_flushes(pair: Pair) -> None:
    edge = pair.half_mib * MIB
    commands = [
        f"write -P 0x5a {edge - 65536} 131072",
        f"write -f -P 0x5b {edge} 4096",
        f"write -z {edge - 4096} 4096",
        f"discard {edge + 8192} 4096",
        "flush",
        f"read -P 0x5b {edge} 4096",
        f"read -P 0 {edge - 4096} 4096",
        f"read -P 0x5a {edge - 65536} 61440",
    ]
    flags = [part for command in commands for part in ("-c", command)]
    said = run("qemu-io", "-f", "raw", *flags, pair.b.export.uri_of("v"))
    assert "verification failed" not in said


def test_fio_verifies_random_writes_through_both_sites(pair: Pair, tmp_path: Path) -> None:
    for site in (pair.a, pair.b):
        run(
            "fio", "--name=v", "--ioengine=nbd", f"--uri={site.export.uri_of('v')}", "--rw=randwrite",
            "--bsrange=512-128k", "--bs_unaligned=0", "--iodepth=16", f"--size={pair.mib}M", "--io_size=24M",
            "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--verify_state_save=0", "--randrepeat=0",
            cwd=tmp_path,
        )  # fmt: skip


def test_block_status_merges_both_sites(pair: Pair) -> None:
    with connected(pair.b.export.uri_of("v")) as handle:
        handle.trim(pair.mib * MIB, 0)
        handle.pwrite(b"d" * 65536, pair.half_mib * MIB - 32768)
        runs: list[int] = []
        handle.block_status(pair.mib * MIB, 0, lambda _c, _o, entries, _e: runs.extend(entries))
    lengths, bits = runs[0::2], runs[1::2]
    assert sum(lengths) == pair.mib * MIB
    assert bits == [3, 0, 3]
    assert lengths[1] == 65536


def test_a_flush_on_one_connection_covers_the_others(pair: Pair) -> None:
    """Legal multi-conn: what one connection wrote is in the owner's backends when another flushes."""
    with connected(pair.b.export.uri_of("v")) as one, connected(pair.a.export.uri_of("v")) as other:
        one.pwrite(b"m" * 4096, pair.half_mib * MIB)
        other.flush()
        assert other.pread(4096, pair.half_mib * MIB) == b"m" * 4096
    reals = pair.b.store.received(feed.Stats)[-1].reals
    assert "sb:0" in reals


def test_requests_off_the_sector_grid_are_refused(pair: Pair) -> None:
    with connected(pair.a.export.uri_of("v")) as handle:
        handle.set_strict_mode(0)
        for offset, length in ((1, 512), (512, 100)):
            with pytest.raises(nbd.Error) as raised:
                handle.pread(length, offset)
            assert raised.value.errno == "EINVAL"


def test_figures_and_the_hello_reach_the_manager(pair: Pair) -> None:
    hello = pair.a.export.hellos[0]
    assert (hello.role, hello.manager, hello.pid) == ("export", "a", pair.a.export.process.pid)
    assert len(pair.a.export.passed) == 1
    assert pair.a.export.passed[0].getsockname() == pair.a.export.listener.getsockname()
    lock = pair.directory / "a-export.lock"
    assert int(lock.read_text()) == hello.pid


def test_sixty_four_segments_here_and_there_are_one_flat_disk(tmp_path: Path) -> None:
    """Requests that cross many segments at both sites, several connections, against a bytearray."""
    pair = Pair(tmp_path)
    step = 24 * 512
    count = 64
    shuffled = random.Random(6).sample(range(count), count)
    both = [
        PlaneSegment(n * step, step, ("sa:0", "sb:0")[n % 2], LABEL_BYTES + at * step, ("", "b")[n % 2])
        for n, at in enumerate(shuffled)
    ]
    there = tuple(PlaneSegment(s.offset, s.length, s.real, s.real_offset, "") for s in both if s.manager)
    owner, forwarder, store = pair.updates()
    owned = volume("w", 1, *both, size_bytes=count * step)
    elsewhere = volume("w", 1, owned=False, size_bytes=count * step)
    stored = volume("w", 1, *there, owned=False, size_bytes=count * step)
    try:
        for process, update, shape in zip(
            pair.processes, (owner, forwarder, store), (owned, elsewhere, stored), strict=True
        ):
            process.always_send(msgspec.structs.replace(update, volumes=(shape,)))
            process.start()
        for process in pair.processes:
            process.wait_installed(pair.index)
        rng = random.Random(7)
        model = bytearray(count * step)
        with connected(pair.a.export.uri_of("w")) as near, connected(pair.b.export.uri_of("w")) as far:
            for _ in range(400):
                handle = rng.choice((near, far))
                offset = rng.randrange(count * 24) * 512
                length = min(rng.randrange(1, 20 * 24) * 512, len(model) - offset)
                match rng.randrange(6):
                    case 0 | 1 | 2:
                        data = rng.randbytes(length)
                        handle.pwrite(data, offset, rng.choice((0, nbd.CMD_FLAG_FUA)))
                        model[offset : offset + length] = data
                    case 3:
                        handle.zero(length, offset)
                        model[offset : offset + length] = bytes(length)
                    case 4:
                        handle.trim(length, offset)
                        model[offset : offset + length] = bytes(length)
                    case _:
                        handle.flush()
                other = near if handle is far else far
                assert other.pread(length, offset) == model[offset : offset + length]
            assert near.pread(len(model), 0) == model
    finally:
        pair.close()


def test_the_parallel_thread_model_serves_the_same(tmp_path: Path) -> None:
    """Chosen with nbdkit 1.34 and later; requests of one connection overlap then."""
    pair = Pair(tmp_path)
    try:
        pair.start(model="parallel")
        for site in (pair.a, pair.b):
            run(
                "fio", "--name=v", "--ioengine=nbd", f"--uri={site.export.uri_of('v')}", "--rw=randwrite",
                "--bsrange=512-64k", "--bs_unaligned=0", "--iodepth=16", f"--size={pair.mib}M",
                "--io_size=8M", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1",
                "--verify_state_save=0",
                cwd=tmp_path,
            )  # fmt: skip
        with connected(pair.a.export.uri_of("v")) as handle:
            handle.set_strict_mode(0)
            for _ in range(50):
                with pytest.raises(nbd.Error):
                    handle.pread(100, 1)
            pair.change(epoch=2)
            handle.flush()
        assert "request.bug" not in pair.a.export.log + pair.b.export.log + pair.b.store.log
    finally:
        pair.close()


def test_forwarded_io_counts_once_where_the_client_is_attached(pair: Pair) -> None:
    def writes(site: Site) -> int:
        return site.export.received(feed.Stats)[-1].volumes["v"].writes

    eventually(lambda: pair.a.export.received(feed.Stats), "statistics of a")
    eventually(lambda: pair.b.export.received(feed.Stats), "statistics of b")
    at_a, at_b = writes(pair.a), writes(pair.b)
    with connected(pair.b.export.uri_of("v")) as handle:
        for _ in range(10):
            handle.pwrite(b"c" * 4096, 0)
    eventually(lambda: writes(pair.b) == at_b + 10, "counted at b")
    seen = len(pair.a.export.received(feed.Stats))
    eventually(lambda: len(pair.a.export.received(feed.Stats)) > seen, "newer statistics of a")
    assert writes(pair.a) == at_a
