"""Whether the copies of a volume are equal, read from the files of the real volumes themselves.

May live here: finding the bytes of a copy by the map that the API shows, and comparing. Keeps: nothing of the
product is between the drill and the bytes, so what it reads is not what a store says that it has.
"""

import hashlib
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

from drills.clusters import Cluster
from drills.disks import find_real
from drills.layout import Volume
from drills.processes import DrillError

SECTOR_BYTES = 512
PIECE_BYTES = 1 << 16
EQUAL_S = 30.0
"""A range whose write ended with an error is made equal a little later."""
POLL_S = 0.5
MAX_TOLD = 3


class _Part(NamedTuple):
    """`length` bytes of a copy from `first` on lie at `at` in `path`."""

    first: int
    length: int
    path: Path
    at: int
    real: str


def copies_equal(cluster: Cluster, volumes: list[Volume]) -> tuple[int, list[str]]:
    """(bytes compared, violations). Nobody writes. Raises ApiProblem."""
    compared, found = 0, []
    for volume in volumes:
        deadline_s = time.monotonic() + EQUAL_S
        while True:
            size, differing = _compare(cluster, volume)
            if not differing or time.monotonic() > deadline_s:
                break
            time.sleep(POLL_S)
        compared += size
        if differing:
            where = "; ".join(differing[:MAX_TOLD])
            found.append(
                f"{volume.name}: copies differ in {len(differing)} pieces of {PIECE_BYTES} bytes: {where}"
            )
    return compared, found


def _compare(cluster: Cluster, volume: Volume) -> tuple[int, list[str]]:
    """(bytes, the pieces that differ and where they lie)."""
    found: dict[str, Any] = cluster.ask("GET", f"/v1/volumes/{volume.name}")
    ready = {each["local_name"] for each in found["volume"]["replicas"] if each["state"] == "in_sync"}
    copies: dict[str, list[_Part]] = {}
    for segment in found["segments"]:
        if segment["local_name"] in ready:
            copies.setdefault(segment["local_name"], []).append(_part(cluster, segment))
    if len(copies) < 2:
        return 0, []
    digests = {name: _digests(parts, volume.size_bytes) for name, parts in copies.items()}
    differing = [
        _words(
            number * PIECE_BYTES, {name: (pieces[number], copies[name]) for name, pieces in digests.items()}
        )
        for number in range(volume.size_bytes // PIECE_BYTES)
        if len({pieces[number] for pieces in digests.values()}) > 1
    ]
    return volume.size_bytes * len(copies), differing


def _words(first: int, copies: dict[str, tuple[str, list[_Part]]]) -> str:
    """What each copy has in the piece that begins at `first`, and where."""
    told = []
    for name, (digest, parts) in copies.items():
        part = next(part for part in parts if part.first <= first < part.first + part.length)
        told.append(f"{name} {digest[:6]} at {part.real}+{part.at + first - part.first}")
    return f"{first}: {', '.join(told)}"


def _part(cluster: Cluster, segment: dict[str, Any]) -> _Part:
    real, path = find_real(cluster, cluster[segment["site"]], f"{segment['storage']}:{segment['lun']}")
    first = segment["virtual_first"] * SECTOR_BYTES
    length = (segment["virtual_last"] + 1) * SECTOR_BYTES - first
    return _Part(first, length, path, segment["real_first"] * SECTOR_BYTES, real)


def _digests(parts: list[_Part], size_bytes: int) -> list[str]:
    """Of each piece of the copy."""
    content = bytearray(size_bytes)
    for part in parts:
        fd = os.open(part.path, os.O_RDONLY)
        try:
            data = os.pread(fd, part.length, part.at)
            if len(data) != part.length:
                raise DrillError(f"{part.path}: {part.length} bytes at {part.at} are not all there")
            content[part.first : part.first + part.length] = data
        finally:
            os.close(fd)
    view = memoryview(content)
    return [
        hashlib.sha256(view[first : first + PIECE_BYTES]).hexdigest()
        for first in range(0, size_bytes, PIECE_BYTES)
    ]
