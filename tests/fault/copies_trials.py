"""Trials of volumes with two copies, with real processes: what clients at other sites notice.

May live here: the cluster that the trials of one run share, its clients, and one trial of each kind. Run in
numbers by `trials.py` through `copies_report.py`. Random choices come from the seed; the timing of real
processes cannot be replayed. After each trial everything is healed, both copies are compared byte by byte,
and every block is read at two sites: what was acknowledged must be there.
"""

import contextlib
import os
import random
import re
import signal
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

from tests.cluster_fixture import MIB, Cluster, Site, running_cluster, wait_for
from tests.fault.tagged import BLOCK_BYTES, Tagged, Waited, rest_all
from vimraft.api.schema import VolumeStatus
from vimraft.core.ids import LABEL_BYTES

VOLUME = "v"
HOMES = ("tokyo", "osaka")
"""Where the copies are; the third site has none, and forwards."""
CLIENTS_A_SITE = 2
BLOCKS_EACH = 500
ENOUGH = 20
"""Requests of each client before and after a fault."""
GO_ON_S = 60.0
HEAL_S = 120.0
_EVENT = re.compile(r"^timestamp=(\S+) level=\S+ event=(\S+)(.*)$")


class Trial(Struct, frozen=True):
    """`parts_ms`: what the pause was made of, in order."""

    pause_ms: float
    parts_ms: dict[str, float]
    failed: tuple[str, ...]
    """Requests at sites that were not touched."""
    wrong: tuple[str, ...]
    """Blocks that hold something else than what must be there, or that differ between copies."""
    writes: int
    note: str = ""
    loads: tuple[float, float] = field(default_factory=lambda: os.getloadavg()[:2])


class Event(Struct, frozen=True):
    at_s: float
    name: str
    text: str


class Stage:
    """A running cluster of three sites with one volume of two copies, and clients at each site."""

    def __init__(self, cluster: Cluster, seed: str, size_mib: int, pace_s: float) -> None:
        self.cluster = cluster
        self.size_mib = size_mib
        self.clients: dict[str, list[Tagged]] = {}
        self.homeless = ""
        """The site that is down: its clients attach elsewhere."""
        number = 0
        for site in cluster.sites:
            for _ in range(CLIENTS_A_SITE):
                blocks = range(number * BLOCKS_EACH, (number + 1) * BLOCKS_EACH)
                client = Tagged(lambda site=site: self._uri(site), blocks, f"{seed}:{number}", pace_s)
                self.clients.setdefault(site, []).append(client)
                number += 1
        assert number * BLOCKS_EACH * BLOCK_BYTES <= size_mib * MIB

    def _uri(self, site: str) -> str:
        at = next(name for name in self.cluster.sites if name != self.homeless)
        return self.cluster.uri(VOLUME, at if site == self.homeless else site)

    @property
    def all(self) -> list[Tagged]:
        return [client for clients in self.clients.values() for client in clients]

    def volume(self) -> VolumeStatus:
        with self.cluster.client() as client:
            return client.volume(VOLUME).volume

    def in_step(self) -> bool:
        return [copy.state for copy in self.volume().replicas] == ["in_sync"] * len(HOMES)

    def begin(self) -> None:
        for client in self.all:
            client.new_trial()
            client.come_home()
            client.go()
        self.wait_for_more(self.all)

    def wait_for_more(self, clients: list[Tagged]) -> None:
        before = {client: client.done for client in clients}
        wait_for(
            lambda: all(client.done >= before[client] + ENOUGH for client in clients), GO_ON_S, "I/O goes on"
        )

    def judged(self, took: Waited, parts_ms: dict[str, float], watched: list[Tagged], note: str) -> Trial:
        """Everything is healed: what is there?"""
        wait_for(self.in_step, HEAL_S, "both copies are in step")
        rest_all(self.all)
        wrong = [text for client in self.all for text in client.violations]
        for client in self.all:
            client.violations = []
        images = {site: self._image(site) for site in HOMES}
        first, second = (images[site] for site in HOMES)
        if first != second:
            at = next(n for n, (a, b) in enumerate(zip(first, second, strict=True)) if a != b)
            wrong.append(f"the copies differ at byte {at}")
        for site, image in images.items():
            for client in self.all:
                read = lambda block, image=image: image[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES]  # noqa: E731
                wrong += client.wrong(read, f"copy at {site}")
        failed = [error for client in watched for error in client.errors]
        writes = sum(client.writes for client in self.all)
        return Trial(took.seconds * 1e3, parts_ms, tuple(failed), tuple(wrong), writes, note)

    def _image(self, site: str) -> bytes:
        path = next(Path(self.cluster[site].directory, "disks").glob("*1*"))
        return path.read_bytes()[LABEL_BYTES : LABEL_BYTES + self.size_mib * MIB]

    def events(self, since_s: float) -> list[Event]:
        """Of all managers, in order of time."""
        found = []
        for site in self.cluster.sites.values():
            for line in site.log_path.read_text(errors="replace").splitlines():
                match = _EVENT.match(line)
                if match is not None:
                    found.append(Event(datetime.fromisoformat(match[1]).timestamp(), match[2], match[3]))
            export_log = site.data_dir / "run" / "export.log"
            for line in export_log.read_text(errors="replace").splitlines():
                with contextlib.suppress(msgspec.DecodeError):
                    entry = msgspec.json.decode(line, type=dict[str, Any])
                    found.append(Event(entry["at_ms"] / 1e3, entry["event"], line))
        return sorted((each for each in found if each.at_s >= since_s), key=lambda event: event.at_s)

    def leader(self) -> str:
        return self.cluster.leader().name


