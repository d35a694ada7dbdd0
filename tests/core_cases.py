"""Tables to test with: a driver that applies commands, and a small cluster of three sites."""

from vimraft.core import codec
from vimraft.core.apply import apply
from vimraft.core.commands import (
    AddRealVolume,
    Applied,
    BuildVolume,
    Command,
    FormCluster,
    Outcome,
    Rejected,
    Request,
    SetManager,
    SetSite,
    SetStorage,
)
from vimraft.core.invariants import check
from vimraft.core.reasons import Reason
from vimraft.core.tables import Manager, Run, Settings, Site, State, Storage

MIB = 1 << 20
UNIT = MIB // 512
"""Sectors in an allocation unit of the default size."""
SITES = ("tokyo", "osaka", "nagoya")


class Tables:
    """Applies commands one after the other, and checks after each what must always hold."""

    def __init__(self, state: State | None = None) -> None:
        self.state = State() if state is None else state
        self.sequence = 0

    def do(self, command: Command, *, who: str = "test", at_ms: int = 1_000) -> Outcome:
        self.sequence += 1
        request = Request("client", self.sequence, at_ms, who, command)
        before = self.state
        self.state, data = apply(before, codec.encode_request(request, before.level))
        outcome = codec.decode_outcome(data)
        assert self.state.index == before.index + 1 == outcome.index
        assert check(self.state) == []
        if isinstance(outcome, Rejected):
            assert self.state._replace(index=before.index, clients=before.clients) == before
        return outcome

    def applied(self, command: Command, **given: object) -> Applied:
        outcome = self.do(command, **given)
        assert isinstance(outcome, Applied), outcome
        return outcome

    def refused(self, command: Command) -> Reason:
        """The reason; that nothing changed has been checked."""
        outcome = self.do(command)
        assert isinstance(outcome, Rejected), outcome
        return outcome.reason

    def free(self, storage: str, lun: int = 0) -> tuple[Run, ...]:
        return self.state.reals[storage, lun].free


def manager(name: str, number: int) -> Manager:
    return Manager(
        name,
        f"127.0.0.1:{1000 + number}",
        f"http://127.0.0.1:{2000 + number}",
        f"10.0.0.{number}:10809",
        f"127.0.0.1:{4000 + number}",
    )


def real(storage: str, lun: int = 0, *, units: int = 100, volume_class: str = "ssd") -> AddRealVolume:
    return AddRealVolume(
        storage, lun, volume_class, f"file:///{storage}/{lun}", f"label-{storage}-{lun}", units
    )


def three_sites(*, units: int = 100, settings: Settings | None = None) -> Tables:
    """Managers m-SITE, storages 021a00, 022a00, 023a00 with one `ssd` LUN 0 each.

    tokyo looks further at osaka and nagoya, the others nowhere.
    """
    tables = Tables()
    tables.applied(FormCluster("test-cluster", settings or Settings()))
    for number, site in enumerate(SITES, start=1):
        tables.applied(SetManager(manager(f"m-{site}", number)))
        tables.applied(SetSite(Site(site, f"m-{site}")))
        tables.applied(SetStorage(Storage(f"02{number}a00", site, "")))
        tables.applied(real(f"02{number}a00", units=units))
    tables.applied(SetSite(Site("tokyo", "m-tokyo", ("osaka", "nagoya"))))
    return tables


def build(
    name: str, units: int, *, sectors: int = 0, sites: tuple[str, ...] = (), volume_class: str = "ssd"
) -> BuildVolume:
    """`units` allocation units and `sectors` more, asked of m-tokyo."""
    return BuildVolume(name, units * UNIT + sectors, volume_class, "m-tokyo", sites)
