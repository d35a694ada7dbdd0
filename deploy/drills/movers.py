"""Changes of copies and owners under chaos: owners handed over, a copy removed and added, copies migrated.

May live here: one client of the API that does this to the volumes that `layout` has for it, and how its
answers compare with the tables. Keeps: as in `changes`, what was refused changes nothing, and what has no
answer may have happened.
"""

import random
import time
from typing import Any

from drills.changes import UNDECIDED, ask_until_decided
from drills.clients import Client, Valve
from drills.clusters import ApiProblem, Cluster
from drills.layout import Volume

PACE_S = 0.5
JOB_S = 60.0
"""How long a migration may go on when all is healed and nobody writes."""
POLL_S = 0.5


class Mover(Client):
    """Migrates between two `classes`."""

    def __init__(self, cluster: Cluster, run: int, valve: Valve, classes: tuple[str, str]) -> None:
        super().__init__("moves", valve, PACE_S)
        self._cluster = cluster
        self._classes = classes
        self._turning: list[Volume] = []
        self._spares: list[Volume] = []
        self._there: dict[str, set[bool]] = {}
        """Whether the spare copy of a volume may be there."""
        self._random = random.Random(f"{run} moves")

    def use(self, volumes: list[Volume]) -> None:
        """Those that are meant for it; before it starts."""
        self._turning = [volume for volume in volumes if volume.changing]
        self._spares = [volume for volume in volumes if volume.spare]
        self._there = {volume.name: {True} for volume in self._spares}

    def one(self) -> bool:
        kinds = [self._move_owner, self._migrate] if self._turning else []
        kinds += [self._copy] if self._spares else []
        if not kinds:
            return True
        try:
            return self._random.choice(kinds)()
        except ApiProblem as problem:
            self.seen.failed(problem, answered=problem.code != "silent")
            return problem.code not in UNDECIDED

    def settle(self) -> None:
        """Migrations end before anything is compared."""
        deadline_s = time.monotonic() + JOB_S
        while True:
            try:
                running = [job["what"] for job in self._jobs() if job["what"].startswith("migrate ")]
            except ApiProblem as problem:
                running = [f"unknown jobs: {problem}"]
            if not running:
                return
            if time.monotonic() > deadline_s:
                self.seen.violations.append(f"not ended {JOB_S:.0f} s after healing: {', '.join(running)}")
                return
            time.sleep(POLL_S)

    def compare(self) -> list[str]:
        """What was acknowledged is so; what was unknown is settled by what is there now."""
        wrong = []
        for volume in self._spares:
            there = self._spare_of(volume) is not None
            if there not in self._there[volume.name]:
                had = "removed" if there else "added"
                wrong.append(f"{volume.name}: its copy at {volume.spare} was {had}, and the tables differ")
            self._there[volume.name] = {there}
        return wrong

    def _move_owner(self) -> bool:
        volume = self._random.choice(self._turning)
        now = self._ask("GET", f"/v1/volumes/{volume.name}")["volume"]["owner"]
        others = sorted(volume.sites - {now})
        self._ask("POST", f"/v1/volumes/{volume.name}/owner", {"manager": self._random.choice(others)})
        self.seen.writes += 1
        return True

    def _migrate(self) -> bool:
        """A job: it goes on while other changes are made, and after a restart of its manager."""
        if any(job["what"].startswith("migrate ") for job in self._jobs()):
            return True
        volume = self._random.choice(self._turning)
        segments = self._ask("GET", f"/v1/volumes/{volume.name}")["segments"]
        reals = {f"{segment['storage']}:{segment['lun']}" for segment in segments}
        classes = {real["volume_class"] for real in self._cluster.status()["reals"] if real["id"] in reals}
        wanted = self._classes[0] if classes == {self._classes[1]} else self._classes[1]
        self._ask("POST", f"/v1/volumes/{volume.name}/migrate", {"volume_class": wanted})
        self.seen.writes += 1
        return True

    def _copy(self) -> bool:
        volume = self._random.choice(self._spares)
        name, path = self._spare_of(volume), f"/v1/volumes/{volume.name}/copies"
        before, self._there[volume.name] = self._there[volume.name], {True, False}
        try:
            if name is None:
                self._ask("POST", path, {"sites": [volume.spare]})
            else:
                self._ask("DELETE", f"{path}/{name}")
        except ApiProblem as problem:
            if problem.code not in UNDECIDED:
                self._there[volume.name] = before
            raise
        self._there[volume.name] = {name is None}
        self.seen.writes += 1
        return True

    def _spare_of(self, volume: Volume) -> str | None:
        """Local name of the copy that comes and goes. Raises ApiProblem."""
        replicas = self._cluster.ask("GET", f"/v1/volumes/{volume.name}")["volume"]["replicas"]
        found = [str(each["local_name"]) for each in replicas if each["sites"] == [volume.spare]]
        return found[0] if found else None

    def _jobs(self) -> list[dict[str, Any]]:
        """Running ones."""
        found: list[dict[str, Any]] = self._cluster.ask("GET", "/v1/jobs")["jobs"]
        return [job for job in found if job["state"] == "running"]

    def _ask(self, method: str, path: str, body: dict[str, object] | None = None) -> Any:
        return ask_until_decided(self._cluster, self._random, self.seen, method, path, body)
