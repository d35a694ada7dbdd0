"""The report of a chaos run: JSON, and the same as a timeline for people (FILE with `.txt` added).

May live here: what is collected and how it is written. Keeps: written after every round, so a run that is cut
off leaves what it saw.
"""

import datetime
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class FaultRun:
    fault: str
    site: str
    options: dict[str, Any]
    injected_s: float = 0.0
    healed_s: float = 0.0
    note: str = ""
    """Why it was not injected or not healed."""


@dataclass
class Pause:
    who: str
    seconds: float
    ended_s: float


@dataclass
class Round:
    number: int
    started_s: float
    faults: list[FaultRun] = field(default_factory=list)
    pauses: list[Pause] = field(default_factory=list)
    """Longest time without an answer, for each client."""
    failures: list[tuple[float, str]] = field(default_factory=list)
    """When and what clients were told, or how they lost their connection; the first of each kind."""
    writes: int = 0
    blocks_checked: int = 0
    bytes_compared: int = 0
    """Of copies with each other."""
    load: float = 0.0
    """Load average of the machine over the last minute, when it ended."""
    violations: list[str] = field(default_factory=list)
    ended_s: float = 0.0


@dataclass
class Report:
    seed: int
    minutes: float
    cluster: str
    sites: list[str]
    release: str
    started_s: float
    volumes: dict[str, Any] = field(default_factory=dict)
    """Of each: its copies, as the sites that each lies at."""
    ended_s: float = 0.0
    rounds: list[Round] = field(default_factory=list)
    acknowledged_writes: int = 0
    acknowledged_flushes: int = 0
    acknowledged_changes: int = 0
    acknowledged_moves: int = 0
    """Owners handed over, copies removed, added, migrated."""
    verified_reads: int = 0
    blocks_checked: int = 0
    bytes_compared: int = 0
    failed_requests: int = 0
    last_errors: dict[str, list[str]] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def save(self, path: Path) -> None:
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        part.rename(path)
        path.with_name(path.name + ".txt").write_text(self.timeline(), encoding="utf-8")

    def summary(self) -> str:
        injected = sum(1 for each in self.rounds for fault in each.faults if fault.injected_s)
        return (
            f"{len(self.rounds)} rounds, {injected} faults, {self.acknowledged_writes} acknowledged writes, "
            f"{self.acknowledged_flushes} flushes, "
            f"{self.blocks_checked} blocks checked, {self.verified_reads} reads verified, "
            f"{self.bytes_compared >> 20} MiB of copies compared, {self.acknowledged_changes} changes, "
            f"{self.acknowledged_moves} moves, load {self.load}, {len(self.violations)} violations"
        )

    @property
    def load(self) -> str:
        loads = [each.load for each in self.rounds] or [0.0]
        return f"{min(loads):.1f}–{max(loads):.1f}"

    def timeline(self) -> str:
        lines = [
            f"chaos, seed {self.seed}, {self.minutes:g} minutes, release {self.release}, {self.cluster} "
            f"({', '.join(self.sites)})",
            *(f"volume {name}: copies at {copies}" for name, copies in self.volumes.items()),
            f"{_clock(self.started_s)} begins",
        ]
        for each in self.rounds:
            lines += _round(each)
        lines += [
            f"{_clock(self.ended_s)} ends",
            *(f"VIOLATION {text}" for text in self.violations),
            self.summary(),
        ]
        return "\n".join(lines) + "\n"


def _round(each: Round) -> list[str]:
    events = []
    for fault in each.faults:
        options = "".join(f" {key}={value}" for key, value in fault.options.items() if value)
        title = f"{fault.fault} {fault.site}{options}"
        if fault.injected_s:
            events.append((fault.injected_s, f"  inject {title}"))
        else:
            events.append((each.started_s, f"  not injected: {title}: {fault.note}"))
        if fault.healed_s:
            events.append((fault.healed_s, f"  healed {fault.fault} {fault.site}"))
    events += [(at_s, f"  {text}") for at_s, text in each.failures]
    events += [
        (p.ended_s, f"  {p.who} had waited {p.seconds:.2f} s") for p in each.pauses if p.seconds >= 1.0
    ]
    lines = [f"{_clock(each.started_s)} round {each.number}"]
    lines += [f"{_clock(at_s)} {text}" for at_s, text in sorted(events)]
    worst = max((pause.seconds for pause in each.pauses), default=0.0)
    verdict = f"{len(each.violations)} VIOLATIONS" if each.violations else "good"
    lines.append(
        f"{_clock(each.ended_s)}   {verdict}: {each.writes} writes, {each.blocks_checked} blocks checked, "
        f"longest pause {worst:.2f} s, load {each.load:.1f}"
    )
    return lines + [f"    VIOLATION {text}" for text in each.violations]


def _clock(at_s: float) -> str:
    return f"{datetime.datetime.fromtimestamp(at_s, tz=datetime.UTC):%H:%M:%S.%f}"[:-3]
