"""What must hold after every round of chaos, when everything is healed and nobody writes.

May live here: one function per invariant, each returning violations in words.
Keeps: reading goes through other sites than writing did, so it is the cluster that is compared, not a cache.
"""

import hashlib
import json
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

import nbd

from drills.blocks import BLOCK_BYTES, decode
from drills.clusters import ApiProblem, Cluster, Site, run
from drills.record import Records
from drills.workload import Changer, Writer, connect, uri_of

TABLES = ("real-identifying", "real-free", "virtual-identifying", "virtual-sectors")
PAGE_ROWS = 1_000
AGREE_S = 30.0
READABLE_S = 60.0
POLL_S = 0.3


def all_healed(cluster: Cluster) -> list[str]:
    """Nothing is in force, no rule is left, everything is healthy and every real volume in use."""
    found = [f"{record.title} was not healed" for record in Records(cluster.directory).all()]
    problem = _until_empty(cluster.unhealthy, READABLE_S)
    if problem:
        found.append(f"not healthy within {READABLE_S:.0f} s after healing: {problem}")
        return found
    return found + [
        f"real volume {real['id']} is {real['state']}: {real['reason']}"
        for real in cluster.status()["reals"]
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


def changes_kept(cluster: Cluster, changer: Changer) -> list[str]:
    """What was acknowledged as built is there, what was acknowledged as deleted is not; what was unknown is
    settled by what is there now."""
    names = {volume["name"] for volume in cluster.status()["volumes"]}
    mine = {name for name in names if name.startswith(changer.prefix)}
    found = [f"volume {name} was acknowledged as built and is not there" for name in changer.there - mine]
    found += [f"volume {name} was acknowledged as deleted and is there" for name in changer.gone & mine]
    found += [
        f"volume {name} was never asked for" for name in mine - changer.there - changer.gone - changer.unknown
    ]
    changer.there |= changer.unknown & mine
    changer.gone |= changer.unknown - mine
    changer.unknown.clear()
    return found


def writes_kept(cluster: Cluster, writers: list[Writer], sites: list[str]) -> tuple[int, list[str]]:
    """(blocks read, violations): every block that was written, through a site of `sites` for each writer."""
    found: list[str] = []
    checked = 0
    for writer, site in zip(writers, sites, strict=True):
        uri = uri_of(cluster, writer.volume, site)
        try:
            handle = _readable(uri)
            for number in writer.blocks.written_numbers():
                at = writer.first + number
                data = bytes(handle.pread(BLOCK_BYTES, at * BLOCK_BYTES))
                wrong = writer.blocks.read(number, decode(writer.run_id, at, data))
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
        offset = 0
        while True:
            query = urllib.parse.urlencode({"offset": offset, "limit": PAGE_ROWS})
            page: dict[str, Any] = cluster.ask("GET", f"/v1/tables/{table}?{query}", at=site)
            digest.update(json.dumps([table, page["columns"], page["rows"]]).encode())
            offset += len(page["rows"])
            if len(page["rows"]) < PAGE_ROWS:
                break
    return digest.hexdigest()[:16]


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
