"""A cluster of real site managers with their nbdkit processes on loopback, for tests.

Ends exactly the processes that it started: managers by their handles, data-plane processes by the locks in
their data directories (they outlive a killed manager on purpose).
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from vimraft.api.client import Client
from vimraft.api.schema import AddRealRequest, BuildRequest, StatusReply, StorageRequest

T = TypeVar("T")
MIB = 1 << 20
TOKEN = "test-token-0123456789abcdef"


def wait_for(condition: Callable[[], T | None], timeout_s: float, what: str) -> T:
    """Polls until `condition` gives something true; fails with `what` and the last exception."""
    deadline = time.monotonic() + timeout_s
    last: Exception | None = None
    while time.monotonic() < deadline:
        try:
            found = condition()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not yet true
            last = error
        else:
            if found:
                return found
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout_s} s: {what} ({last!r})")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


class Site:
    """One manager with one site of the same name."""

    def __init__(self, cluster: "Cluster", name: str, ports: list[int]) -> None:
        self.cluster = cluster
        self.name = name
        self.raft, self.api, self.nbd, self.peer = (f"127.0.0.1:{port}" for port in ports)
        self.nbd_port = ports[2]
        self.directory = cluster.directory / name
        self.data_dir = self.directory / "d"
        self.config_path = self.directory / "site.toml"
        self.log_path = self.directory / "manager.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{self.api}"

    def configure(self, members: list[str], priority: list[str]) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "disks").mkdir(exist_ok=True)
        lines = [
            f'manager = "{self.name}"',
            f'data_dir = "{self.data_dir}"',
            f'token_file = "{self.cluster.token_path}"',
            "[network]",
            f'raft = "{self.raft}"',
            f'api = "{self.api}"',
            f'nbd = "{self.nbd}"',
            f'peer = "{self.peer}"',
            "allow_plaintext = true",
            "[raft]",
            f"members = {members!r}",
            "[[sites]]",
            f'name = "{self.name}"',
            f"priority = {priority!r}",
        ]
        self.config_path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def start(self) -> None:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    str(Path(sys.executable).with_name("vimraft")),
                    "site",
                    "run",
                    "--config",
                    str(self.config_path),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def client(self, timeout_s: float = 15.0) -> Client:
        return Client((self.url,), TOKEN, timeout_s)

    def status(self) -> StatusReply:
        with self.client(3.0) as client:
            return client.status()

    def plane_pid(self, role: str) -> int | None:
        """Of the living export or store process (a dead one that nobody has reaped yet does not count)."""
        try:
            pid = int((self.data_dir / "run" / f"{role}.lock").read_text().strip())
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, ValueError):
            return None
        return None if state in "ZX" else pid

    def stop_manager(self, number: int = signal.SIGTERM, timeout_s: float = 30.0) -> int | None:
        process, self.process = self.process, None
        if process is None:
            return None
        process.send_signal(number)
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(
                f"{self.name}: manager did not end within {timeout_s} s: {self.tail()}"
            ) from None

    def kill_planes(self) -> None:
        for role in ("export", "store"):
            pid = self.plane_pid(role)
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                wait_for(lambda role=role: self.plane_pid(role) is None or None, 10, f"{role} gone")

    def kill(self) -> None:
        """The whole site at once: manager and data plane."""
        self.stop_manager(signal.SIGKILL)
        self.kill_planes()

    def tail(self) -> str:
        return (
            self.log_path.read_text(encoding="utf-8", errors="replace")[-3000:]
            if self.log_path.exists()
            else ""
        )


class Cluster:
    def __init__(self, directory: Path, names: tuple[str, ...] = ("tokyo", "osaka", "nagoya")) -> None:
        self.directory = directory
        self.token_path = directory / "token"
        directory.mkdir(parents=True, exist_ok=True)
        self.token_path.write_text(TOKEN)
        ports = free_ports(4 * len(names))
        self.sites = {name: Site(self, name, ports[4 * i : 4 * i + 4]) for i, name in enumerate(names)}
        self.first = names[0]

    def __getitem__(self, name: str) -> Site:
        return self.sites[name]

    def start(self) -> None:
        members = [site.raft for site in self.sites.values()]
        for site in self.sites.values():
            site.configure(members, [name for name in self.sites if name != site.name])
            site.start()
        self.wait_healthy(tuple(self.sites))

    def wait_healthy(self, names: tuple[str, ...], timeout_s: float = 40.0) -> None:
        """Until each of these managers sees each of them healthy, with a leader."""

        def healthy() -> bool:
            for name in names:
                status = self.sites[name].status()
                good = {s.name for s in status.sites if s.healthy and s.pid.export and s.pid.store}
                if not set(names) <= good or status.leader is None:
                    return False
            return True

        try:
            wait_for(healthy, timeout_s, f"{names} healthy")
        except AssertionError as error:
            logs = "\n".join(f"--- {name}\n{self.sites[name].tail()}" for name in names)
            raise AssertionError(f"{error}\n{logs}") from None

    def client(self) -> Client:
        return Client(tuple(site.url for site in self.sites.values()), TOKEN)

    def leader(self) -> Site:
        name = wait_for(self._leader_name, 10, "a leader")
        return self.sites[name]

    def _leader_name(self) -> str | None:
        for site in self.sites.values():
            if site.process is not None:
                return site.status().leader
        return None

    def add_real(self, site: str, lun: int, volume_class: str, size_mib: int, *, uri: str = "") -> str:
        """A new sparse file at this site; returns storage:lun."""
        address = f"{site}-a"
        disks = self.sites[site].directory / "disks"
        with self.client() as client:
            client.set_storage(StorageRequest(address=address, site=site, uri=f"file://{disks}"))
            job = client.add_real(
                AddRealRequest(
                    storage=address,
                    lun=lun,
                    volume_class=volume_class,
                    uri=uri,
                    size_bytes=None if uri.startswith("nbd") else (size_mib + 1) * MIB,
                )
            )
            done = wait_for(lambda: (j := client.job(job.id)).state != "running" and j, 30, job.what)
        assert done.state == "done", done.error
        return f"{address}:{lun}"

    def add_pools(self, size_mib: int = 64) -> None:
        for name in self.sites:
            self.add_real(name, 1, "ssd", size_mib)
            self.add_real(name, 2, "slow-hdd", size_mib)

    def build(
        self,
        name: str,
        size_mib: int,
        *,
        sites: tuple[str, ...],
        volume_class: str = "ssd",
        copies: int = 1,
    ) -> None:
        """Built, and attachable at every running site."""
        with self.client() as client:
            client.build_volume(
                BuildRequest(
                    name=name,
                    size_bytes=size_mib * MIB,
                    volume_class=volume_class,
                    sites=sites,
                    copies=copies,
                )
            )

    def uri_parts(self, volume: str, site: str) -> tuple[str, int, str]:
        """(host, port, export)"""
        return "127.0.0.1", self.sites[site].nbd_port, volume

    def uri(self, volume: str, site: str) -> str:
        return "nbd://{}:{}/{}".format(*self.uri_parts(volume, site))

    def close(self) -> None:
        for site in self.sites.values():
            if site.process is not None:
                site.process.send_signal(signal.SIGTERM)
        for site in self.sites.values():
            if site.process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    site.process.wait(15)
                if site.process.poll() is None:
                    site.process.kill()
                    site.process.wait()
                site.process = None
            site.kill_planes()


@contextlib.contextmanager
def running_cluster(
    directory: Path, names: tuple[str, ...] = ("tokyo", "osaka", "nagoya")
) -> Iterator[Cluster]:
    cluster = Cluster(directory, names)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()
