"""Faults: what each does, for how long, and that all are healed at the end.

May live here: one method a fault, named like it in `settings.FAULTS`. Some are not there: several things that
seldom happen one after the other by chance, for the stages of mutations.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.cluster.host import Host
from tests.simulation.cluster.process import Process
from vimraft.core.commands import AddCopy, BeginMove, PauseCopy, RemoveCopy
from vimraft.core.ids import LocalName
from vimraft.core.tables import Volume

if TYPE_CHECKING:
    from tests.simulation.cluster.simulation import Simulation

LONG_S = 4.0
MAX_DOWN_S = 3.0
METHODS = {"break": "break_connections"}
"""Of faults whose names are words of the language."""


class Faults:
    def __init__(self, simulation: "Simulation") -> None:
        self._simulation = simulation
        self.world = simulation.world
        self.random = self.world.fork_random("faults")
        self.over = False
        self.count = 0

    def start(self) -> None:
        self._later()

    def _later(self) -> None:
        every_s = self._simulation.settings.fault_every_s
        self.world.after(every_s * (0.3 + 1.4 * self.random.random()), self._next)

    def _next(self) -> None:
        if self.over:
            return
        self._later()
        name = self.random.choice(self._simulation.settings.faults)
        self.count += 1
        self.world.note("fault", name)
        getattr(self, METHODS.get(name, name.replace("-", "_")))()

    def stop(self) -> None:
        """Heal everything."""
        self.over = True
        simulation = self._simulation
        simulation.wire.heal_all()
        simulation.ledger.away.clear()
        for host in simulation.hosts:
            host.media.errors.clear()
            host.media.slow_s = 0.0
            host.media.failing_flushes = 0
            if not host.up:
                host.start()
            for process in (host.manager, host.export, host.store):
                process.resume()
                process.start()

    def _host(self) -> Host:
        return self.random.choice(self._simulation.hosts)

    def _two(self) -> tuple[str, str]:
        a, b = self.random.sample(self._simulation.hosts, 2)
        return a.name, b.name

    def _for_a_while(self, undo: Callable[[], None], longest_s: float = LONG_S) -> None:
        self.world.after(0.05 + longest_s * self.random.random() ** 2, self._undo, undo)

    def _undo(self, undo: Callable[[], None]) -> None:
        if not self.over:
            undo()

    # --- network --------------------------------------------------------------------------------------

    def _cut(self, paths: list[tuple[str, str]]) -> None:
        wire = self._simulation.wire
        for path in paths:
            wire.cut(*path)
        self._for_a_while(lambda: [wire.heal(*path) for path in paths] and None)

    def cut(self) -> None:
        a, b = self._two()
        self._cut([(a, b), (b, a)])

    def one_way(self) -> None:
        self._cut([self._two()])

    def partition(self) -> None:
        names = [host.name for host in self._simulation.hosts]
        side = set(self.random.sample(names, self.random.randrange(1, len(names))))
        self._cut([(a, b) for a in names for b in names if (a in side) != (b in side)])

    def isolate(self) -> None:
        name = self._host().name
        others = [host.name for host in self._simulation.hosts if host.name != name]
        self._cut([(name, other) for other in others] + [(other, name) for other in others])

    def break_connections(self) -> None:
        self._simulation.wire.break_between(*self._two())

    def slow_link(self) -> None:
        path = self._two()
        slow = self._simulation.wire.slow
        slow[path] = self.random.choice((0.05, 0.5, 2.0))
        self._for_a_while(lambda: slow.pop(path, None) and None)

    # --- processes ------------------------------------------------------------------------------------

    def _kill(self, *processes: Process) -> None:
        for process in processes:
            process.kill()

        def again() -> None:
            for process in processes:
                host = self._simulation.by_name[process.site]
                if host.up:
                    process.start()

        self._for_a_while(again, self.random.choice((0.2, MAX_DOWN_S)))

    def kill_export(self) -> None:
        self._kill(self._host().export)

    def kill_store(self) -> None:
        self._kill(self._host().store)

    def kill_both(self) -> None:
        host = self._host()
        self._kill(host.export, host.store)

    def kill_manager(self) -> None:
        self._kill(self._host().manager)

    def kill_site(self) -> None:
        """All its processes; the host goes on."""
        host = self._host()
        self._kill(host.manager, host.store, host.export)

    def _pause(self, *processes: Process) -> None:
        for process in processes:
            process.pause()
        self._for_a_while(lambda: [process.resume() for process in processes] and None)

    def pause_export(self) -> None:
        self._pause(self._host().export)

    def pause_store(self) -> None:
        self._pause(self._host().store)

    def pause_site(self) -> None:
        host = self._host()
        self._pause(host.manager, host.export, host.store)

    # --- power ----------------------------------------------------------------------------------------

    def _reboot(self, hosts: list[Host], longest_s: float) -> None:
        for host in hosts:
            if host.up:
                host.power_cut()
                self._for_a_while(lambda host=host: None if host.up else host.start(), longest_s)  # type: ignore[misc]

    def reboot(self) -> None:
        self._reboot([self._host()], 0.5)

    def reboot_all(self) -> None:
        self._reboot(self._simulation.hosts, 1.0)

    def site_down(self) -> None:
        self._reboot([self._host()], MAX_DOWN_S * 2)

    # --- disks ----------------------------------------------------------------------------------------

    def disk_error(self) -> None:
        media = self._host().media
        error = (self.random.choice(("read", "write")), self.random.choice((0.1, 1.0)))
        media.errors.append(error)
        self._for_a_while(lambda: media.errors.remove(error) if error in media.errors else None)

    def flush_error(self) -> None:
        if not any(host.media.failing_flushes for host in self._simulation.hosts):
            self._host().media.failing_flushes = 1

    def slow_disk(self) -> None:
        media = self._host().media
        media.slow_s = self.random.choice((0.1, 1.0, 3.0))

        def undo() -> None:
            media.slow_s = 0.0

        self._for_a_while(undo)

    # --- the log --------------------------------------------------------------------------------------

    def _away(self, hosts: list[Host]) -> None:
        away = self._simulation.ledger.away
        names = {host.name for host in hosts}
        away |= names
        self._for_a_while(lambda: away.difference_update(names))

    def log_away(self) -> None:
        self._away([self._host()])

    def log_away_all(self) -> None:
        self._away(self._simulation.hosts)

    # --- operators ------------------------------------------------------------------------------------

    def _volume(self) -> Volume:
        return self.random.choice(self._simulation.rows())

    def move_owner(self) -> None:
        row = self._volume()
        export = self._simulation.by_name[row.owner].export
        export.run(export.life, export.move_owner, row.name, self._host().name)

    def copies(self) -> None:
        row = self._volume()
        replica = self.random.choice(row.replicas)
        manager = self._host().manager
        what = self.random.choice(("add", "remove", "pause", "move", "move"))
        command: object
        if what == "add":
            command = AddCopy(
                row.name, (), replica_class(self._simulation, replica.local_name, row), same_site=True
            )
        elif what == "remove" and len(row.replicas) > 2:
            command = RemoveCopy(row.name, replica.local_name)
        elif what == "pause":
            command = PauseCopy(row.name, replica.local_name, not replica.paused)
        else:
            segment = replica.segments[0]
            command = BeginMove(
                row.name, row.epoch, row.owner, replica.local_name, segment.storage, segment.lun
            )
        if manager.up:
            manager.run(manager.life, manager.propose, command, lambda _outcome: None)

    # --- in a row -------------------------------------------------------------------------------------

    @property
    def _takeover_s(self) -> float:
        """After so long others claim what a manager owned that renews no lease."""
        return self._simulation.settings.lease_ms / 1e3 * 1.25 / (1 - self._simulation.settings.drift)

    def forgotten_seal(self) -> None:
        """The owner's manager is away. When another one has taken over, the store there has been told to take
        nothing older; it dies, comes back, and only then its manager hears of it."""
        row = self._volume()
        host = self._simulation.by_name[row.owner]
        away = self._simulation.ledger.away
        away.add(host.name)

        def back() -> None:
            away.discard(host.name)

        self.world.after(self._takeover_s + 3.0, self._undo, back)

        def look(tries: int) -> None:
            now = self._simulation.ledger.state.volumes[row.name].owner
            if now == host.name and tries:
                self.world.after(0.1, look, tries - 1)
            elif now != host.name:
                self.world.after(0.1 + 0.5 * self.random.random(), die)

        def die() -> None:
            if host.up and not self.over:
                host.store.kill()
                self.world.after(0.02, host.store.start)
                self.world.after(0.3 + 0.6 * self.random.random(), self._undo, back)

        look(int(self._takeover_s / 0.1) + 20)

    def late_claim(self) -> None:
        """Somebody who could take over hears of no renewals; when he is about to claim, the owner is cut off;
        what he claims comes into the log while the owner still holds a lease."""
        row = self._volume()
        hosts = self._simulation.hosts
        others = [host.name for host in hosts if host.name != row.owner]
        claimer, away = self.random.choice(others), self._simulation.ledger.away
        away.add(claimer)
        lease_s = self._simulation.settings.lease_ms / 1e3

        def cut_off() -> None:
            if self.over:
                return
            wire = self._simulation.wire
            paths = [(row.owner, other) for other in others] + [(other, row.owner) for other in others]
            for path in paths:
                wire.cut(*path)
            self.world.after(lease_s, self._undo, lambda: [wire.heal(*path) for path in paths] and None)

        self.world.after(self._takeover_s * (0.95 + 0.1 * self.random.random()), cut_off)
        late_s = self._takeover_s + 0.2 * lease_s * self.random.random()
        self.world.after(late_s, self._undo, lambda: away.discard(claimer))


def replica_class(simulation: "Simulation", name: LocalName, row: Volume) -> str:
    replica = next(r for r in row.replicas if r.local_name == name)
    segment = replica.segments[0]
    return simulation.ledger.state.reals[segment.real_id].volume_class
