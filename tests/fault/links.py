"""The network between nodes in the test's hands: a proxy for every pair, on loopback.

May live here: links that can be cut, cut in one direction, delayed, or broken once. A node connects to a
proxy instead of the member (faulty_node.py, `routes`); each pair of nodes has one connection at a time,
made by either side, so a link covers both.

A cut link behaves as a dead cable: connections stay, nothing arrives; what is sent meanwhile waits
(as TCP would retransmit it) or is lost with the connection when one side gives up.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

from tests.raft_cases import NodeProcess, RaftCluster, raft_cluster

PROGRAM = Path(__file__).parent / "faulty_node.py"
CHUNK_BYTES = 64 << 10


class Link:
    """Between two nodes. `passes[sender]`: whether what that address sends gets through."""

    def __init__(self, one: str, other: str) -> None:
        self.delay_s = 0.0
        self._passes = {one: asyncio.Event(), other: asyncio.Event()}
        self._writers: set[asyncio.StreamWriter] = set()
        self._servers: list[asyncio.Server] = []
        self.restore()

    async def listen(self, source: str, target: str) -> str:
        """The address where `source` finds `target`."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._carry(reader, writer, source, target)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self._servers.append(server)
        host, port = server.sockets[0].getsockname()
        return f"{host}:{port}"

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, source: str, target: str
    ) -> None:
        host, _, port = target.rpartition(":")
        try:
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.close()
            return
        both = {writer, far_writer}
        self._writers |= both
        with contextlib.suppress(OSError, asyncio.CancelledError):
            tasks = [
                asyncio.ensure_future(self._pump(reader, far_writer, source)),
                asyncio.ensure_future(self._pump(far_reader, writer, target)),
            ]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        self._writers -= both
        for one in both:
            one.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sender: str) -> None:
        while data := await reader.read(CHUNK_BYTES):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            await self._passes[sender].wait()
            writer.write(data)
            await writer.drain()

    def cut(self, sender: str | None = None) -> None:
        """Nothing gets through; with `sender`: nothing of what that one sends."""
        for address, passes in self._passes.items():
            if sender in (None, address):
                passes.clear()

    def restore(self) -> None:
        for passes in self._passes.values():
            passes.set()

    def break_connections(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        self.restore()
        self.break_connections()
        for server in self._servers:
            await server.wait_closed()


class Network:
    def __init__(self, cluster: RaftCluster) -> None:
        self.cluster = cluster
        self._links: dict[frozenset[str], Link] = {}

    async def lay(self) -> None:
        """Before the nodes start."""
        for node in self.cluster.nodes:
            node.program = PROGRAM
            node.faults["routes"] = {}
        for one, other in itertools.combinations(self.cluster.nodes, 2):
            link = self._links[frozenset((one.address, other.address))] = Link(one.address, other.address)
            for source, target in ((one, other), (other, one)):
                source.faults["routes"][target.address] = await link.listen(source.address, target.address)

    def link(self, one: NodeProcess, other: NodeProcess) -> Link:
        return self._links[frozenset((one.address, other.address))]

    def links(self, node: NodeProcess | None = None) -> list[Link]:
        return [link for pair, link in self._links.items() if node is None or node.address in pair]

    def restore(self) -> None:
        for link in self.links():
            link.delay_s = 0.0
            link.restore()

    async def close(self) -> None:
        for link in self.links():
            await link.close()


@contextlib.asynccontextmanager
async def routed_cluster(path: Path, size: int = 3, **options: int) -> AsyncIterator[Network]:
    """A formed cluster whose nodes reach each other through the test."""
    async with raft_cluster(path, size, start=False, **options) as cluster:
        network = Network(cluster)
        await network.lay()
        try:
            await cluster.start()
            await cluster.form()
            yield network
        finally:
            for node in cluster.nodes:
                await node.kill()
            await network.close()
