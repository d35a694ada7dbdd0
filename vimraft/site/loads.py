"""What the owners of volumes with copies are told of the load at each copy.

May live here: a pure function from heartbeats to the message for the export. A hint that goes into the choice
of a copy to read from; nothing is decided by it.
"""

from vimraft.core.change import reals_of
from vimraft.core.ids import ManagerName
from vimraft.core.tables import Replica, State
from vimraft.data.feed import CopyLoad, Loads
from vimraft.site.health import Health
from vimraft.site.rates import latency_us

MAX_ROWS = 4_096
"""Copies that the export is told of; beyond these it goes by what it sees itself."""


def _load(state: State, health: Health, replica: Replica) -> tuple[int, int] | None:
    """(requests under way, latency) at its busiest real volume; None: nobody says."""
    worst: tuple[int, int] | None = None
    for real in reals_of(replica.segments):
        manager = state.sites[state.reals[real].site].manager
        latest = health.latest(manager)
        if latest is None or not health.is_up(manager):
            continue
        io = latest[0].reals.get(str(real))
        if io is None:
            continue
        found = (io.in_flight, round(latency_us(io)))
        if worst is None or (found[0] + 1) * found[1] > (worst[0] + 1) * worst[1]:
            worst = found
    return worst


def loads_of(state: State, health: Health, me: ManagerName) -> Loads:
    """Of the volumes that `me` owns, where there is a choice."""
    rows: list[CopyLoad] = []
    for volume in state.volumes.values():
        in_sync = [replica for replica in volume.replicas if replica.state == "in_sync"]
        if volume.owner != me or len(in_sync) < 2 or volume.read_policy == "primary":
            continue
        for replica in in_sync:
            load = _load(state, health, replica)
            if load is not None and len(rows) < MAX_ROWS:
                rows.append(CopyLoad(volume.name, replica.local_name, *load))
    return Loads(tuple(sorted(rows, key=lambda row: (row.volume, row.copy))))
