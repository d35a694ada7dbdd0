"""Heartbeats between managers: who runs, how far each has applied, what its volumes do.

They drive health and the console; they decide nothing that the log must decide.
May live here: sending once a second, remembering what was heard and when.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable

import httpx
import msgspec
import structlog

from vimraft.api.schema import Heartbeat
from vimraft.core.tables import State
from vimraft.site.worker import Worker

log = structlog.get_logger(__name__)

BEAT_PERIOD_S = 1.0
BEAT_TIMEOUT_S = 2.0
SILENT_AFTER_S = 4.0
"""A manager not heard from for this long is shown as down."""


class Heard:
    __slots__ = ("at_s", "beat")

    def __init__(self, beat: Heartbeat, at_s: float) -> None:
        self.beat = beat
        self.at_s = at_s


class Health(Worker):
    """`make_beat` describes this manager; `changed(manager, up)` tells of one that came or went."""

    def __init__(
        self,
        me: str,
        *,
        token: str,
        state: Callable[[], State],
        make_beat: Callable[[], Heartbeat],
        changed: Callable[[str, bool], None],
    ) -> None:
        super().__init__()
        self._me = me
        self._state = state
        self._make_beat = make_beat
        self._changed = changed
        self._heard: dict[str, Heard] = {}
        self._up: set[str] = set()
        self._http = httpx.AsyncClient(
            timeout=BEAT_TIMEOUT_S, headers={"Authorization": f"Bearer {token}"}, trust_env=False
        )

    async def stop(self) -> None:
        await super().stop()
        await self._http.aclose()

    def hear(self, beat: Heartbeat) -> None:
        """Beats of managers that the tables do not know (yet) are kept too; there are few."""
        known = self._state().managers
        if beat.manager not in known and len(self._heard) > len(known) + 16:
            return
        self._heard[beat.manager] = Heard(beat, time.monotonic())

    def latest(self, manager: str) -> tuple[Heartbeat, float] | None:
        """The last beat of a manager and how many seconds ago it came."""
        heard = self._heard.get(manager)
        return (heard.beat, time.monotonic() - heard.at_s) if heard else None

    def is_up(self, manager: str) -> bool:
        if manager == self._me:
            return True
        latest = self.latest(manager)
        return latest is not None and latest[1] <= SILENT_AFTER_S

    async def _run(self) -> None:
        while True:
            beat = self._make_beat()
            self.hear(beat)
            body = msgspec.json.encode(beat)
            others = [m for m in self._state().managers.values() if m.name != self._me]
            async with asyncio.TaskGroup() as group:
                for manager in others:
                    group.create_task(self._send(manager.api_url, body))
                group.create_task(asyncio.sleep(BEAT_PERIOD_S))
            self._notice_changes({m.name for m in others})

    async def _send(self, url: str, body: bytes) -> None:
        with contextlib.suppress(httpx.HTTPError):  # silence is what the others see of us, too
            await self._http.post(
                f"{url}/v1/internal/heartbeat", content=body, headers={"Content-Type": "application/json"}
            )

    def _notice_changes(self, others: set[str]) -> None:
        up = {name for name in others if self.is_up(name)}
        for name in up - self._up:
            self._changed(name, True)
        for name in (self._up - up) & others:
            self._changed(name, False)
        self._up = up
