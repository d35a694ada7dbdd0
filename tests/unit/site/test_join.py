"""Joining from the side of the newcomer: its data directory, and asking until it is let in."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from tests.fake_site import TOKEN, FakeService, serving
from vimraft.api.errors import NotCaughtUp
from vimraft.metadata.memory_log import MemoryCluster
from vimraft.site.config import Config, NetworkConfig, SiteConfig
from vimraft.site.directory import StartError, locked
from vimraft.site.join import Joined, ask_for_seat, join, read_joined

NAME = "sendai"
RAFT = "127.0.0.1:7401"


class Newcomer:
    def __init__(self, directory: Path, url: str, service: FakeService) -> None:
        self.service = service
        self.url = url
        self.config = Config(
            manager=NAME,
            data_dir=directory / "d",
            network=NetworkConfig(RAFT, "127.0.0.1:7402", "127.0.0.1:7403", "127.0.0.1:7404"),
            sites=(SiteConfig(NAME),),
        )
        service.join_reply = replace(service.join_reply, api_urls=(url,))

    def join(self, **how: bool) -> None:
        join(self.config, self.url, TOKEN, **how)

    def joined(self) -> Joined:
        found = read_joined(self.config.data_dir)
        assert found is not None
        return found

    def remember(self, joined: Joined | None, *, log: bool) -> None:
        raft = self.config.data_dir / "raft"
        raft.mkdir(parents=True)
        if log:
            (raft / "journal").write_bytes(b"entries")
        if joined is not None:
            (self.config.data_dir / "joined.json").write_bytes(msgspec.json.encode(joined))

    def kept(self) -> list[Path]:
        return [path / "journal" for path in self.config.data_dir.glob("raft.replaced-*")]


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Newcomer]:
    service = FakeService()
    with serving(service) as url:
        yield Newcomer(tmp_path, url, service)


def test_joining_remembers_the_cluster_and_what_it_wants_to_be(newcomer: Newcomer) -> None:
    newcomer.join(observer=True)
    found = newcomer.joined()
    assert (found.cluster, found.generation, found.observer, found.seated) == ("c", 1, True, False)
    assert found.members == ("127.0.0.1:7101",)
    (_, request, _) = newcomer.service.calls[-1]
    assert (request.manager, request.observer, request.listening) == (NAME, True, False)
    assert (newcomer.config.data_dir / "api.token").read_text().strip() == TOKEN


def test_a_directory_that_holds_a_log_is_never_taken_for_an_empty_one(newcomer: Newcomer) -> None:
    newcomer.remember(None, log=True)
    with pytest.raises(StartError, match="holds a log already"):
        newcomer.join()
    assert newcomer.service.calls == []
    assert (newcomer.config.data_dir / "raft" / "journal").exists()


def test_the_log_of_another_cluster_is_refused_before_anything_changes(newcomer: Newcomer) -> None:
    newcomer.remember(Joined(cluster_id="other", members=()), log=True)
    with pytest.raises(StartError, match="cluster other"):
        newcomer.join()
    assert newcomer.service.calls == []


def test_a_member_that_asks_again_keeps_its_log(newcomer: Newcomer) -> None:
    service = newcomer.service
    newcomer.remember(Joined(cluster_id=service.reply.cluster_id, members=(), seated=True), log=True)
    service.join_reply = replace(service.join_reply, role="voter")
    newcomer.join()
    assert (newcomer.config.data_dir / "raft" / "journal").exists()
    assert newcomer.joined().seated


@pytest.mark.parametrize("how", [{"replace": True}, {}])
def test_a_void_log_is_set_aside_not_deleted(newcomer: Newcomer, how: dict[str, bool]) -> None:
    """Replaced on request, or found removed from the log by the cluster."""
    service = newcomer.service
    newcomer.remember(Joined(cluster_id=service.reply.cluster_id, members=(), seated=True), log=True)
    newcomer.join(**how)
    (kept,) = newcomer.kept()
    assert kept.read_bytes() == b"entries"
    assert not (newcomer.config.data_dir / "raft").exists()
    assert not newcomer.joined().seated
    newcomer.join(**how)
    assert len(newcomer.kept()) == 1


def test_a_refused_replacement_leaves_the_log_where_it_is(newcomer: Newcomer) -> None:
    newcomer.remember(None, log=True)
    newcomer.service.fault = NotCaughtUp(NAME, 1)
    with pytest.raises(Exception, match="caught up"):
        newcomer.join(replace=True)
    assert (newcomer.config.data_dir / "raft" / "journal").exists()


def test_a_manager_that_runs_is_not_joined_beside_itself(newcomer: Newcomer) -> None:
    with locked(newcomer.config), pytest.raises(StartError, match="in use by site manager"):
        newcomer.join()
    assert newcomer.service.calls == []


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_it_asks_until_it_votes_and_remembers_that_it_was_in(
    newcomer: Newcomer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vimraft.site.join.RETRY_S", 0.01)
    await asyncio.to_thread(newcomer.join)
    cluster = MemoryCluster()
    leader, log = cluster.log("a"), cluster.fresh(RAFT)
    asking = asyncio.create_task(ask_for_seat(newcomer.config, TOKEN, log))
    await until(lambda: len(newcomer.service.calls) > 2)
    request = newcomer.service.calls[-1][1]
    assert (request.listening, request.node_id) == (True, log.node_id)
    await leader.add_member(RAFT, node_id=log.node_id, voter=False, deadline_ms=1_000)
    await until(lambda: newcomer.joined().seated)
    asked = len(newcomer.service.calls)
    await until(lambda: len(newcomer.service.calls) > asked)
    assert not asking.done(), "an observer that shall vote goes on asking"
    await leader.add_member(RAFT, deadline_ms=1_000)
    async with asyncio.timeout(10):
        await asking


async def test_an_observer_by_choice_asks_no_more_once_it_is_one(
    newcomer: Newcomer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vimraft.site.join.RETRY_S", 0.01)
    await asyncio.to_thread(newcomer.join, observer=True)
    cluster = MemoryCluster()
    leader, log = cluster.log("a"), cluster.fresh(RAFT)
    await leader.add_member(RAFT, node_id=log.node_id, voter=False, deadline_ms=1_000)
    async with asyncio.timeout(10):
        await ask_for_seat(newcomer.config, TOKEN, log)


async def test_one_that_was_removed_does_not_ask(newcomer: Newcomer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vimraft.site.join.RETRY_S", 0.01)
    newcomer.remember(Joined(cluster_id="c", members=(), api_urls=(newcomer.url,), seated=True), log=True)
    asking = asyncio.create_task(ask_for_seat(newcomer.config, TOKEN, MemoryCluster().fresh(RAFT)))
    await asyncio.sleep(0.1)
    assert newcomer.service.calls == []
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


def test_what_the_first_release_remembered_is_read(newcomer: Newcomer) -> None:
    newcomer.config.data_dir.mkdir()
    (newcomer.config.data_dir / "joined.json").write_text(
        '{"cluster_id":"c","members":["h:1"],"api_urls":["http://h:2"]}'
    )
    assert newcomer.joined() == Joined(cluster_id="c", members=("h:1",), api_urls=("http://h:2",))
