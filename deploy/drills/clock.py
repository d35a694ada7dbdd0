"""The wall clock of a site's manager jumps, while it runs. By libfaketime, since a clock belongs to the host.

May live here: starting the manager under libfaketime, and moving its clock. Only CLOCK_REALTIME of the
manager jumps; what counts monotonic or boot time (all leases) does not, as on a host whose clock is set.
Keeps: the host's clock is never touched.
"""

import contextlib
import signal
from pathlib import Path
from typing import Any

from drills.clusters import Cluster, Site, Start
from drills.fault import Asked, asked_site
from drills.kills import KILL_S, wait_serving
from drills.processes import DrillError, end
from drills.record import Record

BY_S = 3_600
MAX_BY_S = 10 * 365 * 86_400
LIBRARY = "faketime/libfaketime.so.1"


class ClockJump:
    name = "clock-jump"
    summary = (
        "the manager's wall clock jumps by --by seconds (-N: back) while it runs, under libfaketime (it is "
        "restarted for that); export and store go on"
    )
    takes = frozenset({"by_s"})

    def prepare(self, cluster: Cluster, asked: Asked) -> tuple[str, dict[str, Any]]:
        site = asked_site(cluster, asked)
        if abs(asked.by_s) > MAX_BY_S:
            raise DrillError(f"--by {asked.by_s}: at most {MAX_BY_S} seconds either way")
        start = site.how_started()
        library = _library()
        details = {"start": list(start), "library": str(library), "by_s": asked.by_s or BY_S}
        return site.name, details

    def apply(self, cluster: Cluster, record: Record) -> None:
        site, details = cluster[record.site], record.details
        start, offset = Start(*details["start"]), _offset_file(cluster, site)
        offset.write_text("+0\n", encoding="ascii")
        faked = start.environment | {
            "LD_PRELOAD": details["library"],
            "FAKETIME_TIMESTAMP_FILE": str(offset),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
        }
        _restart(cluster, site, Start(start.command, faked))
        offset.write_text(f"{details['by_s']:+d}\n", encoding="ascii")

    def heal(self, cluster: Cluster, record: Record) -> None:
        site = cluster[record.site]
        offset = _offset_file(cluster, site)
        offset.write_text("+0\n", encoding="ascii")  # it jumps back while it runs, too
        _restart(cluster, site, Start(*record.details["start"]))
        offset.unlink()

    def effect(self, cluster: Cluster, record: Record) -> str:
        with contextlib.suppress(OSError):
            text = _offset_file(cluster, cluster[record.site]).read_text(encoding="ascii").strip()
            return f"the manager's clock is {text} s off"
        return "the manager's clock is right"


def _offset_file(cluster: Cluster, site: Site) -> Path:
    return cluster.directory / "faults" / f"clock.{site.name}.offset"


def _restart(cluster: Cluster, site: Site, start: Start) -> None:
    """SIGHUP leaves the data plane serving."""
    if (manager := site.find("manager")) is not None:
        try:
            end(manager, signal.SIGHUP, KILL_S)
        except DrillError:
            end(manager, signal.SIGKILL, KILL_S)
    site.start(start)
    wait_serving(cluster, site)


def _library() -> Path:
    for directory in sorted(Path("/usr/lib").glob("*-linux-gnu*")):
        if (directory / LIBRARY).exists():
            return directory / LIBRARY
    raise DrillError(f"{LIBRARY} is not installed; install the Debian package libfaketime (deploy/test does)")
