"""The site manager: puts the parts together, starts and stops them in order.

Start: lock the data directory, open catalogue and log, serve the API, adopt or start the two data-plane
processes, then form or update the cluster's tables with what the configuration says of this manager.
Stop: the reverse; the data plane finishes and flushes what runs, or is left serving for the next manager.
May live here: composition and the reactions that tie parts to each other.
"""

import asyncio
import os
import socket
import sqlite3
import subprocess
import time
import uuid
from collections.abc import Coroutine
from typing import Any

import structlog

from vimraft import __version__
from vimraft.api.advice_members import refused_advice
from vimraft.api.schema import Heartbeat
from vimraft.api.schema_copies import MoveOwnerRequest
from vimraft.core import levels
from vimraft.core.commands import Applied, Rejected, ReopenVolumes, SetRealVolumeState
from vimraft.core.ids import RealId, StorageAddress
from vimraft.core.tables import State
from vimraft.data.feed import Hello, Problem, Role, Stats
from vimraft.metadata.backup import BackupHeader, Kind
from vimraft.metadata.port import Log, LogError
from vimraft.metadata.subscriptions import brings_epoch
from vimraft.site import devices
from vimraft.site.backups import BackupDirectory, DailyBackups
from vimraft.site.catalogue import Catalogue
from vimraft.site.changes import ChangeOperations
from vimraft.site.changes_to_events import events_between
from vimraft.site.config import Config, split_address
from vimraft.site.context import PROPOSE_MS, SiteContext
from vimraft.site.copies_part import CopiesPart
from vimraft.site.copies_views import hold_reports, progress_of
from vimraft.site.copy_changes import CopyOperations
from vimraft.site.feeder import Feeder, Said
from vimraft.site.formation import keep_registered
from vimraft.site.health import Health
from vimraft.site.job_records import JobRecords
from vimraft.site.join import ask_for_seat
from vimraft.site.lease import LeaseKeeper
from vimraft.site.loads import loads_of
from vimraft.site.member_views import raft_view, refusal
from vimraft.site.membership import MemberOperations
from vimraft.site.meta import MetaOperations, backup_header
from vimraft.site.moves import MovesOperations, MovesPart
from vimraft.site.planes import copies_directory, spawn_plane
from vimraft.site.reads import ReadOperations
from vimraft.site.record_jobs import RecordJobs
from vimraft.site.record_sweeper import RecordSweeper
from vimraft.site.releases import ReleaseWorker
from vimraft.site.render import my_reals
from vimraft.site.supervisor import Supervisor

log = structlog.get_logger(__name__)

ROLES: tuple[Role, ...] = ("export", "store")
SAVE_TABLES_S = 2.0
LOAD_HISTORY_S = 60.0
RECHECK_FAILED_S = 5.0
RETRY_S = 1.0


