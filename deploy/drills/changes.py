"""Metadata changes under chaos: volumes built, grown and deleted, and what was acknowledged of them.

May live here: one client of the API, and how its answers compare with the tables.
Keeps: a change is repeated under its own request id, at any manager, until its outcome is known or time is
up (INV-8: that applies it once); only what has no answer even then is unknown.
"""

import random
import time
import uuid
from typing import Any

from drills.clients import RETRY_S, Client, Seen, Valve
from drills.clusters import ApiProblem, Cluster
from drills.layout import MIB

PACE_S = 0.3
LIMIT_S = 40.0
ONE_LIMIT_S = 10.0
MAX_VOLUMES = 4
MAX_MIB = 3
UNDECIDED = {"unknown_outcome", "silent", "unavailable", "internal"}


class Changer(Client):
    def __init__(self, cluster: Cluster, run: int, valve: Valve, volume_class: str) -> None:
        super().__init__("changes", valve, PACE_S)
        self.prefix = f"chaos-m{run}-"
        self._sizes: dict[str, set[int]] = {}
        """Of each name that was used: the sizes in MiB that it may have, 0 when it may not be there."""
        self._cluster = cluster
        self._class = volume_class
        self._random = random.Random(f"{run} changes")
        self._number = 0

    def one(self) -> bool:
        there = sorted(name for name, sizes in self._sizes.items() if sizes and 0 not in sizes)
        dice = self._random.random()
        if there and (len(there) >= MAX_VOLUMES or dice < 0.3):
            return self._change("DELETE", self._random.choice(there), 0)
        grown = [name for name in there if self._sizes[name] == {1}]
        if grown and dice < 0.5:
            return self._change("GROW", self._random.choice(grown), self._random.randint(2, MAX_MIB))
        self._number += 1
        return self._change("BUILD", f"{self.prefix}{self._number}", 1)

    def compare(self, found: dict[str, int]) -> list[str]:
        """`found`: bytes by name. What was unknown is settled by what is there now."""
        wrong = []
        mine = {name: size for name, size in found.items() if name.startswith(self.prefix)}
        wrong += [f"volume {name} was never asked for" for name in mine.keys() - self._sizes.keys()]
        for name, sizes in self._sizes.items():
            size_mib, rest = divmod(mine.get(name, 0), MIB)
            if rest or size_mib not in sizes:
                wrong.append(f"volume {name} has {size_mib} MiB; acknowledged: {_words(sizes)}")
            self._sizes[name] = {size_mib}
        return wrong

    def names(self) -> list[str]:
        return sorted(name for name, sizes in self._sizes.items() if sizes != {0})

    def _change(self, kind: str, name: str, size_mib: int) -> bool:
        before = self._sizes.get(name, {0})
        self._sizes[name] = before | {size_mib}
        try:
            self._until_decided(kind, name, size_mib)
        except ApiProblem as problem:
            self.seen.failed(problem, answered=problem.code != "silent")
            if problem.code not in UNDECIDED:
                self._sizes[name] = before  # refused: nothing changed
                if problem.code == "not_found":
                    self.seen.violations.append(f"{kind.lower()} {name}, which is there: {problem}")
                return True
            return False
        self._sizes[name] = {size_mib}
        self.seen.writes += 1
        return True

    def _until_decided(self, kind: str, name: str, size_mib: int) -> None:
        body: dict[str, object] | None = None
        method, path = "DELETE", f"/v1/volumes/{name}?purge=true&force=true"
        if kind == "GROW":
            path = f"/v1/volumes/{name}/grow"
            method, body = "POST", {"size_bytes": size_mib * MIB}
        elif kind == "BUILD":
            body = {"name": name, "size_bytes": size_mib * MIB, "volume_class": self._class}
            sites = list(self._cluster.sites)
            self._random.shuffle(sites)
            body["sites"] = sites
            method, path = "POST", "/v1/volumes"
        ask_until_decided(self._cluster, self._random, self.seen, method, path, body)


def ask_until_decided(
    cluster: Cluster,
    dice: random.Random,
    seen: Seen,
    method: str,
    path: str,
    body: dict[str, object] | None,
) -> Any:
    """The answer. Raises ApiProblem: refused, or undecided when time was up."""
    sites = list(cluster.sites.values())
    dice.shuffle(sites)
    request_id = uuid.uuid4().hex
    deadline_s = time.monotonic() + LIMIT_S
    turn, in_doubt = 0, False
    while True:
        site = sites[turn % len(sites)]
        turn += 1
        try:
            return cluster.ask(method, path, body, at=site, limit_s=ONE_LIMIT_S, request_id=request_id)
        except ApiProblem as problem:
            if problem.code not in UNDECIDED and not in_doubt:
                raise
            if problem.code not in UNDECIDED or time.monotonic() > deadline_s:
                # The refusal was for the repetition: an attempt without an answer may still be done.
                raise ApiProblem("unknown_outcome", str(problem)) from None
            in_doubt = True
            seen.errors += 1
            time.sleep(RETRY_S)


def _words(sizes: set[int]) -> str:
    return " or ".join(f"{size} MiB" if size else "none" for size in sorted(sizes))
