"""Emptying real volumes and sites under I/O.

May live here: the mover, which proposes what `drain_plan` finds for the volumes that this manager owns; the
jobs that look on; the part of the service about them. Who copies and switches is the export of the owner.
A drain of a real volume is its state in the tables; only the drain of a site is a record of this manager
(which real volumes it meant, and that owners have to go, is nowhere else).
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog

from vimraft.api.advice import from_reason
from vimraft.api.errors import JobCancelled, ManagerUnreachable, RealFailed, Refused
from vimraft.api.schema import JobReply
from vimraft.core import levels
from vimraft.core.change import holders
from vimraft.core.commands import (
    AbortMove,
    Applied,
    BeginMove,
    Command,
    Rejected,
    SetHandingOver,
    SetRealVolumeState,
)
from vimraft.core.ids import ManagerName, RealId, SiteName, StorageAddress, VolumeName
from vimraft.core.reasons import NotFound
from vimraft.core.tables import RealVolume, State
from vimraft.metadata.port import LogError
from vimraft.site.context import PROPOSE_MS, SiteContext
from vimraft.site.drain_plan import Left, blocked, draining, left_on, next_moves
from vimraft.site.hand_over import ended
from vimraft.site.job_records import SiteDrain
from vimraft.site.jobs import Job
from vimraft.site.other_managers import ask
from vimraft.site.record_jobs import RecordJobs

log = structlog.get_logger(__name__)

LOOK_S: Final = 0.5
"""Between two looks at tables that change all the time."""
RETRY_S: Final = 5.0
MAX_SHOWN: Final = 4
OwnerMover = Callable[[VolumeName, ManagerName], Awaitable[object]]
"""Hands a volume over in good order."""


def drain_job_id(manager: str, real: RealId) -> str:
    """Always the same, so that it is found again after a restart."""
    return f"{manager}.drain-{hashlib.sha256(str(real).encode()).hexdigest()[:12]}"


class Mover:
    """Begins and takes back moves of the volumes that this manager owns, and ends their hand-overs. `run`
    goes on for ever."""

    def __init__(self, site: SiteContext) -> None:
        self._site = site
        self._wake = asyncio.Event()

    def look(self) -> None:
        """Tables have changed."""
        self._wake.set()

    async def run(self) -> None:
        while True:
            self._wake.clear()
            state = self._site.state
            if state.level >= levels.COPIES and self._site.log.status().has_quorum:
                await self._propose(state)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S):
                    await self._wake.wait()
            await asyncio.sleep(LOOK_S)

    async def _propose(self, state: State) -> None:
        commands: list[BeginMove | AbortMove | SetHandingOver] = [
            *await asyncio.to_thread(next_moves, state, self._site.me),
            *ended(state, self._site.me, self._site.copies.volumes, self._site.moving_owner),
        ]
        for command in commands:
            try:
                outcome = await self._site.log.propose(
                    command, who=f"drain@{self._site.me}", deadline_ms=PROPOSE_MS
                )
            except LogError as error:
                log.info("move.not_proposed", volume=command.volume, cause=type(error).__name__)
                return
            what = type(command).__name__
            if isinstance(outcome, Rejected):
                log.info("move.refused", what=what, volume=command.volume, reason=repr(outcome.reason))
            else:
                log.info("move.proposed", what=what, volume=command.volume)


def note_on(state: State, reals: frozenset[RealId], left: Left) -> str:
    """What is being done, or who keeps these real volumes from being empty."""
    waits = []
    for one in blocked(state, reals)[:MAX_SHOWN]:
        why = f"is {one.state}" if one.reason is None else from_reason(one.reason).reply.message
        waits.append(f"copy {one.replica} of {one.volume}: {why}")
    if waits:
        return "; ".join(waits)
    if left.volumes:
        more = f" and {len(left.volumes) - MAX_SHOWN} more" if len(left.volumes) > MAX_SHOWN else ""
        return f"moving {', '.join(left.volumes[:MAX_SHOWN])}{more}"
    if left.trashed:
        shown = ", ".join(left.trashed[:MAX_SHOWN])
        return f"waits for the trash: {shown} (vimraft trash restore, or purge)"
    return "waits until the space that was left is zero" if left.releasing_bytes else ""


class DrainOperations:
    """The part of vimraft.api.service.Service about emptying real volumes and sites."""

    site: SiteContext
    records: RecordJobs
    owner_mover: OwnerMover | None = None

    async def _commit(self, command: Command, who: str, request_id: str | None) -> Applied:
        raise NotImplementedError

    def needs_copies(self, what: str) -> None:
        raise NotImplementedError

    # one real volume

    async def drain_real(self, storage: str, lun: int, *, who: str, request_id: str | None) -> JobReply:
        """By the manager of its site, or here while that is silent."""
        self.needs_copies("draining a real volume")
        state = await self.site.fresh_state()
        real = state.reals.get(RealId(StorageAddress(storage), lun))
        if real is None:
            raise Refused(NotFound("real volume", f"{storage}:{lun}", _known(state.reals)))
        holder = self.site.manager_of_site(real.site)
        if holder is not None and holder.name != self.site.me:
            path = f"/v1/reals/{storage}/{lun}/drain"
            with contextlib.suppress(ManagerUnreachable):
                data = await ask(self.site, holder, "POST", path, request_id=request_id)
                return msgspec.json.decode(data, type=JobReply)
        if real.state == "failed":
            raise RealFailed(str(real.id), real.reason)
        await self._commit(SetRealVolumeState(real.storage, real.lun, "draining"), who, request_id)
        return self.look_on(real.id)

    def look_on(self, real: RealId) -> JobReply:
        async def work(job: Job) -> None:
            await self._follow(job, frozenset({real}))

        async def take_back() -> None:
            row = self.site.state.reals.get(real)
            if row is not None and row.state == "draining":
                await self._commit(SetRealVolumeState(row.storage, row.lun, "active"), self.site.me, None)

        return self.site.jobs.start(
            f"drain {real}",
            work,
            job_id=drain_job_id(self.site.me, real),
            waits=True,
            on_cancel=take_back,
        )

    def look_on_all(self) -> None:
        """After a start, and when the tables changed: what drains at the own sites has its job."""
        mine = set(self.site.my_sites())
        for real in draining(self.site.state):
            known = self.site.jobs.get(drain_job_id(self.site.me, real)) is not None
            if self.site.state.reals[real].site in mine and not known:
                self.look_on(real)

    async def _follow(self, job: Job, reals: frozenset[RealId]) -> None:
        """Until nothing lies on these real volumes; those that have left the pool are empty."""
        most = 0
        while True:
            state = self.site.state
            there = [state.reals[real] for real in reals if real in state.reals]
            if any(real.state in ("active", "excluded") for real in there):
                raise JobCancelled(job.what)
            left = await asyncio.to_thread(left_on, state, reals)
            most = max(most, left.total_bytes)
            job.progress(most - left.total_bytes, most)
            if not left.total_bytes:
                return
            job.note = await asyncio.to_thread(note_on, state, reals, left)
            await asyncio.sleep(LOOK_S)

    # a site

    async def drain_site(self, name: str, *, who: str) -> JobReply:
        self.needs_copies("draining a site")
        state = await self.site.fresh_state()
        if SiteName(name) not in state.sites:
            raise Refused(NotFound("site", name, _known(state.sites)))
        for job_id, known in self.records.running(SiteDrain):
            if known.site == name:
                return self.resume_site_drain(job_id, known)
        failed = next((real for real in _at(state, name) if real.state == "failed"), None)
        if failed is not None:
            raise RealFailed(str(failed.id), failed.reason)
        record = SiteDrain(site=name, who=who)
        return self.resume_site_drain(await self.records.add(record), record)

    def resume_site_drain(self, job_id: str, record: SiteDrain) -> JobReply:
        async def work(job: Job) -> None:
            await self._drain_site(job, record)

        async def take_back() -> None:
            for real in _at(self.site.state, record.site):
                if real.state == "draining":
                    await self._commit(SetRealVolumeState(real.storage, real.lun, "active"), record.who, None)

        return self.records.start(job_id, f"drain site {record.site}", work, on_cancel=take_back)

    async def _drain_site(self, job: Job, record: SiteDrain) -> None:
        state = self.site.state
        for real in _at(state, record.site):
            if job.cancelled:
                raise JobCancelled(job.what)
            if real.state in ("active", "excluded"):
                await self._commit(SetRealVolumeState(real.storage, real.lun, "draining"), record.who, None)
        await self._follow(job, frozenset(real.id for real in _at(state, record.site)))
        while (left := owned_without_reason(self.site.state, record.site)) and not job.cancelled:
            shown = ", ".join(sorted(left)[:MAX_SHOWN])
            job.note = f"hands over {shown}"
            if not await self._hand_over(left):
                job.note = f"waits for a new owner of {shown} (vimraft vol move-owner)"
                await asyncio.sleep(RETRY_S)
        if job.cancelled:
            raise JobCancelled(job.what)

    async def _hand_over(self, volumes: dict[VolumeName, ManagerName]) -> bool:
        """Whether any went."""
        if self.owner_mover is None:
            return False
        gone = False
        for name, new_owner in sorted(volumes.items()):
            try:
                await self.owner_mover(name, new_owner)
                gone = True
            except Exception as error:  # noqa: BLE001 - whatever it is: the job says so, and tries again
                log.info("drain.not_handed_over", volume=name, to=new_owner, cause=str(error))
        return gone


def owned_without_reason(state: State, site: str) -> dict[VolumeName, ManagerName]:
    """Volumes that the manager of an emptied site owns although nothing in sync lies at its sites, and who
    shall own them: who holds most of the first copy in sync."""
    found = state.sites.get(SiteName(site))
    if found is None:
        return {}
    wanted = {}
    for volume in state.volumes.values():
        if volume.owner != found.manager:
            continue
        copies = [replica for replica in volume.replicas if replica.state == "in_sync"]
        elsewhere = sorted({m for r in copies for m in holders(state, r.segments)} - {found.manager})
        stays = any(found.manager in holders(state, r.segments) for r in copies)
        if elsewhere and not stays:
            first = holders(state, copies[0].segments)
            wanted[volume.name] = next((m for m in elsewhere if m in first), elsewhere[0])
    return wanted


def _at(state: State, site: str) -> list[RealVolume]:
    return [state.reals[key] for key in sorted(state.reals) if state.reals[key].site == site]


def _known(table: object) -> tuple[str, ...]:
    return tuple(sorted(str(name) for name in table))[:20]  # type: ignore[attr-defined]
