"""Rates from the cumulative counters that the data plane sends once a second.

May live here: windows over counters. Pure but for what the caller passes in as the time.
"""

from collections import deque

from vimraft.api.schema import IoRates
from vimraft.data.feed import IoCounters

WINDOW_S = 3.0
MAX_SAMPLES = 16
IDLE = IoRates()


def _mean_in_flight(busy_ns: int, seconds: float) -> int:
    """Requests under way on the average, of which nobody keeps the number: the time that all of them took
    together, in the time that passed (Little's law)."""
    return round(busy_ns / 1e9 / seconds)


def latency_us(io: IoRates) -> float:
    """Of reads and writes together."""
    requests = io.read_iops + io.write_iops
    if not requests:
        return 0.0
    return (io.read_latency_us * io.read_iops + io.write_latency_us * io.write_iops) / requests


class RateWindow:
    """Counters of one volume or real volume in one process over the last seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, IoCounters]] = deque(maxlen=MAX_SAMPLES)

    def add(self, at_s: float, counters: IoCounters) -> None:
        if self._samples and counters.reads < self._samples[-1][1].reads:
            self._samples.clear()  # the process began anew
        self._samples.append((at_s, counters))
        while len(self._samples) > 2 and at_s - self._samples[0][0] > WINDOW_S:
            self._samples.popleft()

    def rates(self) -> IoRates:
        if len(self._samples) < 2:
            return IDLE
        (t0, a), (t1, b) = self._samples[0], self._samples[-1]
        seconds = max(t1 - t0, 1e-3)
        reads, writes = b.reads - a.reads, b.writes - a.writes
        busy_ns = b.read_ns - a.read_ns + b.write_ns - a.write_ns
        return IoRates(
            read_iops=round(reads / seconds, 1),
            write_iops=round(writes / seconds, 1),
            read_bytes_s=round((b.read_bytes - a.read_bytes) / seconds, 1),
            write_bytes_s=round((b.write_bytes - a.write_bytes) / seconds, 1),
            read_latency_us=round((b.read_ns - a.read_ns) / 1e3 / reads, 1) if reads else 0.0,
            write_latency_us=round((b.write_ns - a.write_ns) / 1e3 / writes, 1) if writes else 0.0,
            errors=b.errors,
            in_flight=b.in_flight or _mean_in_flight(busy_ns, seconds),
            connections=b.connections,
        )


class RateBoard:
    """Windows by name; names that are no longer reported go away."""

    def __init__(self) -> None:
        self._windows: dict[str, RateWindow] = {}

    def add(self, at_s: float, counters: dict[str, IoCounters]) -> None:
        for name in [name for name in self._windows if name not in counters]:
            del self._windows[name]
        for name, value in counters.items():
            self._windows.setdefault(name, RateWindow()).add(at_s, value)

    def rates(self) -> dict[str, IoRates]:
        return {name: window.rates() for name, window in self._windows.items()}


def combine(a: IoRates, b: IoRates) -> IoRates:
    """Of one real volume seen by two processes: sums, latencies weighted by their operations."""

    def weighted(x: float, n: float, y: float, m: float) -> float:
        return round((x * n + y * m) / (n + m), 1) if n + m else 0.0

    return IoRates(
        read_iops=a.read_iops + b.read_iops,
        write_iops=a.write_iops + b.write_iops,
        read_bytes_s=a.read_bytes_s + b.read_bytes_s,
        write_bytes_s=a.write_bytes_s + b.write_bytes_s,
        read_latency_us=weighted(a.read_latency_us, a.read_iops, b.read_latency_us, b.read_iops),
        write_latency_us=weighted(a.write_latency_us, a.write_iops, b.write_latency_us, b.write_iops),
        errors=a.errors + b.errors,
        in_flight=a.in_flight + b.in_flight,
    )
