"""What must hold after every round of chaos, when everything is healed and nobody writes.

May live here: one function per invariant, each returning violations in words.
Keeps: reading goes through other sites than writing did, so it is the cluster that is compared, not a cache.
"""

import contextlib
import hashlib
import json
import time
import urllib.parse
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import nbd

from drills.blocks import BLOCK_BYTES, decode
from drills.changes import Changer
from drills.clusters import ApiProblem, Cluster, Site, run
from drills.disks import include_failed
from drills.layout import Volume
from drills.processes import DrillError
from drills.promises import RESUMED_S, UNAFFECTED_S, may_disconnect, may_fail, resumes, touched
from drills.record import Records
from drills.report import FaultRun
from drills.workload import Attached, Writer, connect, uri_of

TABLES = ("real-identifying", "real-free", "virtual-identifying", "virtual-sectors")
PAGE_ROWS = 1_000
SECTOR_BYTES = 512
AGREE_S = 30.0
IN_SYNC_S = 120.0
READABLE_S = 60.0
POLL_S = 0.3


def all_healed(cluster: Cluster) -> list[str]:
    """Nothing is in force, no rule is left, everything is healthy and every real volume in use."""
    found = [f"{record.title} was not healed" for record in Records(cluster.directory).all()]
    problem = _until_empty(cluster.unhealthy, READABLE_S)
    with contextlib.suppress(DrillError, ApiProblem):
        include_failed(cluster)
    if problem:
        found.append(f"not healthy within {READABLE_S:.0f} s after healing: {problem}")
        return found
    try:
        reals = cluster.status()["reals"]
    except ApiProblem as unknown:
        return [*found, f"no manager answers although all is healed: {unknown}"]
    return found + [
        f"real volume {real['id']} is {real['state']}: {real['reason']}"
        for real in reals
        if real["state"] != "active"
    ]


def tables_agree(cluster: Cluster) -> list[str]:
    """The four tables are the same, byte for byte, at every manager."""

    def differing() -> str:
        digests = {}
        for site in cluster.sites.values():
            try:
                digests[site.name] = _digest(cluster, site)
            except ApiProblem as problem:
                return f"{site.name} does not show its tables: {problem}"
        return "" if len(set(digests.values())) == 1 else f"tables differ: {digests}"

    problem = _until_empty(differing, AGREE_S)
    return [problem] if problem else []


def space_adds_up(cluster: Cluster) -> list[str]:
    """INV-6: no two segments share a sector; free, releasing and allocated make up the capacity."""
    status, rows = cluster.status(), _rows(cluster, "virtual-sectors")
    taken: dict[str, list[tuple[int, int, str]]] = {}
    for name, _, _, storage, lun, real_range in rows:
        first, last = map(int, str(real_range).split("–"))
        taken.setdefault(f"{storage}:{lun}", []).append((first, last, str(name)))
    found = []
    for real in status["reals"]:
        ranges = sorted(taken.get(real["id"], []))
        for (_, last, name), (first, _, other) in pairwise(ranges):
            if first <= last:
                found.append(f"{real['id']}: {name} and {other} both have sector {first}")
        allocated = sum(last - first + 1 for first, last, _ in ranges) * SECTOR_BYTES
        parts = (real["free_bytes"], real["releasing_bytes"], allocated)
        if sum(parts) != real["capacity_bytes"]:
            found.append(f"{real['id']}: free, releasing, allocated {parts} are not {real['capacity_bytes']}")
    return found


def copies_in_sync(cluster: Cluster, volumes: list[Volume]) -> list[str]:
    """What was behind while a fault was in force has caught up."""
    names = {volume.name for volume in volumes}

    def behind() -> str:
        try:
            return "; ".join(
                f"{volume['name']}: copy {replica['local_name']} is {replica['state']}"
                for volume in cluster.status()["volumes"]
                if volume["name"] in names
                for replica in volume["replicas"]
                if replica["state"] != "in_sync"
            )
        except ApiProblem as problem:
            return str(problem)

    problem = _until_empty(behind, IN_SYNC_S)
    return [f"not in sync within {IN_SYNC_S:.0f} s after healing: {problem}"] if problem else []


