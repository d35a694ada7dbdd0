"""`vimraft site run`: one site manager in the foreground, until it is told to stop.

SIGTERM or SIGINT: clean shutdown, data plane included. SIGHUP: the manager ends and leaves its data plane
serving, for the next manager to adopt (upgrade without touching I/O).
May live here: locking, logging, signals, and the HTTP server's life.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sqlite3
import sys
from pathlib import Path
from typing import Any

import structlog
import uvicorn

from vimraft.api.server import make_app
from vimraft.core.levels import LATEST
from vimraft.metadata.port import Log, LogError
from vimraft.metadata.pysyncobj import PySyncObjConfig, TlsFiles, open_log
from vimraft.site.backups import remember_run
from vimraft.site.catalogue import Catalogue
from vimraft.site.config import Config, ConfigError, load_config, split_address
from vimraft.site.directory import StartError, locked, write_durably
from vimraft.site.join import Joined, read_joined
from vimraft.site.manager import SiteManager
from vimraft.site.supervisor import AddressInUse
from vimraft.site.upgrade import backup_before_upgrade

log = structlog.get_logger(__name__)

MAX_SOCKET_PATH = 107
API_BACKLOG = 256
API_STOP_S = 3


def run(config_path: Path) -> int:
    """Returns when the manager has stopped. Raises ConfigError and StartError."""
    config = load_config(config_path)
    _configure_logging(config.log_level)
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    _check_socket_paths(config)
    with locked(config):
        return asyncio.run(_serve(config))


def _configure_logging(level: str) -> None:
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ConfigError(f"log_level {level!r} is none of debug, info, warning, error, critical")
    logging.basicConfig(level=max(number, logging.WARNING), stream=sys.stderr, format="%(name)s %(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(_without_traceback)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(
                key_order=["timestamp", "level", "event"], bool_as_flag=False
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _without_traceback(record: logging.LogRecord) -> bool:
    """Libraries log faults with their stacks; what they mean is said in words by whoever handles them."""
    record.exc_info = record.exc_text = None
    return True


def _check_socket_paths(config: Config) -> None:
    longest = str(config.data_dir / "run" / "export.feed")
    if len(longest.encode()) > MAX_SOCKET_PATH:
        raise ConfigError(
            f"data_dir {config.data_dir} is too long: the socket {longest} would have more than "
            f"{MAX_SOCKET_PATH} bytes; choose a shorter directory"
        )


def _token(config: Config) -> str:
    path = config.token_file or config.data_dir / "api.token"
    try:
        token = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        token = secrets.token_urlsafe(32)
        write_durably(path, f"{token}\n".encode(), mode=0o600)
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"token file {path}: {error}; make it readable for this user") from None
    if len(token) < 16:
        raise StartError(f"token file {path} holds no token; delete it and a new one is made")
    return token


async def _open_log(config: Config) -> Log:
    joined = read_joined(config.data_dir)  # first: one that was replaced may still list raft.members
    forming = config.raft.members
    members = set(joined.members) if joined else {*forming, config.network.raft} if forming else set()
    if not members:
        raise StartError(
            f"manager {config.manager} belongs to no cluster: list raft.members in its configuration, "
            "or join a running one with: vimraft site join (with --replace if its disk was lost)"
        )
    try:
        return await _open_pysyncobj(config, members, joined)
    except LogError as error:
        raise StartError(str(error)) from None


def _tls_files(config: Config) -> TlsFiles | None:
    tls = config.tls
    return None if tls is None else TlsFiles(ca=str(tls.ca), cert=str(tls.cert), key=str(tls.key))


async def _open_pysyncobj(config: Config, members: set[str], joined: Joined | None) -> Log:
    return await open_log(
        PySyncObjConfig(
            self_address=config.network.raft,
            members=tuple(sorted(members)),
            cluster=joined.cluster if joined is not None else "",
            generation=joined.generation if joined is not None else 0,
            birth=joined.birth if joined is not None else "",
            data_dir=config.data_dir,
            election_min_ms=config.raft.election_min_ms,
            election_max_ms=config.raft.election_max_ms,
            heartbeat_ms=config.raft.heartbeat_ms,
            compaction_entries=config.raft.compaction_entries,
            tls=_tls_files(config),
            allow_plaintext=config.network.allow_plaintext,
        )
    )


async def _note_run(manager: SiteManager, backup_problem: str) -> None:
    """The next start knows this release, unless its backup is still to be taken."""
    site = manager.site
    if backup_problem:
        site.backup_problem = backup_problem
        log.error("backup.failed", cause=backup_problem)
        await site.record("backup.failed", site.me, "error", backup_problem)
        return
    try:
        await asyncio.to_thread(remember_run, site.config.data_dir, LATEST)
    except OSError as error:
        log.error("directory.run_not_noted", cause=str(error))


def _api_socket(config: Config) -> socket.socket:
    host, port = split_address(config.network.api)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only where the protocol is named; without it every reply waits 40 ms.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise StartError(
            f"network.api {config.network.api}: {error.strerror}; stop what listens there or choose "
            "another port"
        ) from None
    sock.listen(API_BACKLOG)
    return sock


async def _serve(config: Config) -> int:
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[signal.Signals] = loop.create_future()

    def on_signal(number: signal.Signals) -> None:
        if not stop.done():
            stop.set_result(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal, number)
    async with contextlib.AsyncExitStack() as unwind:
        api_socket = unwind.enter_context(_api_socket(config))
        catalogue = await _open_catalogue(config)
        unwind.push_async_callback(catalogue.close)
        backup_problem = await asyncio.to_thread(backup_before_upgrade, config)
        replicated_log = await _open_log(config)
        unwind.push_async_callback(replicated_log.close)
        manager = SiteManager(config, _token(config), replicated_log, catalogue)
        await _note_run(manager, backup_problem)
        try:
            await manager.start()
        except AddressInUse as error:
            await manager.stop(leave_data_plane=True)  # one that was adopted serves on
            raise StartError(
                f"{error}: stop what listens there, or choose another address in the configuration"
            ) from None
        log.info("manager.started", manager=config.manager, api=config.api_url, pid=os.getpid())
        number = await _serve_api(manager, api_socket, stop)
        await manager.stop(leave_data_plane=number == signal.SIGHUP)
    log.info("manager.stopped", manager=config.manager)
    return 0


async def _serve_api(
    manager: SiteManager, api_socket: socket.socket, stop: "asyncio.Future[signal.Signals]"
) -> signal.Signals:
    """Until a signal comes; returns it."""
    server = uvicorn.Server(
        uvicorn.Config(
            make_app(manager),
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=API_STOP_S,
            http="h11",
            ws="none",
        )
    )
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    serving = asyncio.create_task(server.serve(sockets=[api_socket]))
    waiting: set[asyncio.Future[Any]] = {stop, serving}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    number = stop.result() if stop.done() else signal.SIGTERM
    log.info("manager.stopping", signal=number.name)
    server.should_exit = True
    await serving
    return number


async def _open_catalogue(config: Config) -> Catalogue:
    path = config.data_dir / "catalogue.sqlite"
    try:
        return await Catalogue.open(
            path,
            site=config.sites[0].name if config.sites else config.manager,
            keep_events=config.events.keep_events,
            keep_load_hours=config.events.keep_load_hours,
        )
    except (sqlite3.Error, OSError) as error:
        raise StartError(f"catalogue {path}: {error}; free some space or make it writable") from None
