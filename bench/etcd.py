"""Three etcd members on loopback, as processes of this run.

May live here: starting, finding the leader, killing, starting again. Defaults everywhere (fsync on, election
timeout 1 s); the files lie beside those of vimraft.
"""

import contextlib
import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.put_clients import EtcdPuts, first_success_s
from tests.raft_cases import free_addresses

START_S = 30.0


class EtcdError(Exception):
    pass


class Member:
    def __init__(
        self, binary: Path, name: str, directory: Path, client: str, peer: str, all_peers: str
    ) -> None:
        self.client = client
        self._directory = directory
        self._argv = [
            str(binary), f"--name={name}", f"--data-dir={directory / name}",
            f"--listen-client-urls=http://{client}", f"--advertise-client-urls=http://{client}",
            f"--listen-peer-urls=http://{peer}", f"--initial-advertise-peer-urls=http://{peer}",
            f"--initial-cluster={all_peers}", "--initial-cluster-state=new", "--logger=zap",
            "--log-level=error", f"--log-outputs={directory / name}.log",
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def running(self) -> bool:
        return self._process is not None

    def status(self) -> dict[str, Any]:
        """Raises OSError."""
        request = urllib.request.Request(f"http://{self.client}/v3/maintenance/status", data=b"{}")
        with urllib.request.urlopen(request, timeout=2) as answer:
            found: dict[str, Any] = json.load(answer)
            return found


class EtcdCluster:
    def __init__(self, binary: Path, directory: Path) -> None:
        addresses = free_addresses(6)
        peers = ",".join(f"e{i}=http://{addresses[3 + i]}" for i in range(3))
        directory.mkdir()
        self.members = [
            Member(binary, f"e{i}", directory, addresses[i], addresses[3 + i], peers) for i in range(3)
        ]

    def start(self) -> None:
        for member in self.members:
            if not member.running:
                member.start()

    def kill(self) -> None:
        for member in self.members:
            member.kill()

    def leader(self) -> Member:
        """Raises EtcdError."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            for member in self.members:
                if member.running:
                    with contextlib.suppress(OSError, urllib.error.URLError):
                        status = member.status()
                        if status.get("leader", "0") == status["header"]["member_id"]:
                            return member
            time.sleep(0.05)
        raise EtcdError(f"etcd has no leader after {START_S} s")

    def wait_committing(self) -> None:
        """Each member, asked itself. Raises PutFailed."""
        for member in self.members:
            first_success_s(EtcdPuts, member.client)


@contextlib.contextmanager
def etcd_cluster(binary: Path, directory: Path) -> Iterator[EtcdCluster]:
    cluster = EtcdCluster(binary, directory)
    try:
        cluster.start()
        cluster.wait_committing()
        yield cluster
    finally:
        cluster.kill()
