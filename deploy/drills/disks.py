"""Faults of disks: slow, failing, full, gone.

May live here: what is done to file-backed real volumes, and to the file system of a site. Two mechanisms:
strace injects a delay or an error into the calls that export and store make on the real volume's file (and no
other call; it slows those processes a little while attached), since neither device mapper nor a swap to
another backend is possible under a running cluster; and a ballast file fills the site's own file system.
Keeps: no byte of a real volume is changed.
"""

import contextlib
import os
import resource
from pathlib import Path
from signal import SIGKILL
from typing import Any

from drills.clusters import PLANES, ApiProblem, Cluster, Site, wait_for
from drills.fault import Asked, asked_site, end_keeper, keeper_of, start_keeper
from drills.kills import KILL_S
from drills.processes import DrillError, end, from_list, is_stopped
from drills.record import Record

IO_CALLS = "preadv,preadv2,pread64,pwritev,pwritev2,pwrite64,fdatasync,fsync,fallocate"
MAX_DELAY_MS = 10_000
DELAY_MS = 50
MAX_EVERY = 1_000_000
INCLUDE_S = 60.0
REOPEN_S = 30.0
FREE_LEFT_BYTES = 64 << 10
"""So little is left that the next record of any length does not fit."""
BALLAST = "drill-ballast"
GROWTH_BYTES = 3_000


class TracedDisk:
    """slow-disk and disk-error."""

    def __init__(self, name: str, summary: str, takes: frozenset[str]) -> None:
        self.name = name
        self.summary = summary
        self.takes = takes

    def prepare(self, cluster: Cluster, asked: Asked) -> tuple[str, dict[str, Any]]:
        site = asked_site(cluster, asked)
        real, path = find_real(cluster, site, asked.real)
        if not 0 <= asked.delay_ms <= MAX_DELAY_MS:
            raise DrillError(f"--delay-ms {asked.delay_ms}: 1 to {MAX_DELAY_MS}")
        if not 0 <= asked.every <= MAX_EVERY:
            raise DrillError(f"--every {asked.every}: 1 to {MAX_EVERY}")
        if self.name == "slow-disk":
            inject = f"delay_enter={(asked.delay_ms or DELAY_MS) * 1000}"
        else:
            inject = "error=EIO" + (f":when={asked.every}+{asked.every}" if asked.every > 1 else "")
        return site.name, {"real": real, **tracing(site, [path], IO_CALLS, inject)}

    def apply(self, cluster: Cluster, record: Record) -> None:
        start_keeper("trace", cluster, record)

    def heal(self, cluster: Cluster, record: Record) -> None:
        end_keeper(cluster, record)
        include(cluster, record.details["real"])

    def effect(self, cluster: Cluster, record: Record) -> str:
        del cluster
        return f"{record.details['real']}: {record.details['inject']}{keeper_of(record)}"


class DiskFull:
    name = "disk-full"
    summary = (
        "the site's own file system is full (netns-cluster); on loopback its manager may not let files grow"
    )
    takes: frozenset[str] = frozenset()

    def prepare(self, cluster: Cluster, asked: Asked) -> tuple[str, dict[str, Any]]:
        site = asked_site(cluster, asked)
        if site.mounted.is_mount():
            return site.name, {"ballast": str(site.mounted / BALLAST)}
        manager = site.expect("manager")
        soft, hard = resource.prlimit(manager.pid, resource.RLIMIT_FSIZE)
        return site.name, {"manager": list(manager), "limits": [soft, hard]}

    def apply(self, cluster: Cluster, record: Record) -> None:
        details = record.details
        if "ballast" in details:
            _fill(Path(details["ballast"]))
            return
        raft = cluster[record.site].data / "raft"
        largest = max((path.stat().st_size for path in raft.iterdir()), default=0)
        manager = from_list(details["manager"])
        resource.prlimit(manager.pid, resource.RLIMIT_FSIZE, (largest + GROWTH_BYTES, details["limits"][1]))

    def heal(self, cluster: Cluster, record: Record) -> None:
        details = record.details
        if "ballast" in details:
            Path(details["ballast"]).unlink(missing_ok=True)
        else:
            site, manager = cluster[record.site], from_list(details["manager"])
            if site.find("manager") == manager:
                resource.prlimit(manager.pid, resource.RLIMIT_FSIZE, tuple(details["limits"]))
        for real in _reals(cluster, cluster[record.site]):
            include(cluster, real["id"])

    def effect(self, cluster: Cluster, record: Record) -> str:
        if "ballast" in record.details:
            space = os.statvfs(cluster[record.site].mounted)
            return f"{space.f_bavail * space.f_frsize} bytes are free"
        return f"files of its manager may not grow (RLIMIT_FSIZE of process {record.details['manager'][0]})"


