"""The manager's end of the feed, against a process played by the test."""

import asyncio
import os
import socket
from pathlib import Path

import msgspec
import pytest

from tests.core_cases import build, three_sites
from vimraft.core.commands import Barrier
from vimraft.data.feed import (
    HEADER,
    FromPlane,
    Hello,
    Installed,
    LeaseUntil,
    MapUpdate,
    Problem,
    Role,
    Stats,
    ToPlane,
    Welcome,
    encode_frame,
    to_plane,
)
from vimraft.site.feeder import Feeder, Said


class Listener:
    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        self.problems: list[Problem] = []
        self.installed = 0
        self.said: list[Said] = []
        self.skipped = 0

    def plane_connected(self, role: Role, hello: Hello, passed: list[socket.socket]) -> None:
        self.sockets += passed

    def plane_installed(self) -> None:
        self.installed += 1

    def plane_stats(self, role: Role, stats: Stats) -> None: ...

    def plane_problem(self, problem: Problem) -> None:
        self.problems.append(problem)

    def plane_said(self, hello: Hello, message: Said) -> None:
        self.said.append(message)

    def plane_skipped(self) -> None:
        self.skipped += 1


class Process:
    """The other end: says Hello, reads frames."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.connect(str(path))

    def hello(self, *, manager: str = "m-tokyo", fds: tuple[int, ...] = ()) -> None:
        frame = encode_frame(Hello("export", os.getpid(), "i", "b", manager, -1))
        if fds:
            socket.send_fds(self.socket, [frame], list(fds))
        else:
            self.socket.send(frame)

    def say(self, message: FromPlane) -> None:
        self.socket.send(encode_frame(message))

    async def hear(self) -> ToPlane:
        loop = asyncio.get_running_loop()

        async def exactly(count: int) -> bytes:
            data = b""
            while len(data) < count:
                part = await loop.sock_recv(self.socket, count - len(data))
                if not part:
                    raise EOFError
                data += part
            return data

        async with asyncio.timeout(5):
            (length,) = HEADER.unpack(await exactly(HEADER.size))
            return to_plane.decode(await exactly(length))


@pytest.fixture
async def feeder(tmp_path: Path):
    listener = Listener()
    feeder = Feeder("export", tmp_path / "feed", "m-tokyo", "inc", listener)
    feeder.listener = listener
    await feeder.start()
    yield feeder
    await feeder.stop()


async def test_a_process_gets_the_whole_map_then_only_changes(feeder: Feeder) -> None:
    tables = three_sites()
    tables.applied(build("alpha", 3))
    feeder.publish(tables.state)
    process = Process(feeder.path)
    process.hello()
    assert isinstance(await process.hear(), Welcome)
    full = await process.hear()
    assert isinstance(full, MapUpdate)
    assert full.full
    assert full.index == tables.state.index
    process.say(Installed(full.index, 7))
    assert await feeder.wait_installed(full.index, 5)
    tables.applied(build("beta", 3))
    feeder.publish(tables.state)
    delta = await process.hear()
    assert isinstance(delta, MapUpdate)
    assert not delta.full
    assert [v.name for v in delta.volumes] == ["beta"]
    assert not await feeder.wait_installed(delta.index, 0.05), "not before the process says so"
    process.say(Installed(delta.index, 7))
    assert await feeder.wait_installed(delta.index, 5)


async def test_a_command_that_changes_no_map_counts_as_installed_without_a_message(feeder: Feeder) -> None:
    tables = three_sites()
    feeder.publish(tables.state)
    process = Process(feeder.path)
    process.hello()
    await process.hear()
    full = await process.hear()
    assert isinstance(full, MapUpdate)
    process.say(Installed(full.index, 0))
    assert await feeder.wait_installed(full.index, 5)
    tables.applied(Barrier())
    feeder.publish(tables.state)
    assert await feeder.wait_installed(tables.state.index, 5)


async def test_the_listening_sockets_come_with_the_hello(feeder: Feeder) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    process = Process(feeder.path)
    process.hello(fds=(server.fileno(),))
    await process.hear()
    (passed,) = feeder.listener.sockets
    assert passed.getsockname() == server.getsockname()
    passed.close()
    server.close()


async def test_a_lease_granted_before_the_process_came_reaches_it(feeder: Feeder) -> None:
    feeder.grant_lease(12345)
    process = Process(feeder.path)
    process.hello()
    assert isinstance(await process.hear(), Welcome)
    assert await process.hear() == LeaseUntil(12345)


async def test_a_lease_waits_for_the_tables_that_have_it(feeder: Feeder) -> None:
    tables = three_sites()
    feeder.publish(tables.state)
    process = Process(feeder.path)
    process.hello()
    assert isinstance(await process.hear(), Welcome)
    assert isinstance(await process.hear(), MapUpdate)
    tables.applied(build("beta", 3))
    feeder.grant_lease(12345, tables.state.index)
    await asyncio.sleep(0)  # it could be sent now
    feeder.publish(tables.state)
    assert isinstance(await process.hear(), MapUpdate), "another owner may have begun in these"
    assert await process.hear() == LeaseUntil(12345)


async def test_a_stranger_or_nonsense_is_refused_and_the_next_process_served(feeder: Feeder) -> None:
    stranger = Process(feeder.path)
    stranger.hello(manager="somebody")
    with pytest.raises((EOFError, ConnectionResetError)):
        await stranger.hear()
    garbage = Process(feeder.path)
    garbage.socket.send(b"\xff" * 64)
    with pytest.raises((EOFError, ConnectionResetError)):
        await garbage.hear()
    undecodable = Process(feeder.path)
    undecodable.socket.send(HEADER.pack(3) + msgspec.msgpack.encode([1, 2]))
    with pytest.raises((EOFError, ConnectionResetError)):
        await undecodable.hear()
    process = Process(feeder.path)
    process.hello()
    assert isinstance(await process.hear(), Welcome)


async def test_a_newer_connection_of_the_role_replaces_the_older(feeder: Feeder) -> None:
    old = Process(feeder.path)
    old.hello()
    await old.hear()
    new = Process(feeder.path)
    new.hello()
    assert isinstance(await new.hear(), Welcome)
    with pytest.raises((EOFError, ConnectionResetError)):
        await old.hear()


async def test_problems_reach_the_listener(feeder: Feeder) -> None:
    process = Process(feeder.path)
    process.hello()
    await process.hear()
    problem = Problem("a:1", "label", "wrong label")
    process.say(problem)
    async with asyncio.timeout(5):
        while feeder.listener.problems != [problem]:
            await asyncio.sleep(0.01)


async def test_a_process_that_stands_still_is_not_heard(
    feeder: Feeder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not feeder.hears
    process = Process(feeder.path)
    process.hello()
    await process.hear()
    assert feeder.hears
    monkeypatch.setattr("vimraft.site.feeder.SILENT_S", 0.2)
    assert not feeder.stands_still
    async with asyncio.timeout(5):
        while feeder.hears:
            await asyncio.sleep(0.01)
    assert feeder.stands_still
    process.say(Stats({}, {}, 0))
    async with asyncio.timeout(5):
        while not feeder.hears:
            await asyncio.sleep(0.01)
