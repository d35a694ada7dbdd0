"""Managers are processes with hash seeds of their own, and a Map iterates in hash order: the same log
must give the same tables and outcomes whatever the seed (INV-8).
"""

import hashlib
import os
import random
import subprocess
import sys

import pytest

from tests.core_cases import SITES, UNIT, manager, three_sites
from vimraft.core import codec
from vimraft.core.apply import apply
from vimraft.core.commands import (
    AddRealVolume,
    BuildVolume,
    ConfirmRelease,
    DeleteVolume,
    GrowVolume,
    RemoveManager,
    RemoveRealVolume,
    RemoveSite,
    ReopenVolumes,
    Request,
    SetManager,
    SetRealVolumeState,
    SetSite,
)
from vimraft.core.tables import Site

COMMANDS = 600
REPLAY = """
import hashlib, sys
from vimraft.core import codec
from vimraft.core.apply import apply
state, answers = codec.decode_state(bytes.fromhex(sys.stdin.readline())), hashlib.sha256()
for line in sys.stdin:
    state, answer = apply(state, bytes.fromhex(line))
    answers.update(answer)
print(codec.state_digest(state), answers.hexdigest())
"""


def random_command(rng: random.Random):
    """Many managers, sites and LUNs of the same kind, and many ways to clash with several at once."""
    site = rng.choice([*SITES, "kyoto", "kobe"])
    storage, lun = f"02{rng.randrange(1, 4)}a00", rng.randrange(6)
    manager_name = f"m-{rng.choice(SITES)}"
    volume = f"v{rng.randrange(12)}"
    order = tuple(rng.sample([s for s in SITES if s != site], rng.randrange(3)))
    unique, clash = f"{storage}-{lun}", f"{rng.randrange(4)}"
    return rng.choice(
        [
            SetManager(manager(f"m{rng.randrange(9)}", rng.randrange(1, 12))),
            SetSite(Site(site, manager_name, order)),
            RemoveSite(site),
            RemoveManager(manager_name),
            AddRealVolume(storage, lun, "ssd", f"file:///{unique}", unique, 20),
            AddRealVolume(storage, lun, "ssd", f"file:///{clash}", f"021a00-{clash}", 20),
            AddRealVolume(storage, lun, "hdd", f"file:///021a00-{clash}", f"021a00-{rng.randrange(6)}", 9),
            SetRealVolumeState(storage, lun, rng.choice(["active", "active", "excluded"])),
            RemoveRealVolume(storage, lun),
            BuildVolume(volume, rng.randrange(1, 30 * UNIT), "ssd", manager_name, order),
            BuildVolume(volume, rng.randrange(1, 30 * UNIT), "ssd", manager_name),
            GrowVolume(volume, rng.randrange(1, 60 * UNIT)),
            DeleteVolume(volume),
            ConfirmRelease(manager_name, rng.randrange(1, 30)),
            ReopenVolumes(manager_name, "life"),
        ]
    )


def replayed(lines: str, hash_seed: str) -> str:
    """The digests of tables and of outcomes in a process with another hash seed. `lines`: the tables to
    begin with, then the entries of the log, each in hex."""
    replay = subprocess.run(
        [sys.executable, "-c", REPLAY],
        input=lines,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
        timeout=240,  # it has what other tests leave over of the processors
    )
    return replay.stdout.strip()


@pytest.mark.parametrize("seed", range(3))
def test_the_same_log_gives_the_same_tables_under_any_hash_seed(seed):
    print(f"seed {seed}")
    rng = random.Random(seed)
    state = start = three_sites(units=20).state
    log, answers = [], hashlib.sha256()
    for number in range(COMMANDS):
        request = Request(f"c{number % 40}", number, number, "me", random_command(rng))
        log.append(codec.encode_request(request))
        state, answer = apply(state, log[-1])
        answers.update(answer)
    expected = f"{codec.state_digest(state)} {answers.hexdigest()}"
    lines = "\n".join([codec.encode_state(start).hex(), *[entry.hex() for entry in log]])
    for hash_seed in ("0", "1", "2", "3"):
        assert replayed(lines, hash_seed) == expected, f"PYTHONHASHSEED={hash_seed}"
