"""The last result of each client, by which a repeated request is recognised (INV-8), and how long it is kept.

May live here: keeping and forgetting; what a repeated request gets is decided in `apply`. Deterministic: time
is that of the commands themselves, and nothing depends on the order in which a Map iterates.

From level 2 on a result is kept for WINDOW_MS after its command, as long as there are no more than
MAX_CLIENTS of them. The oldest go first. The clock is that of whoever proposed; one that is fast may make
others look older than they are, so the newest MIN_CLIENTS are kept in any case. A cluster of level 1 keeps
that many and knows no time.

Cost: once in LOOK_EVERY commands all results are looked at, and sorted when some must go.
"""

from typing import Final

from immutables import Map

from vimraft.core import levels
from vimraft.core.ids import ClientId
from vimraft.core.tables import ClientResult

WINDOW_MS: Final = 10 * 60 * 1000
MAX_CLIENTS: Final = 32_768
"""Over it, the eighth with the oldest results is forgotten."""
MIN_CLIENTS: Final = 4_096
"""At level 1: as MAX_CLIENTS. From level 2 on: so many are kept whatever the time."""
LOOK_EVERY: Final = 1_024

Clients = Map[ClientId, ClientResult]


def most_clients(level: int) -> int:
    return MAX_CLIENTS if level >= levels.RESULTS_HAVE_TIME else MIN_CLIENTS


def remember(clients: Clients, client: ClientId, result: ClientResult, level: int) -> Clients:
    """`result.at_ms` is the time of now; 0 at level 1."""
    clients = clients.set(client, result)
    if len(clients) <= MIN_CLIENTS:
        return clients
    most = most_clients(level)
    due = result.index % LOOK_EVERY == 0 or len(clients) > most
    if level >= levels.RESULTS_HAVE_TIME and due:
        clients = _without(clients, len(clients) - MIN_CLIENTS, result.at_ms - WINDOW_MS)
    if len(clients) > most:
        clients = _without(clients, most // 8, None)
    return clients


def _without(clients: Clients, count: int, before_ms: int | None) -> Clients:
    """Without the `count` oldest ones, or those among them that are of a time before."""
    last = sorted([row.index for row in clients.values()])[count - 1]  # no two commands have the same
    gone = [
        name
        for name, row in clients.items()
        if row.index <= last and (before_ms is None or row.at_ms < before_ms)
    ]
    if not gone:
        return clients
    fewer = clients.mutate()
    for name in gone:
        del fewer[name]
    return fewer.finish()
