"""A real store process: what owners at other sites attach to, over NBD."""

import errno
import hashlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import nbd
import pytest

from tests.copied_volumes import BOOT, A, Asker, B, copied_map, session
from tests.plane import DEADLINE_S, FakeManager, connected, eventually, make_real
from vimraft.core.ids import ManagerName
from vimraft.core.tables import ReplicaState
from vimraft.data import feed
from vimraft.data.copies import links, wire
from vimraft.data.copies.record_file import RecordBusy, open_record
from vimraft.data.feed import MapUpdate, PeerSpec, VolumeMap
from vimraft.protocol.messages import Done, NotServed, OldEpoch, OldSession, Result, Session

KIB4 = 4096


class StoreProcess:
    """The store process of manager b; peers a and c are known."""

    def __init__(self, directory: Path) -> None:
        self.manager = FakeManager("store", "b", directory)
        self.real = make_real(directory / "b0.img", "sb:0", 64)
        self.directory = directory
        self.index = 0

    @property
    def records(self) -> Path:
        return self.directory / "b-store.lock.copies"

    def update(self, *volumes: VolumeMap) -> MapUpdate:
        self.index += 1
        peers = tuple(PeerSpec(name, "127.0.0.1:1", "127.0.0.1:1") for name in ("a", "c"))
        return MapUpdate(self.index, True, 3_000, volumes, (), (self.real,), (), peers)

    def start(self, *volumes: VolumeMap) -> None:
        update = self.update(*volumes)
        self.manager.always_send(feed.Welcome("b", "life"), update)
        self.manager.start()
        self.manager.wait_installed(update.index)

    def install(self, *volumes: VolumeMap) -> None:
        update = self.update(*volumes)
        self.manager.always_send(feed.Welcome("b", "life"), update)
        self.manager.install(update)

    def data(self, epoch: int = 1, who: Session | None = None, copy: str = "B") -> str:
        return self.manager.uri_of(wire.copy_export("v", copy, epoch, who or session()))

    def control(self, who: Session | None = None) -> str:
        return self.manager.uri_of(wire.control_export("v", who or session()))

    def say(self, kind: str, *, epoch: int = 1, who: Session | None = None, **more: object) -> Result:
        """One control message."""
        asker = Asker(lambda _session, _request, _done: None)
        asker.session, asker.epoch, asker.number = who or session(), epoch, 4_000
        request = asker.make(kind, **more)  # type: ignore[arg-type]
        with connected(self.control(who)) as handle:
            handle.pwrite(wire.encode_request(request), 0)
            head = handle.pread(wire.FIRST_READ_BYTES, 0)
            more_bytes = wire.framed_bytes(head) - len(head)
            if more_bytes > 0:
                head += handle.pread(more_bytes, len(head))
            answer = wire.decode_answer(head)
        assert answer.number == request.number
        assert answer.boot == BOOT
        return answer.result


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoreProcess]:
    store = StoreProcess(tmp_path)
    try:
        store.start(copied_map("b"))
        yield store
        assert "bug" not in store.manager.log
    finally:
        store.manager.close()


def refusal(action: object) -> int:
    with pytest.raises(nbd.Error) as caught:
        action()  # type: ignore[operator]
    return caught.value.errnum or 0


def test_data_go_to_the_copy_and_come_back(store: StoreProcess) -> None:
    asking = nbd.NBD()
    asking.set_full_info(True)
    asking.connect_uri(store.data())
    assert wire.parse_boot(asking.get_export_description()) == BOOT
    asking.shutdown()
    with connected(store.data()) as handle:
        handle.pwrite(b"x" * KIB4, 8192)
        handle.pwrite(b"y" * KIB4, 8192 + KIB4, nbd.CMD_FLAG_FUA)
        assert handle.pread(2 * KIB4, 8192) == b"x" * KIB4 + b"y" * KIB4
        handle.zero(KIB4, 8192)
        handle.trim(KIB4, 8192 + KIB4)
        assert handle.pread(2 * KIB4, 8192) == bytes(2 * KIB4)
        handle.flush()
    assert store.say("seal", copy="") == Done(regions=(0,))


