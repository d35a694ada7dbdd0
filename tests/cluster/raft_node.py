"""One Raft node as a process, for tests: commands as JSON lines on stdin, answers on stdout.

`python raft_node.py CONFIG_JSON …`. Every line {"id": n, "op": name, …} is answered by {"id": n, …} when
it is done; several may be under way. Ends when stdin does.
"""
# ruff: noqa: E402

import asyncio
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

sys.modules.setdefault("rich", None)  # type: ignore[arg-type]  # structlog would import it: a sixth of the start
import structlog

from vimraft.core.codec import encode_state, state_digest
from vimraft.core.commands import Applied, Command
from vimraft.metadata.port import LogError
from vimraft.metadata.pysyncobj import PySyncObjConfig, PySyncObjLog, open_log

structlog.configure(logger_factory=structlog.PrintLoggerFactory(file=sys.stderr))


def answer(**fields: Any) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


class Server:
    def __init__(self, log: PySyncObjLog) -> None:
        self.log = log

    async def propose(self, given: dict[str, Any]) -> dict[str, Any]:
        outcome = await self.log.propose(
            msgspec.convert(given["command"], Command),
            who="test",
            deadline_ms=given["deadline_ms"],
            request_id=given.get("request_id"),
        )
        reason = None if isinstance(outcome, Applied) else repr(outcome.reason)
        return {"index": outcome.index, "reason": reason}

    async def barrier(self, given: dict[str, Any]) -> dict[str, Any]:
        state = await self.log.barrier(deadline_ms=given["deadline_ms"])
        return {"index": state.index}

    async def latency(self, given: dict[str, Any]) -> dict[str, Any]:
        """Sequential commits, then pipelined ones."""
        took_ms = []
        for _ in range(given["count"]):
            begun = time.perf_counter()
            await self.log.barrier(deadline_ms=5_000)
            took_ms.append((time.perf_counter() - begun) * 1000)
        begun = time.perf_counter()
        await asyncio.gather(*(self.log.barrier(deadline_ms=30_000) for _ in range(given["pipelined"])))
        rate = given["pipelined"] / (time.perf_counter() - begun)
        took_ms.sort()
        return {"p50_ms": took_ms[len(took_ms) // 2], "p99_ms": took_ms[-len(took_ms) // 100], "rate": rate}

    async def status(self, given: dict[str, Any]) -> dict[str, Any]:
        return msgspec.to_builtins(self.log.status())

    async def tables(self, given: dict[str, Any]) -> dict[str, Any]:
        state = self.log.state
        return {
            "index": state.index,
            "digest": state_digest(state),
            "state_bytes": len(encode_state(state)),
            "storages": sorted(state.storages),
            "reals": sorted(real.lun for real in state.reals.values()),
            "reals_added": sum(change.what == "real-added" for change in state.history),
            "rss_mb": rss_mb(),
        }

    async def add_member(self, given: dict[str, Any]) -> dict[str, Any]:
        await self.log.add_member(
            given["address"],
            node_id=given.get("node_id", ""),
            voter=given.get("voter", True),
            deadline_ms=given["deadline_ms"],
        )
        return {}

    async def remove_member(self, given: dict[str, Any]) -> dict[str, Any]:
        await self.log.remove_member(given["address"], deadline_ms=given["deadline_ms"])
        return {}

    async def handle(self, given: dict[str, Any]) -> None:
        try:
            result = await getattr(self, given["op"])(given)
        except LogError as error:
            result = {"error": type(error).__name__, "message": str(error)}
        answer(id=given["id"], **result)


def rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)


async def main() -> None:
    config = msgspec.json.decode(sys.argv[1], type=PySyncObjConfig, dec_hook=lambda kind, value: kind(value))
    begun = time.monotonic()
    try:
        log = await open_log(config)
    except LogError as error:
        answer(id=0, error=type(error).__name__, message=str(error))
        return
    answer(id=0, open_s=time.monotonic() - begun, pid=os.getpid())
    server = Server(log)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    tasks: set[asyncio.Task[None]] = set()
    while line := await reader.readline():
        task = asyncio.create_task(server.handle(json.loads(line)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await log.close()


if __name__ == "__main__":
    asyncio.run(main())
