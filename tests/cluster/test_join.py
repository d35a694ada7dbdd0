"""A fourth site joins a running cluster with one command, and a manager that holds nothing can leave."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster_fixture import MIB, Site, free_ports, running_cluster, wait_for
from vimraft.api.caller_errors import ApiError
from vimraft.api.schema import BuildRequest

pytestmark = pytest.mark.cluster
VIMRAFT = str(Path(sys.executable).with_name("vimraft"))


def join(site: Site, via: Site) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [VIMRAFT, "site", "join", "--config", str(site.config_path), "--via", via.url,
         "--token-file", str(site.cluster.token_path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_fourth_site_joins_serves_and_leaves(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "c") as cluster:
        cluster.add_pools(32)
        cluster.build("before", 4, sites=("tokyo",))
        sendai = Site(cluster, "sendai", free_ports(4))
        sendai.configure([], ["tokyo"])
        joined = join(sendai, cluster["osaka"])
        assert joined.returncode == 0, joined.stderr
        assert join(sendai, cluster["tokyo"]).returncode == 0, "asked again, it changes nothing"
        cluster.sites["sendai"] = sendai
        sendai.start()
        cluster.wait_healthy(tuple(cluster.sites))

        with sendai.client() as client:
            assert client.volume("before").volume.owner == "tokyo"
            site = next(s for s in client.status().sites if s.name == "sendai")
            assert site.role in ("follower", "leader")
        # it counts: with one of four away, three still agree
        cluster.add_real("sendai", 1, "ssd", 16)
        cluster["nagoya"].kill()
        with sendai.client() as client:
            wait_for(lambda: client.status().as_of.quorum, 15, "quorum of three")
            reply = client.build_volume(BuildRequest("after", 2 * MIB, "ssd", ("sendai",)))
            assert reply.volume.owner == "sendai"
        cluster["nagoya"].start()
        cluster.wait_healthy(tuple(cluster.sites))

        # a manager with a site cannot be taken out
        with cluster["tokyo"].client() as client:
            with pytest.raises(ApiError) as caught:
                client.remove_manager("sendai")
            assert "sendai" in caught.value.reply.message


def test_a_join_under_a_taken_name_is_refused(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "c", ("tokyo",)) as cluster:
        other = Site(cluster, "tokyo2", free_ports(4))
        other.name = "tokyo"
        other.configure([], [])
        refused = join(other, cluster["tokyo"])
        assert refused.returncode == 3
        assert "tokyo" in refused.stderr
        assert "exists already" in refused.stderr
