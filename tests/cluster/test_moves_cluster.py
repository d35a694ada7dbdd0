"""Real volumes emptied, volumes migrated and saved on a real cluster, while a client writes and reads.

The writer tags every block with a number that rises; what it has been told is written must be read back, and
no request of it may fail."""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import nbd
import pytest

from tests.cluster_fixture import MIB, Cluster, running_cluster, wait_for
from vimraft.api.client import Client
from vimraft.api.schema import JobReply
from vimraft.api.schema_moves import MigrateRequest, SaveRequest

pytestmark = pytest.mark.cluster

BLOCK = 4096
LIMIT_S = 60.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("moves")) as cluster:
        cluster.add_pools(64)
        cluster.add_real("tokyo", 3, "ssd", 64)
        yield cluster


def attached(uri: str) -> nbd.NBD:
    handle = nbd.NBD()
    handle.connect_uri(uri)
    return handle


class Writer:
    """One client of one volume; `acknowledged` has the number last written to each block."""

    def __init__(self, cluster: Cluster, volume: str, site: str, size_bytes: int) -> None:
        self.acknowledged: dict[int, int] = {}
        self.written = 0
        self.error: Exception | None = None
        self._blocks = size_bytes // BLOCK
        # A volume just built may reach this site a moment after the one that was asked to build it.
        self._handle = wait_for(lambda: attached(cluster.uri(volume, site)), 10, f"{volume} at {site}")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Writer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(nbd.Error):
            self._handle.shutdown()
        if self.error is not None:
            raise AssertionError(f"after {self.written} writes: {self.error}")

    def _run(self) -> None:
        number = 0
        try:
            while not self._stop.is_set():
                number += 1
                block = (number * 2654435761) % self._blocks
                self._handle.pwrite(number.to_bytes(8, "little") * (BLOCK // 8), block * BLOCK)
                self.acknowledged[block] = number
                self.written = number
                if number % 64 == 0:
                    self._handle.flush()
                again = (number * 40503) % self._blocks
                found = int.from_bytes(self._handle.pread(512, again * BLOCK)[:8], "little")
                if found != self.acknowledged.get(again, 0):
                    raise AssertionError(f"block {again}: {found}, not {self.acknowledged.get(again, 0)}")
        except Exception as error:  # noqa: BLE001 - told when it ends
            self.error = error

    def check(self, data: bytes) -> None:
        for block, number in self.acknowledged.items():
            assert data[block * BLOCK : block * BLOCK + 8] == number.to_bytes(8, "little"), block


def read_all(cluster: Cluster, volume: str, site: str, size_bytes: int) -> bytes:
    handle = nbd.NBD()
    handle.connect_uri(cluster.uri(volume, site))
    step = 4 * MIB
    data = b"".join(bytes(handle.pread(step, at)) for at in range(0, size_bytes, step))
    handle.shutdown()
    return data


def done(client: Client, job: JobReply) -> None:
    ended = wait_for(lambda: (j := client.job(job.id)).state != "running" and j, LIMIT_S, job.what)
    assert ended.state == "done", ended


def reals_of(client: Client, volume: str) -> set[str]:
    return {f"{s.storage}:{s.lun}" for s in client.volume(volume).segments}


def test_a_real_volume_is_emptied_under_writes(cluster: Cluster) -> None:
    size = 24 * MIB
    cluster.build("moving", 24, sites=("tokyo",))
    with cluster.client() as client:
        (start,) = reals_of(client, "moving")
        storage, lun = start.split(":")
        with Writer(cluster, "moving", "osaka", size) as writer:
            wait_for(lambda: writer.written > 200, 20, "written")
            done(client, client.drain_real(storage, int(lun)))
            before = writer.written
            wait_for(lambda: writer.written > before + 50, 20, "written on")
        assert start not in reals_of(client, "moving")
        writer.check(read_all(cluster, "moving", "nagoya", size))
        client.remove_real(storage, int(lun))


def test_a_volume_goes_to_another_class_and_site_under_writes(cluster: Cluster) -> None:
    size = 24 * MIB
    cluster.build("going", 24, sites=("osaka",))
    with cluster.client() as client:
        with Writer(cluster, "going", "tokyo", size) as writer:
            wait_for(lambda: writer.written > 200, 20, "written")
            done(client, client.migrate("going", MigrateRequest("slow-hdd", ("nagoya",))))
            before = writer.written
            wait_for(lambda: writer.written > before + 50, 20, "written on")
        assert reals_of(client, "going") == {"nagoya-a:2"}
        writer.check(read_all(cluster, "going", "osaka", size))


def test_a_volume_is_saved_then_trashed_then_restored(cluster: Cluster, tmp_path: Path) -> None:
    size = 8 * MIB
    cluster.build("source", 8, sites=("osaka",))
    data = os.urandom(size)
    handle = nbd.NBD()
    handle.connect_uri(cluster.uri("source", "tokyo"))
    handle.pwrite(data, 0)
    handle.shutdown()
    with cluster.client() as client:
        done(client, client.save("source", SaveRequest("kept", volume_class="slow-hdd")))
        assert read_all(cluster, "kept", "nagoya", size) == data
        (row,) = [row for row in client.trash().volumes if row.name == "source"]
        assert client.restore(row.id).volume.name == "source"
        assert read_all(cluster, "source", "nagoya", size) == data
        client.delete_volume("source", purge=True)


def test_a_site_is_emptied_and_handed_over_under_writes(cluster: Cluster) -> None:
    size = 16 * MIB
    cluster.build("shared", 16, sites=("nagoya", "osaka"), copies=2)
    cluster.build("single", 16, sites=("nagoya",))
    with cluster.client() as client, cluster["nagoya"].client() as asked:
        with (
            Writer(cluster, "shared", "osaka", size) as writer,
            Writer(cluster, "single", "nagoya", size) as other,
        ):
            wait_for(lambda: min(writer.written, other.written) > 100, 20, "written")
            done(client, asked.drain_site("nagoya"))
            before, others = writer.written, other.written
            wait_for(lambda: writer.written > before + 50, 20, "written on")
            wait_for(lambda: other.written > others + 50, 20, "written on")
            wait_for(
                lambda: [c.name for c in client.history(limit=50).changes if c.what == "hand-over-ended"],
                20,
                "the machines of volumes with copies let it go",
            )
            others = other.written
            wait_for(lambda: other.written > others + 50, 20, "written on")
        assert not [volume.name for volume in client.status().volumes if volume.owner == "nagoya"]
        for name, number in (("shared", 2), ("single", 1)):
            shown = client.volume(name).volume
            assert "nagoya" not in shown.sites
            assert [replica.state for replica in shown.replicas] == ["in_sync"] * number
            assert shown.map_changes > 1
            assert max(report.longest_ms for report in shown.holds.values()) == shown.longest_hold_ms
        writer.check(read_all(cluster, "shared", "tokyo", size))
        other.check(read_all(cluster, "single", "tokyo", size))
