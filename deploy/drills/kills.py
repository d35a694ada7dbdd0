"""Faults of processes: killed, paused, a whole site lost, its power cut.

May live here: SIGKILL, SIGSTOP and starting again. Keeps: a manager is started again exactly as it was
(command line, environment, namespace), and what the fault stopped is continued even if its site is sick.
"""

import contextlib
import fcntl
import os
import signal
import struct
import uuid
from pathlib import Path
from typing import Any

from drills.clusters import PLANES, ApiProblem, Cluster, Site, Start, run, wait_for
from drills.fault import Asked, asked_site
from drills.processes import DrillError, Identity, end, from_list, is_alive, is_stopped, send
from drills.record import Record

KILL_S = 10.0
START_S = 60.0
EXT4_SHUTDOWN = 0x8004587D
"""EXT4_IOC_SHUTDOWN."""
NO_LOG_FLUSH = 2
"""As a power cut: neither data nor journal are written out."""


class Kill:
    """Of one process, or of all of a site. A manager stays away until healed; export and store are started
    again by their manager at once, as in real life."""

    takes: frozenset[str] = frozenset()

    def __init__(self, name: str, roles: tuple[str, ...], summary: str) -> None:
        self.name = name
        self.summary = summary
        self._roles = roles

    def _site(self, cluster: Cluster, asked: Asked) -> Site:
        return asked_site(cluster, asked)

    def prepare(self, cluster: Cluster, asked: Asked) -> tuple[str, dict[str, Any]]:
        site = self._site(cluster, asked)
        start = site.how_started()
        killed = [list(site.expect(role)) for role in self._roles]
        return site.name, {"start": list(start), "killed": killed}

    def apply(self, cluster: Cluster, record: Record) -> None:
        del cluster
        for words in record.details["killed"]:
            end(from_list(words), signal.SIGKILL, KILL_S)

    def heal(self, cluster: Cluster, record: Record) -> None:
        site = cluster[record.site]
        if site.find("manager") is None:
            site.start(Start(*record.details["start"]))
        wait_serving(cluster, site)

    def effect(self, cluster: Cluster, record: Record) -> str:
        site = cluster[record.site]
        return ", ".join(
            f"{role} {'runs' if site.find(role) else 'is away'}" for role in ("manager", *PLANES)
        )


class KillLeader(Kill):
    """The manager that leads now; --site may name it, and is then checked."""

    def _site(self, cluster: Cluster, asked: Asked) -> Site:
        leader = cluster.leader()
        if asked.site and asked.site != leader.name:
            raise DrillError(f"{asked.site} does not lead, {leader.name} does; leave --site out")
        return leader


class PowerLoss(Kill):
    """All processes of a site at once. Where the site has a file system of its own (netns-cluster), what was
    not synced is lost with it and the boot id is another one; on loopback the page cache survives."""

    def apply(self, cluster: Cluster, record: Record) -> None:
        site = cluster[record.site]
        processes = [from_list(words) for words in record.details["killed"]]
        for process in processes:
            send(process, signal.SIGSTOP)  # nobody sees another one die first
        if site.mounted.is_mount():
            _cut_power(site)
        super().apply(cluster, record)
        unmount_disk(site)

    def heal(self, cluster: Cluster, record: Record) -> None:
        site = cluster[record.site]
        for words in record.details["killed"]:
            end(from_list(words), signal.SIGKILL, KILL_S)
        if site.image.exists() and site.find("manager") is None:
            unmount_disk(site)
            mount_disk(site)
            site.boot_id.write_text(f"{uuid.uuid4()}\n", encoding="ascii")
        super().heal(cluster, record)


class Pause:
    takes: frozenset[str] = frozenset()

    def __init__(self, name: str, roles: tuple[str, ...], summary: str) -> None:
        self.name = name
        self.summary = summary
        self._roles = roles

    def prepare(self, cluster: Cluster, asked: Asked) -> tuple[str, dict[str, Any]]:
        site = asked_site(cluster, asked)
        found = [site.expect(role) for role in self._roles]
        for process in found:
            if is_stopped(process):
                raise DrillError(
                    f"{site.name}: process {process.pid} is stopped already; heal the other pause first "
                    "(deploy/faults/list --injected)"
                )
        return site.name, {"paused": [list(process) for process in found]}

    def apply(self, cluster: Cluster, record: Record) -> None:
        del cluster
        for process in _paused(record):
            if not send(process, signal.SIGSTOP):
                raise DrillError(
                    f"{record.site}: process {process.pid} ended before it could be stopped; try again"
                )
        stopped = _paused(record)
        wait_for(lambda: all(map(is_stopped, stopped)), KILL_S, lambda: f"processes of {record.site} stopped")

    def heal(self, cluster: Cluster, record: Record) -> None:
        del cluster
        for process in _paused(record):
            send(process, signal.SIGCONT)

    def effect(self, cluster: Cluster, record: Record) -> str:
        del cluster
        words = (
            f"process {p.pid} {'is stopped' if is_stopped(p) else 'runs' if is_alive(p) else 'has ended'}"
            for p in _paused(record)
        )
        return ", ".join(words)


def _paused(record: Record) -> list[Identity]:
    return [from_list(words) for words in record.details["paused"]]


def wait_serving(cluster: Cluster, site: Site) -> None:
    """Until its manager answers and its planes run."""

    def serving() -> bool:
        with contextlib.suppress(ApiProblem):
            cluster.ask("GET", "/v1/health", at=site)
            return all(site.find(role) for role in PLANES)
        return False

    wait_for(serving, START_S, lambda: f"{site.name} serving again. Its log: {site.tail()}")


def mount_disk(site: Site) -> None:
    """Its own file system, from the image; recovers the journal of one that was cut off."""
    run(["mount", "-o", "loop", str(site.image), str(site.mounted)])


def unmount_disk(site: Site) -> None:
    """Waits for what was killed to let go of it."""
    wait_for(lambda: _unmounted(site.mounted), KILL_S, lambda: f"{site.mounted} unmounted; see `fuser -m`")


def _unmounted(mounted: Path) -> bool:
    if mounted.is_mount():
        with contextlib.suppress(DrillError):
            run(["umount", str(mounted)])
    return not mounted.is_mount()


def _cut_power(site: Site) -> None:
    fd = os.open(site.mounted, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, EXT4_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
    except OSError as error:
        raise DrillError(f"{site.mounted}: cannot be cut off ({error.strerror}); it must be ext4") from None
    finally:
        os.close(fd)
