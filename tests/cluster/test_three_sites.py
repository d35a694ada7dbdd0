"""Three real managers with their nbdkit processes: volumes across sites, restarts, kills."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import nbd
import pytest

from tests.cluster_fixture import MIB, Cluster, running_cluster, wait_for
from vimraft.api.caller_errors import ApiError, CallerError
from vimraft.api.schema import BuildRequest

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("sites")) as cluster:
        cluster.add_pools(96)
        yield cluster


def connect(cluster: Cluster, volume: str, site: str) -> nbd.NBD:
    handle = nbd.NBD()
    handle.connect_uri(cluster.uri(volume, site))
    return handle


def write(cluster: Cluster, volume: str, site: str, offset: int, data: bytes) -> None:
    handle = connect(cluster, volume, site)
    handle.pwrite(data, offset)
    handle.flush()
    handle.shutdown()


def read(cluster: Cluster, volume: str, site: str, offset: int, length: int) -> bytes:
    handle = connect(cluster, volume, site)
    data = bytes(handle.pread(length, offset))
    handle.shutdown()
    return data


def test_what_one_site_writes_every_site_reads(cluster: Cluster) -> None:
    cluster.build("alpha", 8, sites=("tokyo",))
    cluster.add_real("osaka", 3, "nvme", 8)
    cluster.add_real("nagoya", 3, "nvme", 8)
    cluster.build("spill", 12, sites=("osaka", "nagoya"), volume_class="nvme")
    crossing = os.urandom(2 * MIB)
    for volume, offset in (("alpha", 3 * MIB + 512), ("spill", 7 * MIB)):
        write(cluster, volume, "tokyo", offset, crossing)
        for site in cluster.sites:
            assert read(cluster, volume, site, offset, len(crossing)) == crossing
            assert read(cluster, volume, site, 0, 4096) == bytes(4096)


def test_a_map_shows_the_same_rows_at_every_site(cluster: Cluster) -> None:
    cluster.build("mapped", 4, sites=("nagoya",))
    shown = []
    for site in cluster.sites.values():
        with site.client() as client:
            shown.append(client.volume_map("mapped").table.rows)
    assert shown[0] == shown[1] == shown[2]
    assert len(shown[0]) == 1


def test_a_grown_volume_shows_its_size_at_the_next_connection_and_unwritten_space_is_zero(
    cluster: Cluster,
) -> None:
    cluster.build("growing", 4, sites=("osaka",))
    old = connect(cluster, "growing", "tokyo")
    old.pwrite(b"a" * 4096, 0)
    with cluster.client() as client:
        client.grow_volume("growing", 6 * MIB)
    assert old.get_size() == 4 * MIB
    assert bytes(old.pread(4096, 0)) == b"a" * 4096

    def grown() -> bool:
        handle = connect(cluster, "growing", "tokyo")
        size = handle.get_size()
        handle.shutdown()
        return size == 6 * MIB

    wait_for(grown, 5, "new size at tokyo")
    assert read(cluster, "growing", "tokyo", 5 * MIB, 4096) == bytes(4096)
    old.shutdown()


def test_space_of_a_deleted_volume_comes_back_and_reads_as_zeros(cluster: Cluster) -> None:
    with cluster.client() as client:
        free_before = {r.id: r.free_bytes for r in client.status().reals}
        cluster.build("old", 16, sites=("tokyo",), volume_class="slow-hdd")
        write(cluster, "old", "tokyo", 0, os.urandom(16 * MIB))
        (segment,) = client.volume("old").segments
        client.delete_volume("old", purge=True)
        wait_for(lambda: {r.id: r.free_bytes for r in client.status().reals} == free_before, 15, "space back")
        cluster.build("new", 16, sites=("tokyo",), volume_class="slow-hdd")
        (again,) = client.volume("new").segments
        assert (again.storage, again.real_first) == (segment.storage, segment.real_first)
    assert read(cluster, "new", "osaka", 0, 16 * MIB) == bytes(16 * MIB)


def test_a_build_that_does_not_fit_says_what_would_and_takes_nothing(cluster: Cluster) -> None:
    with cluster.client() as client:
        before = [r.free_bytes for r in client.status().reals]
        with pytest.raises(ApiError) as caught:
            client.build_volume(BuildRequest("huge", 10**12 * 512, "ssd", ("tokyo", "osaka")))
        assert "largest volume of class ssd that fits" in caught.value.reply.message
        assert [r.free_bytes for r in client.status().reals] == before
        failed = [e for e in client.events().events if e.name == "volume.build_failed"]
        assert failed
        assert failed[-1].subject == "huge"


def test_the_data_plane_serves_on_while_its_manager_is_dead_and_is_adopted_by_the_next(
    cluster: Cluster,
) -> None:
    cluster.build("lasting", 4, sites=("nagoya",))
    site = cluster["nagoya"]
    export = site.plane_pid("export")
    handle = connect(cluster, "lasting", "nagoya")
    handle.pwrite(b"1" * 4096, 0)
    site.stop_manager(signal.SIGKILL)
    handle.pwrite(b"2" * 4096, 0)
    handle.flush()
    site.start()
    cluster.wait_healthy(tuple(cluster.sites))
    assert site.plane_pid("export") == export
    assert bytes(handle.pread(4096, 0)) == b"2" * 4096
    handle.shutdown()


def test_a_killed_export_comes_back_on_the_same_socket_and_forwarded_io_only_pauses(
    cluster: Cluster,
) -> None:
    cluster.build("paused", 4, sites=("tokyo",))
    forwarded = connect(cluster, "paused", "osaka")
    forwarded.pwrite(b"a" * 4096, 0)
    with cluster.client() as client:
        epoch = client.volume("paused").volume.epoch
    killed = cluster["tokyo"].plane_pid("export")
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    forwarded.pwrite(b"b" * 4096, 0)
    forwarded.flush()
    assert bytes(forwarded.pread(4096, 0)) == b"b" * 4096
    assert cluster["tokyo"].plane_pid("export") != killed
    assert read(cluster, "paused", "tokyo", 0, 4096) == b"b" * 4096

    def reopened() -> bool:
        with cluster.client() as client:
            return client.volume("paused").volume.epoch > epoch

    wait_for(reopened, 10, "a new life of the export is a new epoch")
    forwarded.shutdown()


def test_losing_the_leader_site_stops_neither_io_elsewhere_nor_changes(cluster: Cluster) -> None:
    leader = cluster.leader()
    others = tuple(name for name in cluster.sites if name != leader.name)
    cluster.build("elsewhere", 4, sites=(others[0],))
    handle = connect(cluster, "elsewhere", others[1])
    handle.pwrite(b"x" * 4096, 0)
    leader.kill()
    longest, deadline, changed_after = 0.0, time.monotonic() + 6, None
    killed_at = time.monotonic()
    with cluster[others[0]].client() as client:
        while time.monotonic() < deadline and changed_after is None:
            began = time.monotonic()
            handle.pwrite(b"y" * 4096, 4096)
            assert bytes(handle.pread(4096, 4096)) == b"y" * 4096
            longest = max(longest, time.monotonic() - began)
            with contextlib.suppress(ApiError):  # no leader yet
                client.build_volume(BuildRequest("after-kill", MIB, "ssd", (others[0],)))
                changed_after = time.monotonic() - killed_at
    assert changed_after is not None
    assert changed_after < 3.0
    assert longest < 0.5
    handle.shutdown()
    leader.start()
    cluster.wait_healthy(tuple(cluster.sites))
    with leader.client() as client:
        assert client.volume("after-kill").volume.size_bytes == MIB


def test_tables_can_be_read_without_a_quorum_and_say_how_old_they_are(cluster: Cluster) -> None:
    cluster.build("readable", 1, sites=("tokyo",))
    for name in ("osaka", "nagoya"):
        cluster[name].kill()
    try:
        with cluster["tokyo"].client() as client:
            wait_for(lambda: not client.status().as_of.quorum, 15, "tokyo notices")
            table = client.table("virtual-sectors", name="readable")
            assert len(table.rows) == 1
            assert not table.as_of.quorum
            assert table.as_of.index > 0
            with pytest.raises(CallerError):
                client.build_volume(BuildRequest("never", MIB, "ssd", ("tokyo",)))
        # a cut-off site keeps serving what lies wholly there
        write(cluster, "readable", "tokyo", 0, b"cut off" + bytes(505))
    finally:
        for name in ("osaka", "nagoya"):
            cluster[name].start()
        cluster.wait_healthy(tuple(cluster.sites))
    assert read(cluster, "readable", "osaka", 0, 512)[:7] == b"cut off"


def test_everything_is_there_after_all_sites_were_killed(cluster: Cluster) -> None:
    cluster.build("kept", 2, sites=("osaka",))
    write(cluster, "kept", "tokyo", 0, b"kept" * 128)
    with cluster.client() as client:
        before = client.volume_map("kept").table.rows
    for site in cluster.sites.values():
        site.kill()
    for site in cluster.sites.values():
        site.start()
    cluster.wait_healthy(tuple(cluster.sites))
    with cluster.client() as client:
        assert client.volume_map("kept").table.rows == before
    assert read(cluster, "kept", "nagoya", 0, 512) == b"kept" * 128


def test_a_clean_stop_ends_both_processes_and_says_nothing_wrong(cluster: Cluster) -> None:
    site = cluster["nagoya"]
    assert site.stop_manager(signal.SIGTERM) == 0
    assert site.plane_pid("export") is None
    assert site.plane_pid("store") is None
    site.start()
    cluster.wait_healthy(tuple(cluster.sites))


def test_a_label_that_is_gone_fails_that_real_volume_and_not_the_site(
    cluster: Cluster, tmp_path: Path
) -> None:
    real = cluster.add_real("osaka", 7, "fast-hdd", 8)
    cluster.build("unlucky", 2, sites=("osaka",), volume_class="fast-hdd")
    cluster.build("lucky", 2, sites=("osaka",), volume_class="slow-hdd")
    site = cluster["osaka"]
    path = site.directory / "disks" / "lun-7.img"
    saved = path.read_bytes()[:MIB]
    site.stop_manager(signal.SIGTERM)
    with path.open("r+b") as file:
        file.write(bytes(MIB))
    site.start()
    cluster.wait_healthy(tuple(cluster.sites))

    def state() -> tuple[str, str]:
        with cluster.client() as client:
            return next((r.state, r.reason) for r in client.status().reals if r.id == real)

    wait_for(lambda: state()[0] == "failed", 15, "the real volume is failed")
    assert "label" in state()[1]
    handle = connect(cluster, "unlucky", "osaka")
    with pytest.raises(nbd.Error):
        handle.pread(512, 0)
    write(cluster, "lucky", "osaka", 0, b"l" * 512)
    with path.open("r+b") as file:
        file.write(saved)
    wait_for(lambda: state()[0] == "active", 20, "the right device is back")
    wait_for(lambda: read(cluster, "unlucky", "osaka", 0, 512) == bytes(512), 10, "it serves again")
