"""A cluster as its directory shows it: sites, their addresses, files, processes, and its API.

May live here: reading what deploy/quickstart and deploy/netns-cluster wrote (DIR/SITE/site.toml, DIR/token),
starting a manager again, waiting for health. Keeps: nothing here is known of the product but its files, its
API and its command line, so the drills also test a release that they do not come from.
"""

import contextlib
import http.client
import json
import os
import subprocess
import time
import tomllib
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from drills.processes import DrillError, Identity, environment, identify

T = TypeVar("T")
CHECKOUT = Path(__file__).resolve().parents[2]
QUICKSTART = CHECKOUT / ".vimraft"
DIRECTORY_VARIABLE = "VIMRAFT_CLUSTER_DIR"
LINK_ROLES = ("raft", "api", "peer")
"""Addresses at which managers and their data planes talk to each other."""
PLANES = ("export", "store")
API_S = 3.0
HEALTHY_S = 60.0
POLL_S = 0.1
LOG_TAIL_CHARS = 2_000


class ApiProblem(Exception):
    """`code` as in the API's errors; 'silent' when no manager gave an answer."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Start(NamedTuple):
    """How a manager is started."""

    command: list[str]
    environment: dict[str, str]


class Site:
    def __init__(self, directory: Path, namespace: str) -> None:
        self.directory = directory
        self.namespace = namespace
        """Network namespace; '' is this one."""
        self.config = directory / "site.toml"
        text = tomllib.loads(self.config.read_text(encoding="utf-8"))
        self.name: str = text["manager"]
        self.data = Path(text["data_dir"])
        self.network: dict[str, str] = text["network"]
        self.token = Path(text.get("token_file", self.data / "api.token"))
        self.log = directory / "manager.log"
        self.image = directory / "disk.img"
        """A file system of its own for this site (netns-cluster makes it), mounted at `mounted`."""
        self.mounted = directory / "disk"
        self.boot_id = directory / "boot_id"

    @property
    def host(self) -> str:
        return self.network["raft"].rpartition(":")[0]

    def port(self, role: str) -> int:
        return int(self.network[role].rpartition(":")[2])

    def find(self, role: str) -> Identity | None:
        """The living process `role`: manager, export or store."""
        lock = self.data / ("manager.lock" if role == "manager" else f"run/{role}.lock")
        try:
            pid = int(lock.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None
        return identify(pid, str(self.config)) if role == "manager" else identify(pid, f"lock={lock}")

    def expect(self, role: str) -> Identity:
        found = self.find(role)
        if found is None:
            raise DrillError(
                f"{self.name}: its {role} does not run, so there is nothing to do this to; see `status` of "
                f"the faults that were injected, and {self.log}"
            )
        return found

    def processes(self) -> list[Identity]:
        """The manager first: it would start the others again."""
        return [found for role in ("manager", *PLANES) if (found := self.find(role)) is not None]

    def how_started(self) -> Start:
        manager = self.expect("manager")
        return Start(list(manager.command), environment(manager))

    def start(self, start: Start) -> None:
        """In the background, and nobody's child, so nobody need reap it."""
        words = ["setsid", "--fork", *self._inside(), *start.command]
        with self.log.open("ab") as log:
            done = subprocess.run(
                words,
                env=start.environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
            )
        if done.returncode != 0:
            raise DrillError(f"{self.name}: {' '.join(words)}: exit {done.returncode}; see {self.log}")
        manager = wait_for(
            lambda: self.find("manager"), HEALTHY_S, lambda: f"{self.name}: manager: {self.tail()}"
        )
        pid_file = self.directory / "manager.pid"
        if self.namespace or pid_file.exists():  # deploy/quickstart looks there
            pid_file.write_text(f"{manager.pid}\n", encoding="ascii")

    def _inside(self) -> list[str]:
        """Into its network namespace, with a boot id of its own where it has one: a mount that only this
        process and its children see."""
        if not self.namespace:
            return []
        own = f'mount --bind {self.boot_id} /proc/sys/kernel/random/boot_id && exec "$@"'
        return [*in_namespace(self.namespace), "/bin/sh", "-c", own, "sh"]

    def tail(self) -> str:
        with contextlib.suppress(OSError):
            return self.log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL_CHARS:]
        return f"no {self.log}"


