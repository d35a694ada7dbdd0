"""tests/cluster/raft_node.py with faults of its own: `python faulty_node.py CONFIG_JSON FAULTS_JSON`.

May live here: what goes wrong inside the node's process. Faults (all optional): those of faulty_disk.py;
`routes` {member: address to connect to instead}; `poison` (a storage whose change makes apply raise);
`bad_subscriber` (one that raises at every change); `level` (of a release that reads no higher one). Beside
raft_node's operations: `commit_bytes`, `fill`.
"""

import asyncio
import functools
import json
import socket
import sys
from pathlib import Path
from typing import Any

import structlog

ROUTES: dict[tuple[str, int], tuple[str, int]] = {}


class RoutedSocket(socket.socket):
    """Connections to a member go where the test wants them (its proxy)."""

    def connect(self, address: Any) -> None:
        super().connect(ROUTES.get(address, address) if isinstance(address, tuple) else address)

    def connect_ex(self, address: Any) -> int:
        return super().connect_ex(ROUTES.get(address, address) if isinstance(address, tuple) else address)


socket.socket = RoutedSocket  # type: ignore[misc]  # before anyone else takes it
sys.path.insert(0, str(Path(__file__).parents[2]))

from vimraft.core import levels  # noqa: E402

if "level" in (FAULTS := json.loads(sys.argv[2])):
    levels.LATEST = FAULTS["level"]  # type: ignore[misc]  # before anyone else takes it

from tests.cluster import raft_node  # noqa: E402
from tests.fault import faulty_disk  # noqa: E402
from vimraft.core import apply as core_apply  # noqa: E402
from vimraft.core.codec import CodecError, decode_request  # noqa: E402
from vimraft.core.commands import SetSetting, SetStorage  # noqa: E402
from vimraft.core.tables import State  # noqa: E402


def _endpoint(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def _poisoned(name: str, state: State, data: bytes) -> tuple[State, bytes]:
    try:
        command = decode_request(data).command
    except CodecError:
        command = None
    if isinstance(command, SetStorage) and command.storage.address == name:
        raise ZeroDivisionError(f"a bug in apply, met at {name}")
    return core_apply.apply(state, data)


def _raise(*_: object) -> None:
    raise ZeroDivisionError("a bug in a subscriber")


async def _commit_bytes(server: raft_node.Server, given: dict[str, Any]) -> dict[str, Any]:
    """Bytes as they are into the log; no retries. The code that the node answers with (None: silence)."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[int] = loop.create_future()

    def done(result: object, code: int) -> None:
        loop.call_soon_threadsafe(lambda: None if answer.done() else answer.set_result(code))

    server.log._node.commit(bytes.fromhex(given["data"]), callback=done)
    try:
        return {"code": await asyncio.wait_for(answer, given["deadline_ms"] / 1000)}
    except TimeoutError:
        return {"code": None}


async def _fill(server: raft_node.Server, given: dict[str, Any]) -> dict[str, Any]:
    """`count` changes that leave the tables small while the log grows."""
    numbers = iter(range(given["count"]))

    async def work() -> None:
        for number in numbers:
            command = SetSetting("io_timeout_ms", 2_000 + number % 10_000)
            await server.log.propose(command, who="test", deadline_ms=60_000)

    await asyncio.gather(*(work() for _ in range(given["outstanding"])))
    return {}


def main() -> None:
    config, faults = json.loads(sys.argv[1]), FAULTS
    # structlog's own tracebacks take 0.3 s each where rich is installed: longer than an election.
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], plain])
    ROUTES.update({_endpoint(to): _endpoint(via) for to, via in faults.get("routes", {}).items()})
    faulty_disk.install(faults, Path(config["data_dir"]) / "raft")
    raft_node.Server.commit_bytes = _commit_bytes  # type: ignore[attr-defined]
    raft_node.Server.fill = _fill  # type: ignore[attr-defined]
    open_log = raft_node.open_log

    async def open_with_faults(given: Any) -> Any:
        options = {}
        if faults.get("poison"):
            options["apply_command"] = functools.partial(_poisoned, faults["poison"])
        log = await open_log(given, **options)
        if faults.get("bad_subscriber"):
            log.subscribe(_raise)
        return log

    raft_node.open_log = open_with_faults  # type: ignore[assignment]
    asyncio.run(raft_node.main())


if __name__ == "__main__":
    main()
