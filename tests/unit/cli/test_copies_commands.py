"""`vimraft copy …`, `vol move-owner`, `site force-lost`, and what `vol show` says of copies."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.cli_case import Result, invoke
from tests.fake_copies import copy, progress
from tests.fake_site import GIB, TOKEN, FakeService, serving, volume
from vimraft.api.schema_copies import AddCopyRequest, HoldReport
from vimraft.cli import copies


class Cluster:
    """Volume `pair`: copy A in sync at tokyo, copy B at osaka."""

    def __init__(self, service: FakeService, url: str, token_file: Path) -> None:
        self.service = service
        self._globals = ("--api", url, "--token-file", str(token_file))

    def vimraft(self, *arguments: str) -> Result:
        return invoke(*self._globals, *arguments)

    def given(self, state: str = "in_sync", **changes: object) -> None:
        row = volume("pair", GIB, "tokyo", ("tokyo", "osaka"))
        row = replace(
            row,
            epoch=7,
            hold_ms=3.5,
            longest_hold_ms=41.0,
            p99_hold_ms=40.0,
            map_changes=12,
            holds={
                "tokyo": HoldReport(7, 12, 3.5, 30.0, 29.0),
                "osaka": HoldReport(7, 12, 1.5, 41.0, 40.0),
            },
            replicas=(copy("A", "tokyo"), copy("B", "osaka", state, **changes)),
        )
        others = tuple(v for v in self.service.reply.volumes if v.name != "pair")
        self.service.reply = replace(self.service.reply, volumes=(*others, row))

    def asked(self, what: str) -> list[object]:
        return [body for name, body, _ in self.service.calls if name == what]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setattr(copies, "POLL_S", 0.0)
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN)
    service = FakeService()
    with serving(service) as url:
        made = Cluster(service, url, token_file)
        made.given()
        yield made


def test_create_asks_for_copies_and_where_they_may_lie(cluster: Cluster) -> None:
    done = cluster.vimraft(
        "vol", "create", "new", "--size", "64M", "--class", "ssd", "--copies", "2", "--same-site"
    )
    assert done.code == 0, done.err
    (request,) = cluster.asked("build")
    assert (request.copies, request.same_site, request.plan) == (2, True, False)
    planned = cluster.vimraft("vol", "plan", "next", "--size", "64M", "--class", "ssd", "--copies", "2")
    assert planned.code == 0, planned.err
    assert cluster.asked("build")[1].plan
    assert "would be built" in planned.out


def test_show_and_list_tell_how_the_copies_are(cluster: Cluster) -> None:
    cluster.given("syncing", progress=progress("B", 48, full=True))
    shown = cluster.vimraft("vol", "show", "pair")
    assert shown.code == 0, shown.err
    for words in ("epoch 7", "in_sync", "syncing", "(full copy)", "8 MiB/s", "41 ms for the longest"):
        assert words in shown.out, words
    assert "1/2" in cluster.vimraft("vol", "ls").out
    data = cluster.vimraft("vol", "show", "pair", "-o", "json").json()
    row = data["volume"]
    assert (row["epoch"], row["owner"], row["hold_ms"]) == (7, "tokyo", 3.5)
    (resync,) = [r["progress"] for r in row["replicas"] if r["progress"]]
    assert {"left_bytes", "rate_bytes_s", "eta_seconds"} <= set(resync)


def test_show_tells_which_copies_were_read_and_how_long_changes_held_io(cluster: Cluster) -> None:
    read = progress(
        "B", 0, phase="", reads=7, reads_local=3, reads_remote=4, reads_busy=2, in_flight=1, latency_us=1500
    )
    cluster.given("in_sync", progress=read)
    shown = " ".join(cluster.vimraft("vol", "show", "pair").out.split())
    for words in ("from the least loaded copy", "sent away (busy)", "1.5 ms", "waited 3.5 ms", "99%: 40 ms"):
        assert words in shown, words
    assert "tokyo 3.5 ms" in shown
    row = cluster.vimraft("vol", "show", "pair", "-o", "json").json()["volume"]
    assert row["holds"]["osaka"]["longest_ms"] == 41.0
    assert (row["read_policy"], row["p99_hold_ms"], row["map_changes"]) == ("balance", 40.0, 12)


def test_the_read_policy_is_set(cluster: Cluster) -> None:
    done = cluster.vimraft("vol", "set", "pair", "--read-policy", "local")
    assert done.code == 0, done.err
    assert cluster.asked("set_read_policy") == [("pair", "local")]
    assert "the owner's own sites" in done.out
    assert cluster.vimraft("vol", "set", "pair", "--read-policy", "fastest").code == 2


def test_a_copy_is_added_and_waited_for_until_it_is_in_sync(cluster: Cluster) -> None:
    done = cluster.vimraft("copy", "add", "pair", "--sites", "nagoya", "--class", "nvme")
    assert done.code == 0, done.err
    assert cluster.asked("add_copy") == [("pair", AddCopyRequest(sites=("nagoya",), volume_class="nvme"))]
    assert "has copy Z" in done.out
    assert {r.state for r in cluster.service._found("pair").replicas} == {"in_sync"}


def test_no_wait_returns_while_the_resync_goes_on(cluster: Cluster) -> None:
    done = cluster.vimraft("copy", "add", "pair", "--no-wait")
    assert done.code == 0, done.err
    assert "not in sync yet" in done.out


def test_promote_lets_a_paused_resync_go_on_and_waits_for_its_end(cluster: Cluster) -> None:
    cluster.given("stale", paused=True)
    done = cluster.vimraft("copy", "promote", "pair", "B")
    assert done.code == 0, done.err
    assert cluster.asked("pause_copy") == [("pair", "B", False)]
    assert "copy B is in sync" in done.out


def test_promote_refuses_a_copy_that_was_given_up(cluster: Cluster) -> None:
    cluster.given("failed")
    done = cluster.vimraft("copy", "promote", "pair", "B")
    assert done.code == 3
    assert "copy B of virtual volume 'pair' is failed" in done.err
    assert "help:" in done.err


def test_pause_and_resume(cluster: Cluster) -> None:
    cluster.given("syncing")
    assert cluster.vimraft("copy", "pause", "pair", "B").code == 0
    assert cluster.vimraft("copy", "resume", "pair", "B").code == 0
    assert [body[2] for body in cluster.asked("pause_copy")] == [True, False]


def test_the_last_copy_in_sync_is_not_removed(cluster: Cluster) -> None:
    cluster.given("stale", paused=True)
    refused = cluster.vimraft("copy", "rm", "pair", "A", "--yes")
    assert refused.code == 3
    assert "no copy in sync would be left of pair" in refused.err
    assert cluster.vimraft("copy", "rm", "pair", "B", "--yes").code == 0


def test_a_name_that_no_copy_has_is_refused_with_those_that_there_are(cluster: Cluster) -> None:
    done = cluster.vimraft("copy", "promote", "pair", "X")
    assert done.code == 4
    assert "A" in done.err
    assert "B" in done.err


def test_the_owner_is_moved_and_a_volume_of_one_copy_refused_with_a_remedy(cluster: Cluster) -> None:
    done = cluster.vimraft("vol", "move-owner", "pair", "osaka")
    assert done.code == 0, done.err
    assert "owned by osaka, epoch 8" in done.out
    refused = cluster.vimraft("vol", "move-owner", "archive", "tokyo")
    assert refused.code == 3
    assert "has one copy" in refused.err
    assert "vimraft copy add archive" in refused.err


def test_force_lost_wants_the_name_again_and_refuses_a_manager_that_answers(cluster: Cluster) -> None:
    assert cluster.vimraft("site", "force-lost", "osaka").code != 0
    assert cluster.vimraft("site", "force-lost", "osaka", "--confirm", "oska").code != 0
    assert cluster.asked("force_lost") == []
    done = cluster.vimraft("site", "force-lost", "osaka", "--confirm", "osaka", "--accept-loss")
    assert done.code == 0, done.err
    assert cluster.asked("force_lost") == [("osaka", True)]
    alive = cluster.vimraft("site", "force-lost", "tokyo", "--confirm", "tokyo")
    assert alive.code == 3
    assert "answers: it is not lost" in alive.err
