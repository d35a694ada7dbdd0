"""The volumes of a chaos run: where they lie, who serves them, and what their copies owe.

May live here: building them, looking at them again, and removing them. With three sites:

- `one`: one copy at the first site;
- `two`: copies at the second and the third site; nothing but faults changes it;
- `turn`: copies at the third and the first site; its owner is moved, its copies are migrated;
- `three`: copies at all three; the one at the third site is removed and added again (its *spare*);
- `wide`: a copy that spans the first two sites, and one at the third;
- `span`: one copy that spans the last two sites.

With fewer sites, or without copies: one volume with one copy at each site, and one that spans two.
`wide` and `span` begin where little room is left, so ballast is built first; nobody attaches to that.
"""

import contextlib
from dataclasses import dataclass, field, replace
from typing import Any

from drills.clusters import ApiProblem, Cluster, Site

MIB = 1 << 20
VOLUME_MIB = 8
WIDE_MIB = 24
SPAN_MIB = 16
BEGIN_MIB = 8
"""What `span` has at its first site; `wide` has the rest of its size beside as much at its second."""
BUILD_S = 30.0


@dataclass(frozen=True)
class Volume:
    name: str
    size_bytes: int
    owner: str
    copies: tuple[frozenset[str], ...]
    """Of each copy that stays: the sites that it lies at."""
    reals: frozenset[str]
    spare: str = ""
    """Site of a copy that comes and goes, so that it counts for nothing but what it may cost."""
    changing: bool = False
    """Its owner moves, its copies are migrated: any of its sites may serve it, any real volume hold it."""

    @property
    def sites(self) -> frozenset[str]:
        return frozenset().union(*self.copies, {self.spare} - {""})

    @property
    def copied(self) -> bool:
        return len(self.copies) > 1 or bool(self.spare)


@dataclass
class Layout:
    volumes: list[Volume] = field(default_factory=list)
    ballast: list[str] = field(default_factory=list)


def build(cluster: Cluster, prefix: str, volume_class: str) -> Layout:
    """Raises ApiProblem."""
    names, found = list(cluster.sites), Layout()

    def add(name: str, mib: int, sites: list[str], copies: int = 1, **kind: Any) -> None:
        volume = _build(cluster, f"{prefix}{name}", mib * MIB, volume_class, sites, copies)
        found.volumes.append(_kept(replace(volume, **kind), volume.copies))

    def leave(site: str, mib: int) -> None:
        """So much room, by ballast."""
        too_much = _free_bytes(cluster, cluster[site], volume_class) - mib * MIB
        if too_much > 0:
            name = f"{prefix}ballast-{site}"
            found.ballast.append(name)
            _build(cluster, name, too_much, volume_class, [site], 1)

    if len(names) < 3 or not _keeps_copies(cluster):
        for name in names:
            add(name, VOLUME_MIB, [name])
        if len(names) > 1:
            leave(names[0], BEGIN_MIB)
            add("span", SPAN_MIB, names[:2])
        return found
    first, second, third = names[:3]
    add("one", VOLUME_MIB, [first])
    add("two", VOLUME_MIB, [second, third], 2)
    add("turn", VOLUME_MIB, [third, first], 2, changing=True)
    add("three", VOLUME_MIB, [first, second, third], 3, spare=third)
    leave(first, WIDE_MIB - BEGIN_MIB)
    add("wide", WIDE_MIB, [first, second, third], 2)
    leave(second, BEGIN_MIB)
    add("span", SPAN_MIB, [second, third])
    return found


def look(cluster: Cluster, volume: Volume) -> Volume:
    """As it is now: owner, copies and real volumes may have changed."""
    found: dict[str, Any] = cluster.ask("GET", f"/v1/volumes/{volume.name}")
    return _kept(volume, _sites(found), owner=found["volume"]["owner"], reals=_reals(found))


def remove(cluster: Cluster, names: list[str]) -> None:
    for name in names:
        with contextlib.suppress(ApiProblem):
            cluster.ask("DELETE", f"/v1/volumes/{name}?purge=true&force=true", limit_s=BUILD_S)


def _kept(volume: Volume, copies: tuple[frozenset[str], ...], **fields: Any) -> Volume:
    return replace(volume, copies=tuple(copy for copy in copies if copy != {volume.spare}), **fields)


def _keeps_copies(cluster: Cluster) -> bool:
    """Whether this release, at this cluster's level, keeps copies: what a plan says."""
    names = list(cluster.sites)[:2]
    body = {"name": "chaos-plan", "size_bytes": MIB, "sites": names, "copies": 2, "volume_class": "ssd"}
    try:
        cluster.ask("POST", "/v1/volumes", body | {"plan": True}, limit_s=BUILD_S)
    except ApiProblem as problem:
        if problem.code not in ("rejected", "bad_request", "needs_upgrade"):
            raise
        return False
    return True


def _build(
    cluster: Cluster, name: str, size_bytes: int, volume_class: str, sites: list[str], copies: int
) -> Volume:
    body = {"name": name, "size_bytes": size_bytes, "volume_class": volume_class, "sites": sites}
    if copies > 1:
        body["copies"] = copies
    built: dict[str, Any] = cluster.ask("POST", "/v1/volumes", body, limit_s=BUILD_S)
    return Volume(name, size_bytes, built["volume"]["owner"], _sites(built), _reals(built))


def _sites(found: dict[str, Any]) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(replica["sites"]) for replica in found["volume"]["replicas"])


def _reals(found: dict[str, Any]) -> frozenset[str]:
    return frozenset(f"{segment['storage']}:{segment['lun']}" for segment in found["segments"])


def _free_bytes(cluster: Cluster, site: Site, volume_class: str) -> int:
    return sum(
        int(real["free_bytes"])
        for real in cluster.status()["reals"]
        if real["site"] == site.name and real["volume_class"] == volume_class and real["state"] == "active"
    )
