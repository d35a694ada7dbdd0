"""The volumes of a chaos run: where they lie, and who serves them.

May live here: building them, as many copies as the cluster can keep, and removing them. At each site one that
lies there alone, and one that begins at the first site and goes on at the second, so that its owner works
with another site's store.
"""

import contextlib
from dataclasses import dataclass
from typing import Any

from drills.clusters import ApiProblem, Cluster, Site

MIB = 1 << 20
VOLUME_MIB = 8
MAX_COPIES = 2
BUILD_S = 30.0


@dataclass(frozen=True)
class Volume:
    name: str
    size_bytes: int
    owner: str
    copies: tuple[frozenset[str], ...]
    """Of each copy: the sites that it lies at."""
    reals: frozenset[str]

    @property
    def sites(self) -> frozenset[str]:
        return frozenset().union(*self.copies)


def build(cluster: Cluster, prefix: str, volume_class: str) -> list[Volume]:
    """Raises ApiProblem."""
    sites = list(cluster.sites.values())
    copies = MAX_COPIES if len(sites) > 1 else 1
    volumes = []
    for number, home in enumerate(sites):
        wanted = [home.name, sites[(number + 1) % len(sites)].name]
        volume = None
        if copies > 1:
            try:
                volume = _build(
                    cluster, f"{prefix}{home.name}", VOLUME_MIB * MIB, volume_class, wanted, copies
                )
            except ApiProblem as problem:
                if problem.code != "rejected":
                    raise
                copies = 1  # this release, or this cluster's level, keeps no copies
        if volume is None:
            volume = _build(cluster, f"{prefix}{home.name}", VOLUME_MIB * MIB, volume_class, wanted[:1], 1)
        volumes.append(volume)
    if len(sites) > 1:
        first, second = sites[:2]
        size = _free_bytes(cluster, first, volume_class) + VOLUME_MIB * MIB
        volumes.append(_build(cluster, f"{prefix}span", size, volume_class, [first.name, second.name], 1))
    return volumes


def look(cluster: Cluster, volume: Volume) -> Volume:
    """As it is now: owner and copies may have changed."""
    now = next(each for each in cluster.status()["volumes"] if each["name"] == volume.name)
    copies = tuple(frozenset(replica["sites"]) for replica in now["replicas"])
    return Volume(volume.name, volume.size_bytes, now["owner"], copies, volume.reals)


def remove(cluster: Cluster, names: list[str]) -> None:
    for name in names:
        with contextlib.suppress(ApiProblem):
            cluster.ask("DELETE", f"/v1/volumes/{name}?purge=true&force=true", limit_s=BUILD_S)


def _build(
    cluster: Cluster, name: str, size_bytes: int, volume_class: str, sites: list[str], copies: int
) -> Volume:
    body = {"name": name, "size_bytes": size_bytes, "volume_class": volume_class, "sites": sites}
    if copies > 1:
        body["copies"] = copies
    built: dict[str, Any] = cluster.ask("POST", "/v1/volumes", body, limit_s=BUILD_S)
    found, segments = built["volume"], built["segments"]
    return Volume(
        name,
        size_bytes,
        found["owner"],
        tuple(frozenset(replica["sites"]) for replica in found["replicas"]),
        frozenset(f"{segment['storage']}:{segment['lun']}" for segment in segments),
    )


def _free_bytes(cluster: Cluster, site: Site, volume_class: str) -> int:
    return sum(
        int(real["free_bytes"])
        for real in cluster.status()["reals"]
        if real["site"] == site.name and real["volume_class"] == volume_class and real["state"] == "active"
    )
