"""Tables of level 3 to test with: the three sites of `core_cases`, two LUNs each, and known boots."""

from tests.core_cases import SITES, UNIT, Tables, real, three_sites
from vimraft.core import levels
from vimraft.core.commands import (
    BeginResync,
    BuildVolume,
    Command,
    Outcome,
    Promote,
    ReadsLevel,
    Rejoin,
    RenewLease,
    Retire,
    SetLevel,
)
from vimraft.core.history import OutOfReach, tables_at
from vimraft.core.invariants import check_step
from vimraft.core.tables import Replica, State, Volume

REMEMBERED = ("settings", "managers", "sites", "storages", "reals", "volumes", "trash")


class CopyTables(Tables):
    """Checks each step too, and that looking back gives the tables before it."""

    def do(self, command: Command, **given: object) -> Outcome:
        before = self.state
        outcome = super().do(command, **given)
        assert check_step(before, self.state) == []
        found = tables_at(self.state, before.index)
        assert not isinstance(found, OutOfReach)
        for table in REMEMBERED:
            assert getattr(found, table) == getattr(before, table), table
        return outcome

    def volume(self, name: str = "v") -> Volume:
        return self.state.volumes[name]

    def copy(self, name: str, volume: str = "v") -> Replica:
        return next(r for r in self.volume(volume).replicas if r.local_name == name)

    def states(self, volume: str = "v") -> str:
        """As `A in_sync, B stale`."""
        return ", ".join(f"{r.local_name} {r.state}" for r in self.volume(volume).replicas)

    def at(self, volume: str = "v") -> tuple[str, int, str]:
        """What commands compare: name, epoch, owner."""
        row = self.volume(volume)
        return row.name, row.epoch, row.owner

    def retire(self, *copies: str, record: str = "r1") -> None:
        self.applied(Retire(*self.at(), copies, record))

    def resync(self, copy: str, record: str = "r1") -> None:
        self.applied(BeginResync(*self.at(), copy, record))

    def promote(self, copy: str) -> None:
        self.applied(Promote(*self.at(), copy, self.boots()))

    def boots(self) -> tuple[tuple[str, str], ...]:
        return tuple(sorted(self.state.boots.items()))

    def sites_of(self, copy: str, volume: str = "v") -> list[str]:
        return sorted({self.state.reals[s.real_id].site for s in self.copy(copy, volume).segments})


def level_three(*, units: int = 100, boots: bool = True) -> CopyTables:
    """LUNs 0 and 1 of `units` units at each site; the managers have boots `one` and leases."""
    plain = three_sites(units=units)
    plain.applied(SetLevel(levels.LATEST, tuple(ReadsLevel(f"m-{site}", levels.LATEST) for site in SITES)))
    tables = CopyTables(plain.state)
    tables.sequence = plain.sequence
    for number, site in enumerate(SITES, start=1):
        tables.applied(real(f"02{number}a00", 1, units=units))
        tables.applied(RenewLease(f"m-{site}", "life", 1, 0))
        if boots:
            tables.applied(Rejoin(f"m-{site}", "one"))
    return tables


def copies(name: str, units: int, number: int, *sites: str, **given: object) -> BuildVolume:
    return BuildVolume(name, units * UNIT, "ssd", "m-tokyo", sites, number, **given)


def two_copies(*, units: int = 10) -> CopyTables:
    """Volume v, owned by m-tokyo: copy A at tokyo, copy B at osaka."""
    tables = level_three()
    tables.applied(copies("v", units, 2))
    assert tables.states() == "A in_sync, B in_sync"
    return tables


def spread(state: State) -> dict[str, int]:
    """Free units by real volume."""
    return {str(id_): row.free_units for id_, row in state.reals.items()}
