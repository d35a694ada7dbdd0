"""deploy/netns-cluster: each site in a network namespace of its own, on one bridge, with a disk of its own.

    netns-cluster up [--sites N] [--dir DIR]     made, started, formed, with real volumes; may be repeated
    netns-cluster down [--dir DIR]               ended and removed, data included
    netns-cluster status [--dir DIR]             exit code 0 when healthy

May live here: namespaces, links, disks, certificates and configuration of such a cluster, and its end.
Raft runs over mutual TLS; API and block I/O are plain, which is all this release has, on a bridge that only
this host reaches. Each site's data and real volumes lie on an ext4 of its own, a loop mount, so it can be
filled and can lose power. This host is on the bridge as a client.
Keeps: names of namespaces, bridge and addresses come from the directory, so clusters do not meet; `down` ends
what is proven to be of this directory, and removes nothing that it did not make.
"""

import argparse
import contextlib
import hashlib
import json
import os
import secrets
import shutil
import signal
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from drills.clusters import CHECKOUT, ApiProblem, Cluster, Site, Start, run, wait_for
from drills.faults import heal
from drills.kills import mount_disk, unmount_disk
from drills.processes import DrillError, end

NAMES = ("tokyo", "osaka", "nagoya", "sendai", "kyoto", "sapporo", "fukuoka")
PORTS = {"raft": 7101, "api": 7102, "nbd": 10809, "peer": 7103}
HOST_NUMBER = 254
DISK_MIB = 1_024
"""Of each site's own file system; sparse."""
SSD_MIB, HDD_MIB = 129, 193
"""Its real volumes, with 1 MiB each for the label."""
STOP_S = 20.0
KILL_S = 5.0
DIRECTORY = CHECKOUT / ".vimraft-netns"
MAX_DIRECTORY_CHARS = 60
"""Sockets lie below it, and their paths may have 107 bytes."""


class Names:
    """Of everything this cluster has outside its directory."""

    def __init__(self, directory: Path) -> None:
        digest = hashlib.sha256(str(directory).encode()).digest()
        self.mark = digest.hex()[:6]
        self.bridge = f"vmr{self.mark}"
        self.subnet = f"10.{64 + digest[3] % 64}.{digest[4]}"

    def namespace(self, site: str) -> str:
        return f"vmr{self.mark}-{site}"

    def address(self, number: int) -> str:
        return f"{self.subnet}.{number}"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="netns-cluster", description="Sites in network namespaces.")
    parser.add_argument("action", choices=("up", "down", "status"))
    parser.add_argument("--sites", type=int, default=3, metavar="N", help=f"1 to {len(NAMES)}; default 3")
    parser.add_argument("--dir", type=Path, default=DIRECTORY, metavar="DIR", help="default %(default)s")
    options = parser.parse_args(arguments)
    directory = options.dir.resolve()
    try:
        if options.action == "up":
            if not 1 <= options.sites <= len(NAMES):
                parser.error(f"--sites {options.sites}: 1 to {len(NAMES)}")
            up(directory, NAMES[: options.sites])
            print(f"netns-cluster: up: {', '.join(Cluster(directory).sites)} in {directory}")
        elif options.action == "down":
            print(f"netns-cluster: ended {down(directory)} processes and removed {directory}")
        else:
            return _status(directory)
    except (DrillError, ApiProblem, OSError) as error:
        sys.stderr.write(f"netns-cluster: {error}\n")
        return 1
    return 0


def up(directory: Path, sites: tuple[str, ...]) -> None:
    """Raises DrillError; what was made then stays, for a look, until `down`."""
    if os.geteuid() != 0:
        raise DrillError("network namespaces need root; run it as root, or use deploy/quickstart")
    if len(str(directory)) > MAX_DIRECTORY_CHARS:
        raise DrillError(f"{directory}: longer than {MAX_DIRECTORY_CHARS} characters; give a shorter --dir")
    vimraft = _vimraft()
    if (directory / "cluster.json").exists():
        cluster = Cluster(directory)
        if tuple(cluster.namespaces) != sites:
            raise DrillError(
                f"{directory} is a cluster of {', '.join(cluster.namespaces)}; take it down first"
            )
    else:
        if directory.exists() and any(directory.iterdir()):
            raise DrillError(f"{directory} is not empty and no cluster of this command; give another --dir")
        _lay_out(directory, sites, vimraft)
    _connect(directory, sites)
    cluster = Cluster(directory)
    for site in cluster.sites.values():
        if not site.mounted.is_mount():
            mount_disk(site)
        if site.find("manager") is None:
            command = [vimraft, "site", "run", "--config", str(site.config)]
            kept = {key: os.environ[key] for key in ("PATH", "PYTHONPATH", "LANG") if key in os.environ}
            site.start(Start(command, kept))
    cluster.wait_healthy()
    for number, site in enumerate(cluster.sites.values(), start=1):
        _add_reals(cluster, site, f"02{number}a00")
    cluster.wait_healthy()


