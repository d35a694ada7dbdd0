"""Processes that crash, start again and stand still; what is called in them goes through `run`.

May live here: their lives. A call belongs to one life: what was meant for an earlier one never happens. While
a process is paused its calls wait, and all of them follow one another when it goes on.
"""

from collections.abc import Callable
from typing import Any

from tests.simulation.cluster.clock import Clock
from tests.simulation.world import World


class Process:
    def __init__(self, world: World, clock: Clock, site: str, role: str) -> None:
        self.world = world
        self.clock = clock
        self.site = site
        self.role = role
        self.name = f"{site}.{role}"
        self.life = 0
        self.up = False
        self.paused = False
        self._backlog: list[tuple[int, Callable[..., None], tuple[Any, ...]]] = []
        self.on_end: list[Callable[[Process], None]] = []
        """Called when it has ended: its connections break."""

    @property
    def now_ns(self) -> int:
        return self.clock.now_ns(self.world.now)

    def start(self) -> None:
        if self.up:
            return
        self.up, self.paused = True, False
        self.life += 1
        self.world.note(self.name, "starts", self.life)
        self.started()

    def kill(self) -> None:
        if not self.up:
            return
        self.up = self.paused = False
        self._backlog.clear()
        self.world.note(self.name, "ends", self.life)
        for call in self.on_end:
            call(self)
        self.ended()

    def pause(self) -> None:
        self.paused = self.up

    def resume(self) -> None:
        self.paused = False
        backlog, self._backlog = self._backlog, []
        for life, call, args in backlog:
            self.run(life, call, *args)

    def run(self, life: int, call: Callable[..., None], *args: Any) -> None:
        if not self.up or life != self.life:
            return
        if self.paused:
            self._backlog.append((life, call, args))
        else:
            call(*args)

    def after(self, delay_s: float, call: Callable[..., None], *args: Any) -> None:
        """In this life, by the world's time."""
        self.world.after(delay_s, self.run, self.life, call, *args)

    def at_ns(self, local_ns: int, call: Callable[..., None], *args: Any) -> None:
        self.world.at(self.clock.world_s(local_ns), self.run, self.life, call, *args)

    def started(self) -> None:
        """A new life begins."""

    def ended(self) -> None:
        """It is over; nothing of it may call back."""

    def accepted(self, connection: Any) -> None:
        """Somebody has connected."""

    def received(self, connection: Any, payload: Any) -> None:
        """A message."""

    def lost(self, connection: Any) -> None:
        """A connection has ended for this process."""
