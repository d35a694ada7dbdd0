"""Raft nodes as processes that a test may kill, stop and start again.

Ends exactly the processes that it started. Everything waits for a condition with a deadline.
"""

import asyncio
import contextlib
import itertools
import json
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from vimraft.core import levels
from vimraft.core.commands import (
    AddRealVolume,
    Command,
    FormCluster,
    SetManager,
    SetSetting,
    SetSite,
    SetStorage,
)
from vimraft.core.tables import Manager, Settings, Site, Storage

PROGRAM = Path(__file__).parent / "cluster" / "raft_node.py"


def free_addresses(count: int) -> list[str]:
    """Loopback addresses with ports that are free now; held together, so that all differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]


async def until(
    condition: Callable[[], Awaitable[Any]] | Callable[[], Any], timeout_s: float, what: str
) -> Any:
    """The first true value of `condition`; fails with `what` at the deadline."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.02)


def storage(address: str) -> SetStorage:
    """A change that shows by its name."""
    return SetStorage(Storage(address, "tokyo", ""))


def real(lun: int) -> AddRealVolume:
    """A change that is refused (Exists) if it is applied a second time."""
    return AddRealVolume("021a00", lun, "ssd", f"file:///real/{lun}", f"label-{lun}", 100)


def forming(level: int) -> tuple[Command, ...]:
    """What makes tables of that level; at the first one each entry of the log holds one command."""
    addresses = ("127.0.0.1:1", "http://127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4")
    return (
        FormCluster("0123456789abcdef0123456789abcdef", Settings(), level=level),
        SetManager(Manager("tokyo", *addresses, level=level)),
        SetSite(Site("tokyo", "tokyo")),
        storage("021a00"),
    )


FORMING = forming(levels.LATEST)


class CallFailed(Exception):
    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


class NodeProcess:
    def __init__(self, address: str, members: Iterable[str], data_dir: Path, **options: int) -> None:
        self.address = address
        self.data_dir = data_dir
        self.config = {
            "self_address": address,
            "members": list(members),
            "data_dir": str(data_dir),
            "allow_plaintext": True,
            **options,
        }
        self.opened: dict[str, Any] = {}
        self.program = PROGRAM
        self.faults: dict[str, Any] = {}
        """What `program` is to do wrong (see tests/fault/faulty_node.py); given at each start."""
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._ids = itertools.count(1)

    @property
    def raft_dir(self) -> Path:
        return self.data_dir / "raft"

    @property
    def stderr(self) -> str:
        return (self.data_dir / "stderr").read_text()

    async def start(self) -> None:
        self.data_dir.mkdir(exist_ok=True)
        self._answers = {0: asyncio.get_running_loop().create_future()}
        with (self.data_dir / "stderr").open("ab") as stderr:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(self.program),
                json.dumps(self.config),
                json.dumps(self.faults),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
            )
        self._reading = asyncio.create_task(self._read())
        self.opened = await asyncio.wait_for(self._answers[0], 30)

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            reply = json.loads(line)
            future = self._answers.pop(reply.pop("id"))
            if future.done():
                continue
            if "error" in reply:
                future.set_exception(CallFailed(reply["error"], reply["message"]))
            else:
                future.set_result(reply)
        for future in self._answers.values():
            if not future.done():
                future.set_exception(CallFailed("Gone", f"{self.address} has ended"))
        self._answers.clear()

    async def call(self, op: str, *, patience_s: float = 60, **given: Any) -> dict[str, Any]:
        """Raises CallFailed."""
        assert self._process is not None
        assert self._process.stdin is not None
        if self._reading is None or self._reading.done():
            raise CallFailed("Gone", f"{self.address} has ended")
        number = next(self._ids)
        future = asyncio.get_running_loop().create_future()
        self._answers[number] = future
        self._process.stdin.write(json.dumps({"id": number, "op": op, **given}).encode() + b"\n")
        return await asyncio.wait_for(future, patience_s)

    async def propose(self, command: Command, *, deadline_ms: int = 10_000, **given: Any) -> dict[str, Any]:
        return await self.call(
            "propose", command=msgspec.to_builtins(command), deadline_ms=deadline_ms, **given
        )

    async def add(self, member: "NodeProcess", *, deadline_ms: int = 10_000, **given: Any) -> None:
        """Let `member`, which runs, in. Raises CallFailed."""
        node_id = (await member.status())["node_id"]
        await self.call(
            "add_member", address=member.address, node_id=node_id, deadline_ms=deadline_ms, **given
        )

    async def status(self) -> dict[str, Any]:
        return await self.call("status")

    async def tables(self) -> dict[str, Any]:
        return await self.call("tables")

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> None:
        if self._process is None:
            return
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        assert self._reading is not None
        await self._reading
        self._process = None

    async def close(self) -> int:
        """Orderly end; the exit code."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        return await asyncio.wait_for(self._process.wait(), 10)

    async def exit_code(self, timeout_s: float) -> int:
        assert self._process is not None
        return await asyncio.wait_for(self._process.wait(), timeout_s)


class RaftCluster:
    def __init__(self, path: Path, options: dict[str, int]) -> None:
        self._path = path
        self._options = options
        self.nodes: list[NodeProcess] = []

    def make(self, address: str, members: Iterable[str]) -> NodeProcess:
        """A node that is not started yet."""
        node = NodeProcess(address, members, self._path / f"node{len(self.nodes)}", **self._options)
        self.nodes.append(node)
        return node

    async def start(self) -> None:
        await asyncio.gather(*(node.start() for node in self.nodes))

    async def leader(self, nodes: list[NodeProcess] | None = None, timeout_s: float = 10) -> NodeProcess:
        async def find() -> NodeProcess | None:
            for node in nodes or self.nodes:
                if (await node.status())["is_leader"]:
                    return node
            return None

        return await until(find, timeout_s, "a leader")

    async def same_digest(self, nodes: list[NodeProcess], timeout_s: float = 20) -> dict[str, Any]:
        """The tables that all of `nodes` hold."""

        async def compare() -> dict[str, Any] | None:
            tables = [await node.tables() for node in nodes]
            return tables[0] if len({t["digest"] for t in tables}) == 1 else None

        return await until(compare, timeout_s, "equal tables")

    async def fill(self, node: NodeProcess, count: int) -> None:
        """Commit `count` changes that leave the tables small while the log grows."""
        for start in range(0, count, 200):
            values = range(start, min(start + 200, count))
            await asyncio.gather(*(node.propose(SetSetting("io_timeout_ms", 2_000 + i)) for i in values))

    async def form(self, level: int = levels.LATEST) -> None:
        for command in forming(level):
            outcome = await self.nodes[0].propose(command)
            assert outcome["reason"] is None


@contextlib.asynccontextmanager
async def raft_cluster(
    path: Path, size: int = 3, *, start: bool = True, **options: int
) -> AsyncIterator[RaftCluster]:
    """`options`: fields of PySyncObjConfig. Every compaction writes a new journal, or as they say."""
    options.setdefault("journal_slack_bytes", 0)
    cluster = RaftCluster(path, options)
    addresses = free_addresses(size)
    for address in addresses:
        cluster.make(address, addresses)
    try:
        if start:
            await cluster.start()
            await cluster.form()
        yield cluster
    finally:
        for node in cluster.nodes:
            await node.kill()
