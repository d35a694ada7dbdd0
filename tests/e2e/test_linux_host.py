"""A real Linux kernel as the client: what it writes through one site it finds whole at another."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cluster_fixture import Cluster, running_cluster
from tests.e2e.guest_image import GuestError
from tests.e2e.linux_guest import HOST, LinuxGuest

pytestmark = pytest.mark.e2e

VOLUME_MIB = 128

ATTACH = """
/sbin/nbd-client -N {export} {host} {port} /dev/{device} -b 512 &&
tries=100; until [ -s /sys/block/{device}/pid ]; do
    tries=$((tries - 1)); [ $tries -gt 0 ] || exit 1; sleep 0.1
done
blockdev --getsize64 /dev/{device}
"""
DETACH = """
/sbin/nbd-client -d /dev/{device} &&
tries=100; while [ -e /sys/block/{device}/pid ]; do
    tries=$((tries - 1)); [ $tries -gt 0 ] || exit 1; sleep 0.1
done
"""
MAKE_TREE = """
set -e
cd /mnt
mkdir -p programs deep/er/and/deeper many
cp -a /bin/busybox /sbin/* programs/
dd if=/dev/urandom of=random bs=1M count=12
dd if=/dev/urandom of=deep/er/and/deeper/odd bs=777 count=1301
dd if=/dev/zero of=sparse bs=1 count=1 seek=20000000
n=0; while [ $n -lt 300 ]; do echo "file $n of the tree" >many/$n; n=$((n + 1)); done
ln -s ../random deep/link
rm many/7 many/77; mv many/8 many/eight
"""
CHECKSUMS = "cd /mnt && find . -type f | sort | xargs sha256sum && find . | sort | sha256sum"


class Endpoint(NamedTuple):
    """Where a site serves a volume, as the host sees it."""

    host: str
    port: int
    export: str


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LinuxGuest]:
    with LinuxGuest(tmp_path_factory.mktemp("guest")) as running:
        yield running


@pytest.fixture
def plain_server(tmp_path: Path, unused_tcp_port: int) -> Iterator[Endpoint]:
    pid_file = tmp_path / "nbdkit.pid"
    with subprocess.Popen(
        [
            "nbdkit",
            "-f",
            "-P",
            pid_file,
            "-i",
            "127.0.0.1",
            "-p",
            str(unused_tcp_port),
            "memory",
            f"{VOLUME_MIB}M",
        ]
    ) as server:
        try:
            deadline_s = time.monotonic() + 10
            while not pid_file.exists():
                assert time.monotonic() < deadline_s, "nbdkit did not come up"
                time.sleep(0.01)
            yield Endpoint("127.0.0.1", unused_tcp_port, "any")
        finally:
            server.kill()  # SIGTERM would wait for a client that is still attached


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("c")) as running:
        running.add_pools(VOLUME_MIB // 2)
        yield running


def attach(guest: LinuxGuest, device: str, endpoint: Endpoint) -> int:
    """Returns the size in bytes that the kernel sees."""
    where = {"device": device, "host": HOST, "port": endpoint.port, "export": endpoint.export}
    return int(guest.check(ATTACH.format(**where)).split()[-1])


def detach(guest: LinuxGuest, device: str) -> None:
    guest.check(DETACH.format(device=device))


def write_and_find_again(guest: LinuxGuest, writer: Endpoint, reader: Endpoint) -> None:
    """A file system is made and filled through `writer`, then checked and read through `reader`."""
    size_bytes = attach(guest, "nbd0", writer)
    assert size_bytes == VOLUME_MIB << 20
    guest.check("/sbin/mke2fs -q -t ext4 -L vimraft /dev/nbd0 && mount -t ext4 /dev/nbd0 /mnt")
    guest.check(MAKE_TREE, timeout_s=120)
    written = guest.check(f"sync && {CHECKSUMS}", timeout_s=120)
    guest.check("umount /mnt", timeout_s=120)
    detach(guest, "nbd0")

    assert attach(guest, "nbd1", reader) == size_bytes  # another device: nothing of it is cached
    guest.check("/sbin/e2fsck -f -n /dev/nbd1", timeout_s=120)
    guest.check("mount -t ext4 -o ro /dev/nbd1 /mnt")
    found = guest.check(CHECKSUMS, timeout_s=120)
    guest.check("umount /mnt")
    detach(guest, "nbd1")

    assert len(written.splitlines()) > 300
    assert found == written


def test_ext4_written_over_nbd_is_whole_after_a_second_attach(
    guest: LinuxGuest, plain_server: Endpoint
) -> None:
    write_and_find_again(guest, plain_server, plain_server)


def test_ext4_written_through_one_site_is_whole_at_another(guest: LinuxGuest, cluster: Cluster) -> None:
    cluster.build("spread", VOLUME_MIB, sites=("tokyo", "osaka"))  # more than one site has
    a, c = (Endpoint(*cluster.uri_parts("spread", site)) for site in ("tokyo", "nagoya"))
    write_and_find_again(guest, a, c)


WRITE_ON = """
(
    cd /mnt && mkdir going-on
    n=0; until [ -e /tmp/enough ]; do
        n=$((n + 1))
        {{ echo "$n"; head -c 100000 /dev/urandom; }} >going-on/$n && sync going-on/$n || exit 1
        echo $n >/tmp/synced
    done
) >/tmp/writer.log 2>&1 &
echo $! >/tmp/writer.pid
"""
SYNCED_BEYOND = """
tries={tries}; until [ "$(cat /tmp/synced 2>/dev/null || echo 0)" -gt {number} ]; do
    kill -0 $(cat /tmp/writer.pid) || {{ cat /tmp/writer.log; exit 1; }}
    tries=$((tries - 1)); [ $tries -gt 0 ] || exit 1; sleep 0.1
done
cat /tmp/synced
"""


def synced_beyond(guest: LinuxGuest, number: int) -> int:
    return int(guest.check(SYNCED_BEYOND.format(number=number, tries=300)).split()[-1])


def test_ext4_outlives_the_owners_site_which_is_killed_in_the_middle_of_writing(
    guest: LinuxGuest, cluster: Cluster
) -> None:
    cluster.build("kept", VOLUME_MIB // 4, sites=("tokyo", "osaka"), volume_class="slow-hdd", copies=2)
    with cluster.client() as client:
        assert client.volume("kept").volume.owner == "tokyo"
    attach(guest, "nbd0", Endpoint(*cluster.uri_parts("kept", "osaka")))
    guest.check("/sbin/mke2fs -q -t ext4 /dev/nbd0 && mount -t ext4 /dev/nbd0 /mnt && dmesg -c >/dev/null")
    guest.check(WRITE_ON.format())
    before = synced_beyond(guest, 3)
    cluster["tokyo"].kill()
    synced_beyond(guest, before + 5)
    guest.check('touch /tmp/enough; while kill -0 "$(cat /tmp/writer.pid)" 2>/dev/null; do sleep 0.1; done')
    written = guest.check(f"sync && {CHECKSUMS}")
    guest.check("umount /mnt")
    assert "error" not in guest.check("dmesg").lower()
    detach(guest, "nbd0")

    attach(guest, "nbd1", Endpoint(*cluster.uri_parts("kept", "nagoya")))
    guest.check("/sbin/e2fsck -f -n /dev/nbd1")
    guest.check("mount -t ext4 -o ro /dev/nbd1 /mnt")
    assert guest.check(CHECKSUMS) == written
    guest.check("umount /mnt")
    detach(guest, "nbd1")


def test_guest_reports_the_exit_status_and_output_of_a_command(guest: LinuxGuest) -> None:
    assert guest.run("echo out; echo err >&2; exit 3") == (3, "out\nerr\n")


def test_guest_kills_a_command_at_its_limit_and_takes_the_next(guest: LinuxGuest) -> None:
    assert guest.run("while :; do :; done", timeout_s=1).status == 137
    assert guest.check("echo alive") == "alive\n"


def test_failed_command_is_an_error_that_shows_its_output(guest: LinuxGuest) -> None:
    with pytest.raises(GuestError, match=r"(?s)exit status 5.*no such luck"):
        guest.check("echo no such luck; exit 5")
