"""What cells share: the work directory, a cluster on loopback, volumes and peers filled with data.

May live here: what is set up on first use and taken down at the end, however the run ends. Everything lies in
one temporary directory, so vimraft and its peers have their files on the same file system.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import nbd

from bench import fio, machine
from bench.fio import Area, Workload
from bench.peers import Server, file_server, proxy_server
from bench.progress import Progress
from bench.results import Sample
from tests.cluster_fixture import MIB, Cluster, running_cluster

VOLUME_MIB = 256
SMALL_BYTES = 64 << 10
"""Files for small random I/O are filled in pieces of this size."""
ROUND_WAIT_S = 3.0
SPARE_MIB = 768
"""Room for the volumes that the build cell makes."""


def fill(area: Area, piece_bytes: int) -> None:
    """Every byte written once, the same piece again and again, and flushed."""
    data = os.urandom(piece_bytes)
    handle = nbd.NBD()
    handle.connect_uri(area.uri)
    for offset in range(area.first_byte, area.first_byte + area.length_bytes, piece_bytes):
        handle.pwrite(data, offset)
    handle.flush()
    handle.shutdown()


class Stage:
    """Use as a context manager."""

    def __init__(self, progress: Progress, *, seconds: float, rounds: int) -> None:
        self.progress = progress
        self.seconds = seconds
        self.rounds = rounds
        self._whole = contextlib.ExitStack()
        self._shared = contextlib.ExitStack()
        self._cluster: Cluster | None = None
        self._uris: dict[str, str] = {}
        self._peer_pids: list[int] = []

    def __enter__(self) -> Self:
        self.directory = Path(self._whole.enter_context(tempfile.TemporaryDirectory(prefix="vimraft-bench-")))
        self._whole.callback(self.release)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._whole.close()

    def release(self) -> None:
        """End the shared cluster and the peers: cells that bring their own want the processors."""
        self._cluster = None
        self._uris.clear()
        self._peer_pids.clear()
        self._shared.close()

    def cluster(self) -> Cluster:
        """Three sites, each with a pool of class ssd; tokyo and osaka with 128 MiB of class nvme each."""
        if self._cluster is None:
            self.progress.say("starting three sites")
            cluster = self._shared.enter_context(running_cluster(self.directory / "shared"))
            for site in cluster.sites:
                cluster.add_real(site, 1, "ssd", VOLUME_MIB + SPARE_MIB)
            for site in ("tokyo", "osaka"):
                cluster.add_real(site, 2, "nvme", VOLUME_MIB // 2)
            self._cluster = cluster
        return self._cluster

    def volume(
        self, name: str, sites: tuple[str, ...], volume_class: str = "ssd", fill_bytes: int = SMALL_BYTES
    ) -> None:
        """Built and filled on first use; attach it anywhere by `cluster().uri(name, site)`."""
        cluster = self.cluster()
        if name not in self._uris:
            cluster.build(name, VOLUME_MIB, sites=sites, volume_class=volume_class)
            self._uris[name] = self._fill(cluster.uri(name, sites[0]), fill_bytes)

    def peer(self, name: str, fill_bytes: int = SMALL_BYTES) -> str:
        """URI of a file server with a file of its own that was filled in pieces of this size."""
        key = f"{name}-{fill_bytes}"
        if key not in self._uris:
            path = self.directory / f"{key}.img"
            with path.open("wb") as file:
                file.truncate(VOLUME_MIB * MIB)
            self._shared.callback(path.unlink)
            self._uris[key] = self._fill(self._served(file_server(name, path)), fill_bytes)
        return self._uris[key]

    def proxied_peer(self) -> str:
        """URI of a proxy in C in front of nbdkit-file."""
        if "proxy" not in self._uris:
            self._uris["proxy"] = self._served(proxy_server(self.peer("nbdkit-file")))
        return self._uris["proxy"]

    def _served(self, server: contextlib.AbstractContextManager[Server]) -> str:
        uri, pid = self._shared.enter_context(server)
        self._peer_pids.append(pid)
        return uri

    @contextlib.contextmanager
    def one_processor(self) -> Iterator[int]:
        """Peers, exports and stores (not the managers) share one processor meanwhile: yields it."""
        planes = [
            site.plane_pid(role) for site in self.cluster().sites.values() for role in ("export", "store")
        ]
        processor = machine.one_processor()
        with machine.confined([*self._peer_pids, *filter(None, planes)], processor):
            yield processor

    def _fill(self, uri: str, piece_bytes: int) -> str:
        """Every byte written once, and flushed: no cell measures the allocation of blocks. In pieces of the
        kind that the cell writes: after large writes the page cache of newer kernels holds pages of up to
        some MiB; a small write to one of them looks through all of its blocks, which takes longer than all
        that is to be measured, while large transfers are twice as fast with them."""
        self.progress.say(f"filling {uri}")
        fill(Area(uri, 0, VOLUME_MIB * MIB), piece_bytes)
        return uri

    def take_turns(
        self, workload: Workload, areas: dict[str, Area], processor: int | None = None
    ) -> dict[str, list[Sample]]:
        """Each system once a round, beginning with another one each time; a round waits a little for a quiet
        machine. Raises FioError."""
        samples: dict[str, list[Sample]] = {name: [] for name in areas}
        names: Sequence[str] = list(areas)
        for number in range(self.rounds):
            self.progress.say(f"round {number + 1} of {self.rounds}: waiting for idle processors")
            machine.wait_quiet(max_wait_s=ROUND_WAIT_S)
            first = number % len(names)
            for name in [*names[first:], *names[:first]]:
                self.progress.say(f"round {number + 1} of {self.rounds}: {name}")
                samples[name].append(fio.run(workload, areas[name], self.seconds, self.directory, processor))
        return samples

    def quiet(self) -> str:
        """Waits until the machine is quiet; the note for a row that had to be measured all the same."""
        self.progress.say("waiting for idle processors")
        busy = machine.wait_quiet()
        return "" if busy < machine.QUIET_FRACTION else f"machine {busy:.0%} busy with other work"


def whole(uri: str) -> Area:
    return Area(uri, 0, VOLUME_MIB * MIB)