def test_control_messages_are_answered(store: StoreProcess) -> None:
    with connected(store.data()) as handle:
        handle.pwrite(b"x" * KIB4, 3 << 20)
        handle.flush()
    assert store.say("hand_over", record="r-1") == Done()
    assert store.say("missed", since=1) == Done(regions=(3,), record="r-1")
    assert store.say("clear", regions=(3,)) == Done()
    assert store.say("seal", copy="") == Done(record="r-1")
    assert store.say("read", first=3 << 20, end=(3 << 20) + KIB4, must=True) == Done(b"x" * KIB4)
    digest = hashlib.blake2b(b"x" * KIB4, digest_size=16).digest()
    assert store.say("checksum", first=3 << 20, end=(3 << 20) + KIB4) == Done(digest)
    assert store.say("flush", copy="Z") == NotServed("Z", "")


def test_a_kind_that_a_store_does_not_know_is_told_by_name_and_costs_no_session(
    store: StoreProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "YOUNG_KINDS", frozenset(("later",)))
    host, port = urlsplit(store.control()).netloc.rsplit(":", 1)
    peers = links.PeerStores(lambda _manager: (host, int(port)))
    asker = Asker(lambda _session, _request, _done: None)
    who = session()
    for kind, how in (("later", "unsupported"), ("seal", "done")):
        assert peers.ask(ManagerName("b"), who, asker.make(kind, copy="B"), 5).how == how  # type: ignore[arg-type]


def test_refusals_are_told_as_their_errnos(store: StoreProcess) -> None:
    store.install(copied_map("b", epoch=2))
    with connected(store.data(epoch=1)) as handle:
        assert refusal(lambda: handle.pwrite(b"x" * KIB4, 0)) == errno.ESHUTDOWN
        assert wire.how_of(errno.ESHUTDOWN) == "older"
    with connected(store.data(epoch=2, copy="A")) as handle:
        assert refusal(lambda: handle.pread(KIB4, 0)) == errno.EPERM
        assert wire.how_of(errno.EPERM) == "away"
    with connected(store.data(epoch=2)) as handle:
        handle.pwrite(b"x" * KIB4, 0)
        assert refusal(lambda: handle.pread(KIB4, 1 << 40)) == errno.EPERM
    stale: dict[object, ReplicaState] = {A: "in_sync", B: "stale"}
    store.install(copied_map("b", epoch=3, states=stale))  # type: ignore[arg-type]
    with connected(store.data(epoch=3)) as handle:
        assert refusal(lambda: handle.pwrite(b"x" * KIB4, 0)) == errno.EPERM
    assert isinstance(store.say("flush", epoch=2), OldEpoch)


def test_a_newer_session_turns_the_older_one_away(store: StoreProcess) -> None:
    with connected(store.data()) as old, connected(store.data(who=session(2))) as new:
        old.pwrite(b"o" * KIB4, 0)
        new.pwrite(b"n" * KIB4, 0)
        assert refusal(lambda: old.pwrite(b"o" * KIB4, 0)) == errno.ESHUTDOWN
        assert new.pread(KIB4, 0) == b"n" * KIB4
    assert isinstance(store.say("flush"), OldSession)


def test_a_request_of_a_newer_epoch_waits_for_the_map(store: StoreProcess) -> None:
    with connected(store.data(epoch=2)) as handle:
        ended = threading.Event()

        def write() -> None:
            handle.pwrite(b"x" * KIB4, 0)
            ended.set()

        threading.Thread(target=write, daemon=True).start()
        assert not ended.wait(0.1)
        store.install(copied_map("b", epoch=2))
        assert ended.wait(DEADLINE_S)


def test_an_owner_that_is_ahead_of_the_tables_here_is_let_in_when_they_come(store: StoreProcess) -> None:
    store.install()
    ended = threading.Event()

    def attach() -> None:
        with connected(store.manager.uri_of(wire.copy_export("w", "B", 2, session()))):
            ended.set()

    threading.Thread(target=attach, daemon=True).start()
    assert not ended.wait(0.1)
    renamed = msgspec.structs.replace(copied_map("b", epoch=2), name="w")
    store.install(renamed)
    assert ended.wait(DEADLINE_S)


