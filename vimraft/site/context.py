"""What the parts of one site manager share: made by `manager`, handed to the rest.

May live here: the context object and the small questions that several parts ask of it.
"""

import time
from collections.abc import Mapping

import structlog

from vimraft.api.schema import AsOf, Pids
from vimraft.core.ids import ManagerName, SiteName
from vimraft.core.tables import Manager, State
from vimraft.data.feed import HoldTimes, Problem, Role
from vimraft.metadata.port import Log, LogError
from vimraft.site.catalogue import Catalogue, NewEvent
from vimraft.site.config import Config
from vimraft.site.copies_board import CopiesBoard
from vimraft.site.feeder import Feeder
from vimraft.site.jobs import Jobs
from vimraft.site.member_views import refusal
from vimraft.site.rates import RateBoard
from vimraft.site.supervisor import Supervisor

log = structlog.get_logger(__name__)

BARRIER_MS = 1_500
PROPOSE_MS = 10_000
NO_QUORUM_MS = 3_000


class SiteContext:
    def __init__(
        self,
        config: Config,
        *,
        incarnation: str,
        token: str,
        replicated_log: Log,
        catalogue: Catalogue,
        feeders: Mapping[Role, Feeder],
        supervisors: Mapping[Role, Supervisor],
    ) -> None:
        self.config = config
        self.me = ManagerName(config.manager)
        self.incarnation = incarnation
        self.token = token
        self.log = replicated_log
        self.catalogue = catalogue
        self.feeders = feeders
        self.supervisors = supervisors
        self.jobs = Jobs(config.manager)
        self.volume_rates = RateBoard()
        self.real_rates: dict[Role, RateBoard] = {"export": RateBoard(), "store": RateBoard()}
        self.copies = CopiesBoard()
        self.holds: dict[str, HoldTimes] = {}
        """By volume, as the export last said."""
        self.moving_owner: set[str] = set()
        """Volumes that are being handed over by this manager."""
        self.problems: dict[str, Problem] = {}
        """Real volume → what its data plane reported since it was last taken into use."""
        self.backup_problem = ""
        """Why the last automatic backup could not be taken."""
        self._quorum_at_s = time.monotonic()

    @property
    def state(self) -> State:
        return self.log.state

    def my_sites(self) -> tuple[SiteName, ...]:
        return tuple(sorted(s.name for s in self.state.sites.values() if s.manager == self.me))

    def first_site(self) -> str:
        configured = [site.name for site in self.config.sites]
        return configured[0] if configured else self.config.manager

    def pids(self, manager_pid: int) -> Pids:
        return Pids(
            manager=manager_pid, export=self.supervisors["export"].pid, store=self.supervisors["store"].pid
        )

    def installed_index(self) -> int:
        return min(feeder.installed_index for feeder in self.feeders.values())

    def problem(self) -> str:
        """Why this manager is not healthy; '' when it is."""
        for role, supervisor in self.supervisors.items():
            if supervisor.pid is None:
                return f"its {role} process is down"
            if self.feeders[role].hello is None:
                return f"its {role} process does not answer the manager"
        raft = self.log.status()
        why = refusal(raft)
        if why:
            return f"refused by the others: {why}; see: vimraft manager show {self.me}"
        if raft.role == "joining":
            return "not in the log (yet): its tables are not kept up"
        if raft.problem:
            return raft.problem
        if not raft.has_quorum:
            return "no quorum: tables may be old, changes wait"
        return self.backup_problem

    def as_of(self) -> AsOf:
        now_s = time.monotonic()
        quorum = self.log.status().has_quorum
        if quorum:
            self._quorum_at_s = now_s
        return AsOf(
            index=self.state.index,
            age_seconds=0.0 if quorum else round(now_s - self._quorum_at_s, 1),
            quorum=quorum,
        )

    async def fresh_state(self) -> State:
        """Current tables where there is a quorum; else those applied here (the reply says so)."""
        if not self.log.status().has_quorum:
            return self.state
        try:
            return await self.log.barrier(deadline_ms=BARRIER_MS)
        except LogError as error:
            log.info("read.not_confirmed", cause=str(error) or type(error).__name__)
            return self.state

    def manager_of_site(self, site: SiteName) -> Manager | None:
        found = self.state.sites.get(site)
        return self.state.managers.get(found.manager) if found else None

    async def record(self, name: str, subject: str, severity: str, message: str) -> None:
        await self.catalogue.record(
            [
                NewEvent(
                    name=name,
                    subject=subject,
                    severity=severity,
                    message=message,
                    at_ms=int(time.time() * 1e3),
                )
            ]
        )
