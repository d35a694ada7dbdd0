"""Starting a data-plane process of this site: which script, parameters, log file.

May live here: what the site knows about it; how nbdkit is started is vimraft.data.launch's.
"""

import importlib.util
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from vimraft.data.feed import Role
from vimraft.data.launch import LaunchError, plan_launch
from vimraft.site.config import Config

MAX_LOG_BYTES = 16 << 20


def plugin_script(role: Role) -> Path:
    spec = importlib.util.find_spec(f"nbd_plugin.{role}")
    if spec is None or spec.origin is None:
        raise LaunchError(f"the plugin nbd_plugin.{role} is not installed beside vimraft")
    return Path(spec.origin)


def copies_directory(config: Config) -> Path:
    """What both processes keep about volumes with copies."""
    return config.data_dir / "copies"


def spawn_plane(
    role: Role, config: Config, run_dir: Path, sockets: Sequence[socket.socket]
) -> "subprocess.Popen[bytes]":
    """In a session of its own: it outlives this manager, and a signal to the terminal misses it."""
    launch = plan_launch(
        role,
        script=plugin_script(role),
        params={
            "feed": str(run_dir / f"{role}.feed"),
            "lock": str(run_dir / f"{role}.lock"),
            "manager": config.manager,
            "copies": str(copies_directory(config)),
        },
        listen_fds=[sock.fileno() for sock in sockets],
        threads=config.data.threads,
    )
    log_path = run_dir / f"{role}.log"
    if log_path.exists() and log_path.stat().st_size > MAX_LOG_BYTES:
        log_path.replace(run_dir / f"{role}.log.1")
    with log_path.open("ab") as log:
        return subprocess.Popen(
            launch.argv,
            env=launch.env,
            pass_fds=launch.pass_fds,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
