"""PySyncObj as it is, on the simulated machine.

May live here: the node, and its files put on the simulated disk. Its journal, its messages, its elections and
its snapshots are its own code; replaced are only the three places that touch the operating system: the
mapped file (`ResizableFile`: stores into the page cache, never synced), the meta file (written and renamed
without a sync, an unreadable one is an empty one), and the dump, which a forked child writes: here a job that
ends some time later, on the disk, whether or not the parent still lives. Exceptions are swallowed where it
swallows them.
"""

import gzip
import pickle
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pysyncobj.journal
import pysyncobj.syncobj
from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj.config import SERIALIZER_STATE
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from tests.simulation.disk import Crashed
from tests.simulation.endpoint import Endpoint
from tests.simulation.machine import Machine
from tests.simulation.patches import replaced
from tests.simulation.settings import Settings, choose
from tests.simulation.world import World
from vimraft.metadata.pysyncobj.disk import read_whole

CHUNK_BYTES = 512
CHILD_S = (0.005, 0.25)
"""How long the forked child takes."""
SPIN_S = 0.01
FAILED_ROUND_S = 0.05


class _MappedFile:
    """As pysyncobj.journal.ResizableFile."""

    def __init__(
        self,
        name: str,
        initial_size: int = 1024,
        factor: float = 2.0,
        defaultContent: bytes | None = None,  # noqa: N803
    ) -> None:
        disk = Stock.world.current.disk
        new = not disk.exists(name)
        self._file = disk.open(name, create=True)
        self._factor = factor
        if new and defaultContent is not None:
            self._file.pwrite(defaultContent, 0)
        self._size = self._file.size()
        if self._size == 0:
            raise ValueError("cannot mmap an empty file")
        self._grow(initial_size)

    def _grow(self, size: int) -> None:
        if size > self._size:
            self._file.truncate(size)
            self._size = size

    def write(self, offset: int, values: bytes) -> None:
        while offset + len(values) > self._size:
            self._grow(max(int(self._size * self._factor), offset + len(values)))
        self._file.pwrite(values, offset)

    def read(self, offset: int, size: int) -> bytes:
        return self._file.pread(size, offset)

    def flush(self) -> None: ...

    def _destroy(self) -> None: ...


class _Meta:
    """As pysyncobj.journal.MetaStorer."""

    def __init__(self, path: str) -> None:
        self._path = path

    def getMeta(self) -> dict[str, Any]:
        data = read_whole(Stock.world.current.disk, self._path)
        try:
            return dict(pickle.loads(data or b""))
        except Exception:  # noqa: BLE001 (as stock)
            return {}

    def storeMeta(self, meta: dict[str, Any]) -> None:
        _replace(Stock.world.current.disk, self._path + ".tmp", self._path, pickle.dumps(meta, 2))


def _replace(disk: Any, temporary: str, final: str, data: bytes) -> None:
    """Without any sync."""
    disk.remove(temporary)  # open(…, "wb") truncates
    disk.open(temporary, create=True).pwrite(data, 0)
    disk.rename(temporary, final)


class _Serializer:
    """As pysyncobj.serializer.Serializer with useFork."""

    def __init__(self, name: str, chunk_bytes: int, *_: Any) -> None:
        self._machine: Machine = Stock.world.current
        self._name = name
        self._chunk_bytes = chunk_bytes
        self._child = ""
        """"", "runs", "done" or "failed"."""
        self._id = 0
        self._outgoing: dict[Node, tuple[Any, int]] = {}
        self._incoming: bytearray | None = None

    def checkSerializing(self) -> tuple[int, int | None]:
        if self._child == "":
            return SERIALIZER_STATE.NOT_SERIALIZING, None
        if self._child == "runs":
            return SERIALIZER_STATE.SERIALIZING, self._id
        state = SERIALIZER_STATE.SUCCESS if self._child == "done" else SERIALIZER_STATE.FAILED
        if self._child == "done":
            self._outgoing = {}
        self._child = ""
        return state, self._id

    def serialize(self, data: Any, entry_id: int) -> None:
        if self._child:
            return
        self._id = entry_id
        self._child = "runs"
        image = gzip.compress(pickle.dumps(data, 2), 1, mtime=0)
        machine = self._machine
        machine.dumping += 1
        rng = machine.random
        boots = machine.boots
        machine.world.after(rng.uniform(*CHILD_S), self._child_ends, image, boots)

    def _child_ends(self, image: bytes, boots: int) -> None:
        machine = self._machine
        if machine.boots != boots:
            return  # power was lost: the child too
        machine.dumping -= 1
        try:
            _replace(machine.disk, self._name + ".tmp", self._name, image)
            self._child = "done"
        except (OSError, Crashed):
            self._child = "failed"
        if machine.dying:
            machine.die_now()

    def deserialize(self) -> Any:
        data = read_whole(self._machine.disk, self._name)
        assert data is not None
        return pickle.loads(gzip.decompress(data))

    def getTransmissionData(self, node: Node) -> tuple[bytes, bool, bool] | None:
        if self._child:
            # The caller asks again and again for a heartbeat period, and sends an empty message each
            # time; make it a few dozen, not ten thousand.
            self._machine.busy_s += SPIN_S
            return None
        if node not in self._outgoing:
            data = read_whole(self._machine.disk, self._name)
            if data is None:
                self._machine.busy_s += SPIN_S
                return None
            self._outgoing[node] = (data, 0)  # an open file stays what it was, also when replaced
        data, sent = self._outgoing[node]
        chunk = data[sent : sent + self._chunk_bytes]
        self._outgoing[node] = (data, sent + len(chunk))
        if not chunk:
            del self._outgoing[node]
        return chunk, sent == 0, not chunk

    def setTransmissionData(self, data: tuple[bytes, bool, bool] | None) -> bool:
        if data is None:
            return False
        chunk, first, last = data
        if first:
            self._incoming = bytearray()
        if self._incoming is None:
            return False
        self._incoming += chunk
        if not last:
            return False
        image, self._incoming = bytes(self._incoming), None
        try:
            _replace(self._machine.disk, self._name + ".1.tmp", self._name, image)
        except OSError:
            return False
        return True

    def cancelTransmisstion(self, node: Node) -> None:
        self._outgoing.pop(node, None)


