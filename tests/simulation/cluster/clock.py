"""A host's CLOCK_BOOTTIME: it runs at its own rate, and goes on while processes are paused.

May live here: the conversion between the world's seconds and the host's nanoseconds.
"""

MAX_DRIFT = 0.11
"""Rates lie within 1 ± this: any two differ by less than 1.25, which is what leases allow for."""


class Clock:
    def __init__(self, rate: float, offset_s: float) -> None:
        assert abs(rate - 1) <= MAX_DRIFT, f"no clock may run at {rate}"
        self.rate = rate
        self._offset_s = offset_s

    def now_ns(self, world_s: float) -> int:
        return int((world_s * self.rate + self._offset_s) * 1e9)

    def world_s(self, local_ns: int) -> float:
        """When it shows that, never earlier."""
        return (local_ns / 1e9 - self._offset_s) / self.rate + 1e-9
