"""The process's end of the feed: what waits for a change that is under way, and what does not."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plane import eventually, volume
from tests.plane_fakes import SECTOR, FakeSite, in_thread
from vimraft.core.ids import LABEL_BYTES
from vimraft.data import feed, installer
from vimraft.data.feed import Hold, MapUpdate, PlaneSegment, Stats, Unhold, Welcome
from vimraft.data.feed_client import FeedClient
from vimraft.data.installer import Conversation, Installer

SECOND_NS = 1_000_000_000


def from_now_ns(seconds: float) -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) + int(seconds * SECOND_NS)


class Feed:
    """An installer over a real engine, and the manager's end of its conversations."""

    def __init__(self) -> None:
        self.site = FakeSite()
        self.events: list[str] = []
        self.installer = Installer(self.site.plane, lambda event, **_: self.events.append(event))
        self.installer.start()
        self._ends: list[socket.socket] = []
        self.talk = self.converse()

    def converse(self) -> Conversation:
        ours, theirs = socket.socketpair()
        self._ends += [ours, theirs]
        self.peer = theirs
        return Conversation(ours)

    def take(self, message: installer.Ordered) -> None:
        assert self.installer.take(self.talk, message)

    def install(self, *epochs: int) -> None:
        """Volume `slow` lies on s:1, `spilled` on s:0 and needs a lease."""
        for epoch in epochs:
            slow = volume(
                "slow", 1, PlaneSegment(0, 4096, "s:1", LABEL_BYTES, ""), size_bytes=4096, epoch=epoch
            )
            here = PlaneSegment(0, 4096, "s:0", LABEL_BYTES, "")
            spilled = volume("spilled", 1, here, size_bytes=4096, needs_lease=True)
            self.take(MapUpdate(epoch, epoch == 1, 5_000, (slow, spilled), backends=self.site.specs))

    @property
    def installed(self) -> int:
        return self.site.plane.installed_index

    def wait_installed(self, index: int) -> None:
        idle = lambda: self.installer._done == self.installer._received  # noqa: E731
        eventually(lambda: self.installed == index and idle(), f"{index} is installed")

    def stall(self) -> threading.Event:
        """From now on a request of `slow` runs, and no change of it is put into effect until the event."""
        entered, go_on = threading.Event(), threading.Event()

        def linger() -> None:
            entered.set()
            assert go_on.wait(20)

        self.site.backends["s:1"].entered = linger
        handle, _ = self.site.plane.open("slow")
        in_thread(lambda: handle.write(memoryview(b"x" * SECTOR), 0, 0))
        assert entered.wait(5)
        return go_on

    def lease(self, seconds: float) -> int:
        until_ns = from_now_ns(seconds) if seconds else 0
        self.installer.lease(self.talk, until_ns)
        return until_ns

    @property
    def until_ns(self) -> int:
        return self.site.plane.lease.until_ns

    def close(self) -> None:
        for sock in self._ends:
            sock.close()


@pytest.fixture
def fed() -> Iterator[Feed]:
    fed = Feed()
    fed.install(1)
    fed.wait_installed(1)
    yield fed
    fed.close()


def test_a_lease_does_not_wait_for_a_change_that_cannot_drain(fed: Feed) -> None:
    fed.lease(0.5)
    handle, _ = fed.site.plane.open("spilled")
    go_on = fed.stall()
    fed.install(2)
    fed.lease(20)
    buffer = bytearray(SECTOR)
    eventually(
        lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME) > fed.until_ns - 19.3 * SECOND_NS, "0.7 s pass"
    )
    handle.read(memoryview(buffer), 0)
    assert fed.installed == 1, "the change still waits"
    assert handle.gate.waiting == 0
    go_on.set()
    fed.wait_installed(2)


def test_a_lease_that_is_taken_back_ends_at_once(fed: Feed) -> None:
    fed.lease(60)
    go_on = fed.stall()
    fed.install(2)
    fed.lease(0)
    assert fed.until_ns == 0
    go_on.set()
    fed.wait_installed(2)
    assert fed.until_ns == 0


def test_a_lapsed_lease_is_not_revived_before_the_maps_that_came_before_it(fed: Feed) -> None:
    """INV-2: one of them may say that another owner serves the volume now."""
    go_on = fed.stall()
    fed.install(2)
    until_ns = fed.lease(60)
    longer_ns = fed.lease(70)
    assert fed.until_ns == 0
    go_on.set()
    eventually(lambda: fed.until_ns == longer_ns, "then it is")
    assert fed.installed == 2
    assert until_ns < longer_ns


def test_a_lapsed_lease_that_waits_is_extended_without_waiting_anew(fed: Feed) -> None:
    go_on = fed.stall()
    fed.install(2)
    fed.lease(60)
    for _ in range(3):
        fed.take(Hold(9, ("nothing",)))
    fed.lease(70)
    assert fed.installer._waiting_lease is not None
    assert fed.installer._waiting_lease[2] == 2, "after the map that the first of them waits for"
    go_on.set()
    eventually(lambda: fed.until_ns, "revived")