@pytest.mark.parametrize(
    "export",
    [
        ".copy/v/B/1/stranger~life~1",
        ".copyctl/v/stranger~life~1",
        ".copy/w/B/1/a~life~1",
        ".copy/v/B/x/a~life~1",
        ".copy/v/B/1/a~life",
        ".copyctl/v",
    ],
)
def test_strangers_and_nonsense_are_not_let_in(store: StoreProcess, export: str) -> None:
    handle = nbd.NBD()
    with pytest.raises(nbd.Error):
        handle.connect_uri(store.manager.uri_of(export))


def test_messages_that_are_none_are_refused(store: StoreProcess) -> None:
    with connected(store.control()) as handle:
        assert refusal(lambda: handle.pread(KIB4, 0))
        assert refusal(lambda: handle.pwrite(b"\xff" * 512, 0))
        assert refusal(lambda: handle.pwrite(bytes(512), 0))
        assert refusal(lambda: handle.pwrite(bytes(512), 512))
        assert refusal(lambda: handle.zero(512, 0))
        assert refusal(handle.flush)
    other = Asker(lambda _session, _request, _done: None).make("seal")
    message = wire.encode_request(other)
    with connected(store.manager.uri_of(wire.control_export("v", session()))) as handle:
        handle.pwrite(message, 0)


def test_the_process_tells_its_boot_after_its_first_map(store: StoreProcess) -> None:
    eventually(lambda: store.manager.received(feed.Boot), "it tells its boot")
    assert store.manager.received(feed.Boot)[0] == feed.Boot(BOOT, ())
    store.say("hand_over", record="r-1")
    store.manager.hang_up()
    eventually(lambda: len(store.manager.received(feed.Boot)) > 1, "and again to the next manager")
    assert store.manager.received(feed.Boot)[-1] == feed.Boot(BOOT, (("v", "r-1"),))


def test_a_killed_store_keeps_its_marks_and_its_floor(store: StoreProcess) -> None:
    with connected(store.data()) as handle:
        handle.pwrite(b"x" * KIB4, 5 << 20)
    assert store.say("seal", copy="", epoch=1) == Done(regions=(5,))
    store.manager.kill()
    store.manager.start()
    store.manager.wait_hello(2)
    eventually(lambda: len(store.manager.received(feed.Installed)) > 1, "it has its map again")
    assert store.say("seal", copy="", epoch=1, who=session(2)) == Done(regions=(5,))
    assert store.say("read", first=5 << 20, end=(5 << 20) + KIB4, who=session(2)) == Done(b"x" * KIB4)


def test_a_store_that_stood_still_while_its_turn_ended_refuses_what_comes_late(store: StoreProcess) -> None:
    """Until it goes on, nobody else gets the record; when it does, it hears that its turn is over, and what
    an owner of that time has sent is never written."""
    with connected(store.data()) as handle:
        handle.pwrite(b"1" * KIB4, 0)
        store.manager.kill(signal.SIGSTOP)
        late = handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"2" * KIB4)), KIB4)
        ours = store.update(copied_map("b", epoch=2, owner="b"))
        store.manager.send(ours)
        with pytest.raises(RecordBusy):
            open_record(store.records, "v", ("A", "B"))
        store.manager.kill(signal.SIGCONT)
        store.manager.wait_installed(ours.index)
        record = _when_free(store.records)
        assert record.load().copies[B].active == {0}
        # From here on this process is the only one that may write the copy.
        image = os.open(store.directory / "b0.img", os.O_RDWR)
        try:
            at = copied_map("b").copies.segments["B"][0].real_offset  # type: ignore[union-attr]
            os.pwrite(image, b"3" * 2 * KIB4, at)
            deadline = time.monotonic() + DEADLINE_S
            while not _over(handle, late) and time.monotonic() < deadline:
                handle.poll(100)
            assert refusal(lambda: handle.pwrite(b"4" * KIB4, 0)) == errno.ESHUTDOWN
            assert os.pread(image, 2 * KIB4, at) == b"3" * 2 * KIB4
        finally:
            os.close(image)
            record.close()


def _over(handle: nbd.NBD, cookie: int) -> bool:
    try:
        return bool(handle.aio_command_completed(cookie))
    except nbd.Error:
        return True


def _when_free(directory: Path) -> object:
    found: list[object] = []

    def try_once() -> bool:
        try:
            found.append(open_record(directory, "v", ("A", "B")))
        except RecordBusy:
            return False
        return True

    eventually(try_once, "the store process gives the record up")
    return found[0]
