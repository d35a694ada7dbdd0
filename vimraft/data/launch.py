"""How nbdkit is started: arguments, environment and sockets, for the supervisor and for tests alike.

May live here: what is known by experiment about starting nbdkit with the Python plugin. Sockets go in by
LISTEN_FDS, so that clients who connect while a process is replaced wait in the socket's queue. nbdkit
requires LISTEN_PID to be its own pid and the sockets at 3, 4 …: a two-line Python program arranges both and
becomes nbdkit (same pid). The first python3 on PATH decides the embedded interpreter, hence the fixed PATH.
"""

import os
import re
import site
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from vimraft.data.feed import Role

NBDKIT = "/usr/bin/nbdkit"
PYTHON = "/usr/bin/python3"
SAFE_PARALLEL = (1, 34)
"""Before it, a client that dies with requests in flight on a plaintext connection aborts a server that runs
PARALLEL (assertion `sock >= 0`); SERIALIZE_REQUESTS and TLS are safe."""
_STARTER = (
    "import os,sys\n"
    "fds=[os.dup(int(f)) for f in sys.argv[1].split(',') if f]\n"
    "high=[__import__('fcntl').fcntl(f,0,64) for f in fds]\n"
    "[os.dup2(f,3+i) for i,f in enumerate(high)]\n"
    "[os.close(f) for f in high]\n"
    "os.closerange(3+len(high),64)\n"
    "os.environ.update(LISTEN_PID=str(os.getpid()),LISTEN_FDS=str(len(high)))\n"
    "os.execv(sys.argv[2],sys.argv[2:])\n"
)

ThreadModel = Literal["serialize", "parallel"]


class LaunchError(Exception):
    """nbdkit or its Python plugin is not usable: names what is missing and the remedy."""


class Launch(NamedTuple):
    """For subprocess.Popen(argv, env=env, pass_fds=pass_fds)."""

    argv: list[str]
    env: dict[str, str]
    pass_fds: tuple[int, ...]
    thread_model: ThreadModel


@cache
def nbdkit_version(nbdkit: str = NBDKIT) -> tuple[int, int, int]:
    """Raises LaunchError."""
    try:
        text = subprocess.run(
            [nbdkit, "--version"], capture_output=True, text=True, check=True, timeout=10
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise LaunchError(
            f"{nbdkit}: {error}. Install the Debian packages nbdkit, nbdkit-plugin-python"
        ) from None
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", text)
    if found is None:
        raise LaunchError(f"{nbdkit} --version says {text!r}: no version in it")
    return int(found[1]), int(found[2]), int(found[3])


def choose_thread_model(version: tuple[int, ...], *, tls: bool) -> ThreadModel:
    """PARALLEL only where a dying client cannot abort the server."""
    return "parallel" if tls or version[:2] >= SAFE_PARALLEL else "serialize"


def site_packages() -> tuple[str, ...]:
    """Of this interpreter: where the embedded one finds vimraft and its dependencies."""
    return tuple(path for path in site.getsitepackages() if os.path.isdir(path))


def plan_launch(
    role: Role,
    *,
    script: Path,
    params: Mapping[str, str],
    listen_fds: Sequence[int],
    threads: int = 16,
    tls_args: Sequence[str] = (),
    nbdkit: str = NBDKIT,
    packages: Sequence[str] | None = None,
) -> Launch:
    """`params`: feed, lock, manager (see nbd_plugin). Raises LaunchError."""
    for needed in ("feed", "lock", "manager"):
        if not params.get(needed):
            raise LaunchError(f"{role}: parameter {needed}= is missing")
    if not script.is_file():
        raise LaunchError(
            f"{role}: the plugin {script} is not there; install vimraft with its nbd_plugin package"
        )
    model = choose_thread_model(nbdkit_version(nbdkit), tls=bool(tls_args))
    argv = [
        PYTHON, "-I", "-S", "-c", _STARTER, ",".join(map(str, listen_fds)),
        nbdkit, "--foreground", "--threads", str(threads), *tls_args,
        "python", str(script), f"model={model}", f"listen={len(listen_fds)}",
        *(f"{key}={value}" for key, value in params.items()),
    ]  # fmt: skip
    env = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "VIMRAFT_SITE_PACKAGES": ":".join(packages if packages is not None else site_packages()),
    }
    return Launch(argv, env, tuple(listen_fds), model)
