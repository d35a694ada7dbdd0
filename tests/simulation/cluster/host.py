"""One site: its host with a clock and disks, the manager, the export and the store.

May live here: what the parts of a site have in common, and the manager: it follows the log, renews the lease,
proposes what the export asks for, claims volumes whose owner's lease has run out, and lets its stores rejoin.
What it tells its processes arrives in order (one channel with leases and maps).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.cluster.clock import Clock
from tests.simulation.cluster.ledger import Ledger
from tests.simulation.cluster.media import Media, Records
from tests.simulation.cluster.process import Process
from tests.simulation.cluster.settings import Settings
from tests.simulation.cluster.wire import Wire
from tests.simulation.world import World
from vimraft.core.change import stamp_of
from vimraft.core.commands import (
    Applied,
    Command,
    Outcome,
    Rejoin,
    RenewLease,
    ReopenVolumes,
    TakeOver,
)
from vimraft.core.ids import LocalName, ManagerName, VolumeName
from vimraft.core.tables import State
from vimraft.protocol.lease import OthersLease
from vimraft.protocol.maps import map_of
from vimraft.protocol.rules import Rules
from vimraft.protocol.takeover import claim

if TYPE_CHECKING:
    from tests.simulation.cluster.export import Export
    from tests.simulation.cluster.store_process import StoreProcess

FEED_S = 0.0005
AGAIN_S = 0.3
CLAIM_S = 0.25


class Host:
    def __init__(
        self,
        world: World,
        wire: Wire,
        ledger: Ledger,
        settings: Settings,
        rules: Rules,
        name: ManagerName,
        boot: str,
        *,
        resend: bool,
    ) -> None:
        """`resend`: see `forward`."""
        rng = world.fork_random(f"host {name}")
        self.world, self.wire, self.ledger, self.settings, self.rules = world, wire, ledger, settings, rules
        self.name = name
        self.resend = resend
        self.others: dict[ManagerName, Host] = {}
        """All sites, this one too."""
        self.random = rng
        self.clock = Clock(1 + rng.uniform(-settings.drift, settings.drift), rng.uniform(0, 1000))
        self.media = Media(world, rng, settings.io_s)
        self.media.may_fail = self._others_have_it
        self.records = Records(world, rng, settings.record_s)
        self.boot = boot
        self.up = True
        self.on_cut: list[Callable[[str], None]] = []
        self.untold: Process | None = None
        """What the manager tells this one does not arrive."""
        self.manager = Manager(self)
        self.export: Export
        self.store: StoreProcess

    def start(self) -> None:
        self.up = True
        for process in (self.manager, self.store, self.export):
            process.start()

    def _others_have_it(self) -> bool:
        """Of every volume with a copy in step here there is another one elsewhere."""
        state = self.ledger.state
        for row in state.volumes.values():
            sites = {
                replica.local_name: {state.reals[segment.real_id].site for segment in replica.segments}
                for replica in row.replicas
                if replica.state == "in_sync"
            }
            elsewhere = [
                name
                for name, lies_at in sites.items()
                if self.name not in lies_at and not any(self._doubts(at, row.name, name) for at in lies_at)
            ]
            if not elsewhere and any(self.name in lies_at for lies_at in sites.values()):
                return False
        return True

    def _doubts(self, site: str, volume: VolumeName, copy: LocalName) -> bool:
        """A flush of that copy failed, and the tables do not know yet."""
        store = self.others[ManagerName(site)].store.stores.get(volume)
        return store is not None and bool(store.record.copy(copy).doubtful)

    def power_cut(self) -> None:
        self.up = False
        for call in self.on_cut:
            call(self.name)
        for process in (self.manager, self.export, self.store):
            process.kill()
        self.media.power_cut()
        self.records.ends()
        self.boot = f"{self.name}.{self.random.randrange(10**9)}"


class Manager(Process):
    def __init__(self, host: Host) -> None:
        super().__init__(host.world, host.clock, host.name, "manager")
        self.host = host
        self.me = host.name
        self.state = host.ledger.state
        self._requests = 0
        self.rejoining = False
        self.others = OthersLease(host.settings.lease_ms * 1_000_000)
        host.ledger.follow(self.me, lambda states: self.run(self.life, self._follow, states))

    def ended(self) -> None:
        self.host.export.own.alone = True

    def started(self) -> None:
        self.rejoining = False
        self.others = OthersLease(self.host.settings.lease_ms * 1_000_000)
        if self.life > 1:
            self.host.ledger.set_back(self.me)
        self._follow([self.host.ledger.applied(self.me)])
        export = self.host.export
        if self.life > 1 and export.up:
            export.run(export.life, export.manager_started)
        self.after(0.05 * self.host.random.random(), self._renew)
        self.after(CLAIM_S * self.host.random.random(), self._claims)

    # --- following ------------------------------------------------------------------------------------

    def _follow(self, states: list[State]) -> None:
        self.state = states[-1]
        for name in sorted(self.state.managers):
            self.others.applied(name, stamp_of(self.state, name), self.now_ns)
        host = self.host
        for process in (host.export, host.store):
            if process.up and process is not host.untold:
                self.world.after(FEED_S, process.run, process.life, process.take, states)
        self.look()

    def look(self) -> None:
        host = self.host
        if host.store.up and self.state.boots.get(self.me) != host.boot and not self.rejoining:
            self.rejoining = True
            self.propose(Rejoin(self.me, host.boot, host.store.record_ids()), self._rejoined)

    def _rejoined(self, _outcome: Outcome) -> None:
        self.rejoining = False
        self.after(AGAIN_S, self.look)

    # --- proposing ------------------------------------------------------------------------------------

    def propose(
        self,
        command: Command,
        decided: Callable[[Outcome], None],
        *,
        tries: int = 10_000,
        name: str = "",
    ) -> None:
        """Again and again under one name until it is decided, or `tries` are over."""
        self._requests += 1
        self._propose(name or f"{self.me}.{self.life}.{self._requests}", command, decided, tries)

    def _propose(self, name: str, command: Command, decided: Callable[[Outcome], None], tries: int) -> None:
        life = self.life

        def answered(outcome: Outcome | None) -> None:
            if outcome is not None:
                self.run(life, decided, outcome)
            elif tries > 1:
                again = (name, command, decided, tries - 1)
                self.world.after(AGAIN_S, self.run, life, self._propose, *again)

        self.host.ledger.propose(self.me, name, command, answered)

    # --- lease ----------------------------------------------------------------------------------------

    def _renew(self) -> None:
        host = self.host
        export = host.export
        self.after(host.settings.lease_ms / 3000 / host.clock.rate, self._renew)
        if not export.up or not export.ready:
            return
        life, own = export.life, export.own
        stamp = own.next_stamp()
        own.proposing(stamp, self.now_ns)

        def decided(outcome: Outcome) -> None:
            if isinstance(outcome, Applied) and export.life == life:
                self.world.after(FEED_S, export.run, life, export.granted, stamp, outcome.index)

        index = export.installed_index
        self.propose(RenewLease(self.me, stamp.incarnation, stamp.counter, index), decided, tries=1)

    def reopen(self, life: int, incarnation: str) -> None:
        """Of this life of the export."""
        export = self.host.export

        def decided(outcome: Outcome) -> None:
            if export.life != life:
                return
            if isinstance(outcome, Applied):
                self.world.after(FEED_S, export.run, life, export.reopened, outcome.index)
            else:
                self.after(AGAIN_S, self.reopen, life, incarnation)

        self.propose(ReopenVolumes(self.me, incarnation), decided)

    # --- claims ---------------------------------------------------------------------------------------

    def _claims(self) -> None:
        self.after(CLAIM_S * (0.5 + self.host.random.random()), self._claims)
        if not self.host.export.up:
            return
        for name in sorted(self.state.volumes):
            found = map_of(self.state, name)
            assert found is not None, "it is there"
            if not any(part.store == self.me for copy in found.in_sync for part in copy.parts):
                continue
            command = claim(found, self.me, self.others, self.now_ns)
            if command is not None:
                if not self.host.rules.stamp_compare:
                    stamp = stamp_of(self.host.ledger.state, command.owner)
                    command = TakeOver(command.volume, command.epoch, command.owner, stamp, self.me)
                self.propose(command, lambda _outcome: None, tries=1)
