"""Joining a running cluster: ask one of its managers, then remember whom to talk to.

`join` makes the tables know this manager and prepares the data directory; `vimraft site run` then listens,
asks to be let into the log (as an observer first, so that a slow newcomer never weakens the majority) and
for its vote once it has caught up, and receives everything by snapshot and log.

A manager that comes back with an empty disk joins in the same way, in place of the one before it
(`replace`); so does one that was removed. Whatever log still lies in the data directory is then set aside,
never deleted: a log that the cluster has given up must not be continued. Each step can be repeated after
any interruption.
"""

import asyncio
import os
import time
from pathlib import Path

import msgspec
import structlog

from vimraft.api.caller_errors import ApiError, CallerError
from vimraft.api.client import Client
from vimraft.api.schema import JoinReply, JoinRequest, JoinSite
from vimraft.core import levels
from vimraft.metadata.port import Log
from vimraft.site.config import Config
from vimraft.site.directory import StartError, locked, sync_directory, write_durably

log = structlog.get_logger(__name__)

JOINED_FILE = "joined.json"
RETRY_S = 1.0


class Joined(msgspec.Struct, frozen=True):
    """Content of joined.json."""

    cluster_id: str
    members: tuple[str, ...]
    """Raft addresses of the others at that time."""
    api_urls: tuple[str, ...] = ()
    cluster: str = ""
    generation: int = 0
    birth: str = ""
    """With which it begins: it never comes into another cluster, or another life of this one."""
    observer: bool = False
    seated: bool = False
    """It has been in the log. One that is not (any more) was removed, and must not bring itself back."""


def join(
    config: Config, via_url: str, token: str, *, observer: bool = False, replace: bool = False
) -> JoinReply:
    """Raises ApiError (refused, unreachable), StartError and OSError; repeating it is harmless."""
    with locked(config):
        return _join_locked(config, via_url, token, observer=observer, replace=replace)


def _join_locked(config: Config, via_url: str, token: str, *, observer: bool, replace: bool) -> JoinReply:
    before = read_joined(config.data_dir)
    holds_log = _holds_log(config.data_dir)
    with Client((via_url,), token) as client:
        if holds_log and not replace:
            _check_same_cluster(config, before, client.status().cluster_id)
        request = _request(config, listening=False, observer=observer, replace=replace)
        reply = client.join(request)
    seated = before is not None and before.seated and holds_log
    if holds_log and (replace or (seated and reply.role == "joining")):  # replaced, or removed since
        _set_aside(config.data_dir)
        seated = False
    write_durably(config.token_file or config.data_dir / "api.token", f"{token}\n".encode(), mode=0o600)
    joined = Joined(
        cluster_id=reply.cluster_id,
        members=reply.members,
        api_urls=reply.api_urls,
        cluster=reply.cluster,
        generation=reply.generation,
        birth=reply.birth,
        observer=observer,
        seated=seated,
    )
    _remember(config.data_dir, joined)
    return reply


def _holds_log(data_dir: Path) -> bool:
    raft = data_dir / "raft"
    return raft.is_dir() and any(raft.iterdir())


def _check_same_cluster(config: Config, before: Joined | None, cluster_id: str) -> None:
    raft = config.data_dir / "raft"
    if before is None:
        raise StartError(
            f"{raft} holds a log already: start that manager with: vimraft site run. To give that log up and "
            f"come back empty: vimraft site join --replace {config.manager} …; one that was removed from the "
            "cluster: move that directory away first"
        )
    if before.cluster_id != cluster_id:
        raise StartError(
            f"{raft} holds the log of cluster {before.cluster_id}, and this is cluster {cluster_id}: choose "
            "another data_dir"
        )


def _set_aside(data_dir: Path) -> None:
    kept = data_dir / f"raft.replaced-{time.time_ns()}"
    os.rename(data_dir / "raft", kept)
    sync_directory(data_dir)
    log.warning("join.log_set_aside", kept=str(kept))


def _request(
    config: Config, *, listening: bool, observer: bool, replace: bool = False, node_id: str = ""
) -> JoinRequest:
    return JoinRequest(
        manager=config.manager,
        raft_address=config.network.raft,
        api_url=config.api_url,
        nbd_address=config.network.nbd,
        peer_address=config.network.peer,
        sites=tuple(JoinSite(name=site.name, priority=site.priority) for site in config.sites),
        listening=listening,
        node_id=node_id,
        observer=observer,
        replace=replace,
        level=levels.LATEST,
    )


def read_joined(data_dir: Path) -> Joined | None:
    """What this manager learned when it joined; None if it formed the cluster itself."""
    path = data_dir / JOINED_FILE
    return msgspec.json.decode(path.read_bytes(), type=Joined) if path.exists() else None


def _remember(data_dir: Path, joined: Joined) -> None:
    write_durably(data_dir / JOINED_FILE, msgspec.json.encode(joined), mode=0o600)


async def ask_for_seat(config: Config, token: str, replicated_log: Log) -> None:
    """Until a manager that joined is what it wants to be: observer, or voter.

    Never for one that was in the log and is not any more: it was removed, and only an operator lets it in
    again.
    """
    joined = read_joined(config.data_dir)
    said = ""
    while joined is not None:
        role = replicated_log.status().role
        if role != "joining" and not joined.seated:
            joined = msgspec.structs.replace(joined, seated=True)
            await asyncio.to_thread(_remember, config.data_dir, joined)
        if role == "voter" or (role == "observer" and joined.observer):
            return
        problem = "removed" if role == "joining" and joined.seated else ""
        if not problem:
            problem = await asyncio.to_thread(_ask, config, token, joined, replicated_log.node_id)
        if problem and problem != said:
            log.warning("join.waits", role=role, cause=problem)
        said = problem
        await asyncio.sleep(RETRY_S)


def _ask(config: Config, token: str, joined: Joined, node_id: str) -> str:
    """Why it is not there yet; '' if it is."""
    request = _request(config, listening=True, observer=joined.observer, node_id=node_id)
    try:
        with Client(joined.api_urls, token) as client:
            reply = client.join(request)
    except (ApiError, CallerError) as error:
        return str(error)
    return "" if reply.role in ("voter", "observer" if joined.observer else "voter") else reply.note
