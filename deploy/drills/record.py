"""What was injected, so that another process can heal it: one JSON file per fault in DIR/faults.

May live here: the records and their files. Keeps: a record is written before its fault takes effect and
removed only after it was healed, so there is never a fault without one.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from drills.processes import DrillError

LOCK_S = 90.0


@dataclass
class Record:
    fault: str
    site: str
    injected_s: float
    """Wall clock."""
    details: dict[str, Any] = field(default_factory=dict)
    """What the fault needs to heal itself."""

    @property
    def title(self) -> str:
        return f"{self.fault} at {self.site}" if self.site else self.fault


class Records:
    def __init__(self, cluster: Path) -> None:
        self.directory = cluster / "faults"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One injection or healing at a time."""
        self.directory.mkdir(mode=0o700, exist_ok=True)
        with (self.directory / "lock").open("w") as file:
            deadline_s = time.monotonic() + LOCK_S
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline_s:
                        raise DrillError(
                            f"another drill has been at work in {self.directory} for {LOCK_S:.0f} s; "
                            "wait for it, or end it"
                        ) from None
                    time.sleep(0.05)
            yield

    def path(self, fault: str, site: str) -> Path:
        return self.directory / (f"{fault}.{site}.json" if site else f"{fault}.json")

    def save(self, record: Record) -> None:
        path = self.path(record.fault, record.site)
        part = path.with_suffix(".part")
        with open(part, "w", encoding="utf-8", opener=_private) as file:
            json.dump(asdict(record), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)

    def remove(self, record: Record) -> None:
        self.path(record.fault, record.site).unlink(missing_ok=True)

    def all(self, fault: str = "", site: str = "") -> list[Record]:
        """In force, oldest first; of one fault, of one site."""
        found = [_load(path) for path in sorted(self.directory.glob("*.json"))]
        chosen = [r for r in found if fault in ("", r.fault) and site in ("", r.site)]
        return sorted(chosen, key=lambda record: record.injected_s)


def _load(path: Path) -> Record:
    try:
        return Record(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DrillError(
            f"{path} is no record of a fault ({error}); undo by hand what it names, then delete it"
        ) from None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
