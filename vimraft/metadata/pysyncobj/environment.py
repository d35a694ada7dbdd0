"""What the Raft node takes from outside: disk, clock, randomness, transport.

May live here: the record only. The product uses the operating system's; the simulation brings its own,
so that the very same node runs on simulated time, network and disk.
"""

import random
from collections.abc import Callable

from msgspec import Struct
from pysyncobj import SyncObj
from pysyncobj.node import Node

from vimraft.metadata.pysyncobj.disk import Disk
from vimraft.metadata.pysyncobj.gate import GatedTransport

MakeTransport = Callable[[SyncObj, Node, set[Node]], GatedTransport]


class Environment(Struct, frozen=True):
    disk: Disk
    """The Raft directory."""
    clock: Callable[[], float]
    """Seconds; must be the clock that PySyncObj itself compares its deadlines with."""
    random: random.Random
    make_transport: MakeTransport
