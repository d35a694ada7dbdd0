"""An owner's shell in a test: real machines and threads, stores in memory, a manager that the test plays."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.copies_memory import VOLUME, MemoryStore
from vimraft.core.ids import ManagerName
from vimraft.data import feed
from vimraft.data.copies.links import CopyLink, PeerStores, Place
from vimraft.data.copies.owner_side import Client
from vimraft.data.copies.shell import Shell
from vimraft.data.copies.volumes import OwnedVolumes
from vimraft.data.errors import PeerLost
from vimraft.protocol.asks import Answer
from vimraft.protocol.losses import LossMark
from vimraft.protocol.maps import VolumeMap
from vimraft.protocol.messages import Session, StoreAnswer, for_owner
from vimraft.protocol.owner_effects import StoreRequest

DEADLINE_S = 10.0


def eventually(condition: Callable[[], object], what: str, timeout_s: float = DEADLINE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.005)


class MemoryLinks(PeerStores):
    """Peers' stores in this process. `cut`: stores whose connections break."""

    def __init__(self) -> None:
        super().__init__(lambda store: ("127.0.0.1", 1))
        self.stores: dict[ManagerName, MemoryStore] = {}
        self.cut: set[str] = set()
        self.twice = False
        """Every answer comes a second time."""

    def idle(self, place: Place, epoch: int, session: Session) -> CopyLink | None:
        return None

    def ask(self, store: ManagerName, session: Session, request: StoreRequest, timeout_s: float) -> Answer:
        arrived = threading.Event()
        answers: list[StoreAnswer] = []

        def done(answer: StoreAnswer) -> None:
            answers.append(answer)
            arrived.set()

        if store in self.cut:
            raise PeerLost(f"{store} is cut off")
        self.stores[store].ask(session, request, done)
        if not arrived.wait(timeout_s) or store in self.cut:
            raise PeerLost(f"{store} is silent")
        return for_owner(answers[0])


class Plane:
    """The export of manager a with one volume."""

    def __init__(self, directory: Path, first: VolumeMap, *, io_timeout_s: float = 6.0) -> None:
        self.told: list[feed.FromPlane] = []
        self.logged: list[tuple[str, dict[str, object]]] = []
        self.newest = first
        self.shell = Shell(
            ManagerName("a"),
            "life",
            directory,
            address_of=lambda store: ("127.0.0.1", 1),
            tell=self.told.append,
            log=lambda event, **fields: self.logged.append((event, fields)),
        )
        self.links = self.shell.links = MemoryLinks()
        self.stores: dict[str, MemoryStore] = {}
        for copy in first.copies:
            for store in copy.stores:
                self.stores.setdefault(store, MemoryStore(store, first))
        self.links.stores = {ManagerName(name): store for name, store in self.stores.items() if name != "a"}
        self.volumes = OwnedVolumes(
            self.shell, lambda _volume: self.stores["a"], cachers=list, io_timeout_s=lambda: io_timeout_s
        )
        self.counter = 0
        self.client = Client("client", LossMark(1))

    def lease(self, seconds: float = 60.0) -> None:
        self.volumes.set_lease(time.clock_gettime_ns(time.CLOCK_BOOTTIME) + int(seconds * 1e9))

    def renew(self, *managers: str, installed: int = 1 << 40, lease_ms: int = 1_000) -> None:
        self.counter += 1
        rows = tuple(feed.LeaseRow(name, f"life of {name}", self.counter, installed) for name in managers)
        self.volumes.note_leases(feed.Leases(self.newest.index, rows, lease_ms))

    def feed_map(self, newest: VolumeMap) -> feed.VolumeMap:
        self.newest = newest
        return feed.VolumeMap(
            VOLUME, newest.size_bytes, newest.epoch, newest.owner, newest.owner == "a", False, False,
            "volume A", (), feed.CopiesMap(newest, {}, {}),
        )  # fmt: skip

    def open(self) -> None:
        self.volume = self.volumes.open(self.feed_map(self.newest))

    def change(self, newest: VolumeMap, *, stores: bool = True) -> None:
        """The tables change: the stores' ones too, unless the test holds them back."""
        if stores:
            for store in self.stores.values():
                store.install(newest)
        self.volume.follow(self.feed_map(newest))

    def proposals(self) -> list[feed.Proposal]:
        return [message for message in self.told if isinstance(message, feed.Proposal)]

    def wait_proposal(self, kind: type) -> feed.Proposal:
        def found() -> list[feed.Proposal]:
            return [proposal for proposal in self.proposals() if isinstance(proposal.command, kind)]

        eventually(found, f"{kind.__name__} is proposed")
        return found()[-1]

    def decide(self, proposal: feed.Proposal, *, applied: bool) -> None:
        self.shell.decided(feed.Decided(proposal.token, applied))

    @property
    def serving(self) -> bool:
        status = self.volume.status()
        return status is not None and status.takeover == "over"

    def wait_serving(self) -> None:
        eventually(lambda: self.serving, "it serves")
