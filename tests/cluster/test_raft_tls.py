"""Node processes with certificates: they form a cluster, and a node without the right ones stays out."""

from pathlib import Path
from typing import Any

import pytest

from tests.raft_cases import FORMING, CallFailed, NodeProcess, RaftCluster, free_addresses, storage, until
from tests.raft_links import Authority
from vimraft.metadata.pysyncobj.handshake import TlsFiles

pytestmark = pytest.mark.cluster


def certified(files: TlsFiles) -> Any:
    return {"ca": files.ca, "cert": files.cert, "key": files.key}


async def test_a_cluster_with_certificates_commits_and_refuses_a_foreign_one(tmp_path: Path) -> None:
    ours, foreign = Authority(tmp_path / "ours"), Authority(tmp_path / "foreign")
    addresses = sorted(free_addresses(3))
    cluster = RaftCluster(tmp_path, {})
    for i, address in enumerate(addresses):
        tls = certified(ours.issue(address))
        cluster.nodes.append(
            NodeProcess(address, addresses, tmp_path / f"n{i}", tls=tls, allow_plaintext=False)
        )
    first, second, stranger = cluster.nodes
    try:
        await cluster.start()
        for command in FORMING:
            await first.propose(command, deadline_ms=20_000)
        before = await cluster.same_digest(cluster.nodes)
        await stranger.kill()
        stranger.config["tls"] = certified(foreign.issue(stranger.address))
        await stranger.start()
        await first.propose(storage("021a01"), deadline_ms=20_000)
        await cluster.same_digest([first, second])

        async def refused() -> str | None:
            peers = (await stranger.status())["peers"]
            return next((peer["refused"] for peer in peers if peer["refused"]), None)

        assert "certificate" in await until(refused, 10, "the stranger says why")
        assert (await stranger.tables())["digest"] == before["digest"]
    finally:
        for node in cluster.nodes:
            await node.kill()


async def refusal(node: NodeProcess) -> str:
    """Why it does not start."""
    try:
        with pytest.raises(CallFailed) as caught:
            await node.start()
    finally:
        await node.kill()
    assert caught.value.kind == "Misconfigured"
    return str(caught.value)


async def test_a_node_whose_certificate_is_for_another_address_does_not_start(tmp_path: Path) -> None:
    files = Authority(tmp_path / "ca").issue("127.0.0.1:1")
    address = free_addresses(1)[0]
    tls: Any = {"ca": files.ca, "cert": files.cert, "key": files.key}
    node = NodeProcess(address, [address], tmp_path / "n", tls=tls)
    assert f"vimraft tls issue NAME --raft {address}" in await refusal(node)


async def test_a_plain_node_starts_only_when_that_was_asked_for(tmp_path: Path) -> None:
    address = free_addresses(1)[0]
    node = NodeProcess(address, [address], tmp_path / "n", allow_plaintext=False)
    assert "vimraft tls init" in await refusal(node)