def changes_kept(cluster: Cluster, changer: Changer) -> list[str]:
    """What was acknowledged as built or grown is there, what was acknowledged as deleted is not."""
    return changer.compare({volume["name"]: volume["size_bytes"] for volume in cluster.status()["volumes"]})


def promises_kept(
    sites: int,
    slower: float,
    clients: list[Attached],
    volumes: dict[str, Volume],
    faults: list[FaultRun],
    io_timeout_s: float,
) -> list[str]:
    """Who was not to notice a fault did not; who was to wait did not fail, nor wait for longer than another
    copy takes to serve. See `promises`. In a cluster of `sites` sites, on a machine `slower` by that."""
    found = []
    injected = [fault for fault in faults if fault.injected_s]
    for client in clients:
        volume, waited_s = volumes[client.volume], client.seen.longest_s
        if not touched(injected, volume, client.site, sites):
            if waited_s > UNAFFECTED_S * slower:
                found.append(f"{client.name} waited {waited_s:.1f} s and nothing there was touched")
        elif waited_s > RESUMED_S * slower and resumes(injected, volume, client.site, sites):
            found.append(f"{client.name} waited {waited_s:.1f} s although another copy could serve it")
        for failure in client.seen.failures:
            if failure.answered and not may_fail(injected, volume, io_timeout_s):
                found.append(f"{client.name}: I/O failed that should have waited: {failure.text}")
            if not failure.answered and not may_disconnect(injected, client.site):
                found.append(f"{client.name}: lost its connection: {failure.text}")
    return found


def writes_kept(cluster: Cluster, writers: list[Writer], sites: list[str]) -> tuple[int, list[str]]:
    """(blocks read, violations): every block that was written, through a site of `sites` for each writer."""
    found: list[str] = []
    checked = 0
    for writer, site in zip(writers, sites, strict=True):
        try:
            handle = _readable(uri_of(cluster, writer.volume, site))
            for number in writer.blocks.written_numbers():
                at = writer.first + number
                expected = writer.blocks.expect(number)
                data = bytes(handle.pread(BLOCK_BYTES, at * BLOCK_BYTES))
                wrong = writer.blocks.read(number, decode(writer.run_id, at, data), expected)
                checked += 1
                if wrong:
                    found.append(f"{writer.name} block {at}, read through {site}: {wrong}")
            handle.shutdown()
        except nbd.Error as error:
            found.append(f"{writer.volume} cannot be read through {site} although all is healed: {error}")
    return checked, found


def _readable(uri: str) -> nbd.NBD:
    deadline_s = time.monotonic() + READABLE_S
    while True:
        try:
            handle = connect(uri)
            handle.pread(BLOCK_BYTES, 0)
        except nbd.Error:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(POLL_S)
        else:
            return handle


def _digest(cluster: Cluster, site: Site) -> str:
    digest = hashlib.sha256()
    for table in TABLES:
        digest.update(json.dumps([table, _rows(cluster, table, site)]).encode())
    return digest.hexdigest()[:16]


def _rows(cluster: Cluster, table: str, at: Site | None = None) -> list[list[Any]]:
    rows: list[list[Any]] = []
    while True:
        query = urllib.parse.urlencode({"offset": len(rows), "limit": PAGE_ROWS})
        page: dict[str, Any] = cluster.ask("GET", f"/v1/tables/{table}?{query}", at=at)
        rows += page["rows"]
        if len(page["rows"]) < PAGE_ROWS:
            return rows


def _until_empty(look: Callable[[], str], limit_s: float) -> str:
    deadline_s = time.monotonic() + limit_s
    while (found := look()) and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
    return found


def rules_left(cluster: Cluster) -> list[str]:
    """Tables of nftables that healing should have removed, in the namespaces of this cluster."""
    found = []
    for site in cluster.sites.values():
        if site.namespace:
            tables = run(["ip", "netns", "exec", site.namespace, "nft", "list", "tables"])
            found += [
                f"{site.name}: {line} is left" for line in tables.splitlines() if "vimraft_faults" in line
            ]
    return found
