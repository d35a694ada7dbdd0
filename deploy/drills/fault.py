"""What every fault has: a name, options, and the four things that can be done with it.

May live here: the interface, what was asked for, and how a helper process of a fault is started and ended.
Keeps: `heal` works from the record alone, repeated, and after an `apply` that was cut off anywhere.
"""

import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

from drills.clusters import Cluster, Site, in_namespace
from drills.processes import DrillError, end, from_list, identify, is_alive
from drills.record import Record, Records

KEEPER_READY_S = 10.0
KEEPER_END_S = 5.0


class Asked:
    """The options of an injection; what was not given is '', 0 or False."""

    def __init__(
        self,
        *,
        site: str = "",
        peer: str = "",
        real: str = "",
        one_way: bool = False,
        delay_ms: int = 0,
        by_s: int = 0,
        every: int = 0,
    ) -> None:
        self.site = site
        self.peer = peer
        self.real = real
        self.one_way = one_way
        self.delay_ms = delay_ms
        self.by_s = by_s
        self.every = every

    def given(self) -> set[str]:
        return {name for name, value in vars(self).items() if value} - {"site"}


class Fault(Protocol):
    name: str
    summary: str
    """One line for `list`: what it does, and what it does not show."""
    takes: frozenset[str]
    """Options beside --site."""

    def prepare(self, cluster: Cluster, asked: Asked) -> tuple[str, dict[str, Any]]:
        """(site, details of the record). Changes nothing. Raises DrillError when it cannot be done."""
        ...

    def apply(self, cluster: Cluster, record: Record) -> None: ...

    def heal(self, cluster: Cluster, record: Record) -> None: ...

    def effect(self, cluster: Cluster, record: Record) -> str:
        """What can be seen of it now."""
        ...


def asked_site(cluster: Cluster, asked: Asked) -> Site:
    if not asked.site:
        raise DrillError(f"--site is missing: which of {', '.join(cluster.sites)}?")
    return cluster[asked.site]


def start_keeper(kind: str, cluster: Cluster, record: Record, *, namespace: str = "") -> None:
    """A process that keeps the fault up and ends when the record is gone; its pid goes into the record."""
    path = Records(cluster.directory).path(record.fault, record.site)
    program = Path(__file__).with_name("keeper.py")
    log = path.with_suffix(".log")
    words = [
        *in_namespace(namespace),
        sys.executable,
        "-I",
        str(program),
        kind,
        str(cluster.directory),
        str(path),
    ]
    with log.open("wb") as errors:
        keeper = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            cwd="/",
        )
    assert keeper.stdout is not None
    with keeper.stdout as told:
        ready = bool(select.select([told], [], [], KEEPER_READY_S)[0]) and told.readline() == b"ready\n"
    if not ready:
        keeper.kill()
        keeper.wait()
        complaint = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise DrillError(
            f"{record.title}: its helper did not start: {(complaint or ['no reason given'])[-1]}"
        )
    keeper.returncode = 0  # it outlives this process; whoever is its parent then reaps it
    found = identify(keeper.pid, str(path))
    record.details["keeper"] = list(found) if found is not None else []
    Records(cluster.directory).save(record)


def keeper_of(record: Record) -> str:
    """For `effect`."""
    words = record.details.get("keeper") or []
    return (
        "" if words and is_alive(from_list(words)) else "; its helper has ended: the fault is gone, heal it"
    )


def end_keeper(cluster: Cluster, record: Record) -> None:
    if words := record.details.get("keeper"):
        end(from_list(words), signal.SIGTERM, KEEPER_END_S)
    Records(cluster.directory).path(record.fault, record.site).with_suffix(".log").unlink(missing_ok=True)