def down(directory: Path) -> int:
    """How many processes it ended. Raises DrillError."""
    names = Names(directory)
    ended = 0
    if (directory / "cluster.json").exists():
        cluster = Cluster(directory)
        with contextlib.suppress(DrillError):
            heal(cluster)  # paused ones would not end, rules and helpers would stay
        ended = sum(end_site(site) for site in cluster.sites.values())
    for line in run(["ip", "netns", "list"]).splitlines():
        namespace = line.split()[0]
        if namespace.startswith(names.namespace("")):
            run(["ip", "netns", "delete", namespace])
    if Path(f"/sys/class/net/{names.bridge}").exists():
        run(["ip", "link", "delete", names.bridge])
    if directory.exists() and (directory / "cluster.json").exists():
        for site in Cluster(directory).sites.values():
            unmount_disk(site)
        while is_mounted(directory):
            run(["umount", str(directory)])
        shutil.rmtree(directory)
    return ended


def end_site(site: Site) -> int:
    """Cleanly where it listens."""
    before = site.processes()
    manager = site.find("manager")
    if manager is not None:
        with contextlib.suppress(DrillError):
            end(manager, signal.SIGTERM, STOP_S)
    for process in site.processes():
        end(process, signal.SIGKILL, KILL_S)
    return len(before)


def _status(directory: Path) -> int:
    cluster = Cluster(directory)
    for site in cluster.sites.values():
        running = [role for role in ("manager", "export", "store") if site.find(role)]
        print(f"{site.name:10}{site.host:16}{site.namespace:24}{', '.join(running) or 'down'}")
    problem = cluster.unhealthy()
    print(problem or "healthy")
    return 1 if problem else 0


def _lay_out(directory: Path, sites: tuple[str, ...], vimraft: str) -> None:
    names = Names(directory)
    directory.mkdir(parents=True, mode=0o700, exist_ok=True)
    # Mounts in it are seen in, and leave, the mount namespaces that `ip netns exec` makes.
    run(["mount", "--bind", str(directory), str(directory)])
    run(["mount", "--make-shared", str(directory)])
    _write(directory / "token", secrets.token_hex(32) + "\n")
    tls = directory / "tls"
    run([vimraft, "tls", "init", str(tls)])
    members = [f"{names.address(number)}:{PORTS['raft']}" for number in range(1, len(sites) + 1)]
    for number, name in enumerate(sites, start=1):
        own = directory / name
        (own / "disk").mkdir(parents=True)
        _write(own / "boot_id", f"{uuid.uuid4()}\n")
        with (own / "disk.img").open("wb") as image:
            image.truncate(DISK_MIB << 20)
        run(["mke2fs", "-q", "-t", "ext4", "-m", "0", str(own / "disk.img")])
        run([vimraft, "tls", "issue", name, "--raft", members[number - 1], "--ca", str(tls)])
        _write(own / "site.toml", _configuration(directory, name, sites, names.address(number), members))
    namespaces = {name: names.namespace(name) for name in sites}
    _write(directory / "cluster.json", json.dumps({"namespaces": namespaces}) + "\n")
    urls = [f"http://{names.address(number)}:{PORTS['api']}" for number in range(1, len(sites) + 1)]
    _write(directory / "context.toml", f'api = {json.dumps(urls)}\ntoken_file = "{directory / "token"}"\n')