@contextlib.contextmanager
def stage(directory: Path, seed: str, *, size_mib: int = 32, pace_s: float = 0.002) -> Iterator[Stage]:
    with running_cluster(directory) as cluster:
        for site in HOMES:
            cluster.add_real(site, 1, "ssd", size_mib)
        cluster.build(VOLUME, size_mib, sites=HOMES, copies=len(HOMES))
        made = Stage(cluster, seed, size_mib, pace_s)
        for client in made.all:
            client.start()
        try:
            yield made
        finally:
            made.homeless = ""
            for client in made.all:
                client.expects_loss = True
                client.end()


def _kill_at_once(site: Site) -> float:
    """Manager, export and store in one moment. Returns time.time() of it."""
    assert site.process is not None
    planes = (site.plane_pid("export"), site.plane_pid("store"))
    at_s = time.time()
    for pid in (site.process.pid, *planes):
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
    site.kill()  # waits for them
    return at_s


def owner_kill(on: Stage, rng: random.Random) -> Trial:
    """Pause: the longest request of a client at another site than the owner's, which is killed whole."""
    on.begin()
    owner = on.volume().owner
    leader = on.leader()
    others = [client for site, clients in on.clients.items() if site != owner for client in clients]
    time.sleep(rng.uniform(0, 1.4))  # anywhere between two renewals of the lease
    for client in on.clients[owner]:
        client.expects_loss = True
    on.homeless = owner
    began_s = _kill_at_once(on.cluster[owner])
    on.wait_for_more(on.all)
    longest = max((client.longest for client in others), key=lambda waited: waited.seconds)
    parts = _parts_of_takeover(on.events(began_s), began_s, longest)
    on.homeless = ""
    on.cluster[owner].start()
    on.cluster.wait_healthy(tuple(on.cluster.sites), HEAL_S)
    for client in on.clients[owner]:
        client.expects_loss = False
    return on.judged(longest, parts, others, "the leader, too" if leader == owner else "")


def _parts_of_takeover(events: list[Event], began_s: float, longest: Waited) -> dict[str, float]:
    """One after the other, from the kill to the answer of the request that waited longest."""
    parts, at_s = {"before the kill": max(0.0, began_s - longest.began_s) * 1e3}, began_s
    for part, name, word in (
        ("lease, look", "takeover.claimed", ""),
        ("seal, retire", "proposal.decided", "what=Retire"),
        ("equalise, install", "copies.serving", "epoch"),
    ):
        found = next((e for e in events if e.at_s >= at_s and e.name == name and word in e.text), None)
        if found is not None:
            parts[part] = (found.at_s - at_s) * 1e3
            at_s = found.at_s
    parts["first answer"] = (longest.began_s + longest.seconds - at_s) * 1e3
    return parts


def move_owner(on: Stage, _rng: random.Random) -> Trial:
    """Pause: the longest request of any client, while the volume is given to the other home."""
    on.begin()
    owner = on.volume().owner
    new_owner = next(site for site in HOMES if site != owner)
    for client in on.all:
        client.new_trial()  # what came before says nothing
    usual_s = _usual_longest_s(on)
    began_s = time.time()
    with on.cluster.client() as client:
        client.move_owner(VOLUME, new_owner)
    told_ms = (time.time() - began_s) * 1e3
    on.wait_for_more(on.all)
    assert on.volume().owner == new_owner
    longest = max((client.longest for client in on.all), key=lambda waited: waited.seconds)
    parts = {"longest before": usual_s * 1e3, "command": told_ms} | _parts_of_move(
        on.events(began_s), longest
    )
    return on.judged(longest, parts, on.all, f"{owner} to {new_owner}")


def _usual_longest_s(on: Stage) -> float:
    on.wait_for_more(on.all)
    usual_s = max(client.longest.seconds for client in on.all)
    for client in on.all:
        client.new_trial()
    return usual_s


def _parts_of_move(events: list[Event], longest: Waited) -> dict[str, float]:
    parts, at_s = {}, longest.began_s
    for part, name, word in (
        ("drain, log", "proposal.decided", "what=MoveOwner"),
        ("install, seal", "copies.serving", "epoch"),
    ):
        found = next((e for e in events if e.at_s >= at_s and e.name == name and word in e.text), None)
        if found is not None:
            parts[part] = (found.at_s - at_s) * 1e3
            at_s = found.at_s
    parts["first answer"] = (longest.began_s + longest.seconds - at_s) * 1e3
    return parts
