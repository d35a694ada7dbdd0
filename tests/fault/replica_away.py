"""A replica that is away during random writes, and comes back: how much is copied, how fast, who notices.

May live here: that trial and its figures. A resync is measured from outside: its time from BeginResync to
Promote in the log of the owner's manager, its bytes as what the returning site's store process wrote.
"""

import os
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from bench.results import percentile
from tests.cluster_fixture import MIB, running_cluster, wait_for
from tests.fault.copies_trials import HOMES, VOLUME, Stage
from tests.fault.tagged import BLOCK_BYTES, Tagged, rest_all
from vimraft.core.ids import LABEL_BYTES
from vimraft.data.copies.record_file import SUFFIX, RecordError, parse

GIB = 1 << 30
CLIENTS = 4
PACE_S = 0.004
BEFORE_S = 15.0
"""Of I/O with both copies in step, for the latency that the rest is compared with."""
IDLE_REGIONS = 2_048
"""Written for the resync without clients."""
BACK_S = 600.0
RATIO, SPEED, LATENCY = 1.2, 0.7, 2.0
"""Promised: copied to written, resync to raw copy, client p99 during a resync to before."""


class Resync(Struct, frozen=True):
    written_regions: int
    copied_bytes: int
    took_s: float

    @property
    def ratio(self) -> float:
        return self.copied_bytes / max(1, self.written_regions * MIB)

    @property
    def mib_s(self) -> float:
        return self.copied_bytes / MIB / self.took_s


class Found(Struct, frozen=True):
    busy: Resync
    idle: Resync
    raw_mib_s: float
    p99_before_ms: float
    p99_during_ms: float
    p99_away_ms: float
    writes: int
    failed: tuple[str, ...]
    wrong: tuple[str, ...]
    loads: tuple[float, float]

    @property
    def kept(self) -> bool:
        return (
            max(self.busy.ratio, self.idle.ratio) <= RATIO
            and self.idle.mib_s >= SPEED * self.raw_mib_s
            and self.p99_during_ms <= LATENCY * self.p99_before_ms
            and not self.failed
            and not self.wrong
        )

    def lines(self) -> Iterable[str]:
        for name, one in (("beside clients", self.busy), ("idle", self.idle)):
            yield (
                f"resync {name}: {one.written_regions} regions written, {one.copied_bytes / MIB:.0f} MiB "
                f"copied, ratio {one.ratio:.2f} (at most {RATIO}); {one.took_s:.1f} s, {one.mib_s:.0f} MiB/s"
            )
        yield (
            f"raw copy {self.raw_mib_s:.0f} MiB/s: idle resync at "
            f"{self.idle.mib_s / self.raw_mib_s:.2f} of it (at least {SPEED})"
        )
        yield (
            f"client p99 {self.p99_before_ms:.1f} ms before, {self.p99_away_ms:.1f} ms while away, "
            f"{self.p99_during_ms:.1f} ms during the resync: "
            f"{self.p99_during_ms / self.p99_before_ms:.2f} times (at most {LATENCY})"
        )
        yield (
            f"{self.writes} writes, failed {len(self.failed)}, lost or wrong {len(self.wrong)}; "
            f"load average {self.loads[0]:.1f} on {os.cpu_count()} processors"
        )

    def as_json(self) -> dict[str, Any]:
        figures: dict[str, Any] = msgspec.to_builtins(self)
        return figures | {"kept": self.kept}


def trial(directory: Path, seed: int, *, away_s: float, size_gib: int, say: Callable[[str], None]) -> Found:
    """Two absences: one with clients all the time, one whose resync has the cluster for itself."""
    with running_cluster(directory) as cluster:
        for site in HOMES:
            cluster.add_real(site, 1, "ssd", size_gib * 1024)
        cluster.build(VOLUME, size_gib * 1024, sites=HOMES, copies=2)
        on = Stage(cluster, str(seed), size_gib * 1024, PACE_S)
        on.clients = {HOMES[0]: _clients(on, seed, size_gib)}
        for client in on.all:
            client.start()
        try:
            return _trial(on, random.Random(f"{seed}:idle"), away_s, say)
        finally:
            for client in on.all:
                client.end()


def _clients(on: Stage, seed: int, size_gib: int) -> list[Tagged]:
    """At the owner's site, each with random blocks of its own all over the volume."""
    blocks = size_gib * GIB // BLOCK_BYTES
    return [
        Tagged(lambda: on.cluster.uri(VOLUME, HOMES[0]), range(at, blocks, CLIENTS), f"{seed}:{at}", PACE_S)
        for at in range(CLIENTS)
    ]


def _trial(on: Stage, rng: random.Random, away_s: float, say: Callable[[str], None]) -> Found:
    wait_for(lambda: on.volume().takeover in ("", "over"), 60, "its owner serves")
    on.begin()
    before = _sample(on, BEFORE_S)
    say(f"before: p99 {_p99_ms(before):.1f} ms of {len(before)} writes")
    on.cluster[HOMES[1]].kill()
    _forget_touched(on)
    on.wait_for_more(on.all)  # the copy is retired
    away = _sample(on, away_s)
    say(f"away for {away_s:.0f} s: {len(away)} writes in {len(_touched(on))} regions")
    busy, during = _bring_back(on, busy=True)
    say(
        f"back beside clients: {busy.took_s:.1f} s, ratio {busy.ratio:.2f}; "
        f"p99 {_p99_ms(away):.1f} ms while away, {_p99_ms(during):.1f} ms during the resync"
    )
    idle = _idle(on, rng)
    raw_mib_s = _raw_copy(on, idle.copied_bytes)
    return Found(
        busy=busy,
        idle=idle,
        raw_mib_s=raw_mib_s,
        p99_before_ms=_p99_ms(before),
        p99_during_ms=_p99_ms(during),
        p99_away_ms=_p99_ms(away),
        writes=sum(client.writes for client in on.all),
        failed=tuple(error for client in on.all for error in client.errors),
        wrong=tuple(_wrong(on)),
        loads=os.getloadavg()[:2],
    )