class SiteManager(
    ReadOperations, ChangeOperations, CopyOperations, MovesOperations, MemberOperations, MetaOperations
):
    """One running manager; also the Service behind its API."""

    def __init__(self, config: Config, token: str, replicated_log: Log, catalogue: Catalogue) -> None:
        self.config = config
        self.token = token
        incarnation = uuid.uuid4().hex
        run_dir = config.data_dir / "run"
        run_dir.mkdir(mode=0o700, exist_ok=True)
        addresses = {"export": config.network.nbd, "store": config.network.peer}
        feeders = {r: Feeder(r, run_dir / f"{r}.feed", config.manager, incarnation, self) for r in ROLES}
        supervisors = {role: self._supervisor(role, addresses[role]) for role in ROLES}
        self.site = SiteContext(
            config,
            incarnation=incarnation,
            token=token,
            replicated_log=replicated_log,
            catalogue=catalogue,
            feeders=feeders,
            supervisors=supervisors,
        )
        self.health = Health(
            config.manager,
            token=token,
            state=lambda: replicated_log.state,
            make_beat=self._beat,
            changed=self._manager_changed,
        )
        self._lease = LeaseKeeper(
            replicated_log,
            config.manager,
            incarnation,
            life=lambda: self._life if self._able() and self.copies_part.may_own() else 0,
            installed_index=lambda: feeders["export"].installed_index,
            granted=feeders["export"].grant_lease,
        )
        self.copies_part = CopiesPart(replicated_log, self.site.me, feeders["export"], able=self._may_claim)
        self._releases = ReleaseWorker(self.site)
        self._record_sweeper = RecordSweeper(self.site, copies_directory(config))
        self.records = RecordJobs(self.site.jobs, JobRecords(config.data_dir))
        self.owner_mover = lambda name, to: self.move_owner(
            name, MoveOwnerRequest(manager=to), who=f"drain@{config.manager}"
        )
        self._moves = MovesPart(self)
        self._life = 0
        self._reopened_life = -1
        self._tasks: set[asyncio.Task[None]] = set()
        self._seen_leader: str | None = None
        self._members_lock = asyncio.Lock()
        self.daily_backups = DailyBackups(
            BackupDirectory(config.data_dir, config.backup),
            ready=lambda: bool(self.site.state.cluster_id),
            header=self._backup_header,
            record=self._record_backup,
        )

    def _supervisor(self, role: Role, address: str) -> Supervisor:
        run_dir = self.config.data_dir / "run"

        def spawn(sockets: list[socket.socket]) -> "subprocess.Popen[bytes]":
            return spawn_plane(role, self.config, run_dir, sockets)

        return Supervisor(
            role,
            address=split_address(address),
            lock_path=run_dir / f"{role}.lock",
            spawn=spawn,
            on_start=self._plane_started,
            on_exit=self._plane_exited,
            backoff_ms=self.config.data.restart_backoff_ms,
            backoff_max_ms=self.config.data.restart_backoff_max_ms,
        )

    # life cycle

    async def start(self) -> None:
        """Raises AddressInUse. The API is served by the caller."""
        self.site.log.subscribe(self._tables_changed)
        for feeder in self.site.feeders.values():
            feeder.publish(self.site.state)
            await feeder.start()
        for supervisor in self.site.supervisors.values():
            await supervisor.prepare()
        for supervisor in self.site.supervisors.values():
            supervisor.start()
        self.health.start()
        self._lease.start()
        self.copies_part.start()
        self._releases.start()
        self._record_sweeper.start()
        self._spawn(keep_registered(self.site))
        self._spawn(ask_for_seat(self.config, self.token, self.site.log))
        self._spawn(self._save_tables())
        self._spawn(self._record_load())
        self._spawn(self._recheck_failed())
        self._spawn(self._watch_leader())
        self._spawn(self.daily_backups.run())
        for work in self._moves.works():
            self._spawn(work)
        await self.site.record("manager.started", self.config.manager, "info", "site manager started")

    async def stop(self, *, leave_data_plane: bool) -> None:
        await self.site.record("manager.stopping", self.config.manager, "info", "site manager stops")
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._releases.stop()
        await self._record_sweeper.stop()
        await self.site.jobs.stop()
        await asyncio.gather(
            *(
                supervisor.leave() if leave_data_plane else supervisor.stop(self.site.feeders[role].quit)
                for role, supervisor in self.site.supervisors.items()
            )
        )
        await self.copies_part.stop()
        await self._lease.stop()
        await self.health.stop()
        for feeder in self.site.feeders.values():
            await feeder.stop()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task.failed", exc_info=error)

    # reactions

    def _tables_changed(self, previous: State, current: State) -> None:
        for feeder in self.site.feeders.values():
            feeder.publish(current)
        if brings_epoch(previous, current):
            self._lease.epoch_begins(current.index)
        self.copies_part.tables_changed(current)
        self._releases.look()
        self._record_sweeper.tables_changed(previous, current)
        self._moves.tables_changed(previous, current)
        if previous.reals is not current.reals:
            self._forget_mended(previous, current)
        events = events_between(previous, current, int(time.time() * 1e3))
        if events:
            self._spawn(self.site.catalogue.record(events))

    def _forget_mended(self, previous: State, current: State) -> None:
        """A real volume that was taken back into use starts with a clean slate: the same fault seen
        again is a new one."""
        for key, real in current.reals.items():
            old = previous.reals.get(key)
            if real.state != "failed" and old is not None and old.state == "failed":
                self.site.problems.pop(str(key), None)

    def plane_connected(self, role: Role, hello: Hello, passed: list[socket.socket]) -> None:
        self.site.supervisors[role].hello(hello.pid, passed)

    def _plane_started(self, role: Role, adopted: bool) -> None:
        """Each life of the export, and each manager that adopts one, opens a new epoch of what it owns."""
        if role == "export":
            self._life += 1
            if not adopted:
                self.site.feeders["export"].grant_lease(0)
            self._spawn(self._reopen(self._life))
        what = "adopted" if adopted else "started"
        pid = self.site.supervisors[role].pid
        self._spawn(self.site.record(f"plane.{what}", role, "info", f"{role} process {pid} {what}"))

    def _plane_exited(self, role: Role, how: str) -> None:
        self._spawn(
            self.site.record("plane.exited", role, "error", f"{role} process {how}; it is started again")
        )

    def plane_installed(self) -> None:
        self._lease.look()
        self._releases.look()

    def plane_stats(self, role: Role, stats: Stats) -> None:
        now_s = time.monotonic()
        self.site.real_rates[role].add(now_s, stats.reals)
        if role == "export":
            self.site.volume_rates.add(now_s, stats.volumes)
            self.site.copies.add(now_s, stats.copies)
            self.site.holds = stats.holds
            loads = loads_of(self.site.state, self.health, self.site.me)
            if loads.rows:
                self.site.feeders["export"].tell_loads(loads)

    def plane_said(self, hello: Hello, message: Said) -> None:
        self.copies_part.said(hello, message)

    def plane_skipped(self) -> None:
        """A new epoch of what is owned here: until it is installed, there is no further lease."""
        self._life += 1
        self._spawn(self._reopen(self._life))

    def _able(self) -> bool:
        """The export may own volumes, and goes on: one that stands still would keep them for itself."""
        return self._reopened_life == self._life and self.site.feeders["export"].hears

    def _may_claim(self) -> bool:
        """A store process that stands still keeps the records that the export would need."""
        return self._able() and not self.site.feeders["store"].stands_still

    def plane_problem(self, problem: Problem) -> None:
        if self.site.problems.get(problem.real) == problem:
            return
        self.site.problems[problem.real] = problem
        log.error("real.problem", real=problem.real, kind=problem.kind, cause=problem.message)
        self._spawn(self.site.record(f"real.{problem.kind}", problem.real, "error", problem.message))
        self._spawn(self._mark_failed(problem))

    def _manager_changed(self, manager: str, up: bool) -> None:
        log.warning("manager.heard" if up else "manager.silent", manager=manager)
        self._spawn(
            self.site.record(
                "manager.up" if up else "manager.down",
                manager,
                "info" if up else "warning",
                f"{manager} answers" if up else f"{manager} has not been heard from for some seconds",
            )
        )

    def _beat(self) -> Heartbeat:
        return Heartbeat(
            manager=self.config.manager,
            incarnation=self.site.incarnation,
            index=self.site.state.index,
            pid=self.site.pids(os.getpid()),
            problem=self.site.problem(),
            sent_ms=int(time.time() * 1e3),
            installed_index=self.site.installed_index(),
            volumes=self.site.volume_rates.rates(),
            reals=my_reals(self.site),
            release=__version__,
            raft=raft_view(self.site.log.status()),
            level=levels.LATEST,
            copies=progress_of(self.site.copies),
            holds=hold_reports(self.site.holds),
        )

    def _backup_header(self, kind: Kind) -> tuple[BackupHeader, State]:
        state, quorum = self.site.state, self.site.log.status().has_quorum
        return backup_header(self.site, state, who=self.site.me, kind=kind, quorum=quorum), state

    def _record_backup(self, name: str, severity: str, message: str) -> None:
        self.site.backup_problem = self.daily_backups.problem
        self._spawn(self.site.record(name, self.config.manager, severity, message))

    # background

    async def _reopen(self, life: int) -> None:
        """Until it is applied and installed, this life of the export gets no lease."""
        request_id = f"reopen/{uuid.uuid4().hex}"
        while life == self._life:
            try:
                outcome = await self.site.log.propose(
                    ReopenVolumes(manager=self.site.me, incarnation=self.site.incarnation),
                    who=self.site.me,
                    deadline_ms=PROPOSE_MS,
                    request_id=request_id,
                )
            except LogError as error:
                log.info("reopen.waits", cause=type(error).__name__)
                await asyncio.sleep(RETRY_S)
                continue
            if isinstance(outcome, Applied):
                break
            log.info("reopen.refused", reason=type(outcome.reason).__name__)
            request_id = f"reopen/{uuid.uuid4().hex}"
            await asyncio.sleep(RETRY_S)
        else:
            return
        while life == self._life:
            if await self.site.feeders["export"].wait_installed(outcome.index, RETRY_S):
                self._reopened_life = life
                return

    async def _mark_failed(self, problem: Problem) -> None:
        storage, _, lun = problem.real.rpartition(":")
        real = self.site.state.reals.get(RealId(StorageAddress(storage), int(lun)))
        if real is None or real.state not in ("active", "draining") or problem.kind == "io":
            return
        reason = f"{problem.kind}: {problem.message}"
        command = SetRealVolumeState(storage=real.storage, lun=real.lun, state="failed", reason=reason)
        try:
            await self.site.log.propose(command, who=self.site.me, deadline_ms=PROPOSE_MS)
        except LogError as error:
            log.warning("real.not_marked", real=problem.real, cause=type(error).__name__)

    async def _recheck_failed(self) -> None:
        """A device that was missing, or carried a wrong label, and is right again goes back to work;
        after a failed flush an operator must look first (`vimraft real include`)."""
        while True:
            await asyncio.sleep(RECHECK_FAILED_S)
            for problem in list(self.site.problems.values()):
                await self._mark_failed(problem)
            state, mine = self.site.state, set(self.site.my_sites())
            for real in state.reals.values():
                if real.site not in mine or real.state != "failed" or real.reason.startswith("flush"):
                    continue
                if await asyncio.to_thread(devices.problem_of, state, real):
                    continue
                command = SetRealVolumeState(storage=real.storage, lun=real.lun, state="active")
                try:
                    outcome = await self.site.log.propose(command, who=self.site.me, deadline_ms=PROPOSE_MS)
                except LogError:
                    continue
                if isinstance(outcome, Rejected):
                    log.warning("real.not_recovered", real=str(real.id))

    async def _save_tables(self) -> None:
        saved = -1
        while True:
            state = self.site.state
            if state.index != saved:
                try:
                    await self.site.catalogue.save_tables(state, int(time.time() * 1e3))
                except sqlite3.Error as error:
                    log.error("catalogue.tables_not_saved", cause=str(error))
                saved = state.index
            await asyncio.sleep(SAVE_TABLES_S)

    async def _record_load(self) -> None:
        while True:
            await asyncio.sleep(LOAD_HISTORY_S)
            rows = [
                (
                    name,
                    io.read_iops,
                    io.write_iops,
                    io.read_bytes_s,
                    io.write_bytes_s,
                    io.read_latency_us,
                    io.write_latency_us,
                )
                for name, io in my_reals(self.site).items()
            ]
            try:
                await self.site.catalogue.record_load(int(time.time() * 1e3), rows)
            except sqlite3.Error as error:
                log.error("catalogue.load_not_saved", cause=str(error))

    async def _watch_leader(self) -> None:
        refused = ""
        while True:
            why = refusal(self.site.log.status())
            if why != refused:
                refused = why
                await self._say_refused(why)
            leader = self.site.log.status().leader_address
            if leader != self._seen_leader:
                self._seen_leader = leader
                await self.site.record(
                    "manager.leader_changed", leader or "-", "info", f"leader is now {leader or 'nobody'}"
                )
            await asyncio.sleep(0.5)

    async def _say_refused(self, why: str) -> None:
        if not why:
            log.info("manager.let_in")
            return
        by = tuple(peer.address for peer in self.site.log.status().peers if peer.refused)
        advice = refused_advice(self.config.manager, by, why)
        log.error("manager.refused", advice=advice)
        await self.site.record("manager.refused", self.config.manager, "error", advice)