class StockTransport(Transport):
    def __init__(self, node: Any, self_node: Node, other_nodes: set[Node]) -> None:
        super().__init__(node, self_node, other_nodes)
        self.endpoint = Endpoint(
            node.machine,
            encode=lambda message: pickle.dumps(message, 2),
            decode=pickle.loads,
            connected=self._onNodeConnected,
            disconnected=self._onNodeDisconnected,
            received=self._onMessageReceived,
        )
        for other in sorted(other_nodes, key=lambda other: str(other.id)):
            self.endpoint.add(other)

    def addNode(self, node: Node) -> None:
        self.endpoint.add(node)

    def dropNode(self, node: Node) -> None:
        self.endpoint.drop(node)

    def send(self, node: Node, message: Any) -> bool:
        return self.endpoint.send(node, message)


class StockNode(SyncObj):
    """A trivial replicated class: the list of the commands applied."""

    def __init__(self, machine: Machine, conf: SyncObjConf) -> None:
        self.machine = machine
        partners = [address for address in machine.members if address != machine.address]
        super().__init__(machine.address, partners, conf, transportClass=StockTransport)
        self.applied: list[bytes] = []

    @replicated
    def commit(self, data: bytes) -> int:
        self.applied.append(data)
        self.machine.applied(self.machine, len(self.applied), data, data or None, b"")
        return len(self.applied)


class StockApplication:
    """Requests are their own names; a read commits one that changes nothing."""

    def write(self, client: str, sequence: int) -> bytes:
        return f"{client}:{sequence}".encode()

    def read(self, client: str, sequence: int) -> bytes:
        return b""

    def position(self, result: Any) -> int | None:
        return int(result)

    def read_position(self, node: StockNode) -> int:
        return len(node.applied)

    def holds(self, node: StockNode) -> set[bytes] | None:
        return set(node.applied)

    def counts(self, node: StockNode) -> dict[str, int] | None:
        return None

    def digest(self, node: StockNode) -> str:
        return str(zlib.crc32(repr(node.applied).encode()))


class Stock:
    """Kind (machine.py) and Cluster (simulation.py). One world at a time: PySyncObj opens files by
    global names."""

    name = "stock"
    world: World

    def __init__(self, only: tuple[str, ...] = ()) -> None:
        self._only = only
        self.kind = self
        self.application = StockApplication()

    def settings(self, world: World) -> Settings:
        Stock.world = world
        self._settings = choose(world.random, hardened=False, only=self._only)
        return self._settings

    def belongs(self, machine: Machine, leader: Machine) -> bool:
        return True

    def prepare(self, run: Any) -> None: ...

    @contextmanager
    def installed(self) -> Iterator[None]:
        with (
            replaced(pysyncobj.journal, ResizableFile=_MappedFile, MetaStorer=_Meta),
            replaced(pysyncobj.syncobj, Serializer=_Serializer),
        ):
            yield

    def boot(self, machine: Machine) -> StockNode:
        timing = self._settings.timing
        return StockNode(
            machine,
            SyncObjConf(
                autoTick=False,
                appendEntriesUseBatch=False,
                commandsWaitLeader=False,
                raftMinTimeout=timing.election_min_s,
                raftMaxTimeout=timing.election_max_s,
                appendEntriesPeriod=timing.heartbeat_s,
                leaderFallbackTimeout=timing.stock_fallback_s,
                logCompactionBatchSize=CHUNK_BYTES,
                logCompactionMinEntries=timing.compaction_entries,
                journalFile="journal",
                fullDumpFile="dump",
            ),
        )

    def round(self, node: StockNode) -> None:
        node.doTick(0.0)

    def failed(self, machine: Machine, error: Exception) -> None:
        machine.world.note(machine.name, "exception", repr(error))  # its thread logs it and goes on
        machine.busy_s += FAILED_ROUND_S

    def submit(self, node: StockNode, data: bytes, done: Callable[[Any, int], None]) -> None:
        node.commit(data, callback=done)

    def ended(self, machine: Machine, *, power: bool) -> None:
        if power:
            machine.boots += 1  # children die with the power only
            machine.dumping = 0
