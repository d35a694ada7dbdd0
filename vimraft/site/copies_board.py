"""Figures about volumes with copies, from the export that owns them.

May live here: what was last said, and rates made of it. Nothing is decided by it.
"""

from collections import deque

from vimraft.data.feed import CopiesStatus

RATE_WINDOW_S = 10.0


class CopiesBoard:
    """What the export last said of the volumes with copies that it owns, and how fast it copies."""

    def __init__(self) -> None:
        self.volumes: dict[str, CopiesStatus] = {}
        self._copied: dict[tuple[str, str], deque[tuple[float, int]]] = {}

    def add(self, at_s: float, volumes: dict[str, CopiesStatus]) -> None:
        self.volumes = volumes
        running: set[tuple[str, str]] = set()
        for name, status in volumes.items():
            for copy in status.copies:
                if not copy.phase:
                    continue
                key = (name, copy.name)
                running.add(key)
                window = self._copied.setdefault(key, deque())
                if window and copy.copied_bytes < window[-1][1]:
                    window.clear()  # another resync
                window.append((at_s, copy.copied_bytes))
                while window[0][0] < at_s - RATE_WINDOW_S:
                    window.popleft()
        for key in [key for key in self._copied if key not in running]:
            del self._copied[key]

    def rate_bytes_s(self, volume: str, copy: str) -> float:
        """Over the last seconds."""
        window = self._copied.get((volume, copy))
        if not window or window[-1][0] <= window[0][0]:
            return 0.0
        return (window[-1][1] - window[0][1]) / (window[-1][0] - window[0][0])
