"""What a power cut leaves of a killed node's Raft directory, from faulty_disk.py's record.

May live here: making such directories. Each file is the synced one with any of the 4 KiB pages that were
written since, each as a whole or torn between two sectors; its size is the synced one, the newest, or one
between; names are those of the last sync, or the newest.
"""

import json
import random
import shutil
from pathlib import Path

from tests.fault.faulty_disk import LIVE, NAMES
from tests.raft_cases import NodeProcess

PAGE_BYTES = 4096
SECTOR_BYTES = 512
TORN_SHARE = 0.2
NEWEST_NAMES_SHARE = 0.5


def cut_power(node: NodeProcess, rng: random.Random) -> int:
    """The killed node's directory becomes one of those that a power cut may leave; bytes that differ."""
    shadow = Path(node.faults["shadow"])
    numbers = {path.stat().st_ino: int(path.name.removeprefix(LIVE)) for path in shadow.glob(LIVE + "*")}
    newest = {
        path.name: numbers[path.stat().st_ino]
        for path in node.raft_dir.iterdir()
        if path.stat().st_ino in numbers  # else the lock; or made in the instant of the kill
    }
    synced: dict[str, int] = json.loads((shadow / NAMES).read_text())
    names = newest if rng.random() < NEWEST_NAMES_SHARE else synced
    keep = rng.choice((0.0, rng.random(), rng.random()))
    after: dict[str, bytes] = {}
    lost = 0
    for name, number in sorted(names.items()):
        cached = (shadow / f"{LIVE}{number}").read_bytes()
        after[name] = _mixed((shadow / str(number)).read_bytes(), cached, keep, rng)
        lost += sum(a != b for a, b in zip(after[name], cached, strict=False))
        lost += abs(len(after[name]) - len(cached))
    shutil.rmtree(node.raft_dir)
    node.raft_dir.mkdir()
    for name, data in after.items():
        (node.raft_dir / name).write_bytes(data)
    return lost


def _mixed(stable: bytes, cached: bytes, keep: float, rng: random.Random) -> bytes:
    low, high = sorted((len(stable), len(cached)))
    size = rng.choice((len(stable), len(cached), rng.randint(low, high)))
    after = bytearray(stable[:size].ljust(size, b"\0"))
    for page in range(0, size, PAGE_BYTES):
        torn = rng.random() < TORN_SHARE
        step = SECTOR_BYTES if torn else PAGE_BYTES
        whole = rng.random() < keep
        for at in range(page, min(page + PAGE_BYTES, size), step):
            if rng.random() < 0.5 if torn else whole:
                part = cached[at : min(at + step, size)]
                after[at : at + len(part)] = part
    return bytes(after)
