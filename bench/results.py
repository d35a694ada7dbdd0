"""What a benchmark says: samples, rows of the report, verdicts; and the arithmetic between them.

May live here: pure values and functions. No processes, no clock, no terminal.

A figure is the median over rounds. The systems of a cell take turns within a round, so `paired` compares
what ran under nearly the same conditions; its lowest and highest value are the spread that is shown.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

MICROSECONDS_PER_SECOND = 1e6
Measure = Literal["iops", "mbps", "p50_us", "p99_us"]
UNITS: dict[Measure, str] = {"iops": "/s", "mbps": " MB/s", "p50_us": " µs", "p99_us": " µs"}


class Sample(NamedTuple):
    """One round of one system. MB are 10^6 bytes."""

    iops: float
    mbps: float
    p50_us: float
    p99_us: float


class Row(NamedTuple):
    cell: str
    workload: str
    system: str
    sample: Sample
    note: str = ""

    def as_json(self) -> dict[str, str | float]:
        row: dict[str, str | float] = {"cell": self.cell, "workload": self.workload, "system": self.system}
        row |= {key: round(value, 3) for key, value in self.sample._asdict().items()}
        return row | ({"note": self.note} if self.note else {})


class Verdict(NamedTuple):
    """One line of the closing table. `met` is None where there is no target."""

    cell: str
    vimraft: str
    peer: str = ""
    ratio: str = ""
    target: str = ""
    met: bool | None = None


class Result(NamedTuple):
    rows: tuple[Row, ...]
    verdicts: tuple[Verdict, ...]


class Target(NamedTuple):
    """Ours against a peer: at least (`floor`) or at most (`ceiling`) this ratio of `measure`."""

    measure: Measure
    floor: float | None = None
    ceiling: float | None = None

    def __str__(self) -> str:
        if self.floor is not None:
            return f"≥ {self.floor:g} ×"
        return f"≤ {self.ceiling:g} ×" if self.ceiling is not None else ""

    def met(self, ratio: float) -> bool | None:
        if self.floor is not None:
            return ratio >= self.floor
        return ratio <= self.ceiling if self.ceiling is not None else None


def median(samples: Sequence[Sample]) -> Sample:
    """Field by field."""
    return Sample(*(statistics.median(values) for values in zip(*samples, strict=True)))


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of all do not exceed (nearest rank)."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100).__int__() - 1)]


def latencies(took_s: Sequence[float]) -> Sample:
    """Of operations that ran one after the other."""
    took_us = [value * MICROSECONDS_PER_SECOND for value in took_s]
    return Sample(
        iops=len(took_s) / sum(took_s),
        mbps=0.0,
        p50_us=percentile(took_us, 50),
        p99_us=percentile(took_us, 99),
    )


def rows_of(
    cell: str, workload: str, samples: Mapping[str, Sequence[Sample]], note: str = ""
) -> tuple[Row, ...]:
    """One row a system: the median of its rounds."""
    return tuple(Row(cell, workload, system, median(taken), note) for system, taken in samples.items())


def ratio(ours: Sample, peer: Sample, measure: Measure) -> float:
    """Raises ZeroDivisionError when the peer did nothing: then there is nothing to compare with."""
    return float(getattr(ours, measure)) / float(getattr(peer, measure))


def paired(ours: Sequence[Sample], peer: Sequence[Sample], measure: Measure) -> list[float]:
    """The ratio of each round."""
    return [ratio(a, b, measure) for a, b in zip(ours, peer, strict=True)]


def shown(value: float, measure: Measure) -> str:
    return f"{value:,.0f}{UNITS[measure]}"


def judge(
    cell: str, ours: Sequence[Sample], peer: Sequence[Sample], peer_name: str, target: Target
) -> Verdict:
    """The verdict goes by the ratio of the medians: the figures that the rows show."""
    mine, theirs = median(ours), median(peer)
    value = ratio(mine, theirs, target.measure)
    rounds = paired(ours, peer, target.measure)
    return Verdict(
        cell=cell,
        vimraft=shown(getattr(mine, target.measure), target.measure),
        peer=f"{shown(getattr(theirs, target.measure), target.measure)} {peer_name}",
        ratio=f"{value:.2f} ({min(rounds):.2f}–{max(rounds):.2f})",
        target=str(target),
        met=target.met(value),
    )


def judge_absolute(cell: str, what: str, value: float, limit: float, unit: str) -> Verdict:
    """`value` must stay below `limit`."""
    return Verdict(
        cell=cell,
        vimraft=f"{what} {value:,.3g} {unit}" if value < 1000 else f"{what} {value:,.0f} {unit}",
        target=f"< {limit:g} {unit}",
        met=value < limit,
    )
