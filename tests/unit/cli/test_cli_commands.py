"""The commands against the real HTTP server over a fake site: what they ask, print and return."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import yaml
from msgspec.structs import replace

from tests.cli_case import Result, invoke
from tests.fake_site import GIB, MIB, TOKEN, FakeService, event, serving
from vimraft.api import schema
from vimraft.core.views import REAL_FREE, REAL_IDENTIFYING, VIRTUAL_IDENTIFYING, VIRTUAL_SECTORS


class Cluster:
    def __init__(self, service: FakeService, url: str, token_file: Path) -> None:
        self.service = service
        self.options = ("--api", url, "--token-file", str(token_file))

    def __call__(self, *arguments: str) -> Result:
        return invoke(*self.options, *arguments)

    def change(self) -> tuple[str, object]:
        """The one change asked for since the last call."""
        ((what, body, _),) = self.service.calls
        self.service.calls.clear()
        return what, body


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[FakeService, str]]:
    service = FakeService()
    with serving(service) as url:
        yield service, url


@pytest.fixture
def cluster(served: tuple[FakeService, str], tmp_path: Path) -> Cluster:
    service, url = served
    service.__init__()  # type: ignore[misc]
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN + "\n")
    return Cluster(service, url, token_file)


def test_status_as_json_is_exactly_the_reply(cluster: Cluster) -> None:
    result = cluster("status", "-o", "json")
    assert result.code == 0
    assert msgspec.json.decode(result.out, type=schema.StatusReply) == cluster.service.reply
    shown = result.json()
    assert shown["sites"][0]["pid"] == {"manager": 101, "export": 102, "store": 103}
    assert {"name", "role", "healthy"} <= set(shown["sites"][0])
    assert {"owner", "epoch", "replicas"} <= set(shown["volumes"][0])
    assert shown["volumes"][0]["replicas"][0]["state"] == "in_sync"


@pytest.mark.parametrize("width", [80, 132])
def test_status_fits_the_terminal(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = cluster("status").out.splitlines()
    assert max(len(line) for line in lines) <= width
    assert any("db-main" in line and "in_sync" in line for line in lines)


def test_tables_have_the_columns_of_the_design(cluster: Cluster) -> None:
    for command in (("tables",), ("map", "tables")):
        out = cluster(*command).out
        for columns in (REAL_IDENTIFYING, REAL_FREE, VIRTUAL_IDENTIFYING, VIRTUAL_SECTORS):
            assert any(
                [cell.strip() for cell in line.split("  ") if cell.strip()] == list(columns)
                for line in out.splitlines()
            )
        assert "as of index 1234" in out


def test_without_a_quorum_every_table_says_how_old_it_is(cluster: Cluster) -> None:
    old = schema.AsOf(index=1200, age_seconds=42.4, quorum=False)
    cluster.service.reply = replace(cluster.service.reply, as_of=old)
    assert cluster("tables").out.count("as of index 1200, 42 seconds old") == 4
    for command in ("status", "site ls", "real ls", "vol ls", "storage ls", "history", "map show db-main"):
        assert "as of index 1200, 42 seconds old" in cluster(*command.split()).out


def test_tables_of_a_volume_show_only_what_it_lies_on(cluster: Cluster) -> None:
    shown = cluster("tables", "db-main", "-o", "json").json()
    assert [row[0] for row in shown["virtual-sectors"]["rows"]] == ["db-main"]
    assert [row[:2] for row in shown["real-free"]["rows"]] == [["t1", 0]]
    assert cluster("tables", "nope").code == 4


def test_piped_tables_keep_every_row_on_one_line(cluster: Cluster) -> None:
    long = "x" * 63
    cluster.service.reply = replace(
        cluster.service.reply,
        volumes=tuple(replace(v, name=f"{v.name}-{long}"[:63]) for v in cluster.service.reply.volumes),
    )
    out = cluster("tables").out
    assert "…" not in out
    assert any(line.startswith("db-main-xxx") and "2048–133119" in line for line in out.splitlines())


@pytest.mark.parametrize(
    "command",
    ["status", "tables", "site ls", "storage ls", "real ls", "vol ls", "vol show db-main", "map show db-main",
     "events", "history", "settings show", "vol uri db-main", "version"],
)  # fmt: skip
def test_every_listing_speaks_json_and_yaml(cluster: Cluster, command: str) -> None:
    as_json = cluster(*command.split(), "-o", "json")
    as_yaml = cluster(*command.split(), "-o", "yaml")
    assert (as_json.code, as_yaml.code) == (0, 0)
    assert as_json.json() == yaml.safe_load(as_yaml.out)
    assert "\x1b" not in cluster(*command.split()).out


def test_vol_uri_prints_the_uri_and_nothing_else(cluster: Cluster) -> None:
    result = cluster("vol", "uri", "db-main", "--site", "osaka")
    assert result == (0, "nbd://127.0.0.1:10809/db-main\n", "")


def test_map_show_as_json_is_the_map(cluster: Cluster) -> None:
    found = msgspec.json.decode(cluster("map", "show", "db-main", "-o", "json").out, type=schema.MapReply)
    assert found.replicas[0].segments[0].real_first == 2048
    assert found.owner == "tokyo"


def test_building_sends_the_conditions(cluster: Cluster) -> None:
    result = cluster(
        "vol", "create", "new", "--size", "1.5G", "--class", "ssd", "--site", "tokyo,osaka", "--wait"
    )
    assert result.code == 0
    assert "new built: 1.5 GiB of class ssd" in result.out
    what, body = cluster.change()
    assert (what, body) == (
        "build",
        schema.BuildRequest(
            name="new", size_bytes=3 * GIB // 2, volume_class="ssd", sites=("tokyo", "osaka"), copies=1
        ),
    )


def test_a_plan_is_shown_and_not_built(cluster: Cluster) -> None:
    result = cluster("vol", "create", "new", "--size", "64M", "--class", "ssd", "--plan", "--wait")
    assert "would be built (nothing was committed)" in result.out
    assert len(cluster.service.reply.volumes) == 3


def test_waiting_ends_with_the_names_of_sites_that_lag(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vimraft.cli.volumes.WAIT_LIMIT_S", 0.3)
    sites = cluster.service.reply.sites
    cluster.service.reply = replace(
        cluster.service.reply,
        sites=(
            replace(sites[0], role="down", installed_index=-1),
            sites[1],
            replace(sites[2], installed_index=5),
        ),
    )
    result = cluster("vol", "create", "new", "--size", "64M", "--class", "ssd", "--wait")
    assert result.code == 5
    assert "committed, but not installed yet at tokyo" in result.err


def test_growing_and_deleting(cluster: Cluster) -> None:
    assert "grown: 128 MiB" in cluster("vol", "grow", "db-main", "--size", "128M").out
    assert cluster.change() == ("grow", ("db-main", 128 * MIB))
    assert cluster("vol", "rm", "db-main", "--purge", "--yes").out == "db-main deleted (64 MiB given back)\n"
    assert cluster.change() == ("delete", ("db-main", True, False))


@pytest.mark.parametrize(
    "command", ["vol rm db-main", "real rm t1:0", "storage rm t1", "site rm nagoya", "manager rm nagoya"]
)
def test_a_script_must_confirm_what_destroys(cluster: Cluster, command: str) -> None:
    result = cluster(*command.split())
    assert result.code == 2
    assert "add --yes" in result.err
    assert cluster.service.calls == []
    assert cluster(*command.split(), "--yes").code == 0


def test_real_volumes_and_storages_are_changed(cluster: Cluster) -> None:
    assert cluster("storage", "add", "t1", "--site", "tokyo", "--uri", "file:///srv/t1").code == 0
    assert cluster.change()[1] == schema.StorageRequest(address="t1", site="tokyo", uri="file:///srv/t1")
    assert cluster("real", "exclude", "t1:0").code == 0
    assert cluster.change() == ("set_real", ("t1", 0, "excluded"))
    assert cluster("real", "include", "t1:0").code == 0
    assert cluster.change() == ("set_real", ("t1", 0, "active"))


def test_adding_a_real_volume_follows_its_job(cluster: Cluster) -> None:
    result = cluster(
        "real", "add", "--storage", "t1", "--lun", "2", "--class", "ssd", "--size", "1G", "--force"
    )
    assert result.out == "real volume t1:2 is in the pool (class ssd)\n"
    assert result.err == ""
    body = cluster.change()[1]
    assert body == schema.AddRealRequest(
        storage="t1", lun=2, volume_class="ssd", size_bytes=GIB, preallocate=False, force=True
    )


def test_a_job_that_fails_gives_its_own_words_and_code(cluster: Cluster) -> None:
    error = schema.ErrorReply(code="local", message="t1:2 holds an ext4 file system", remedy="--force")
    failed = schema.JobReply("7", "preparing t1:2", "failed", 0, GIB, 0, error)
    cluster.service.jobs_known["7"] = [failed]
    result = cluster("real", "add", "--storage", "t1", "--lun", "2", "--class", "ssd")
    assert result.code == 7
    assert result.err == "error: t1:2 holds an ext4 file system\nhelp: --force\n"


def test_priority_and_settings(cluster: Cluster) -> None:
    assert cluster("site", "priority", "tokyo", "osaka, nagoya").code == 0
    assert cluster.change() == ("set_priority", ("tokyo", ("osaka", "nagoya")))
    assert cluster("site", "priority", "tokyo", "").code == 0
    assert cluster.change() == ("set_priority", ("tokyo", ()))
    assert cluster("settings", "set", "lease_ms", "5000").out == "lease_ms is 5000\n"
    assert cluster.change() == ("set_setting", ("lease_ms", 5000))
    assert "io_timeout_ms" in cluster("settings", "show").out


def test_managers_are_listed_shown_promoted_and_removed(cluster: Cluster) -> None:
    listed = cluster("manager", "ls").out
    for words in ("sendai", "observer", "17", "voters 3 of 3 up, 2 needed", "generation 1"):
        assert words in listed
    rows = cluster("manager", "ls", "-o", "json").json()
    assert {row["name"]: row["role"] for row in rows}["sendai"] == "observer"
    assert "id-tokyo" in cluster("manager", "show", "tokyo").out
    missing = cluster("manager", "show", "kyoto")
    assert (missing.code, "no manager 'kyoto'" in missing.err) == (4, True)
    assert cluster("manager", "promote", "sendai").out == "manager sendai is a voter\n"
    assert cluster.change() == ("promote", "sendai")
    for command in (("manager", "rm"), ("site", "rm")):
        assert "no member any more" in cluster(*command, "nagoya", "--yes").out
        assert cluster.change() == ("remove_manager", ("nagoya", False))
    assert cluster("manager", "rm", "nagoya", "--yes", "--force").code == 0
    assert cluster.change() == ("remove_manager", ("nagoya", True))


def test_only_the_manager_of_the_configuration_can_be_replaced_and_only_on_confirmation(
    cluster: Cluster, tmp_path: Path
) -> None:
    config, token = tmp_path / "site.toml", tmp_path / "token"
    assert cluster("site", "init", "--config", str(config), "--manager", "tokyo",
                   "--data-dir", str(tmp_path / "d")).code == 0  # fmt: skip
    token.write_text(TOKEN)
    rest = ("--config", str(config), "--via", cluster.options[1], "--token-file", str(token))
    for form in (("site", "join", "--replace"), ("manager", "replace")):
        other = cluster(*form, "osaka", *rest, "--yes")
        assert (other.code, "tokyo" in other.err) == (2, True)
        asked = cluster(*form, "tokyo", *rest)
        assert (asked.code, "add --yes" in asked.err) == (2, True)
    assert cluster.service.calls == []
    assert cluster("site", "join", "--replace", "tokyo", *rest, "--yes").code == 0
    (what, body) = cluster.change()
    assert (what, body.replace, body.observer) == ("join", True, False)


def test_names_are_never_read_as_markup(cluster: Cluster) -> None:
    cluster.service.log.append(event(9, "error", "[red]not markup[/red] :smile:"))
    assert "[red]not markup[/red] :smile:" in cluster("events").out
    assert "root@[::1]" in cluster("history").out


def test_help_documents_the_exit_codes() -> None:
    result = invoke("--help")
    assert result.code == 0
    for line in ("0 done", "3 refused by the tables", "6 outcome unknown", "130 interrupted"):
        assert line in result.out


def test_no_arguments_show_the_help() -> None:
    for arguments in ((), ("vol",)):
        result = invoke(*arguments)
        assert result.code == 2
        assert "Usage: vimraft" in result.out + result.err
        assert "error:" not in result.err


def test_version_needs_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIMRAFT_CONTEXT", str(tmp_path / "none"))
    result = invoke("version")
    assert result.code == 0
    assert result.out.startswith("vimraft 0.")