def test_a_lease_that_waits_is_cancelled_when_it_is_taken_back(fed: Feed) -> None:
    go_on = fed.stall()
    fed.install(2)
    fed.lease(60)
    fed.lease(0)
    go_on.set()
    fed.wait_installed(2)
    assert fed.until_ns == 0


def test_a_lapsed_lease_is_not_revived_before_the_first_map_of_a_new_conversation(fed: Feed) -> None:
    fed.talk = fed.converse()
    fed.lease(60)
    assert fed.until_ns == 0
    fed.take(Welcome("a", "life"))
    fed.install(2)
    eventually(lambda: fed.until_ns, "then it is")
    assert fed.installed == 2


def test_a_valid_lease_is_extended_at_once_also_by_a_new_conversation(fed: Feed) -> None:
    fed.lease(60)
    fed.talk = fed.converse()
    assert fed.lease(90) == fed.until_ns


def test_what_a_dead_conversation_left_is_forgotten_except_that_its_holds_end(fed: Feed) -> None:
    fed.take(Hold(1, ("spilled",)))
    eventually(lambda: 1 in fed.site.plane._holds, "held")
    go_on = fed.stall()
    fed.install(2)
    eventually(lambda: not fed.installer._queue, "the change is under way")
    fed.install(3)
    fed.take(Hold(2, ("spilled",)))
    fed.take(Unhold(1))
    fed.lease(60)
    fed.installer.forget(fed.talk)
    go_on.set()
    eventually(lambda: not fed.site.plane._holds, "released")
    assert fed.installed == 2
    assert fed.until_ns == 0


def test_the_queue_is_bounded(fed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installer, "MAX_QUEUED", 3)
    go_on = fed.stall()
    fed.install(2)
    eventually(lambda: not fed.installer._queue, "the change is under way")
    fed.install(3, 4, 5)
    assert not fed.installer.take(fed.talk, Unhold(1))
    go_on.set()
    fed.wait_installed(5)


def test_a_manager_with_older_tables_is_listened_to_until_it_has_caught_up(fed: Feed) -> None:
    fed.install(5)
    fed.wait_installed(5)
    fed.talk = fed.converse()
    fed.take(MapUpdate(3, True, 5_000))
    eventually(lambda: fed.talk.behind_since, "it is older")
    fed.take(MapUpdate(4, False, 5_000, removed_volumes=("spilled",)))
    fed.lease(60)
    fed.take(MapUpdate(6, False, 5_000, removed_volumes=("slow",)))
    fed.peer.settimeout(5)
    assert fed.peer.recv(1) == b"", "hung up: what is needed is the whole map, not a difference"
    assert fed.installed == 5
    assert set(fed.site.plane._volumes) == {"slow", "spilled"}
    assert fed.until_ns == 0


def test_holds_are_dropped_when_another_life_of_the_manager_speaks(fed: Feed) -> None:
    fed.take(Welcome("a", "one"))
    fed.take(Hold(4, ()))
    eventually(lambda: fed.site.plane._holds, "held")
    fed.talk = fed.converse()
    fed.take(Welcome("a", "one"))
    fed.take(Hold(5, ()))
    eventually(lambda: 5 in fed.site.plane._holds, "held")
    assert set(fed.site.plane._holds) == {4, 5}, "the same life: it only was out of touch"
    fed.take(Welcome("a", "two"))
    eventually(lambda: not fed.site.plane._holds, "dropped")
    assert not fed.site.plane._volumes["slow"].held


def receive(reader: object) -> feed.FromPlane:
    header = reader.read(feed.HEADER.size)  # type: ignore[attr-defined]
    return feed.from_plane.decode(reader.read(feed.frame_length(header)))  # type: ignore[attr-defined]


def test_figures_go_on_after_an_error_in_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vimraft.data.feed_client.STATS_PERIOD_S", 0.02)
    site = FakeSite()
    really, calls = site.plane.stats, []

    def stats() -> object:
        calls.append(1)
        if len(calls) < 3:
            raise RuntimeError("changed size during iteration")
        return really()

    site.plane.stats = stats  # type: ignore[method-assign, assignment]
    path = tmp_path / "f"
    events: list[str] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        client = FeedClient(site.plane, str(path), [], lambda: None, lambda event, **_: events.append(event))
        client.start()
        sock, _ = listener.accept()
        with sock, sock.makefile("rb") as reader:
            assert isinstance(receive(reader), feed.Hello)
            sock.sendall(feed.encode_frame(MapUpdate(1, True, 1_000)))
            assert {type(receive(reader)) for _ in range(3)} >= {Stats}
    assert events.count("stats.bug") == 2
