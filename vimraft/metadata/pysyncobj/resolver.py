"""Names of hosts to addresses, without making the node's thread wait for a name server.

May live here: the lookups, each in a short-lived thread of its own, and what they found. PySyncObj's
resolver blocks the thread that ticks, and with it elections, for as long as a name server is silent.
"""

import ipaddress
import socket
import threading
from collections.abc import Callable
from typing import Final

import structlog

from vimraft.metadata.pysyncobj.connection import Sockaddr

log = structlog.get_logger(__name__)

REFRESH_S: Final = 30.0
MAX_HOSTS: Final = 256

Found = tuple[int, Sockaddr]
"""(family, socket address)"""


def split(address: str) -> tuple[str, int]:
    """'host:port' → (host, port). Raises ValueError."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()) or not int(port) < 65536:
        raise ValueError(f"{address!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def look_up(address: str) -> list[Found]:
    """Blocks. Raises OSError, ValueError."""
    host, port = split(address)
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    found = [(int(family), sockaddr) for family, _, _, _, sockaddr in infos]
    return sorted(found, key=lambda one: one[0] != socket.AF_INET)


class Resolver:
    """`find` is for one thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._known: dict[str, tuple[float, list[Found]]] = {}
        self._asking: set[str] = set()
        self._failed: set[str] = set()

    def find(self, address: str) -> list[Found]:
        """What is known now; empty while the first lookup runs or nothing is found."""
        numeric = _numeric(address)
        if numeric is not None:
            return [numeric]
        now = self._clock()
        taken, found = self._known.get(address, (now - REFRESH_S, []))
        if now - taken >= REFRESH_S and address not in self._asking and len(self._known) < MAX_HOSTS:
            self._asking.add(address)
            threading.Thread(
                target=self._ask, args=(address, now, found), name="vimraft-resolve", daemon=True
            ).start()
        return found

    def _ask(self, address: str, now: float, before: list[Found]) -> None:
        try:
            found = look_up(address)
            self._failed.discard(address)
        except (OSError, ValueError) as error:
            found = before  # better an old address than none
            if address not in self._failed:
                self._failed.add(address)
                log.warning("raft.name_not_resolved", address=address, problem=str(error))
        # Asked again after REFRESH_S; soon, if nothing is known at all.
        self._known[address] = (now if found else now - REFRESH_S + 1.0, found)
        self._asking.discard(address)


def _numeric(address: str) -> Found | None:
    try:
        host, port = split(address)
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    if ip.version == 6:
        return int(socket.AF_INET6), (str(ip), port, 0, 0)
    return int(socket.AF_INET), (str(ip), port)
