"""What differs from seed to seed: the size of the cluster, its timing, which faults may happen.

May live here: the choice, from the seed alone (swarm testing: each run leaves most faults out, so that each
combination gets its turn, and no fault hides another).
"""

import random
from typing import Any, Final

from msgspec import Struct

FAULTS: Final = (
    "cut",
    "one-way",
    "partition",
    "isolate-leader",
    "break",
    "slow-link",
    "kill",
    "power",
    "kill-leader",
    "kill-all",
    "power-all",
    "pause",
    "pause-leader",
    "crash-in-disk",
    "compaction-kill",
    "compaction-power",
    "lag-and-kill",
    "disk-full",
    "slow-disk",
    "clock-step",
)
STORM: Final = (
    "isolate-leader",
    "kill-leader",
    "power-all",
    "pause-leader",
    "crash-in-disk",
    "one-way",
    "break",
)
"""One leader after the other, each cut off with entries that nobody else has."""
HARDENED_FAULTS: Final = (*FAULTS, "wipe", "members", "members", "old-config")


class Timing(Struct, frozen=True):
    heartbeat_s: float = 0.2
    election_min_s: float = 0.7
    election_max_s: float = 1.4
    stock_fallback_s: float = 30.0
    compaction_entries: int = 20


class Settings(Struct, frozen=True):
    machines: int
    timing: Timing
    faults: tuple[str, ...]
    fault_every_s: float
    duration_s: float
    clients: int
    think_s: float
    delay_s: float
    jitter_s: float
    loss: float
    duplicate: float
    late_messages: bool
    drift: float
    exact_rounds: bool
    sync_s: float
    level: int = 1
    """Of the tables: from 2 on an entry may hold several commands."""
    journal_slack_bytes: int = 0
    beat_s: float = 0.0
    """Clients begin together, at multiples of this, and ask the same machine. 0: each on its own."""


def choose(rng: random.Random, *, hardened: bool, only: tuple[str, ...] = ()) -> Settings:
    """`only`: these faults and no others, one after the other."""
    faults = HARDENED_FAULTS if hardened else FAULTS
    storm = rng.random() < 0.3
    if storm:
        faults = STORM
    chosen = tuple(fault for fault in faults if rng.random() < (0.6 if storm else 0.3))
    chosen = chosen or (rng.choice(faults),)
    if only:
        chosen, storm = only, True
    return Settings(
        machines=rng.choice((3, 3, 3, 3, 5)),
        timing=Timing(compaction_entries=rng.choice((12, 20, 40))),
        faults=chosen,
        fault_every_s=0.5 if storm else rng.choice((0.5, 1.0, 2.0)),
        duration_s=rng.choice((8.0, 12.0)),
        clients=rng.choice((3, 5, 8)),
        think_s=rng.choice((0.15, 0.4, 1.0)),
        delay_s=rng.choice((0.0003, 0.001, 0.005, 0.03)),
        jitter_s=rng.choice((0.0, 0.0005, 0.01, 0.05)),
        loss=rng.choice((0.0, 0.0, 0.02, 0.1)),
        # Beyond what TCP does; the hardened node must stand it, the stock one is spared.
        duplicate=rng.choice((0.0, 0.0, 0.05)) if hardened else 0.0,
        late_messages=hardened and rng.random() < 0.3,
        drift=rng.choice((0.0, 0.05, 0.2)),
        exact_rounds=rng.random() < 0.25,
        sync_s=rng.choice((0.0, 0.0005, 0.005)),
        **(_formats(rng) if hardened else {}),
    )


def _formats(rng: random.Random) -> dict[str, Any]:
    return {
        "level": rng.choice((1, 2, 2)),
        "journal_slack_bytes": rng.choice((0, 2_000)),
        "beat_s": rng.choice((0.0, 0.1, 0.5)),
    }
