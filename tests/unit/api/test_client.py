"""The client: several managers, retries that never do a thing twice, and verdicts that are never mixed up."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from tests.fake_site import GIB, TOKEN, FakeService, closed_port, serving, volume
from vimraft.api import schema
from vimraft.api.caller_errors import ApiError, BadReply, NoAnswer, Unreachable
from vimraft.api.client import PAGE_ROWS, Client
from vimraft.core.reasons import NotFormed
from vimraft.metadata.port import Unavailable, UnknownOutcome


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def url(service: FakeService) -> Iterator[str]:
    with serving(service) as where:
        yield where


class Silent:
    """Takes requests and never answers; keeps their ids."""

    def __init__(self) -> None:
        self.request_ids: list[str] = []

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        headers = dict(scope["headers"])
        self.request_ids.append(headers.get(b"x-request-id", b"").decode())
        while (await receive())["type"] != "http.disconnect":
            await asyncio.sleep(0)


def answering(status: int, body: bytes) -> Any:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": body})

    return app


BUILD = schema.BuildRequest(name="x", size_bytes=GIB, volume_class="ssd")


def test_replies_come_back_as_structs(url: str, service: FakeService) -> None:
    with Client((url,), TOKEN) as client:
        assert client.status() == service.reply
        assert client.health()["version"]
        assert client.volume("db-main").volume == service.reply.volumes[1]
        assert client.volume_map("db-main").table.columns[0] == "common name"
        assert client.volume_uri("db-main", "osaka").site == "osaka"
        assert client.events(limit=2).events == tuple(service.log[-2:])
        assert client.events(after=4).events == tuple(service.log[-1:])
        assert client.history().changes[0].name == "db-main"
        assert client.build_volume(BUILD).volume.name == "x"
        assert client.grow_volume("x", 2 * GIB).volume.size_bytes == 2 * GIB
        assert client.delete_volume("x").volume.name == "x"
        for done in (
            client.set_storage(schema.StorageRequest(address="a", site="tokyo")),
            client.remove_storage("a"),
            client.set_real("t1", 0, "excluded"),
            client.remove_real("t1", 0),
            client.set_priority("tokyo", ("osaka",)),
            client.set_setting("lease_ms", 5000),
            client.remove_manager("nagoya"),
        ):
            assert done.index == service.reply.as_of.index
        assert client.add_real(schema.AddRealRequest(storage="t1", lun=2, volume_class="ssd")).id == "7"
        assert client.job("7").state == "running"
        join = schema.JoinRequest("kyoto", "h:1", "http://h:2", "h:3", "h:4", (schema.JoinSite("kyoto"),))
        assert client.join(join).members


def test_a_manager_that_is_down_is_passed_over_and_the_next_one_kept(url: str) -> None:
    with Client((f"http://127.0.0.1:{closed_port()}", url), TOKEN) as client:
        client.status()
        assert client.url == url


def test_when_no_manager_can_be_reached_nothing_was_done() -> None:
    urls = tuple(f"http://127.0.0.1:{closed_port()}" for _ in range(2))
    with Client(urls, TOKEN) as client, pytest.raises(Unreachable) as caught:
        client.build_volume(BUILD)
    assert set(caught.value.problems) == set(urls)
    assert "connection refused" in caught.value.problems[urls[0]]


def test_an_unavailable_manager_sends_the_same_request_on_to_the_next(url: str, service: FakeService) -> None:
    lame = FakeService()
    lame.fault = Unavailable("no quorum here")
    with serving(lame) as first, Client((first, url), TOKEN) as client:
        client.build_volume(BUILD)
    assert [call[2] for call in lame.calls] == [call[2] for call in service.calls]
    assert service.calls[0][2]


def test_unavailable_everywhere_is_certainly_not_done(url: str, service: FakeService) -> None:
    service.fault = Unavailable("no quorum")
    with Client((url,), TOKEN) as client, pytest.raises(ApiError) as caught:
        client.build_volume(BUILD)
    assert (caught.value.status, caught.value.reply.code) == (503, "unavailable")


def test_a_lost_answer_is_asked_for_again_under_the_same_id(url: str, service: FakeService) -> None:
    silent = Silent()
    with serving(silent) as first, Client((first, url), TOKEN, timeout_s=0.4) as client:
        client.build_volume(BUILD)
    assert silent.request_ids == [service.calls[0][2]]


def test_an_unknown_outcome_is_asked_for_again_under_the_same_id(url: str, service: FakeService) -> None:
    service.fault = UnknownOutcome("deadline")
    with Client((url,), TOKEN) as client, pytest.raises(ApiError) as caught:
        client.build_volume(BUILD)
    assert caught.value.reply.code == "unknown_outcome"
    assert len({call[2] for call in service.calls}) == 1
    assert len(service.calls) > 1


def test_a_refused_repetition_does_not_make_a_lost_answer_certain(url: str, service: FakeService) -> None:
    service.fault = Unavailable("no quorum")
    with (
        serving(Silent()) as first,
        Client((first, url), TOKEN, timeout_s=0.4) as client,
        pytest.raises(NoAnswer) as caught,
    ):
        client.build_volume(BUILD)
    assert caught.value.request_id == service.calls[0][2]


def test_a_read_without_an_answer_is_merely_unreachable() -> None:
    with (
        serving(Silent()) as url,
        Client((url,), TOKEN, timeout_s=0.3) as client,
        pytest.raises(Unreachable),
    ):
        client.status()


def test_a_job_is_never_started_twice(url: str, service: FakeService) -> None:
    request = schema.AddRealRequest(storage="t1", lun=2, volume_class="ssd")
    with (
        serving(Silent()) as first,
        Client((first, url), TOKEN, timeout_s=0.4) as client,
        pytest.raises(NoAnswer),
    ):
        client.add_real(request)
    assert service.calls == []


def test_a_refusal_is_final(url: str, service: FakeService) -> None:
    other = FakeService()
    with (
        serving(other) as second,
        Client((url, second), TOKEN) as client,
        pytest.raises(ApiError) as caught,
    ):
        client.build_volume(schema.BuildRequest(name="x", size_bytes=2000 * GIB, volume_class="ssd"))
    assert caught.value.status == 409
    assert caught.value.reply.reason["type"] == "NoSpace"
    assert other.calls == []


def test_a_wrong_token_says_so(url: str) -> None:
    with Client((url,), "wrong") as client, pytest.raises(ApiError) as caught:
        client.status()
    assert (caught.value.status, caught.value.reply.code) == (401, "token")


def test_what_is_no_manager_is_told_apart() -> None:
    with (
        serving(answering(200, b"<html>")) as url,
        Client((url,), TOKEN) as client,
        pytest.raises(BadReply),
    ):
        client.status()
    with (
        serving(answering(404, b"<html>")) as url,
        Client((url,), TOKEN) as client,
        pytest.raises(ApiError) as caught,
    ):
        client.status()
    assert "without saying why" in caught.value.reply.message


@pytest.mark.parametrize("name", ["a/b", "..", ".", "", "a?b#c", "ü", "a b", "%2e%2e"])
def test_strange_names_reach_no_other_path(url: str, service: FakeService, name: str) -> None:
    with (
        Client((url,), TOKEN) as client,
        pytest.raises(ApiError),
    ):
        client.delete_volume(name)
    assert all(call[0] == "delete" and call[1][0].strip() == name for call in service.calls)
    assert len(service.reply.volumes) == 3


def test_tables_longer_than_a_page_come_whole(url: str, service: FakeService) -> None:
    many = tuple(volume(f"v{n:05}", GIB, "tokyo", ("tokyo",), io={}) for n in range(PAGE_ROWS + 7))
    service.reply = replace(service.reply, volumes=many)
    with Client((url,), TOKEN, timeout_s=60) as client:
        rows = client.whole_table("virtual-identifying").rows
    assert [row[0] for row in rows] == [v.name for v in many]


class PagedClient(Client):
    """Two pages and a bit; `versions` are those of the pages, in order; the index moves on each time."""

    def __init__(self, versions: list[int]) -> None:
        super().__init__(("http://127.0.0.1:1",), TOKEN)
        self.versions = versions
        self.asked = 0

    def table(
        self,
        which: str,
        *,
        name: str | None = None,
        offset: int = 0,
        limit: int = PAGE_ROWS,
        at: int | None = None,
    ) -> schema.TableReply:
        self.asked += 1
        rows = tuple((n,) for n in range(offset, min(offset + limit, 2 * PAGE_ROWS + 5)))
        as_of = schema.AsOf(index=1000 + self.asked, age_seconds=0.0, quorum=True)
        return schema.TableReply("t", ("n",), rows, as_of, version=self.versions[self.asked - 1])


def test_lease_renewals_between_pages_leave_no_row_out() -> None:
    with PagedClient([7, 7, 7]) as client:
        assert len(client.whole_table("virtual-sectors").rows) == 2 * PAGE_ROWS + 5


def test_a_change_between_pages_begins_anew() -> None:
    with PagedClient([7, 8, 8, 8, 8]) as client:
        assert len(client.whole_table("virtual-sectors").rows) == 2 * PAGE_ROWS + 5
        assert client.asked == 5


def test_tables_that_keep_changing_are_an_error_and_never_a_part() -> None:
    with PagedClient(list(range(20))) as client, pytest.raises(ApiError) as caught:
        client.whole_table("virtual-sectors")
    assert "changed while its pages were read" in caught.value.reply.message


def test_the_reason_of_a_refusal_travels_whole(url: str, service: FakeService) -> None:
    from vimraft.api.errors import Refused

    service.fault = Refused(NotFormed())
    with Client((url,), TOKEN) as client, pytest.raises(ApiError) as caught:
        client.status()
    assert caught.value.reply.reason == {"type": "NotFormed"}
