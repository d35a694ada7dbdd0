"""One manager alone: hostile calls to its API, starts that cannot succeed, devices not to be touched."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster_fixture import MIB, TOKEN, Cluster, Site, free_ports, running_cluster, wait_for
from vimraft.api.caller_errors import ApiError
from vimraft.api.schema import AddRealRequest, BuildRequest, StorageRequest

pytestmark = pytest.mark.cluster
VIMRAFT = str(Path(sys.executable).with_name("vimraft"))
BUILD = {"name": "x", "size_bytes": MIB, "volume_class": "ssd"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("alone"), ("tokyo",)) as cluster:
        cluster.add_real("tokyo", 1, "ssd", 32)
        yield cluster


def call(site: Site, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection(site.api, timeout=15)
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    sent = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", **headers}
    connection.request(method, path, data, sent)
    reply = connection.getresponse()
    text = reply.read()
    connection.close()
    return reply.status, json.loads(text) if text else {}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("POST", "/v1/volumes", BUILD | {"size_bytes": 512 << 80}, 400, "8 EiB"),
        ("POST", "/v1/volumes", BUILD | {"size_bytes": 512 << 80, "plan": True}, 400, "8 EiB"),
        ("POST", "/v1/volumes", BUILD | {"size_bytes": -512}, 400, "not positive"),
        ("POST", "/v1/volumes", BUILD | {"size_bytes": 0}, 400, "not positive"),
        ("POST", "/v1/volumes", BUILD | {"size_bytes": 513}, 400, "multiple of 512"),
        ("POST", "/v1/volumes", BUILD | {"copies": 2**70}, 400, "copies"),
        ("POST", "/v1/volumes", BUILD | {"copies": 2}, 409, "no room for copy 2 of 2"),
        ("POST", "/v1/volumes", BUILD | {"name": "a b"}, 400, "name"),
        ("POST", "/v1/volumes", BUILD | {"name": "a\x00b"}, 400, "name"),
        ("POST", "/v1/volumes", BUILD | {"colour": "red"}, 400, "colour"),
        ("POST", "/v1/volumes", BUILD | {"sites": ["atlantis"]}, 404, "atlantis"),
        ("POST", "/v1/volumes", BUILD | {"volume_class": "gold"}, 409, "gold"),
        ("POST", "/v1/volumes", b"[" * 100_000, 400, "nested"),
        ("POST", "/v1/volumes", b'{"name":"\\ud800"}', 400, ""),
        ("POST", "/v1/volumes", b"\xff\xfe\x00", 400, ""),
        ("POST", "/v1/volumes", b"", 400, ""),
        ("PUT", "/v1/settings/lease_ms", {"value": 2**70}, 400, "value"),
        ("PUT", "/v1/settings/speed", {"value": 1}, 404, "speed"),
        ("DELETE", f"/v1/reals/tokyo-a/{2**70}", None, 400, "lun"),
        ("GET", f"/v1/events?after={2**70}", None, 400, "after"),
        ("GET", "/v1/volumes/%2e%2e%2f%2e%2e", None, 404, ""),
        ("GET", "/v1/volumes/" + "a" * 5000, None, 404, ""),
        ("GET", "/v1/jobs/%ff", None, 400, "not known"),
        ("GET", "/v1/nothing", None, 404, "no such API path"),
    ],
)
def test_a_bad_call_is_refused_in_words_and_nothing_breaks(
    cluster: Cluster, method: str, path: str, body: Any, status: int, says: str
) -> None:
    site = cluster["tokyo"]
    got, reply = call(site, method, path, body)
    assert (got, says in reply["message"]) == (status, True), reply
    assert reply["remedy"]
    assert "defect" not in site.log_path.read_text()
    assert site.status().sites[0].healthy


def test_without_the_token_only_health_is_answered(cluster: Cluster) -> None:
    for token in ("", "Bearer wrong", "Bearer \xff"):
        status, reply = call(cluster["tokyo"], "GET", "/v1/status", Authorization=token)
        assert (status, reply["code"]) == (401, "token")
    assert call(cluster["tokyo"], "GET", "/v1/health", Authorization="")[0] == 200


def test_a_request_id_used_twice_for_different_changes_is_refused(cluster: Cluster) -> None:
    site, same = cluster["tokyo"], {"X-Request-Id": "same"}
    assert call(site, "PUT", "/v1/settings/lease_ms", {"value": 4001}, **same)[0] == 200
    assert call(site, "PUT", "/v1/settings/lease_ms", {"value": 4001}, **same)[0] == 200
    status, reply = call(site, "PUT", "/v1/settings/lease_ms", {"value": 9999}, **same)
    assert status == 400
    assert "request id" in reply["message"]
    assert site.status().settings.lease_ms == 4001


def test_the_api_describes_itself(cluster: Cluster) -> None:
    status, document = call(cluster["tokyo"], "GET", "/v1/openapi.json")
    assert status == 200
    assert document["openapi"].startswith("3.")
    build = document["paths"]["/v1/volumes"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert build["$ref"].endswith("BuildRequest")


def test_what_the_tables_would_refuse_is_refused_before_the_device_is_touched(
    cluster: Cluster, tmp_path: Path
) -> None:
    precious = tmp_path / "precious.img"
    precious.write_bytes(os.urandom(4 * MIB))
    before = precious.read_bytes()
    with cluster.client() as client:
        client.set_storage(StorageRequest(address="p", site="tokyo"))
        for lun, volume_class in ((70_000, "ssd"), (1, "a\nb"), (1, "")):
            with pytest.raises(ApiError):
                client.add_real(
                    AddRealRequest(
                        storage="p", lun=lun, volume_class=volume_class, uri=f"file://{precious}", force=True
                    )
                )
        refused = client.add_real(
            AddRealRequest(storage="p", lun=1, volume_class="ssd", uri=f"file://{precious}")
        )
        job = wait_for(lambda: (j := client.job(refused.id)).state != "running" and j, 10, "job ends")
    assert job.state == "failed"
    assert job.error is not None
    assert "force" in job.error.remedy + job.error.message
    assert precious.read_bytes() == before


def test_a_plan_shows_what_would_be_built_and_builds_nothing(cluster: Cluster) -> None:
    with cluster.client() as client:
        before = client.status()
        planned = client.build_volume(BuildRequest("planned", 5 * MIB, "ssd", plan=True))
        assert planned.planned
        assert planned.segments[0].site == "tokyo"
        after = client.status()
        assert [v.name for v in after.volumes] == [v.name for v in before.volumes]
        assert [r.free_bytes for r in after.reals] == [r.free_bytes for r in before.reals]
        built = client.build_volume(BuildRequest("planned", 5 * MIB, "ssd"))
        assert built.segments == planned.segments


@pytest.mark.parametrize("taken", ["nbd", "peer", "raft", "api"])
def test_a_manager_whose_address_is_taken_says_so_and_ends(tmp_path: Path, taken: str) -> None:
    cluster = Cluster(tmp_path, ("tokyo",))
    site = cluster["tokyo"]
    site.configure([site.raft], [])
    host, _, port = getattr(site, taken).rpartition(":")
    with contextlib.closing(socket.create_server((host, int(port)))):
        ended = subprocess.run(
            [VIMRAFT, "site", "run", "--config", str(site.config_path)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert ended.returncode == 7
    assert getattr(site, taken) in ended.stderr.replace("\n", "").replace(" ", "") or port in ended.stderr
    assert "Traceback" not in ended.stderr
    assert site.plane_pid("export") is None


def test_two_managers_never_share_a_data_directory(cluster: Cluster) -> None:
    site = cluster["tokyo"]
    ended = subprocess.run(
        [VIMRAFT, "site", "run", "--config", str(site.config_path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 7
    assert "in use by site manager process" in ended.stderr.replace("\n", " ").replace("  ", " ")
    assert site.status().sites[0].healthy


def test_a_manager_that_belongs_to_no_cluster_says_how_to_join_one(tmp_path: Path) -> None:
    site = Site(Cluster(tmp_path, ("tokyo",)), "lonely", free_ports(4))
    site.configure([], [])
    ended = subprocess.run(
        [VIMRAFT, "site", "run", "--config", str(site.config_path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 7
    assert "vimraft site join" in ended.stderr
