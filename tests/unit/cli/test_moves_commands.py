"""`vol rm`, `trash`, `real drain`, `vol migrate`, `job` over a fake site: what they ask, print and return."""

import pytest

from tests.fake_site import GIB
from tests.unit.cli.test_cli_commands import Cluster, cluster, served
from vimraft.api import schema
from vimraft.api.schema_moves import MigrateRequest, SaveRequest

__all__ = ["cluster", "served"]


def test_a_deleted_volume_is_listed_and_restored(cluster: Cluster) -> None:
    shown = cluster("vol", "rm", "db-main", "--yes")
    assert shown.out == "db-main (64 MiB) is in the trash: vimraft trash restore 1000\n"
    assert cluster.change() == ("delete", ("db-main", False, False))
    listed = cluster("trash", "ls").out
    assert "db-main" in listed
    assert "64 MiB held, kept for 72 hours" in listed
    assert cluster("trash", "ls", "-o", "json").json()["volumes"][0]["id"] == 1000
    assert cluster("trash", "restore", "db-main", "--as", "again").out == "again is back (64 MiB)\n"
    assert cluster.change() == ("restore", (1000, "again"))
    assert "the trash is empty" in cluster("trash", "ls").out


def test_of_two_deleted_volumes_of_a_name_one_must_be_named_by_its_id(cluster: Cluster) -> None:
    cluster("vol", "rm", "db-main", "--yes")
    cluster.service.in_trash[7] = cluster.service.in_trash[1000]
    cluster.service.calls.clear()
    refused = cluster("trash", "restore", "db-main")
    assert refused.code == 2
    assert "one of the ids 7, 1000" in refused.err
    assert cluster("trash", "purge", "7", "--yes").out == "db-main deleted for good (64 MiB given back)\n"
    assert cluster.change() == ("purge", 7)
    unknown = cluster("trash", "restore", "x")
    assert unknown.code == 2
    assert "db-main (1000)" in unknown.err


def test_deleting_with_a_copy_follows_the_job(cluster: Cluster) -> None:
    shown = cluster("vol", "rm", "db-main", "--save-to", "kept", "--class", "hdd", "--site", "osaka", "--yes")
    assert shown.out == "db-main is saved to kept, verified, and deleted into the trash\n"
    expected = SaveRequest("kept", volume_class="hdd", sites=("osaka",))
    assert cluster.change() == ("save", ("db-main", expected))


def test_options_about_a_copy_need_one(cluster: Cluster) -> None:
    refused = cluster("vol", "rm", "db-main", "--class", "hdd", "--yes")
    assert refused.code == 2
    assert "--save-to" in refused.err
    assert not cluster.service.calls


@pytest.mark.parametrize(
    ("command", "change", "done"),
    [
        ("real drain t1:0 --yes", ("drain_real", ("t1", 0)), "real volume t1:0 is empty"),
        ("site drain tokyo --yes", ("drain_site", "tokyo"), "site tokyo is empty"),
        (
            "vol migrate db-main --class hdd --site osaka,nagoya",
            ("migrate", ("db-main", MigrateRequest("hdd", ("osaka", "nagoya")))),
            "db-main lies as asked",
        ),
    ],
)
def test_a_job_is_followed_to_its_end(
    cluster: Cluster, command: str, change: tuple[str, object], done: str
) -> None:
    result = cluster(*command.split())
    assert result.code == 0
    assert done in result.out
    assert cluster.change() == change
    assert cluster(*command.split(), "-o", "json").json()["state"] == "done"


def test_a_job_in_the_background_is_named_listed_and_cancelled(cluster: Cluster) -> None:
    started = cluster("real", "drain", "t1:0", "--yes", "--background")
    assert "started as job tokyo.drain.t1.0" in started.out
    listed = cluster("job", "ls").out
    assert "512 MiB of 1 GiB (50%)" in listed
    assert "95.4 MiB/s" in listed
    cluster.service.calls.clear()
    assert cluster("job", "cancel", "tokyo.drain.t1.0", "--yes").out == "drain_real: being cancelled\n"
    assert cluster.change() == ("cancel_job", "tokyo.drain.t1.0")


def test_a_job_that_failed_ends_with_its_words(cluster: Cluster) -> None:
    error = schema.ErrorReply(code="conflict", message="drain t1:0 was cancelled", remedy="start it again")
    cluster.service.jobs_known["tokyo.1"] = [
        schema.JobReply(
            id="tokyo.1",
            what="drain t1:0",
            state="failed",
            done_bytes=0,
            total_bytes=GIB,
            started_ms=0,
            error=error,
        )
    ]
    result = cluster("job", "follow", "tokyo.1")
    assert result.code == 3
    assert "drain t1:0 was cancelled" in result.err
    assert "drain t1:0 was cancelled" in cluster("job", "ls").out


def test_migrating_nowhere_is_refused(cluster: Cluster) -> None:
    assert cluster("vol", "migrate", "db-main").code == 2


def test_a_volume_is_held_read_only_and_let_go(cluster: Cluster) -> None:
    assert cluster("vol", "read-only", "db-main").out == "db-main is read-only\n"
    assert cluster("vol", "read-only", "db-main", "--off").out == "db-main takes writes again\n"


def test_the_settings_shown_to_programs_hold_the_defaults_too(cluster: Cluster) -> None:
    assert cluster("settings", "show", "-o", "json").json()["trash_keep_h"] == 72