class Cluster:
    def __init__(self, directory: Path) -> None:
        """Raises DrillError."""
        self.directory = directory.resolve()
        try:
            about = json.loads((self.directory / "cluster.json").read_text(encoding="utf-8"))
        except OSError:
            about = {}
        self.namespaces: dict[str, str] = about.get("namespaces", {})
        configs = sorted(self.directory.glob("*/site.toml"), key=lambda path: path.stat().st_ino)
        self.sites = {
            site.name: site
            for config in configs
            for site in [Site(config.parent, self.namespaces.get(config.parent.name, ""))]
        }
        if not self.sites:
            raise DrillError(
                f"{self.directory}: no cluster there (no SITE/site.toml); make one with deploy/quickstart or "
                f"deploy/netns-cluster up, and name its directory with --dir or {DIRECTORY_VARIABLE}"
            )

    def __getitem__(self, name: str) -> Site:
        try:
            return self.sites[name]
        except KeyError:
            known = ", ".join(self.sites)
            raise DrillError(
                f"there is no site {name!r} in {self.directory}; its sites are {known}"
            ) from None

    def others(self, site: Site) -> list[Site]:
        return [other for other in self.sites.values() if other is not site]

    @property
    def by_address(self) -> bool:
        """Every site has a host of its own, so links can be told by address."""
        return len({site.host for site in self.sites.values()}) == len(self.sites)

    @cached_property
    def token(self) -> str:
        return next(iter(self.sites.values())).token.read_text(encoding="utf-8").strip()

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        at: Site | None = None,
        limit_s: float = API_S,
        request_id: str = "",
    ) -> Any:
        """One call, at `at` or at whichever answers first. A repetition carries the same `request_id`.
        Raises ApiProblem."""
        headers = {"Authorization": f"Bearer {self.token}", "X-Request-Id": request_id or uuid.uuid4().hex}
        data = None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        silent = "no manager answers"
        for site in [at] if at is not None else self.sites.values():
            url = f"http://{site.network['api']}{path}"
            request = urllib.request.Request(url, data, headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=limit_s) as answer:
                    text = answer.read()
                return json.loads(text) if text else None
            except urllib.error.HTTPError as error:
                raise _refusal(error, url) from None
            except (OSError, http.client.HTTPException, ValueError) as error:
                silent = f"{url}: {error}"
                if method != "GET":
                    raise ApiProblem("unknown_outcome", silent) from None
        raise ApiProblem("silent", silent)

    def status(self, at: Site | None = None) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("GET", "/v1/status", at=at)
        return found

    def leader(self) -> Site:
        def look() -> str | None:
            with contextlib.suppress(ApiProblem):
                leader: str | None = self.status()["leader"]
                return leader
            return None

        return self[wait_for(look, HEALTHY_S, lambda: f"{self.directory}: a leader; see `vimraft status`")]

    def unhealthy(self) -> str:
        """'' when every manager sees every site healthy and knows the leader."""
        for site in self.sites.values():
            try:
                status = self.status(site)
            except ApiProblem as problem:
                return f"{site.name}: {problem}"
            good = {
                s["name"]
                for s in status["sites"]
                if s["healthy"] and s["pid"]["export"] and s["pid"]["store"]
            }
            if status["leader"] is None:
                return f"{site.name} knows no leader"
            if missing := set(self.sites) - good:
                return f"{site.name} does not see {', '.join(sorted(missing))} healthy"
        return ""

    def wait_healthy(self, limit_s: float = HEALTHY_S) -> None:
        wait_for(lambda: not self.unhealthy(), limit_s, lambda: f"a healthy cluster: {self.unhealthy()}")


def in_namespace(namespace: str) -> list[str]:
    return ["ip", "netns", "exec", namespace] if namespace else []


def default_directory() -> Path:
    return Path(os.environ.get(DIRECTORY_VARIABLE) or QUICKSTART)


def wait_for(condition: Callable[[], T | None], limit_s: float, what: Callable[[], str]) -> T:
    """Polls until `condition` gives something true. Raises DrillError."""
    deadline_s = time.monotonic() + limit_s
    while not (found := condition()):
        if time.monotonic() > deadline_s:
            raise DrillError(f"not within {limit_s:.0f} s: {what()}")
        time.sleep(POLL_S)
    return found


def run(words: list[str], *, text: str | None = None) -> str:
    """A tool's output. Raises DrillError with its words and complaint."""
    try:
        done = subprocess.run(words, input=text, capture_output=True, text=True, check=False, timeout=60)
    except FileNotFoundError:
        raise DrillError(f"{words[0]} is not installed; deploy/test installs what the drills need") from None
    if done.returncode != 0:
        raise DrillError(f"{' '.join(words)}: exit {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout


def _refusal(error: urllib.error.HTTPError, url: str) -> ApiProblem:
    try:
        reply = json.loads(error.read())
        return ApiProblem(str(reply["code"]), str(reply["message"]))
    except (OSError, ValueError, KeyError, TypeError):
        return ApiProblem("internal", f"{url}: HTTP {error.code}")