def _configuration(directory: Path, name: str, sites: tuple[str, ...], host: str, members: list[str]) -> str:
    tls = directory / "tls"
    lines = [
        "# Written by deploy/netns-cluster; every key is explained in deploy/site.example.toml.",
        f'manager = "{name}"',
        f'data_dir = "{directory / name / "disk" / "data"}"',
        f'token_file = "{directory / "token"}"',
        "[[sites]]",
        f'name = "{name}"',
        f"priority = {json.dumps([other for other in sites if other != name])}",
        "[network]",
        *(f'{role} = "{host}:{port}"' for role, port in PORTS.items()),
        "allow_plaintext = true",
        "[tls]",
        f'ca = "{tls / "ca.crt"}"',
        f'cert = "{tls / name}.crt"',
        f'key = "{tls / name}.key"',
        "[raft]",
        f"members = {json.dumps(members)}",
    ]
    return "\n".join(lines) + "\n"


def _connect(directory: Path, sites: tuple[str, ...]) -> None:
    """Bridge, namespaces and links: those that are missing (after a reboot all are)."""
    names = Names(directory)
    if not is_mounted(directory):
        run(["mount", "--bind", str(directory), str(directory)])
        run(["mount", "--make-shared", str(directory)])
    if not Path(f"/sys/class/net/{names.bridge}").exists():
        run(["ip", "link", "add", names.bridge, "type", "bridge"])
        run(["ip", "address", "add", f"{names.address(HOST_NUMBER)}/24", "dev", names.bridge])
        run(["ip", "link", "set", names.bridge, "up"])
    there = {line.split()[0] for line in run(["ip", "netns", "list"]).splitlines()}
    for number, name in enumerate(sites, start=1):
        namespace, outer = names.namespace(name), f"v{names.mark}{number}"
        if namespace in there:
            continue
        run(["ip", "netns", "add", namespace])
        run(["ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", namespace])
        run(["ip", "link", "set", outer, "master", names.bridge, "up"])
        inside = ["ip", "-n", namespace]
        run([*inside, "address", "add", f"{names.address(number)}/24", "dev", "eth0"])
        run([*inside, "link", "set", "eth0", "up"])
        run([*inside, "link", "set", "lo", "up"])


def is_mounted(directory: Path) -> bool:
    """Path.is_mount does not see a directory that is mounted on itself."""
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    here = str(directory).replace("\\", "\\134").replace(" ", "\\040")
    return any(line.split()[4] == here for line in mounts)


def _add_reals(cluster: Cluster, site: Site, storage: str) -> None:
    """An ssd and a slow-hdd, sparse files on its own disk; those that are missing."""
    disks = site.mounted / "disks"
    disks.mkdir(exist_ok=True)
    present = {real["id"] for real in cluster.status()["reals"]}
    if not any(real.startswith(f"{storage}:") for real in present):
        _retried(
            cluster, "PUT", "/v1/storages", {"address": storage, "site": site.name, "uri": f"file://{disks}"}
        )
    for lun, volume_class, size_mib in ((0, "ssd", SSD_MIB), (1, "slow-hdd", HDD_MIB)):
        if f"{storage}:{lun}" in present:
            continue
        body = {"storage": storage, "lun": lun, "volume_class": volume_class, "size_bytes": size_mib << 20}
        job = _retried(cluster, "POST", "/v1/reals", body)

        done = _job_done(cluster, job["id"])
        if done["state"] != "done":
            raise DrillError(f"{done['what']}: {done['error']['message']}")


def _job_done(cluster: Cluster, job_id: str) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        found: dict[str, Any] = cluster.ask("GET", f"/v1/jobs/{job_id}")
        return found if found["state"] != "running" else None

    return wait_for(ended, STOP_S, lambda: f"job {job_id} done")


def _retried(cluster: Cluster, method: str, path: str, body: object) -> Any:
    """While there is no leader."""
    deadline_s = time.monotonic() + STOP_S
    while True:
        try:
            return cluster.ask(method, path, body, limit_s=STOP_S)
        except ApiProblem as problem:
            if problem.code not in ("unavailable", "silent") or time.monotonic() > deadline_s:
                raise
        time.sleep(0.2)


def _vimraft() -> str:
    """The checkout's own, or the one on PATH."""
    own = CHECKOUT / ".venv" / "bin" / "vimraft"
    found = str(own) if own.exists() else shutil.which("vimraft")
    if found is None:
        raise DrillError(f"{own} is not there; deploy/quickstart makes it")
    return found


def _write(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
