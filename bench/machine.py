"""The machine during a benchmark: waiting for others to be quiet, memory of a process, processors.

May live here: readings of /proc, and which processors a process may use. A busy or stolen processor spoils a
measurement, so a cell first waits (for a bounded time) until the processors are mostly idle. Not the load
average: that still shows the cell before.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

QUIET_FRACTION = 0.25
"""Busy or stolen share of all processors below which the machine counts as quiet."""
WINDOW_S = 1.0
MAX_WAIT_S = 30.0


class Memory(NamedTuple):
    rss_mb: float
    peak_mb: float


class Ticks(NamedTuple):
    idle: int
    total: int


def parse_ticks(stat: str) -> Ticks:
    """From /proc/stat. Waiting for disks counts as idle; guests are part of user already."""
    fields = [int(field) for field in stat.splitlines()[0].split()[1:9]]
    return Ticks(idle=fields[3] + fields[4], total=sum(fields))


def busy_fraction(window_s: float = WINDOW_S) -> float:
    """Of all processors, over the next `window_s` seconds."""
    stat = Path("/proc/stat")
    before = parse_ticks(stat.read_text())
    time.sleep(window_s)
    after = parse_ticks(stat.read_text())
    return 1 - (after.idle - before.idle) / max(1, after.total - before.total)


def wait_quiet(
    measure: Callable[[], float] = busy_fraction,
    clock: Callable[[], float] = time.monotonic,
    max_wait_s: float = MAX_WAIT_S,
) -> float:
    """The busy fraction last seen: below QUIET_FRACTION, or whatever it is when the time is over."""
    deadline = clock() + max_wait_s
    while True:
        busy = measure()
        if busy < QUIET_FRACTION or clock() >= deadline:
            return busy


def memory(pid: int) -> Memory:
    """Resident memory of a process, now and at its highest, in 10^6 bytes."""
    fields = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "VmHWM"):
            fields[name] = int(value.split()[0]) * 1024 / 1e6
    return Memory(fields["VmRSS"], fields["VmHWM"])


def one_processor() -> int:
    """The last one that this process may use: the first one tends to handle the interrupts."""
    return max(os.sched_getaffinity(0))


@contextlib.contextmanager
def confined(pids: Iterable[int], processor: int) -> Iterator[None]:
    """All threads of these processes, and those that they make meanwhile, share one processor."""
    before: dict[int, set[int]] = {}
    try:
        for thread in _threads(pids):
            before[thread] = os.sched_getaffinity(thread)
            os.sched_setaffinity(thread, {processor})
        yield
    finally:
        usual = os.sched_getaffinity(0)
        for thread in _threads(pids):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread, before.get(thread, usual))


def _threads(pids: Iterable[int]) -> list[int]:
    return [int(task.name) for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
