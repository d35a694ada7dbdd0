"""Faults: what each does, for how long, and that all are healed at the end.

May live here: one method a fault, named like it in `settings.FAULTS`. Those of stages only are in `plots`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.cluster.host import Host
from tests.simulation.cluster.plots import PLOTS
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
        self.simulation = simulation
        self.world = simulation.world
        self.random = self.world.fork_random("faults")
        self.over = False
        self.count = 0

    def start(self) -> None:
        self._later()

    def _later(self) -> None:
        every_s = self.simulation.settings.fault_every_s
        self.world.after(every_s * (0.3 + 1.4 * self.random.random()), self._next)

    def _next(self) -> None:
        if self.over:
            return
        self._later()
        name = self.random.choice(self.simulation.settings.faults)
        self.count += 1
        self.world.note("fault", name)
        plot = PLOTS.get(name)
        if plot is not None:
            plot(self.simulation, self.random)
        else:
            getattr(self, METHODS.get(name, name.replace("-", "_")))()

    def stop(self) -> None:
        """Heal everything."""
        self.over = True
        simulation = self.simulation
        simulation.wire.heal_all()
        simulation.ledger.away.clear()
        simulation.ledger.deaf.clear()
        for host in simulation.hosts:
            host.media.errors.clear()
            host.media.slow_s = 0.0
            host.media.failing_flushes = 0
            host.media.lost = None
            host.untold = None
            if not host.up:
                host.start()
            for process in (host.manager, host.export, host.store):
                process.resume()
                process.start()

    def _host(self) -> Host:
        return self.random.choice(self.simulation.hosts)

    def _two(self) -> tuple[str, str]:
        a, b = self.random.sample(self.simulation.hosts, 2)
        return a.name, b.name

    def _for_a_while(self, undo: Callable[[], None], longest_s: float = LONG_S) -> None:
        self.world.after(0.05 + longest_s * self.random.random() ** 2, self._undo, undo)

    def _undo(self, undo: Callable[[], None]) -> None:
        if not self.over:
            undo()

    # --- network --------------------------------------------------------------------------------------

    def _cut(self, paths: list[tuple[str, str]]) -> None:
        wire = self.simulation.wire
        for path in paths:
            wire.cut(*path)
        self._for_a_while(lambda: [wire.heal(*path) for path in paths] and None)

    def cut(self) -> None:
        a, b = self._two()
        self._cut([(a, b), (b, a)])

    def one_way(self) -> None:
        self._cut([self._two()])

    def partition(self) -> None:
        names = [host.name for host in self.simulation.hosts]
        side = set(self.random.sample(names, self.random.randrange(1, len(names))))
        self._cut([(a, b) for a in names for b in names if (a in side) != (b in side)])

    def isolate(self) -> None:
        name = self._host().name
        others = [host.name for host in self.simulation.hosts if host.name != name]
        self._cut([(name, other) for other in others] + [(other, name) for other in others])

    def break_connections(self) -> None:
        self.simulation.wire.break_between(*self._two())

    def slow_link(self) -> None:
        path = self._two()
        slow = self.simulation.wire.slow
        slow[path] = self.random.choice((0.05, 0.5, 2.0))
        self._for_a_while(lambda: slow.pop(path, None) and None)

    # --- processes ------------------------------------------------------------------------------------

    def _kill(self, *processes: Process) -> None:
        for process in processes:
            process.kill()

        def again() -> None:
            for process in processes:
                host = self.simulation.by_name[process.site]
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
        self._reboot(self.simulation.hosts, 1.0)

    def site_down(self) -> None:
        self._reboot([self._host()], MAX_DOWN_S * 2)

    # --- disks ----------------------------------------------------------------------------------------

    def disk_error(self) -> None:
        media = self._host().media
        error = (self.random.choice(("read", "write")), self.random.choice((0.1, 1.0)))
        media.errors.append(error)
        self._for_a_while(lambda: media.errors.remove(error) if error in media.errors else None)

    def flush_error(self) -> None:
        if not any(host.media.failing_flushes for host in self.simulation.hosts):
            self._host().media.failing_flushes = 1

    def slow_disk(self) -> None:
        media = self._host().media
        media.slow_s = self.random.choice((0.1, 1.0, 3.0))

        def undo() -> None:
            media.slow_s = 0.0

        self._for_a_while(undo)

    # --- the log --------------------------------------------------------------------------------------

    def _away(self, hosts: list[Host]) -> None:
        away = self.simulation.ledger.away
        names = {host.name for host in hosts}
        away |= names
        self._for_a_while(lambda: away.difference_update(names))

    def log_away(self) -> None:
        self._away([self._host()])

    def log_away_all(self) -> None:
        self._away(self.simulation.hosts)

    # --- operators ------------------------------------------------------------------------------------

    def _volume(self) -> Volume:
        return self.random.choice(self.simulation.rows())

    def move_owner(self) -> None:
        row = self._volume()
        export = self.simulation.by_name[row.owner].export
        export.run(export.life, export.move_owner, row.name, self._host().name)

    def copies(self) -> None:
        row = self._volume()
        replica = self.random.choice(row.replicas)
        manager = self._host().manager
        what = self.random.choice(("add", "remove", "pause", "move", "move"))
        command: object
        if what == "add":
            command = AddCopy(
                row.name, (), replica_class(self.simulation, replica.local_name, row), same_site=True
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


def replica_class(simulation: "Simulation", name: LocalName, row: Volume) -> str:
    replica = next(r for r in row.replicas if r.local_name == name)
    segment = replica.segments[0]
    return simulation.ledger.state.reals[segment.real_id].volume_class
