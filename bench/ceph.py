"""A Ceph cluster of this run on loopback: one monitor, one manager, three OSDs on files, no cephx.

May live here: starting it from unpacked Debian packages, one image, ending it. Pools keep two copies and go
on with one; `rbd cache` is off, so that an acknowledged write is on both. Nothing is installed.
"""

import contextlib
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from bench.fio import RbdArea
from tests.cluster_fixture import MIB, free_ports

OSDS = 3
OSD_BYTES = 4 << 30
"""Sparse files."""
COMMAND_S = 60.0
READY_S = 60.0
POOL = "rbd"


class CephError(Exception):
    """A command failed or the cluster did not become healthy: names the command and what it said."""


class CephCluster:
    def __init__(self, root: Path, directory: Path) -> None:
        """`root`: where the packages are unpacked."""
        self.directory = directory
        self.config = directory / "ceph.conf"
        libraries = root / "usr/lib/x86_64-linux-gnu"
        paths = [libraries, libraries / "ceph", root / "lib/x86_64-linux-gnu"]
        self.environment = os.environ | {
            "LD_LIBRARY_PATH": ":".join(map(str, paths)),
            "PATH": f"{root / 'usr/bin'}:{os.environ.get('PATH', '/usr/bin:/bin')}",
            "PYTHONPATH": str(root / "usr/lib/python3/dist-packages"),
        }
        self._root = root
        self._libraries = libraries
        self._fsid = str(uuid.uuid4())
        self._monitor = f"v2:127.0.0.1:{free_ports(1)[0]}"
        self._processes: list[subprocess.Popen[bytes]] = []

    def _write_config(self) -> None:
        run = self.directory / "run"
        run.mkdir(parents=True)
        (self.directory / "keyring").touch()
        libraries = self._libraries
        lines = {
            "fsid": self._fsid,
            "mon host": self._monitor,
            "auth cluster required": "none",
            "auth service required": "none",
            "auth client required": "none",
            "osd pool default size": 2,
            "osd pool default min size": 1,
            "osd crush chooseleaf type": 0,
            "plugin dir": libraries / "ceph",
            "erasure code dir": libraries / "ceph/erasure-code",
            "osd class dir": libraries / "rados-classes",
            "mgr module path": self._root / "usr/share/ceph/mgr",
            "run dir": run,
            "crash dir": run,
            "admin socket": run / "$name.sock",
            "pid file": run / "$name.pid",
            "log file": run / "$name.log",
            "mon data": self.directory / "mon",
            "mgr data": self.directory / "mgr",
            "osd data": self.directory / "osd$id",
            "keyring": self.directory / "keyring",
            "public addr": "127.0.0.1",
            "ms bind ipv6": "false",
            "mon data avail crit": 1,
            "mon data avail warn": 2,
            "bluestore block size": OSD_BYTES,
            "rbd cache": "false",
        }
        text = "".join(f"{key} = {value}\n" for key, value in lines.items())
        self.config.write_text(f"[global]\n{text}", encoding="utf-8")

    def _run(self, *argv: str) -> str:
        """Raises CephError."""
        try:
            done = subprocess.run(
                argv, env=self.environment, capture_output=True, text=True, timeout=COMMAND_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CephError(f"{' '.join(argv)}: {error}") from None
        if done.returncode:
            raise CephError(f"{' '.join(argv)}: exit status {done.returncode}: {done.stderr.strip()[-500:]}")
        return done.stdout

    def ceph(self, *arguments: str) -> str:
        return self._run("ceph", "-c", str(self.config), *arguments)

    def _spawn(self, *argv: str) -> None:
        said = (self.directory / "run" / f"{argv[0]}.said").open("ab")
        with said:
            process = subprocess.Popen(
                [*argv, "-f", "-c", str(self.config)],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
        self._processes.append(process)

    def start(self) -> None:
        """Raises CephError."""
        self._write_config()
        monitors = str(self.directory / "monmap")
        for name in ("mon", "mgr"):
            (self.directory / name).mkdir()
        self._run(
            "monmaptool", "--create", "--fsid", self._fsid, "--addv", "a", f"[{self._monitor}]", monitors
        )
        self._run("ceph-mon", "-c", str(self.config), "--mkfs", "-i", "a", "--monmap", monitors)
        self._spawn("ceph-mon", "-i", "a")
        for number in range(OSDS):
            self._add_osd(str(number))
        self._spawn("ceph-mgr", "-i", "a")
        self.ceph("osd", "pool", "create", POOL, "32")
        self._wait_active()
        self._run("rbd", "-c", str(self.config), "pool", "init", POOL)

    def _add_osd(self, number: str) -> None:
        (self.directory / f"osd{number}").mkdir()
        name = str(uuid.uuid4())
        self.ceph("osd", "new", name, number)
        self._run("ceph-osd", "-c", str(self.config), "-i", number, "--mkfs", "--osd-uuid", name)
        self._spawn("ceph-osd", "-i", number)

    def _wait_active(self) -> None:
        deadline = time.monotonic() + READY_S
        while (
            "active+clean" not in (said := self.ceph("pg", "stat")) or "peering" in said or "creating" in said
        ):
            if time.monotonic() > deadline:
                raise CephError(f"not active after {READY_S:.0f} s: {said.strip()}")
            time.sleep(0.5)

    def image(self, name: str, size_mib: int) -> RbdArea:
        self._run("rbd", "-c", str(self.config), "create", f"{POOL}/{name}", "--size", str(size_mib))
        return RbdArea(POOL, name, 0, size_mib * MIB)

    def end(self) -> None:
        """Nothing of it is needed any more, so it need not be clean."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        self._processes.clear()


@contextlib.contextmanager
def ceph_cluster(root: Path, directory: Path) -> Iterator[CephCluster]:
    """Clients (fio) find it by CEPH_CONF meanwhile."""
    cluster = CephCluster(root, directory)
    before = os.environ.get("CEPH_CONF")
    try:
        cluster.start()
        os.environ["CEPH_CONF"] = str(cluster.config)
        yield cluster
    finally:
        if before is None:
            os.environ.pop("CEPH_CONF", None)
        else:
            os.environ["CEPH_CONF"] = before
        cluster.end()
