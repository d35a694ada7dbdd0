"""Joining a running cluster: ask one of its managers, then remember whom to talk to.

`join` makes the tables know this manager and prepares the data directory; `vimraft site run` then listens,
asks for its vote, and receives everything by snapshot and log.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from vimraft.api.caller_errors import ApiError, CallerError
from vimraft.api.client import Client
from vimraft.api.schema import JoinReply, JoinRequest, JoinSite
from vimraft.site.config import Config

log = structlog.get_logger(__name__)

JOINED_FILE = "joined.json"
RETRY_S = 1.0


def join(config: Config, via_url: str, token: str) -> JoinReply:
    """Raises ApiError (refused, unreachable) and OSError; repeating it is harmless."""
    config.data_dir.mkdir(parents=True, exist_ok=True)
    reply = Client((via_url,), token).join(_request(config, listening=False))
    write_durably(config.token_file or config.data_dir / "api.token", f"{token}\n".encode(), mode=0o600)
    write_durably(config.data_dir / JOINED_FILE, msgspec.json.encode(reply), mode=0o600)
    return reply


def _request(config: Config, *, listening: bool) -> JoinRequest:
    return JoinRequest(
        manager=config.manager,
        raft_address=config.network.raft,
        api_url=config.api_url,
        nbd_address=config.network.nbd,
        peer_address=config.network.peer,
        sites=tuple(JoinSite(name=site.name, priority=site.priority) for site in config.sites),
        listening=listening,
    )


def _joined(data_dir: Path) -> JoinReply | None:
    path = data_dir / JOINED_FILE
    return msgspec.json.decode(path.read_bytes(), type=JoinReply) if path.exists() else None


def joined_members(data_dir: Path) -> tuple[str, ...]:
    """Raft addresses learned when this manager joined; empty if it formed the cluster itself."""
    reply = _joined(data_dir)
    return reply.members if reply else ()


async def ask_for_vote(config: Config, token: str, *, received: Callable[[], bool]) -> None:
    """A manager that joined and has `received` nothing yet asks, now that it runs, to be given its vote.

    Only then: one that was removed must not come back by being restarted.
    """
    reply = _joined(config.data_dir)
    while reply is not None and not config.raft.members and not received():
        try:
            await asyncio.to_thread(Client(reply.api_urls, token).join, _request(config, listening=True))
        except (ApiError, CallerError) as error:
            log.warning("join.waits", cause=str(error))
        await asyncio.sleep(RETRY_S)


def write_durably(path: Path, data: bytes, *, mode: int) -> None:
    """The whole file or the one before it, also after a power loss."""
    temporary = path.with_name(path.name + ".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(temporary, path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
