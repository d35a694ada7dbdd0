"""The servers that vimraft is compared with: each serves one raw file over TCP on loopback.

May live here: how each is started and ended. The files are written once in full, flushed, and stay in the
page cache, exactly as the real volume's file under vimraft.
"""

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import nbd

from tests.cluster_fixture import free_ports, wait_for

START_S = 10.0
STOP_S = 10.0


class Server(NamedTuple):
    uri: str
    pid: int


Argv = Callable[[int, str], list[str]]


def _nbdkit_file(port: int, path: str) -> list[str]:
    return ["nbdkit", "--foreground", "--exit-with-parent", "-i", "127.0.0.1", "-p", str(port), "file", path]


def _nbdkit_nbd(port: int, uri: str) -> list[str]:
    """A proxy in C: what a forwarding server costs without any mapping or ordering."""
    return [
        "nbdkit",
        "--foreground",
        "--exit-with-parent",
        "-i",
        "127.0.0.1",
        "-p",
        str(port),
        "nbd",
        f"uri={uri}",
    ]


def _qemu_nbd(port: int, path: str) -> list[str]:
    return [
        "qemu-nbd", "--persistent", "--format=raw", "--cache=writeback", "--shared=16",
        "--bind=127.0.0.1", f"--port={port}", path,
    ]  # fmt: skip


FILE_SERVERS: dict[str, tuple[str, Argv]] = {
    "nbdkit-file": ("nbdkit", _nbdkit_file),
    "qemu-nbd": ("qemu-nbd", _qemu_nbd),
}


def installed() -> list[str]:
    """Names of the file servers that this machine has."""
    return [name for name, (program, _) in FILE_SERVERS.items() if shutil.which(program)]


@contextlib.contextmanager
def file_server(name: str, path: Path) -> Iterator[Server]:
    with _serving(FILE_SERVERS[name][1], str(path)) as server:
        yield server


@contextlib.contextmanager
def proxy_server(uri: str) -> Iterator[Server]:
    with _serving(_nbdkit_nbd, uri) as own:
        yield own


@contextlib.contextmanager
def _serving(argv: Argv, what: str) -> Iterator[Server]:
    (port,) = free_ports(1)
    uri = f"nbd://127.0.0.1:{port}/"
    process = subprocess.Popen(argv(port, what), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def accepts() -> bool:
        if process.poll() is not None:
            return True
        handle = nbd.NBD()
        handle.connect_uri(uri)
        handle.shutdown()
        return True

    try:
        wait_for(accepts, START_S, f"{process.args!r} accepts")
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended at once with status {process.returncode}")
        yield Server(uri, process.pid)
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
