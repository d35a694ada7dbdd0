"""Observers, promotion, removal and replacement with real managers, restarts and kills in between."""

import concurrent.futures
import contextlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster_fixture import MIB, Cluster, Site, free_ports, running_cluster, wait_for
from vimraft.api.caller_errors import ApiError, CallerError
from vimraft.api.schema import BuildRequest, Membership, MemberStatus

pytestmark = pytest.mark.cluster
VIMRAFT = str(Path(sys.executable).with_name("vimraft"))
SILENT_S = 15.0


def join(site: Site, via: Site, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [VIMRAFT, "site", "join", "--config", str(site.config_path), "--via", via.url,
         "--token-file", str(site.cluster.token_path), "--yes", *options],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def said(process: subprocess.CompletedProcess[str]) -> str:
    """What it said, however it was folded."""
    return " ".join(process.stderr.split())


def fourth(cluster: Cluster, name: str = "sendai") -> Site:
    site = Site(cluster, name, free_ports(4))
    site.configure([], [])
    cluster.sites[name] = site
    return site


def members(site: Site) -> Membership:
    with site.client(3.0) as client:
        return client.members().membership


def member(seen_at: Site, name: str) -> MemberStatus | None:
    return next((m for m in members(seen_at).members if m.name == name), None)


def wait_role(seen_at: Site, name: str, *roles: str) -> None:
    def there() -> bool:
        found = member(seen_at, name)
        return found is not None and found.role in roles and found.connected

    wait_for(there, 30, f"{name} is {roles} at {seen_at.name}: {seen_at.tail()}")


def wait_writable(site: Site) -> None:
    with site.client() as client:
        wait_for(lambda: client.set_setting("history_changes", 900), 30, f"changes through {site.name}")


def restart(site: Site) -> None:
    site.kill()
    site.start()


def remove_through_a_kill(cluster: Cluster, name: str, left: tuple[str, ...]) -> None:
    """The leader dies with the removal under way; asking again finishes it."""
    leader = cluster.leader()
    with concurrent.futures.ThreadPoolExecutor(1) as pool, leader.client() as client:
        removing = pool.submit(client.remove_manager, name)
        leader.kill()
        with contextlib.suppress(CallerError):
            removing.result()
    leader.start()
    cluster.wait_healthy(left)
    with cluster[left[0]].client() as client, contextlib.suppress(ApiError):
        client.remove_manager(name)  # not found: it was complete before the kill


def change_a_setting(at: Site) -> None:
    with at.client() as client:
        client.set_setting("history_changes", 800)


def promote(at: Site, name: str) -> None:
    with at.client() as client:
        client.promote(name)


def refused_all_at_once(*changes: Callable[[], None]) -> None:
    """Each takes its time before it gives up."""
    with concurrent.futures.ThreadPoolExecutor(len(changes)) as pool:
        for change in [pool.submit(change) for change in changes]:
            with pytest.raises((ApiError, CallerError)):
                change.result()


def digests(cluster: Cluster) -> set[tuple[str, ...]]:
    found = set()
    for site in cluster.sites.values():
        with site.client(3.0) as client:
            found.add(tuple(str(row) for row in client.table("virtual-identifying").rows))
    return found


def test_an_observer_has_full_tables_and_no_vote_until_it_is_promoted(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "c") as cluster:
        cluster.add_pools(16)
        cluster.build("before", 2, sites=("tokyo",))
        sendai = fourth(cluster)
        joined = join(sendai, cluster["osaka"], "--observer")
        assert joined.returncode == 0, joined.stderr
        sendai.start()
        cluster.wait_healthy(tuple(cluster.sites))
        wait_role(cluster["tokyo"], "sendai", "observer")
        wait_role(sendai, "sendai", "observer")
        assert (members(sendai).voters, members(sendai).voters_needed) == (3, 2)
        with sendai.client() as client:
            assert client.volume("before").volume.owner == "tokyo"
            assert client.build_volume(BuildRequest("through-it", MIB, "ssd", ("osaka",))).index

        # its death is nobody's concern
        sendai.kill()
        wait_writable(cluster["tokyo"])
        sendai.start()
        cluster.wait_healthy(tuple(cluster.sites))
        wait_role(cluster["tokyo"], "sendai", "observer")

        # it does not stand in for a voter: one of three, with it beside, changes nothing
        gone = [cluster["osaka"], cluster["nagoya"]]
        for site in gone:
            site.kill()
        wait_for(lambda: not sendai.status().as_of.quorum, SILENT_S, "no quorum at the observer")
        refused_all_at_once(
            lambda: change_a_setting(cluster["tokyo"]),
            lambda: change_a_setting(sendai),
            lambda: promote(cluster["tokyo"], "sendai"),
        )
        for asked in (cluster["tokyo"], sendai):
            assert asked.status().settings.history_changes == 900
        assert members(cluster["tokyo"]).voters_reachable < 2
        for site in gone:
            site.start()
        cluster.wait_healthy(tuple(cluster.sites))

        with cluster.client() as client:
            wait_for(lambda: client.promote("sendai"), 30, "promoted")
        wait_role(cluster["tokyo"], "sendai", "voter", "leader")
        restart(sendai)
        cluster.wait_healthy(tuple(cluster.sites))
        wait_role(cluster["nagoya"], "sendai", "voter", "leader")
        cluster["osaka"].kill()
        wait_writable(sendai)
        assert members(sendai).voters == 4

        # taken out alive, it knows that it is out, and disturbs nobody
        with cluster["tokyo"].client() as client:
            client.remove_manager("sendai")
        wait_for(lambda: not sendai.status().as_of.quorum, SILENT_S, "out, and aware of it")
        term = members(cluster["tokyo"]).term
        wait_writable(cluster["nagoya"])
        restart(sendai)
        wait_for(lambda: sendai.status().answered_by == "sendai", 30, "sendai answers")
        wait_writable(cluster["tokyo"])
        assert members(cluster["tokyo"]).voters == 3
        assert members(cluster["tokyo"]).term == term
        assert "sendai" not in {m.name for m in members(cluster["tokyo"]).members}


def test_a_dead_manager_is_removed_and_stays_out(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "c") as cluster:
        nagoya = cluster["nagoya"]
        nagoya.kill()
        with cluster["tokyo"].client() as client:
            wait_for(lambda: not member(cluster["tokyo"], "nagoya").connected, SILENT_S, "seen as dead")
            # removing a living one first would leave no majority: refused, with the dead one's name
            living = "osaka" if cluster.leader().name == "tokyo" else "tokyo"
            with pytest.raises(ApiError, match="no majority") as refused:
                client.remove_manager(living)
            assert "nagoya" in refused.value.reply.message
            assert member(cluster["tokyo"], living) is not None
        remove_through_a_kill(cluster, "nagoya", ("tokyo", "osaka"))
        assert member(cluster["tokyo"], "nagoya") is None
        wait_for(lambda: members(cluster["osaka"]).voters == 2, 10, "two voters seen at osaka")
        wait_writable(cluster["osaka"])
        for name in ("tokyo", "osaka"):
            restart(cluster[name])
        cluster.wait_healthy(("tokyo", "osaka"))
        assert member(cluster["tokyo"], "nagoya") is None
        # back from the dead, it is a stranger and changes nothing
        nagoya.start()
        wait_for(lambda: nagoya.status().answered_by == "nagoya", 20, "nagoya answers")
        wait_writable(cluster["tokyo"])
        assert member(cluster["tokyo"], "nagoya") is None
        with nagoya.client() as client, pytest.raises(CallerError):
            client.set_setting("history_changes", 700)


def test_a_wiped_manager_is_refused_told_what_to_do_and_comes_back_by_replacement(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "c") as cluster:
        cluster.add_pools(16)
        for name in cluster.sites:
            cluster.build(f"of-{name}", 2, sites=(name,))
        lost = next(site for site in cluster.sites.values() if site is not cluster.leader())
        others = [site for site in cluster.sites.values() if site is not lost]

        alive = join(lost, others[0], "--replace", lost.name)
        assert alive.returncode != 0
        assert "in use by site manager" in said(alive), "its own directory is locked"
        lost.kill()
        shutil.rmtree(lost.data_dir / "raft")
        lost.start()
        wait_for(lambda: lost.status().membership.advice, 30, f"told what to do: {lost.tail()}")
        assert f"vimraft site join --replace {lost.name}" in lost.status().membership.advice[0]
        wait_for(lambda: "manager.refused" in lost.tail(), 10, "in its log")
        wait_writable(others[0])
        assert members(others[0]).voters == 3
        lost.stop_manager()
        lost.kill_planes()

        def replaced() -> bool:
            done = join(lost, others[0], "--replace", lost.name)
            assert done.returncode in (0, 3), done.stderr
            assert done.returncode == 0 or "is alive" in said(done), done.stderr
            return done.returncode == 0

        wait_for(replaced, SILENT_S, "replaced once it is silent")
        for site in others:
            restart(site)
        cluster.wait_healthy(tuple(site.name for site in others))
        lost.start()
        cluster.wait_healthy(tuple(cluster.sites))
        wait_role(others[0], lost.name, "voter", "leader")
        wait_for(lambda: len(digests(cluster)) == 1, 10, "the same tables everywhere")
        with lost.client() as client:
            assert client.volume(f"of-{lost.name}").volume.owner == lost.name
        others[0].kill()
        wait_writable(lost)
