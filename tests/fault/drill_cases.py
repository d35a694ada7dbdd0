"""Commands of deploy/ for the tests of faults and chaos, and a loopback cluster that they are tried on.

May live here: running the commands, the cluster, blocks with checks. The commands run as an operator runs
them, by Debian's Python. Keeps: whatever a test left in force is healed, and only what the cluster started
is ended, also managers that a drill started anew.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbd
import pytest
from drills.clusters import Cluster as DrilledCluster
from drills.faults import heal
from drills.namespaces import end_site

from tests.cluster_fixture import Cluster, running_cluster

CHECKOUT = Path(__file__).resolve().parents[2]
DEPLOY = CHECKOUT / "deploy"
BLOCK_BYTES = 4096
COMMAND_S = 120.0

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="faults need root")


def environment() -> dict[str, str]:
    """With this checkout's vimraft on PATH."""
    path = f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "PYTHONPATH": str(CHECKOUT), "LANG": "C.UTF-8"}


def deploy(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """`words` start with the command's name below deploy/."""
    return subprocess.run(
        [str(DEPLOY / words[0]), *map(str, words[1:])],
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_S,
        env=environment(),
    )


def fault(directory: Path, name: str, action: str, *words: str) -> str:
    """What it said; it must succeed."""
    done = deploy(f"faults/{name}", action, "--dir", directory, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def drilled_cluster(directory: Path) -> Iterator[Cluster]:
    """Three sites with an ssd and a slow-hdd each."""
    with running_cluster(directory) as cluster:
        drilled = DrilledCluster(directory)
        try:
            cluster.add_pools()
            yield cluster
        finally:
            heal(drilled)
            for site in drilled.sites.values():
                end_site(site)


def attach(uri: str) -> nbd.NBD:
    handle = nbd.NBD()
    handle.connect_uri(uri)
    return handle


def content(number: int) -> bytes:
    return f"block {number:10}\n".encode() * (BLOCK_BYTES // 17) + bytes(BLOCK_BYTES % 17)


def write(uri: str, numbers: range) -> None:
    """With a flush."""
    handle = attach(uri)
    for number in numbers:
        handle.pwrite(content(number), number * BLOCK_BYTES)
    handle.flush()
    handle.shutdown()


def differing(uri: str, numbers: range) -> list[int]:
    handle = attach(uri)
    wrong = [n for n in numbers if bytes(handle.pread(BLOCK_BYTES, n * BLOCK_BYTES)) != content(n)]
    handle.shutdown()
    return wrong
