"""Faults in a row that seldom follow one another by chance, each to show what one rule is there for.

May live here: one function a plot, named in `PLOTS`; only the stages of mutations have them. They look at
what no real fault could know, and heal what they did.
"""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from tests.simulation.cluster.host import Host
from tests.simulation.cluster.media import LAST_EVICTED_AFTER_S
from tests.simulation.cluster.record import Loss

if TYPE_CHECKING:
    from tests.simulation.cluster.simulation import Simulation

LOOK_S: Final = 0.002


def _until(
    simulation: "Simulation", seen: Callable[[], bool], tries: int, then: Callable[[bool], None]
) -> None:
    """`then(True)` when `seen`, `then(False)` when it was not for long."""
    if simulation.faults.over:
        return
    if seen() or not tries:
        then(tries > 0)
    else:
        simulation.world.after(LOOK_S, _until, simulation, seen, tries - 1, then)


def _takeover_s(simulation: "Simulation") -> float:
    """After so long others claim what a manager owned that renews no lease."""
    return simulation.settings.lease_ms / 1e3 * 1.25 / (1 - simulation.settings.drift)


def _later(simulation: "Simulation", delay_s: float, call: Callable[[], None]) -> None:
    """Unless all was healed meanwhile."""
    simulation.world.after(delay_s, lambda: None if simulation.faults.over else call())


def _again(simulation: "Simulation", host: Host) -> None:
    """The export dies, with what it had not sent; another one starts."""
    host.export.kill()
    _later(simulation, 0.2, host.export.start)


def _isolate(simulation: "Simulation", name: str) -> Callable[[], None]:
    """What heals it."""
    others = [host.name for host in simulation.hosts if host.name != name]
    paths = [(name, other) for other in others] + [(other, name) for other in others]
    for path in paths:
        simulation.wire.cut(*path)
    return lambda: [simulation.wire.heal(*path) for path in paths] and None


def forgotten_seal(simulation: "Simulation", rng: random.Random) -> None:
    """Somebody takes over, and seals the store of the old owner, whose export hears nothing of it. The
    manager and the store there start again from before; the export writes on."""
    row = rng.choice(simulation.rows())
    host, ledger = simulation.by_name[row.owner], simulation.ledger
    ledger.away.add(host.name)
    host.untold = host.export
    busy_s = 0.1 + 0.4 * rng.random()

    def healed() -> None:
        host.untold = None
        ledger.away.discard(host.name)

    def back() -> None:
        healed()
        _again(simulation, host)

    def taken_over() -> bool:
        return ledger.state.volumes[row.name].owner != host.name

    def let_in(seen: bool) -> None:
        """The store there seals before that of the new owner, who would retire it otherwise."""
        ledger.away.discard(host.name)
        if seen:
            store = simulation.by_name[ledger.state.volumes[row.name].owner].store
            store.pause()
            _later(simulation, 0.4, store.resume)
        _until(simulation, served if seen else lambda: False, 1_000 if seen else 0, forget)

    def served() -> bool:
        found = simulation.by_name[ledger.state.volumes[row.name].owner].export.served.get(row.name)
        return found is not None and found.owner.serving

    def forget(seen: bool) -> None:
        if not seen:
            back()
            return
        ledger.away.add(host.name)
        for process in (host.store, host.manager):
            process.kill()
        host.manager.start()
        host.store.start()
        _later(simulation, busy_s, back)

    _until(simulation, taken_over, int((_takeover_s(simulation) + 2.0) / LOOK_S), let_in)


def late_claim(simulation: "Simulation", rng: random.Random) -> None:
    """Somebody who could take over hears of no renewals; when he is about to claim, the owner is cut off;
    what he claims comes into the log while the owner still holds a lease."""
    row = rng.choice(simulation.rows())
    others = [host.name for host in simulation.hosts if host.name != row.owner]
    claimer, away = rng.choice(others), simulation.ledger.away
    away.add(claimer)
    lease_s = simulation.settings.lease_ms / 1e3
    takeover_s = _takeover_s(simulation)

    def cut_off() -> None:
        _later(simulation, lease_s, _isolate(simulation, row.owner))

    _later(simulation, takeover_s * (0.95 + 0.1 * rng.random()), cut_off)
    _later(simulation, takeover_s + 0.2 * lease_s * rng.random(), lambda: away.discard(claimer))


