"""Volumes with two copies in a cluster of real managers: written, lost, brought back, taken over."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import nbd
import pytest

from tests.cli_case import Result, invoke
from tests.cluster_fixture import MIB, Cluster, running_cluster, wait_for
from vimraft.core.ids import LABEL_BYTES

pytestmark = pytest.mark.cluster
BLOCK = 4096
SIZE_MIB = 16
NAMES = ("tokyo", "osaka", "nagoya")


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("copies"), NAMES) as cluster:
        cluster.add_pools()
        cluster.build("v", SIZE_MIB, sites=("tokyo", "osaka"), copies=2)
        yield cluster


def attach(cluster: Cluster, site: str) -> nbd.NBD:
    """Waits for what the export waits for."""

    def connected() -> nbd.NBD:
        handle = nbd.NBD()
        handle.connect_uri(cluster.uri("v", site))
        return handle

    return wait_for(connected, 30, f"v can be attached at {site}")


def states(cluster: Cluster) -> dict[str, str]:
    """Of the copies, by site; nothing, while the manager that is asked says that its tables may be old (it
    may have been started just now)."""
    with cluster.client() as client:
        status = client.status()
    if not status.as_of.quorum:
        return {}
    (volume,) = [one for one in status.volumes if one.name == "v"]
    return {replica.sites[0]: replica.state for replica in volume.replicas}


def in_step(cluster: Cluster) -> bool:
    found = states(cluster)
    return len(found) == 2 and set(found.values()) == {"in_sync"}


def disk(cluster: Cluster, site: str) -> bytes:
    path = next(Path(cluster[site].directory, "disks").glob("*1*"))
    return path.read_bytes()[LABEL_BYTES : LABEL_BYTES + SIZE_MIB * MIB]


class Writer(threading.Thread):
    """Writes numbered blocks until it is stopped; every one that was acknowledged must be there."""

    def __init__(self, cluster: Cluster, site: str) -> None:
        super().__init__(daemon=True)
        self.handle = attach(cluster, site)
        self.written: dict[int, bytes] = {}
        self.longest_s = 0.0
        self.error: Exception | None = None
        self._stop_it = threading.Event()
        self.start()

    def run(self) -> None:
        number = 0
        try:
            while not self._stop_it.is_set():
                number += 1
                offset = number * 7 % (SIZE_MIB * MIB // BLOCK) * BLOCK
                data = number.to_bytes(8, "big") * (BLOCK // 8)
                began = time.monotonic()
                self.handle.pwrite(data, offset)
                self.longest_s = max(self.longest_s, time.monotonic() - began)
                self.written[offset] = data
        except nbd.Error as error:
            self.error = error

    def wait_for_more(self) -> None:
        before = len(self.written)
        wait_for(lambda: self.error or len(self.written) > before + 20, 40, "writes go on")

    def stop(self) -> None:
        self._stop_it.set()
        self.join(40)
        assert not self.is_alive(), "a write hangs"
        assert self.error is None, f"a write failed: {self.error}"

    def check(self, handle: nbd.NBD) -> None:
        for offset, data in self.written.items():
            assert handle.pread(BLOCK, offset) == data, f"byte {offset}"


def test_both_copies_have_what_was_written_at_any_site(cluster: Cluster) -> None:
    for number, site in enumerate(NAMES):
        handle = attach(cluster, site)
        handle.pwrite(bytes([number + 1]) * BLOCK, number * BLOCK)
        handle.zero(BLOCK, (number + 8) * BLOCK)
        handle.flush()
    reader = attach(cluster, "nagoya")
    for number in range(3):
        assert reader.pread(BLOCK, number * BLOCK) == bytes([number + 1]) * BLOCK
    assert disk(cluster, "tokyo") == disk(cluster, "osaka")
    assert disk(cluster, "tokyo")[:BLOCK] == b"\1" * BLOCK


def test_a_killed_store_is_retired_and_comes_back(cluster: Cluster) -> None:
    writer = Writer(cluster, "tokyo")
    writer.wait_for_more()
    for _ in range(2):
        pid = cluster["osaka"].plane_pid("store")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        writer.wait_for_more()
        wait_for(lambda: in_step(cluster), 60, "both copies are in step again")
    writer.wait_for_more()
    writer.stop()
    handle = attach(cluster, "tokyo")
    handle.flush()
    writer.check(handle)
    assert disk(cluster, "tokyo") == disk(cluster, "osaka")


def test_the_owners_export_may_die(cluster: Cluster) -> None:
    writer = Writer(cluster, "nagoya")
    writer.wait_for_more()
    pid = cluster["tokyo"].plane_pid("export")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    writer.wait_for_more()
    writer.stop()
    writer.check(attach(cluster, "osaka"))
    wait_for(lambda: in_step(cluster), 60, "both copies are in step")
    assert disk(cluster, "tokyo") == disk(cluster, "osaka")


def test_a_store_that_stands_still_is_done_without_and_comes_back(cluster: Cluster) -> None:
    """Its manager and its export live on."""
    writer = Writer(cluster, "tokyo")
    writer.wait_for_more()
    pid = cluster["osaka"].plane_pid("store")
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        writer.wait_for_more()
        wait_for(lambda: states(cluster).get("osaka") == "stale", 5, "its copy was retired")
        writer.wait_for_more()
        writer.stop()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert writer.longest_s < 9, "5 s, and what two processors take for the rest"
    wait_for(lambda: in_step(cluster), 60, "both copies are in step")
    handle = attach(cluster, "tokyo")
    handle.flush()
    writer.check(handle)
    assert disk(cluster, "tokyo") == disk(cluster, "osaka")


def test_an_export_that_stands_still_loses_its_volumes_and_reads_nothing_old(cluster: Cluster) -> None:
    """Its manager lives on."""
    writer, reader = Writer(cluster, "nagoya"), attach(cluster, "tokyo")
    writer.wait_for_more()
    pid = cluster["tokyo"].plane_pid("export")
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        writer.wait_for_more()
        writer.stop()
    finally:
        os.kill(pid, signal.SIGCONT)
    writer.check(reader)
    assert cluster["tokyo"].plane_pid("export") == pid
    wait_for(lambda: in_step(cluster), 60, "both copies are in step")
    assert disk(cluster, "tokyo") == disk(cluster, "osaka")


def test_a_site_that_is_lost_is_taken_over(cluster: Cluster) -> None:
    writer = Writer(cluster, "nagoya")
    writer.wait_for_more()
    cluster["tokyo"].kill()
    writer.wait_for_more()
    writer.stop()
    reader = attach(cluster, "osaka")
    writer.check(reader)
    reader.flush()
    cluster["tokyo"].start()
    wait_for(lambda: in_step(cluster), 90, "the copy at tokyo is brought back")
    assert disk(cluster, "tokyo") == disk(cluster, "osaka")


def test_bytes_that_differ_are_found_and_repaired_while_clients_write(cluster: Cluster) -> None:
    """Asked at a manager that has none of the copies."""
    site = cluster["nagoya"]

    def verify(*more: str) -> Result:
        where = ("--api", site.url, "--token-file", str(cluster.token_path))
        return invoke(*where, "copy", "verify", "v", "-o", "json", *more)

    def regions(result: Result) -> list[int]:
        found = result.json()["differences"]
        return [n for d in found for n in range(d["first_byte"] // MIB, (d["last_byte"] + 1) // MIB)]

    writer = Writer(cluster, "tokyo")
    writer.wait_for_more()
    clean = verify()
    assert clean.code == 0, clean.err
    assert (clean.json()["compared"], clean.json()["differing"]) == (SIZE_MIB, 0)
    writer.stop()
    path = next(Path(cluster["osaka"].directory, "disks").glob("*1*"))
    with path.open("r+b") as file:
        for region in (3, 4, 9):
            file.seek(LABEL_BYTES + region * MIB + 5)
            file.write(b"not what was written")
    found = verify()
    assert found.code == 3, found.err
    assert (found.json()["compared"], found.json()["differing"]) == (SIZE_MIB, 3)
    assert regions(found) == [3, 4, 9]
    with site.client() as client:
        (source,) = [r.local_name for r in client.volume("v").volume.replicas if r.sites == ("tokyo",)]
    mended = verify("--repair", "--source", f"tokyo/{source}")
    assert mended.code == 0, mended.err
    assert mended.json()["repaired"] == 3
    assert verify().json()["clean"]
    writer.check(attach(cluster, "osaka"))
    assert disk(cluster, "tokyo") == disk(cluster, "osaka")
