"""The application that the simulated clients use: the product's own tables and its own `apply`.

May live here: commands with a visible effect, and how to read it back. Every client has a volume; its write
is `ReopenVolumes` of that volume's manager, which adds one to the volume's epoch: a counter that shows each
command that was applied twice or not at all. A read is a `Barrier`, then the epochs.
"""

from typing import Any

from tests.core_cases import Tables, manager
from vimraft.core.apply import apply
from vimraft.core.codec import decode_outcome, encode_state
from vimraft.core.commands import (
    AddRealVolume,
    Applied,
    Barrier,
    BuildVolume,
    FormCluster,
    ReadsLevel,
    ReopenVolumes,
    SetLevel,
    SetManager,
    SetSite,
    SetStorage,
)
from vimraft.core.ids import ClientId
from vimraft.core.levels import FIRST, LATEST
from vimraft.core.tables import Settings, Site, State, Storage
from vimraft.metadata.requests import client_of_request, encode

UNIT_SECTORS = (1 << 20) // 512
MAX_CLIENTS = 8
MAX_REMEMBERED = 4_096


def _first_tables(level: int) -> State:
    """Formed, with a manager and a volume for each client; otherwise every run would begin with this."""
    tables = Tables()
    tables.applied(FormCluster("simulated", Settings(history_changes=16)))
    for number in range(MAX_CLIENTS):
        name = f"c{number}"
        tables.applied(SetManager(manager(name, number + 1)))
        tables.applied(SetSite(Site(name, name)))
        tables.applied(SetStorage(Storage(f"02{number}a00", name, "")))
        tables.applied(AddRealVolume(f"02{number}a00", 0, "ssd", f"file:///{name}", f"label-{name}", 4))
        tables.applied(BuildVolume(name, UNIT_SECTORS, "ssd", name))
    if level > tables.state.level:
        reads = tuple(ReadsLevel(name, level) for name in tables.state.managers)
        tables.applied(SetLevel(level, reads))
    return tables.state._replace(index=0, clients=State().clients, history=State().history, remembered=0)


FIRST_TABLES = {level: _first_tables(level) for level in range(FIRST, LATEST + 1)}
"""By level."""


class TablesApplication:
    """Application (clients.py). One for each run."""

    def __init__(self) -> None:
        self.first = FIRST_TABLES[FIRST]
        self._requests: dict[bytes, bytes] = {}
        self._results: dict[tuple[int, bytes], tuple[State, State, bytes]] = {}

    def write(self, client: str, sequence: int) -> bytes:
        request = f"{client}:{sequence}"
        data = encode(
            client_of_request(request), 1, client, ReopenVolumes(client, request), clock_s=lambda: 0.0
        )
        self._requests[data] = request.encode()
        return data

    def read(self, client: str, sequence: int) -> bytes:
        return encode(ClientId(client), sequence, client, Barrier(), clock_s=lambda: 0.0)

    def apply(self, state: State, data: bytes) -> tuple[State, bytes, bytes | None]:
        """(tables, outcome, the request that took effect). Nodes that hold the very same tables share the
        work: that `apply` depends on nothing else is tested elsewhere."""
        if state.index == 0:
            state = self.first
        key = (id(state), data)
        known = self._results.get(key)
        if known is None:
            after, outcome = apply(state, data)
            if len(self._results) >= MAX_REMEMBERED:
                self._results.clear()
            known = self._results[key] = (state, after, outcome)  # holds `state`: its id stays its own
        before, after, outcome = known
        return after, outcome, self._requests[data] if after.volumes is not before.volumes else None

    def position(self, result: Any) -> int | None:
        outcome = decode_outcome(result)
        return outcome.index if isinstance(outcome, Applied) else None

    def read_position(self, node: Any) -> int:
        return int(node.state.index)

    def holds(self, node: Any) -> set[bytes] | None:
        return None

    def counts(self, node: Any) -> dict[str, int] | None:
        state = node.state if node.state.index else self.first
        return {name: volume.epoch - self.first.volumes[name].epoch for name, volume in state.volumes.items()}

    def digest(self, node: Any) -> str:
        return encode_state(node.state).hex()
