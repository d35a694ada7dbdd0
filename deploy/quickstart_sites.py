"""The three sites of the quickstart as processes: their files, ports, start and end.

May live here: what needs Debian's Python alone, since `--down` must work when `.venv` is gone.
Keeps: a process is signalled only after its command line has shown that it serves this checkout's state
directory (a recorded pid may have been given to something else since).
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).resolve().parents[1]
STATE = CHECKOUT / ".vimraft"
CONTEXT = STATE / "context.toml"
TOKEN = STATE / "token"
VIMRAFT = CHECKOUT / ".venv" / "bin" / "vimraft"

NAMES = ("tokyo", "osaka", "nagoya")
HOST = "127.0.0.1"
PORT_BASES = range(21100, 22000, 100)
"""The first hundred of which all twelve ports are free is used: BASE + 10 × site + 0 … 3."""
ROLES = ("raft", "api", "nbd", "peer")
STOP_S = 15.0
KILL_S = 5.0
LOG_TAIL_CHARS = 3_000


class QuickstartError(Exception):
    """Names what failed, why, and what to do."""


class Site(NamedTuple):
    name: str
    address: str
    """Storage address of its one storage."""

    @property
    def directory(self) -> Path:
        return STATE / self.name

    @property
    def config(self) -> Path:
        return self.directory / "site.toml"

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def disks(self) -> Path:
        return self.directory / "disks"

    @property
    def log(self) -> Path:
        return self.directory / "manager.log"

    @property
    def pid_file(self) -> Path:
        return self.directory / "manager.pid"

    def network(self) -> dict[str, str]:
        """host:port by role, from its site.toml."""
        table: dict[str, str] = tomllib.loads(self.config.read_text(encoding="utf-8"))["network"]
        return table

    def log_tail(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL_CHARS:]

    def manager_pid(self) -> int | None:
        return _living(self.pid_file)

    def pids(self) -> list[int]:
        """All its living processes, the manager first (it would start the others again)."""
        files = (self.pid_file, self.data / "run" / "export.lock", self.data / "run" / "store.lock")
        return [pid for pid in map(_living, files) if pid is not None]

    def start(self) -> None:
        with self.log.open("ab") as log:
            manager = subprocess.Popen(
                [str(VIMRAFT), "site", "run", "--config", str(self.config)],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.pid_file.write_text(f"{manager.pid}\n", encoding="ascii")


SITES = tuple(Site(name, f"02{number}a00") for number, name in enumerate(NAMES, start=1))


def configure() -> bool:
    """Writes the files of all three sites, unless they are there. True when they were made now."""
    if CONTEXT.exists():
        return False
    base = _free_base()
    addresses = {
        site.name: {role: f"{HOST}:{base + 10 * i + j}" for j, role in enumerate(ROLES)}
        for i, site in enumerate(SITES)
    }
    members = [addresses[name]["raft"] for name in NAMES]
    STATE.mkdir(mode=0o700, exist_ok=True)
    _write(TOKEN, secrets.token_hex(32) + "\n")
    for site in SITES:
        site.disks.mkdir(parents=True, exist_ok=True)
        lines = [
            "# Written by deploy/quickstart; every key is explained in deploy/site.example.toml.",
            f'manager = "{site.name}"',
            f'data_dir = "{site.data}"',
            f'token_file = "{TOKEN}"',
            "[[sites]]",
            f'name = "{site.name}"',
            f"priority = {_strings(name for name in NAMES if name != site.name)}",
            "[network]",
            *(f'{role} = "{address}"' for role, address in addresses[site.name].items()),
            "allow_plaintext = true",
            "[raft]",
            f"members = {_strings(members)}",
        ]
        _write(site.config, "\n".join(lines) + "\n")
    # Last: with it the configuration is whole.
    urls = _strings(f"http://{addresses[name]['api']}" for name in NAMES)
    _write(CONTEXT, f'api = {urls}\ntoken_file = "{TOKEN}"\n')
    return True


def kill_site(site: Site) -> int:
    """As if the site's power failed: SIGKILL to the manager, then to what serves its data."""
    pids = site.pids()
    for pid in pids:
        _signal(pid, signal.SIGKILL)
    if not _wait_gone(pids, KILL_S):
        raise QuickstartError(f"{site.name}: processes {pids} are still there after SIGKILL")
    return len(pids)


def take_down() -> int:
    """Ends every process of the three sites, cleanly where they listen, and removes the state."""
    managers = [pid for site in SITES if (pid := site.manager_pid()) is not None]
    everything = [pid for site in SITES for pid in site.pids()]
    for pid in managers:
        _signal(pid, signal.SIGTERM)
    _wait_gone(managers, STOP_S)
    for number in (signal.SIGTERM, signal.SIGKILL):
        left = [pid for site in SITES for pid in site.pids()]
        for pid in left:
            _signal(pid, number)
        if _wait_gone(left, KILL_S):
            break
    left = [pid for site in SITES for pid in site.pids()]
    if left:
        raise QuickstartError(f"processes {left} do not end; {STATE} is left as it is")
    if STATE.exists():
        shutil.rmtree(STATE)
    return len(everything)


def _free_base() -> int:
    for base in PORT_BASES:
        ports = [base + 10 * i + j for i in range(len(NAMES)) for j in range(len(ROLES))]
        if all(_is_free(port) for port in ports):
            return base
    raise QuickstartError(
        f"none of the port ranges {PORT_BASES.start} … {PORT_BASES.stop - 1} is free on {HOST}; "
        "see `ss -tlnp` for what listens there"
    )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _write(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")


def _strings(values: Iterator[str] | list[str]) -> str:
    return "[" + ", ".join(f'"{value}"' for value in values) + "]"


def _living(pid_file: Path) -> int | None:
    """The pid in `pid_file`, if it is alive, no zombie, and serves this checkout's state directory."""
    try:
        pid = int(pid_file.read_text(encoding="ascii"))
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if f"{STATE}/".encode() in command else None


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _wait_gone(pids: list[int], limit_s: float) -> bool:
    deadline_s = time.monotonic() + limit_s
    while any(_serves(pid) for pid in pids):
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
    return True


def _serves(pid: int) -> bool:
    try:
        return f"{STATE}/".encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