def _idle(on: Stage, rng: random.Random) -> Resync:
    """IDLE_REGIONS, or half of the volume, are written once each while it is away. Before that nothing was
    written for so long that nothing is active."""
    rest_all(on.all)
    wait_for(lambda: not _active(on), BACK_S, "what was written is flushed and cleared")
    on.cluster[HOMES[1]].kill()
    _forget_touched(on)
    regions = on.size_mib
    client = on.all[0]
    for region in rng.sample(range(regions), min(IDLE_REGIONS, regions // 2)):
        client.write_now(region * (MIB // BLOCK_BYTES))  # the first block of a region is the first client's
    return _bring_back(on, busy=False)[0]


def _active(on: Stage) -> int:
    """Regions, by the records of the stores."""
    records = [path for site in HOMES for path in (on.cluster[site].data_dir / "copies").glob("*" + SUFFIX)]
    assert len(records) == len(HOMES), "each store has one"
    try:
        loaded = [parse(path.read_bytes(), str(path)).record() for path in records]
    except RecordError:
        return 1  # it was written to meanwhile
    return sum(len(copy.active) for record in loaded for copy in record.copies.values())


def _bring_back(on: Stage, *, busy: bool) -> tuple[Resync, list[float]]:
    """And what clients' writes took from its beginning to its end."""
    began_s = time.time()
    away = on.cluster[HOMES[1]]
    away.start()
    wait_for(lambda: _decided(on, began_s, "BeginResync"), BACK_S, "the resync begins")
    written = len(_touched(on))
    _sampling(on, on=busy)
    wait_for(lambda: _decided(on, began_s, "Promote"), BACK_S, "the copy is in step again")
    during = _sampling(on, on=False)
    copied = _written_by(away.plane_pid("store"))
    took_s = _decided(on, began_s, "Promote") - _decided(on, began_s, "BeginResync")
    return Resync(written, copied, took_s), during


def _decided(on: Stage, since_s: float, what: str) -> float:
    """When the last one was applied; 0: not yet."""
    found = [
        event.at_s
        for event in on.events(since_s)
        if event.name == "proposal.decided" and f"what={what} " in event.text and "applied=true" in event.text
    ]
    return found[-1] if found else 0.0


def _written_by(pid: int | None) -> int:
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("wchar:"):
            return int(line.split()[1])
    raise AssertionError("the kernel keeps no account of what processes write")


def _raw_copy(on: Stage, length: int) -> float:
    """MiB/s: as many bytes from one disk's file to a new one beside the other's, region by region, synced."""
    source = next(Path(on.cluster[HOMES[0]].directory, "disks").glob("*1*"))
    target = Path(on.cluster[HOMES[1]].directory, "disks", "raw-copy")
    length = min(length, on.size_mib * MIB)
    began_s = time.monotonic()
    reader, writer = os.open(source, os.O_RDONLY), os.open(target, os.O_WRONLY | os.O_CREAT)
    try:
        for offset in range(0, length, MIB):
            os.pwrite(writer, os.pread(reader, MIB, LABEL_BYTES + offset), offset)
        os.fdatasync(writer)
    finally:
        os.close(reader)
        os.close(writer)
        target.unlink()
    return length / MIB / (time.monotonic() - began_s)


def _wrong(on: Stage) -> Iterable[str]:
    wait_for(on.in_step, BACK_S, "both copies are in step")
    rest_all(on.all)
    for client in on.all:
        yield from client.violations
    for site in HOMES:
        handle = os.open(next(Path(on.cluster[site].directory, "disks").glob("*1*")), os.O_RDONLY)
        try:
            for client in on.all:
                yield from client.wrong(
                    lambda block, handle=handle: os.pread(
                        handle, BLOCK_BYTES, LABEL_BYTES + block * BLOCK_BYTES
                    ),  # type: ignore[misc]
                    f"copy at {site}",
                )
        finally:
            os.close(handle)


def _sample(on: Stage, seconds: float) -> list[float]:
    _sampling(on, on=True)
    time.sleep(seconds)
    return _sampling(on, on=False)


def _sampling(stage: Stage, *, on: bool) -> list[float]:
    """Returns what was sampled until now."""
    found = [took_s for client in stage.all for took_s in client.took_s]
    for client in stage.all:
        client.sampling, client.took_s = on, []
    return found


def _p99_ms(took_s: list[float]) -> float:
    return percentile(took_s, 99) * 1e3 if took_s else 0.0


def _touched(on: Stage) -> set[int]:
    return {block * BLOCK_BYTES // MIB for client in on.all for block in tuple(client.touched)}


def _forget_touched(on: Stage) -> None:
    for client in on.all:
        client.touched = set()
