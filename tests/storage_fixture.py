"""Real storage for tests: files, NBD servers, loop devices, a small full file system.

Each is a context manager that leaves nothing behind: no process, device, mount or socket.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vimraft.data.feed import BackendSpec
from vimraft.data.prepare import Prepared, PrepareRequest, prepare

MIB = 1 << 20
CLUSTER, LABEL = "cluster-1", "label-1"
DEADLINE_S = 20.0
SERVER_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def wait_until(condition: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        time.sleep(0.005)


def make_file(path: Path, size_bytes: int) -> str:
    with open(path, "wb") as file:
        file.truncate(size_bytes)
    return f"file://{path}"


def request(uri: str, **more: object) -> PrepareRequest:
    return PrepareRequest(uri=uri, storage="s1", lun=0, cluster_id=CLUSTER, label_id=LABEL, **more)  # type: ignore[arg-type]


def prepare_now(uri: str, **more: object) -> Prepared:
    return prepare(request(uri, **more), MIB, lambda _done, _total: None, lambda: False)


def spec(uri: str, **changes: object) -> BackendSpec:
    fields: dict[str, object] = {
        "real": "s1:0",
        "uri": uri,
        "label_id": LABEL,
        "cluster_id": CLUSTER,
        "capacity_bytes": 3 * MIB,
        "failed": "",
    }
    return BackendSpec(**(fields | changes))  # type: ignore[arg-type]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class NbdServer:
    """One NBD server on a Unix socket, or on loopback if the arguments begin with `--port N`; may be
    killed and started again there."""

    def __init__(self, directory: Path, *arguments: str, program: str = "nbdkit") -> None:
        self.socket = directory / "nbd.sock"
        self.arguments = arguments
        self.program = program
        self.process: subprocess.Popen[bytes] | None = None
        self.tcp_port = int(arguments[1]) if arguments[:1] == ("--port",) else None

    def uri(self, export: str = "") -> str:
        return f"nbd+unix:///{export}?socket={self.socket}"

    def start(self, *arguments: str) -> None:
        command = {
            "nbdkit": ["nbdkit", "-f", "--exit-with-parent"],
            "qemu-nbd": ["qemu-nbd", "--persistent", "--socket", str(self.socket)],
        }[self.program]
        if self.program == "nbdkit" and self.tcp_port is None:
            command += ["-U", str(self.socket)]
        self.socket.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [*command, *(arguments or self.arguments)],
            env={"PATH": SERVER_PATH, "LC_ALL": "C.UTF-8"},
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._answers, f"{self.program} listens")

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"{self.program} ended with {self.process.returncode}"
        if self.tcp_port is not None:
            with socket.socket() as client:
                return client.connect_ex(("127.0.0.1", self.tcp_port)) == 0
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self.socket)) == 0

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{self.process.pid}/task")
        wait_until(
            lambda: all(
                (task / "stat").read_text().rpartition(")")[2].split()[0] == "T" for task in tasks.iterdir()
            ),
            f"{self.program} stands still",
        )

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def nbd_server(directory: Path, *arguments: str, program: str = "nbdkit") -> Iterator[NbdServer]:
    server = NbdServer(directory, *arguments, program=program)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def needs(*programs: str) -> None:
    for program in programs:
        if shutil.which(program, path=SERVER_PATH) is None:
            pytest.skip(f"{program} is not installed")


def run(*command: str) -> str:
    environment = {"PATH": SERVER_PATH, "LC_ALL": "C.UTF-8"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, f"{' '.join(command)}: {result.stderr}"
    return result.stdout.strip()


@contextlib.contextmanager
def loop_device(file: Path, *options: str) -> Iterator[str]:
    """Skips the test where loop devices may not be set up."""
    command = ["losetup", "--find", "--show", *options, str(file)]
    result = subprocess.run(command, capture_output=True, text=True, env={"PATH": SERVER_PATH}, check=False)
    if result.returncode != 0:
        pytest.skip(f"no loop devices here: {result.stderr.strip()}")
    device = result.stdout.strip()
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


@contextlib.contextmanager
def mounted(directory: Path, *arguments: str) -> Iterator[Path]:
    directory.mkdir()
    command = ["mount", *arguments, str(directory)]
    result = subprocess.run(command, capture_output=True, text=True, env={"PATH": SERVER_PATH}, check=False)
    if result.returncode != 0:
        pytest.skip(f"mounting is not permitted here: {result.stderr.strip()}")
    try:
        yield directory
    finally:
        run("umount", str(directory))


def small_tmpfs(directory: Path, size: str) -> contextlib.AbstractContextManager[Path]:
    return mounted(directory, "-t", "tmpfs", "-o", f"size={size}", "tmpfs")


def allocated_bytes(path: Path) -> int:
    return os.stat(path).st_blocks * 512
