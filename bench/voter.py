"""A voter of vimraft's log as a process: tests/cluster/raft_node.py with a port for changes.

`python voter.py CONFIG_JSON …`. Operations beside raft_node's: `serve` (answers {"port"}), `here` and
`here_pipelined` (changes asked in this process, as a manager asks). A change sets the URI of a storage; it
passes every check of apply.
"""

import asyncio
import itertools
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.put_clients import KEY_BYTES, VALUE_BYTES, VOTER_REQUEST, key_of
from tests.cluster import raft_node
from vimraft.core.commands import Applied, SetStorage
from vimraft.core.tables import Storage
from vimraft.metadata.port import LogError
from vimraft.metadata.pysyncobj import PySyncObjLog

DEADLINE_MS = 30_000


async def _put(log: PySyncObjLog, key: str, value: str) -> bool:
    command = SetStorage(Storage(key, "tokyo", value))
    return isinstance(await log.propose(command, who="bench", deadline_ms=DEADLINE_MS), Applied)


class _Connection(asyncio.Protocol):
    def __init__(self, log: PySyncObjLog) -> None:
        self._log = log
        self._received = bytearray()
        self._answers = bytearray()
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None] | None] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        received, at = self._received, 0
        while len(received) - at >= VOTER_REQUEST.size:
            (length,) = VOTER_REQUEST.unpack_from(received, at)
            end = at + VOTER_REQUEST.size + length
            if end > len(received):
                break
            body = received[at + VOTER_REQUEST.size : end].decode()
            at = end
            self._tasks.add(self._loop.create_task(self._answer(body[:KEY_BYTES], body[KEY_BYTES:])))
        del received[:at]

    async def _answer(self, key: str, value: str) -> None:
        try:
            done = await _put(self._log, key, value)
        except LogError:
            done = False
        if not self._answers:  # those of one turn of the loop leave together
            self._loop.call_soon(self._flush)
        self._answers += b"\x01" if done else b"\x00"
        self._tasks.discard(asyncio.current_task())

    def _flush(self) -> None:
        self._transport.write(bytes(self._answers))
        self._answers.clear()


async def _serve(server: raft_node.Server, given: dict[str, Any]) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: _Connection(server.log), "127.0.0.1", given.get("port", 0))
    server.listening = listening  # type: ignore[attr-defined]  # kept alive
    return {"port": listening.sockets[0].getsockname()[1]}


async def _here(server: raft_node.Server, given: dict[str, Any]) -> dict[str, Any]:
    """One after the other for `seconds`."""
    took_s = []
    end = time.monotonic() + given["seconds"]
    while (began := time.monotonic()) < end:
        number = len(took_s)
        assert await _put(server.log, key_of(number).decode(), f"{number:0{VALUE_BYTES}}")
        took_s.append(time.monotonic() - began)
    return {"took_s": took_s}


async def _here_pipelined(server: raft_node.Server, given: dict[str, Any]) -> dict[str, Any]:
    """`outstanding` at any time for `seconds`."""
    numbers = itertools.count()
    end = time.monotonic() + given["seconds"]
    done = 0

    async def work() -> None:
        nonlocal done
        while time.monotonic() < end:
            number = next(numbers)
            assert await _put(server.log, key_of(number).decode(), f"{number:0{VALUE_BYTES}}")
            done += 1

    began = time.monotonic()
    await asyncio.gather(*(work() for _ in range(given["outstanding"])))
    return {"rate": done / (time.monotonic() - began)}


def main() -> None:
    raft_node.Server.here_pipelined = _here_pipelined  # type: ignore[attr-defined]
    raft_node.Server.serve = _serve  # type: ignore[attr-defined]
    raft_node.Server.here = _here  # type: ignore[attr-defined]
    asyncio.run(raft_node.main())


if __name__ == "__main__":
    main()