class LostReal:
    name = "lost-real-volume"
    summary = (
        "a file-backed real volume is unplugged (--real): renamed, and its site's export and store reopen"
    )
    takes = frozenset({"real"})

    def prepare(self, cluster: Cluster, asked: Asked) -> tuple[str, dict[str, Any]]:
        site = asked_site(cluster, asked)
        real, path = find_real(cluster, site, asked.real)
        site.expect("manager")  # it is what starts export and store again
        aside = path.with_name(path.name + ".unplugged")
        if aside.exists():
            raise DrillError(
                f"{aside} is in the way: it is left from another drill; look at both files by hand"
            )
        planes = [list(site.expect(role)) for role in PLANES]
        return site.name, {"real": real, "path": str(path), "aside": str(aside), "planes": planes}

    def apply(self, cluster: Cluster, record: Record) -> None:
        os.rename(record.details["path"], record.details["aside"])
        for words in record.details["planes"]:
            end(from_list(words), SIGKILL, KILL_S)
        site = cluster[record.site]
        wait_for(lambda: all(map(site.find, PLANES)), KILL_S, lambda: f"{site.name}: export and store again")

    def heal(self, cluster: Cluster, record: Record) -> None:
        path, aside = Path(record.details["path"]), Path(record.details["aside"])
        if aside.exists():
            if path.exists():
                raise DrillError(f"{path} and {aside} both exist; keep the one with the data, and heal again")
            aside.rename(path)
        site = cluster[record.site]
        wait_for(lambda: _is_open(site, path), REOPEN_S, lambda: f"{path} opened again; see {site.log}")
        include(cluster, record.details["real"])

    def effect(self, cluster: Cluster, record: Record) -> str:
        del cluster
        gone = not Path(record.details["path"]).exists()
        return f"{record.details['real']} {'is gone' if gone else 'is there'}"


def find_real(cluster: Cluster, site: Site, wanted: str) -> tuple[str, Path]:
    """(storage:lun, its file); without `wanted` the site's first."""
    reals = {real["id"]: real["uri"] for real in _reals(cluster, site)}
    if not reals:
        raise DrillError(f"{site.name} has no real volume; add one with `vimraft real add`")
    name = wanted or min(reals)
    if name not in reals:
        raise DrillError(f"--real {name}: {site.name} has {', '.join(sorted(reals))}")
    if not reals[name].startswith("file://"):
        raise DrillError(f"{name} is {reals[name]}: this fault needs a real volume that is a file (file://)")
    path = Path(reals[name].removeprefix("file://"))
    if not path.is_file():
        raise DrillError(f"{name}: {path} is not there now; heal what took it away first")
    return name, path.resolve()


def tracing(site: Site, paths: list[Path], calls: str, inject: str) -> dict[str, Any]:
    """Details for the keeper `trace`: these calls of export and store on these files."""
    traced = [site.expect(role).pid for role in PLANES]
    words = ["setpriv", "--pdeathsig", "TERM", "strace", "-f", "-qq", "-o", "/dev/null"]
    words += ["-e", f"trace={calls}", "-e", f"inject={calls}:{inject}"]
    words += [word for path in paths for word in ("-P", str(path))]
    words += [word for pid in traced for word in ("-p", str(pid))]
    return {"strace": words, "traced": traced, "inject": inject}


def include(cluster: Cluster, real: str) -> None:
    """A real volume that failed is taken into use again, as an operator would do it."""

    def included() -> bool:
        try:
            state = next((r["state"] for r in cluster.status()["reals"] if r["id"] == real), "removed")
            if state != "failed":
                return True
            storage, _, lun = real.rpartition(":")
            cluster.ask("PUT", f"/v1/reals/{storage}/{lun}", {"state": "active"})
        except ApiProblem:
            pass  # without a quorum it cannot be; healing may have to wait for other faults to be healed
        return False

    try:
        wait_for(included, INCLUDE_S, lambda: f"{real} in use again")
    except DrillError as error:
        raise DrillError(
            f"{error}: the disk is well again, but the cluster does not take it; see `vimraft status`, heal "
            f"other faults, then `vimraft real include {real}`"
        ) from None


def include_failed(cluster: Cluster) -> None:
    """All that failed. A manager that was away when the disk did tells of it, when it is back, after the disk
    was healed. Raises DrillError, ApiProblem."""
    for real in cluster.status()["reals"]:
        if real["state"] == "failed":
            include(cluster, real["id"])


def _is_open(site: Site, path: Path) -> bool:
    """By export and store; one that does not run now opens it when it starts."""
    running = [found for role in PLANES if (found := site.find(role)) is not None and not is_stopped(found)]
    return all(str(path) in _open_files(process.pid) for process in running)


def _open_files(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for fd in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found.add(os.readlink(fd.path))
    return found


def _reals(cluster: Cluster, site: Site) -> list[dict[str, Any]]:
    try:
        return [real for real in cluster.status()["reals"] if real["site"] == site.name]
    except ApiProblem as problem:
        raise DrillError(
            f"no manager says what real volumes {site.name} has ({problem}); start one"
        ) from None


def _fill(ballast: Path) -> None:
    fd = os.open(ballast, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        while True:
            space = os.fstatvfs(fd)
            count = space.f_bavail * space.f_frsize - FREE_LEFT_BYTES
            if count <= 0:
                return
            try:
                os.posix_fallocate(fd, os.fstat(fd).st_size, min(count, 64 << 20))
            except OSError:
                return  # as full as can be
    finally:
        os.close(fd)
