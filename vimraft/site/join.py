"""Joining a running cluster: ask one of its managers, then remember whom to talk to.

`join` prepares the data directory; `vimraft site run` then starts as a member and receives everything by
snapshot and log.
"""

import os
from pathlib import Path

import msgspec

from vimraft.api.client import Client
from vimraft.api.schema import JoinReply, JoinRequest, JoinSite
from vimraft.site.config import Config

JOINED_FILE = "joined.json"


def join(config: Config, via_url: str, token: str) -> JoinReply:
    """Raises ApiError (refused, unreachable) and OSError; repeating it is harmless."""
    config.data_dir.mkdir(parents=True, exist_ok=True)
    request = JoinRequest(
        manager=config.manager,
        raft_address=config.network.raft,
        api_url=config.api_url,
        nbd_address=config.network.nbd,
        peer_address=config.network.peer,
        sites=tuple(JoinSite(name=site.name, priority=site.priority) for site in config.sites),
    )
    reply = Client((via_url,), token).join(request)
    write_durably(config.token_file or config.data_dir / "api.token", f"{token}\n".encode(), mode=0o600)
    write_durably(config.data_dir / JOINED_FILE, msgspec.json.encode(reply), mode=0o600)
    return reply


def joined_members(data_dir: Path) -> tuple[str, ...]:
    """Raft addresses learned when this manager joined; empty if it formed the cluster itself."""
    path = data_dir / JOINED_FILE
    if not path.exists():
        return ()
    return msgspec.json.decode(path.read_bytes(), type=JoinReply).members


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
