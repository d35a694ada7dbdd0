"""Two ends of Raft links in one process, for tests: a node that only ticks and remembers."""

import datetime
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import Struct
from pysyncobj.monotonic import monotonic
from pysyncobj.node import Node, TCPNode
from pysyncobj.poller import createPoller

from vimraft.metadata import certificates
from vimraft.metadata.pysyncobj.handshake import NetworkIdentity, TlsFiles
from vimraft.metadata.pysyncobj.member_transport import MemberTransport

CLUSTER = "11111111-2222-3333-4444-555555555555"
LARGE = bytes(range(256)) * 4096
Make = Callable[..., "LinkEnd"]


class FakeIdentity(Struct, frozen=True):
    node_id: str
    cluster: str = CLUSTER
    generation: int = 1
    birth: str = ""


class LinkEnd:
    """One node: its transport, and what it saw. Remembers node ids as the real one does."""

    def __init__(
        self,
        address: str,
        others: Sequence[str],
        *,
        identity: FakeIdentity | None = None,
        tls: TlsFiles | None = None,
        known: dict[str, str] | None = None,
        idle_s: float = 3.5,
    ) -> None:
        self.address = address
        self.known = {} if known is None else known
        self.config_index = 0
        self.decided: set[str] = set()
        self.superseded: list[int] = []
        self.network = NetworkIdentity(
            identity=identity or FakeIdentity(f"id-of-{address}"),
            address=address,
            tls=tls,
            knows=lambda other, node_id: self.known.setdefault(other, node_id) == node_id,
            config_index=lambda: self.config_index,
            decided_index=lambda: self.config_index,
            decided=lambda other, _: other in self.decided,
            superseded=self.superseded.append,
        )
        self.clock = monotonic
        self.raftCurrentTerm = 3
        self.conf = SimpleNamespace(connectionTimeout=idle_s)
        self._poller = createPoller("auto")
        self._callbacks: list[Callable[[], None]] = []
        self.received: list[tuple[str, dict[str, Any]]] = []
        self.connected: list[str] = []
        self.nodes: dict[str, Node] = {other: TCPNode(other) for other in others}
        self.links = MemberTransport(self, TCPNode(address), set(self.nodes.values()))
        self.links.setOnMessageReceivedCallback(lambda node, m: self.received.append((node.id, m)))
        self.links.setOnNodeConnectedCallback(lambda node: self.connected.append(node.id))
        self.links.setOnNodeDisconnectedCallback(self._disconnected)
        self.links.tryGetReady()

    def _disconnected(self, node: Node) -> None:
        if node.id in self.connected:  # a guest is not
            self.connected.remove(node.id)

    def addOnTickCallback(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    def round(self, wait_s: float = 0.002) -> None:
        for callback in self._callbacks:
            callback()
        self._poller.poll(wait_s)

    def send(self, other: str, message: dict[str, Any]) -> bool:
        sent = self.links.send(self.nodes[other], message)
        self.links.release()
        return sent

    def sees(self, other: str) -> bool:
        return self.links.is_connected(self.nodes[other])

    def why(self, other: str) -> str:
        return self.links.refusals.get(other, "")

    def close(self) -> None:
        self.links.destroy()


def large_message(number: int) -> dict[str, Any]:
    return {
        "type": "append_entries",
        "term": number,
        "commit_index": 0,
        "serialized": (LARGE, True, False),
    }


def run_until(ends: Sequence[LinkEnd], condition: Callable[[], Any], what: str, timeout_s: float = 8) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        for end in ends:
            end.round()


def run_for(ends: Sequence[LinkEnd], seconds: float) -> None:
    """For what must *not* happen."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for end in ends:
            end.round()


def linked(a: LinkEnd, b: LinkEnd) -> None:
    run_until([a, b], lambda: a.sees(b.address) and b.sees(a.address), "a link")


def refused(a: LinkEnd, b: LinkEnd, *, at: LinkEnd, other: LinkEnd) -> str:
    run_until([a, b], lambda: at.why(other.address), "a refusal")
    assert not a.connected
    assert not b.connected
    return at.why(other.address)


class Authority:
    """A CA in a directory, and certificates from it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        certificates.make_ca(directory, "test")
        self._made = 0

    def issue(self, address: str, *, days: int = 30) -> TlsFiles:
        self._made += 1
        cert, key = certificates.issue(f"m{self._made}", address, self.directory, self.directory, days)
        return TlsFiles(ca=str(self.directory / "ca.crt"), cert=str(cert), key=str(key))

    def issue_expired(self, address: str, monkeypatch: pytest.MonkeyPatch) -> TlsFiles:
        past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=10)
        with monkeypatch.context() as patch:
            patch.setattr(certificates, "_now", lambda: past)
            return self.issue(address, days=1)
