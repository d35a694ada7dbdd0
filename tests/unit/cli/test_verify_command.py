"""`vimraft copy verify`: what it asks for, what it prints, how it ends."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.cli_case import Result, invoke
from tests.fake_copies import copy
from tests.fake_site import GIB, TOKEN, FakeService, serving, volume
from vimraft.api.schema_verify import CopyCompared, CopyDifference, VerifyReport, VerifyRequest
from vimraft.cli import copies, following

MIB = 1 << 20


class Cluster:
    """Volume `pair`: copies A at tokyo and B at osaka."""

    def __init__(self, service: FakeService, url: str, token_file: Path) -> None:
        self.service = service
        self._globals = ("--api", url, "--token-file", str(token_file))
        row = volume("pair", GIB, "tokyo", ("tokyo", "osaka"))
        pair = replace(row, replicas=(copy("A", "tokyo"), copy("B", "osaka")))
        service.reply = replace(service.reply, volumes=(*service.reply.volumes, pair))

    def vimraft(self, *arguments: str) -> Result:
        return invoke(*self._globals, *arguments)

    def asked(self) -> list[VerifyRequest]:
        return [body[1] for name, body, _ in self.service.calls if name == "verify"]

    def finds(self, **figures: object) -> None:
        compared = (CopyCompared("A", ("tokyo",), "in_sync", 8), CopyCompared("B", ("osaka",), "in_sync", 8))
        base = VerifyReport("pair", MIB, 8, 8, 8, 0, 0, 0, True, compared, ())
        self.service.found = replace(base, **figures)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setattr(following, "POLL_S", 0.0)
    monkeypatch.setattr(copies, "POLL_S", 0.0)
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN)
    service = FakeService()
    with serving(service) as url:
        yield Cluster(service, url, token_file)


def test_equal_copies_end_with_zero_and_their_figures(cluster: Cluster) -> None:
    cluster.finds()
    done = cluster.vimraft("copy", "verify", "pair", "-o", "json")
    assert done.code == 0, done.err
    data = done.json()
    assert (data["volume"], data["regions"], data["compared"], data["differing"]) == ("pair", 8, 8, 0)
    assert cluster.asked() == [VerifyRequest()]
    assert "all copies are equal" in cluster.vimraft("copy", "verify", "pair").out


def test_differences_are_printed_and_end_with_an_error(cluster: Cluster) -> None:
    found = CopyDifference(3 * MIB, 5 * MIB - 1, (("A",), ("B",)), repaired=False)
    cluster.finds(differing=2, clean=False, differences=(found,))
    done = cluster.vimraft("copy", "verify", "pair", "-o", "json")
    assert done.code == 3
    assert done.json()["differing"] == 2
    assert "differ in 2 regions" in done.err
    shown = cluster.vimraft("copy", "verify", "pair")
    assert f"{3 * MIB}-{5 * MIB - 1}" in shown.out
    assert "--repair --source SITE/COPY" in shown.err


def test_what_was_repaired_is_no_error(cluster: Cluster) -> None:
    found = CopyDifference(0, MIB - 1, (("A",), ("B",)), repaired=True)
    cluster.finds(differing=1, repaired=1, differences=(found,))
    done = cluster.vimraft("copy", "verify", "pair", "--repair", "--source", "osaka/B")
    assert done.code == 0, done.err
    assert cluster.asked() == [VerifyRequest(repair=True, source="B")]
    assert "1 repaired" in done.out


@pytest.mark.parametrize("source", ["osaka/A", "Z"])
def test_a_source_that_is_none_of_its_copies_is_refused(cluster: Cluster, source: str) -> None:
    refused = cluster.vimraft("copy", "verify", "pair", "--repair", "--source", source)
    assert refused.code == 4
    assert "tokyo/A" in refused.err
    assert cluster.asked() == []


def test_what_could_not_be_compared_is_no_success(cluster: Cluster) -> None:
    some = (CopyCompared("A", ("tokyo",), "in_sync", 8), CopyCompared("B", ("osaka",), "stale", 3))
    cluster.finds(compared=3, skipped=5, clean=False, copies=some, why="only one copy is in sync")
    done = cluster.vimraft("copy", "verify", "pair")
    assert done.code == 5
    assert "3 of 8 regions" in done.out
    assert "only one copy is in sync" in done.err


def test_it_may_run_in_the_background(cluster: Cluster) -> None:
    done = cluster.vimraft("copy", "verify", "pair", "--background")
    assert done.code == 0, done.err
    assert "vimraft job follow tokyo.4" in done.out


def test_following_the_job_tells_what_it_found(cluster: Cluster) -> None:
    cluster.finds(differing=1, clean=False)
    cluster.vimraft("copy", "verify", "pair", "--background")
    done = cluster.vimraft("job", "follow", "tokyo.4")
    assert done.code == 3
    assert "1 differed" in done.out


def test_a_copy_may_be_compared_when_it_got_in_sync(cluster: Cluster) -> None:
    cluster.finds()
    done = cluster.vimraft("copy", "add", "pair", "--verify")
    assert done.code == 0, done.err
    assert len(cluster.asked()) == 1
    assert "all copies are equal" in done.err
