"""What differs from seed to seed: sites, volumes, clients, timing, and which faults may happen.

May live here: the choice, from the seed alone (each run leaves most faults out, so that none hides another).
"""

import random
from typing import Any, Final

import msgspec
from msgspec import Struct

FAULTS: Final = (
    "cut",
    "one-way",
    "partition",
    "isolate",
    "break",
    "slow-link",
    "kill-export",
    "kill-store",
    "kill-both",
    "kill-manager",
    "kill-site",
    "pause-export",
    "pause-store",
    "pause-site",
    "reboot",
    "reboot-all",
    "site-down",
    "disk-error",
    "flush-error",
    "slow-disk",
    "log-away",
    "log-away-all",
    "move-owner",
    "copies",
)
LOSSY: Final = frozenset(("reboot", "reboot-all", "site-down"))
"""Those after which what was not flushed may be gone."""

DISK_FAULTS: Final = frozenset(("disk-error", "flush-error", "lost-flush"))


class VolumeWanted(Struct, frozen=True):
    name: str
    copies: tuple[tuple[int, ...], ...]
    """Of each copy, the sites (by number) that its segments alternate between."""
    regions: int


class Settings(Struct, frozen=True):
    sites: int
    volumes: tuple[VolumeWanted, ...]
    clients: int
    depth: int
    think_s: float
    hot_sectors: int
    shared: bool
    """Clients write to the same sectors; then no write is sent twice. Otherwise each has its own."""
    zeros: bool
    flushes: float
    reads: float
    """Shares of the requests; the rest are writes. Where those wait, who writes much soon reads no more."""
    faults: tuple[str, ...]
    fault_every_s: float
    duration_s: float
    lease_ms: int
    io_timeout_s: float
    store_timeout_s: float
    delay_s: float
    jitter_s: float
    commit_s: float
    log_loss: float
    io_s: float
    record_s: float
    drift: float
    max_active: int
    in_step_regions: int


class Stage(Struct, frozen=True):
    """What a run has that its seed does not choose."""

    faults: tuple[str, ...] = ()
    """Only these; (): those that the seed chooses."""
    settings: dict[str, Any] = {}
    """Fields of Settings."""
    lacks: tuple[str, ...] = ()
    """Rules that are away in any case: they hide what another one is for."""


NO_STAGE: Final = Stage()


def choose(rng: random.Random, stage: Stage = NO_STAGE) -> Settings:
    return msgspec.structs.replace(_chosen(rng, stage.faults), **stage.settings)


def _chosen(rng: random.Random, only: tuple[str, ...]) -> Settings:
    sites = rng.choice((2, 3, 3, 3, 4))
    chosen = only or tuple(fault for fault in FAULTS if rng.random() < 0.25) or (rng.choice(FAULTS),)
    if "flush-error" in chosen and not only:
        # with a power cut beside it, two faults may take the last copy, which is nobody's promise
        chosen = tuple(fault for fault in chosen if fault not in LOSSY)
    return Settings(
        sites=sites,
        volumes=tuple(_volume(rng, number, sites) for number in range(rng.choice((1, 1, 2)))),
        clients=rng.choice((2, 3, 4)),
        depth=rng.choice((1, 2, 4)),
        think_s=rng.choice((0.02, 0.05, 0.2)),
        hot_sectors=rng.choice((2, 8, 24)),
        shared=rng.random() < 0.5,
        zeros=not LOSSY & set(chosen) and rng.random() < 0.3,
        flushes=0.1,
        reads=0.4,
        faults=chosen,
        fault_every_s=rng.choice((0.7, 1.5, 3.0)),
        duration_s=rng.choice((8.0, 12.0)),
        lease_ms=rng.choice((1_000, 2_000)),
        io_timeout_s=rng.choice((6.0, 12.0)),
        store_timeout_s=rng.choice((1.0, 2.5)),
        delay_s=rng.choice((0.0003, 0.002, 0.01)),
        jitter_s=rng.choice((0.0, 0.003, 0.05)),
        commit_s=rng.choice((0.002, 0.02, 0.1)),
        log_loss=rng.choice((0.0, 0.02, 0.1)),
        io_s=rng.choice((0.0002, 0.002, 0.01)),
        record_s=rng.choice((0.0002, 0.002, 0.02)),
        drift=rng.choice((0.0, 0.05, 0.11)),
        max_active=rng.choice((3, 6, 4096)),
        in_step_regions=rng.choice((1, 2, 128)),
    )


def _volume(rng: random.Random, number: int, sites: int) -> VolumeWanted:
    """Copies lie apart; now and then one spans two sites, if there are enough."""
    left = rng.sample(range(sites), sites)
    copies: list[tuple[int, ...]] = []
    for _ in range(rng.choice((1, 2, 2, 2, 3))):
        if not left:
            break
        many = 2 if len(left) >= 2 and rng.random() < 0.25 else 1
        copies.append(tuple(left.pop() for _ in range(many)))
    return VolumeWanted(f"v{number + 1}", tuple(copies), rng.choice((3, 6, 12)))