def lost_right(simulation: "Simulation", rng: random.Random) -> None:
    """The only copy in step is the owner's. He brings another one into step, hears nothing of that any more,
    and is cut off from all: somebody else takes over."""
    row = rng.choice(simulation.rows())
    host, ledger = simulation.by_name[row.owner], simulation.ledger
    patience = int(3 * simulation.settings.store_timeout_s / LOOK_S) + 1_000
    others = sorted({
        ledger.state.reals[segment.real_id].site for replica in row.replicas for segment in replica.segments
    } - {host.name})  # fmt: skip
    if not others:
        return
    heal_cut = _isolate(simulation, rng.choice(others))

    def states() -> list[str]:
        return [replica.state for replica in ledger.state.volumes[row.name].replicas]

    def mend(_seen: bool) -> None:
        heal_cut()
        _until(simulation, lambda: "syncing" in states(), patience, promote)

    def promote(seen: bool) -> None:
        if seen and ledger.state.volumes[row.name].owner == host.name:
            ledger.deaf.add(host.name)
            _until(simulation, lambda: states().count("in_sync") > 1, patience, cut_off)

    def cut_off(_seen: bool) -> None:
        heal = _isolate(simulation, host.name)

        def hear() -> None:
            heal()
            ledger.deaf.discard(host.name)

        _later(simulation, 2 * _takeover_s(simulation) + 1.0, hear)

    _until(simulation, lambda: states().count("in_sync") == 1, patience, mend)


def partly_sealed(simulation: "Simulation", rng: random.Random) -> None:
    """A copy spans sites. The owner's life ends when a store of it has writes that the other copy has not,
    and the next life can reach all stores but that one, for a while."""
    row = rng.choice(simulation.rows())
    copies = [
        {simulation.ledger.state.reals[segment.real_id].site for segment in replica.segments}
        for replica in row.replicas
    ]
    host = simulation.by_name[row.owner]
    ahead = next((rng.choice(sorted(copy - {host.name})) for copy in copies if len(copy) > 1), None)
    behind = next((min(copy) for copy in copies if len(copy) == 1 and host.name not in copy), None)
    if ahead is None or behind is None:
        return
    store = simulation.by_name[ahead].store
    paths = [(host.name, behind), (behind, host.name)]
    for path in paths:
        simulation.wire.cut(*path)

    def heal() -> None:
        for path in paths:
            simulation.wire.heal(*path)

    def end() -> None:
        store.pause()
        _again(simulation, host)
        _later(simulation, 0.1, heal)
        _later(simulation, 0.4 + 0.2 * rng.random(), store.resume)

    _later(simulation, 0.1 + 0.1 * rng.random(), end)


def lost_flush(simulation: "Simulation", rng: random.Random) -> None:
    """The next flush fails at a copy that is the only one in sync."""
    host = rng.choice(simulation.hosts)
    host.media.lost = lambda: _last_copy_fails(simulation, host)


def _last_copy_fails(simulation: "Simulation", host: Host) -> bool:
    state = simulation.ledger.state
    hit = []
    for row in simulation.rows():
        synced = [replica for replica in row.replicas if replica.state == "in_sync"]
        sites = {state.reals[segment.real_id].site for replica in synced for segment in replica.segments}
        if host.name in sites:
            hit.append(row)
            if sites != {host.name}:
                return False
    for row in hit:
        # what is promoted just then has all that was acknowledged, and nobody need hear of anything
        told = all(replica.state != "syncing" for replica in row.replicas)
        loss = simulation.record.not_flushed(row.name, told=told)
        simulation.world.after(LAST_EVICTED_AFTER_S + LOOK_S, _all_dropped, simulation, loss)
    return bool(hit)


def _all_dropped(simulation: "Simulation", loss: Loss) -> None:
    loss.until = simulation.record.stamp()


PLOTS: Final[dict[str, Callable[["Simulation", random.Random], None]]] = {
    "forgotten-seal": forgotten_seal,
    "late-claim": late_claim,
    "lost-flush": lost_flush,
    "lost-right": lost_right,
    "partly-sealed": partly_sealed,
}
