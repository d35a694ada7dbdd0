"""Naming requests so that a retry is recognised: lanes, request ids, encoding.

May live here: what every adapter of the log port needs to turn a command into codec bytes with a
(client, sequence) under which `apply` keeps its result (INV-8). No I/O, no Raft.

A *lane* is a client id of this process with one command outstanding at a time, because apply keeps
only the last result of a client. Several lanes let proposals overlap; the lowest free lane is taken,
so a quiet process uses one.
"""

import heapq
import secrets
import time
from collections.abc import Callable

from vimraft.core.codec import encode_request
from vimraft.core.commands import Command, Request
from vimraft.core.ids import ClientId
from vimraft.core.levels import FIRST

PROPOSAL_LANES = 1024
"""Proposals of one node that may be under way at a time: a sync covers about half as many. Each lane that
was ever used is a row in the tables."""
MAX_REQUEST_ID_CHARS = 64


class Lanes:
    """Client ids of one incarnation: "<node>/<random incarnation>/<lane>"."""

    def __init__(self, node: str, count: int = PROPOSAL_LANES) -> None:
        prefix = f"{node}/{secrets.token_hex(8)}"
        self._clients = [ClientId(f"{prefix}/{lane}") for lane in range(count)]
        self._free = list(range(count))
        self._taken = bytearray(count)
        self._sequences = [0] * count

    @property
    def free(self) -> int:
        return len(self._free)

    def take(self) -> tuple[int, ClientId, int]:
        """(lane, client id, sequence). The caller has made sure that a lane is free."""
        lane = heapq.heappop(self._free)
        self._taken[lane] = True
        self._sequences[lane] += 1
        return lane, self._clients[lane], self._sequences[lane]

    def give(self, lane: int) -> None:
        assert self._taken[lane]
        self._taken[lane] = False
        heapq.heappush(self._free, lane)


def client_of_request(request_id: str) -> ClientId:
    """Raises ValueError for an id that is empty, too long or not printable."""
    if not 0 < len(request_id) <= MAX_REQUEST_ID_CHARS or not request_id.isprintable():
        raise ValueError(
            f"request id {request_id[:80]!r} must be 1 to {MAX_REQUEST_ID_CHARS} printable characters"
        )
    return ClientId(f"req/{request_id}")


def encode(
    client: ClientId,
    sequence: int,
    who: str,
    command: Command,
    clock_s: Callable[[], float] = time.time,
    *,
    level: int = FIRST,
) -> bytes:
    """`level`: of the tables as applied here, so that every manager can read the request."""
    return encode_request(
        Request(client=client, sequence=sequence, at_ms=int(clock_s() * 1000), who=who, command=command),
        level,
    )
