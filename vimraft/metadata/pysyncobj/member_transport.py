"""Links between the members of one cluster: PySyncObj's transport on checked frames and mutual TLS.

May live here: which links there are, who dials, and what is known about each. PySyncObj's own transport
also serves admin commands and anonymous "readonly" peers to whoever connects; this one knows members only.
Frames are connection.py's, who a peer is handshake.py's, what it says wire.py's.

Of two nodes the one with the greater address dials; the other one too once there has been no link for
OTHER_SIDE_S, since the first may not know it (see guests in handshake.py). A link is reported up once both
ends have accepted each other. A new link of a node replaces the old one, which is closed; but one that the
greater address has dialled and that is alive stays when the other side dials too, so both ends keep the
same. A guest's link is reported up when the guest becomes a member, and ends when this node knows as much
of the members as the guest and the guest is none of them. The number of connections that have not yet shown
who they are is bounded, and that of guests; the oldest gives way. A refusal is logged once, not at each
retry.
"""

import socket
from collections.abc import Mapping
from typing import Any, Final

import structlog
from pysyncobj.node import Node, TCPNode
from pysyncobj.transport import TransportNotReadyError

from vimraft.metadata.pysyncobj.config import CONNECTION_RETRY_S
from vimraft.metadata.pysyncobj.connection import Connection, dial
from vimraft.metadata.pysyncobj.gate import GatedTransport, Message
from vimraft.metadata.pysyncobj.handshake import (
    MAX_HELLO_BYTES,
    Frame,
    Handshake,
    NetworkIdentity,
    encode_frame,
)
from vimraft.metadata.pysyncobj.listener import Listener
from vimraft.metadata.pysyncobj.resolver import Resolver
from vimraft.metadata.pysyncobj.strangers import Strangers
from vimraft.metadata.pysyncobj.tls import TlsContexts
from vimraft.metadata.pysyncobj.wire import MAX_FRAME_BYTES, WireError, decode, encode

log = structlog.get_logger(__name__)

MAX_UNKNOWN: Final = 64
"""Connections whose handshake is not over."""
HANDSHAKE_S: Final = 5.0
LOOK_S: Final = 0.1
"""Between two looks for what has timed out and who must be called."""
PAUSED_S: Final = 0.5
"""After a pause of this process (SIGSTOP, a frozen guest) what peers said waits unread: it is read before
anyone is called silent."""
CONGESTED_BYTES: Final = 16 << 20
OTHER_SIDE_S: Final = 3.0
OTHER_SIDE_RETRY_S: Final = 1.0
MAX_GUESTS: Final = 64
MAX_LOGGED: Final = 8
"""Reasons of refusals, for each member, whose repetition is silent."""


class _Link:
    """One connection and its handshake."""

    def __init__(self, handshake: Handshake, node: Node | None) -> None:
        self.handshake = handshake
        self.node = node
        """Whom it was dialled for; after the handshake, who it is."""
        self.dialled = node is not None
        self.connection: Connection
        self.up = False
        self.guest = False
        self.announced = False
        """Logged as up: with the first message, since only then it is certain that a manager is there."""


class MemberTransport(GatedTransport):
    """Everything in the node's thread. `node` gives `network` (NetworkIdentity), `clock`, `_poller`,
    `conf.connectionTimeout` and `addOnTickCallback`."""

    def __init__(self, node: Any, self_node: Node, other_nodes: set[Node]) -> None:
        """Raises Misconfigured (TLS files). Listens with the first `tryGetReady`."""
        super().__init__(node, self_node, other_nodes)
        self._network: NetworkIdentity = node.network
        self._clock = node.clock
        self._poller = node._poller
        self._idle_s: float = node.conf.connectionTimeout
        self._contexts = None if self._network.tls is None else TlsContexts(self._network.tls, self._clock)
        self._resolver = Resolver(self._clock)
        self._listener: Listener | None = None
        self._nodes: dict[str, Node] = {}
        self._links: dict[Node, _Link] = {}
        """At most one each: up, or being dialled."""
        self._unknown: dict[_Link, None] = {}
        """Handshake not over, oldest first."""
        self._contacts: dict[str, Node] = {}
        self._apart_since: dict[Node, float] = {}
        """Members and contacts without a link."""
        self._next_dial: dict[Node, float] = {}
        self._dials: dict[Node, int] = {}
        self._last_contact: dict[Node, float] = {}
        self._refusals: dict[str, str] = {}
        self._logged: dict[str, list[str]] = {}
        self._guests: frozenset[Node] = frozenset()
        self._strangers = Strangers(self._clock)
        self._last_look = self._last_tick = self._clock()
        self._destroyed = False
        self.counters: dict[str, int] = dict.fromkeys(
            ("accepted", "dialled", "up", "refused", "offended", "unknown_dropped", "messages", "bytes"), 0
        )
        for other in other_nodes:
            self.addNode(other)
        node.addOnTickCallback(self._tick)

    # --- what others look at ----------------------------------------------------------------------

    @property
    def refusals(self) -> Mapping[str, str]:
        """Member's address → why the link with it is refused, at either end. Replaced, never changed."""
        return self._refusals

    def last_contact(self, node: Node) -> float | None:
        """When (node's clock) the last frame from it came."""
        return self._last_contact.get(node)

    def cluster_of(self, node: Node) -> tuple[str, int, str]:
        """(cluster, generation, birth) that the other end of the link with it has named; "": unknown."""
        link = self._links.get(node)
        peer = link.handshake.peer if link is not None and link.up else None
        return ("", 0, "") if peer is None else (peer.cluster, peer.generation, peer.birth)

    @property
    def guests(self) -> frozenset[Node]:
        return self._guests

    def call_also(self, addresses: tuple[str, ...]) -> None:
        self._contacts = {address: TCPNode(address) for address in addresses}

    def is_connected(self, node: Node) -> bool:
        link = self._links.get(node)
        return link is not None and link.up

    def backlog_bytes(self, node: Node) -> int:
        """Sent, and not yet taken by the kernel."""
        link = self._links.get(node)
        return link.connection.backlog_bytes if link is not None else 0

    def congested(self, node: Node) -> bool:
        """More should wait (parts of a snapshot): beyond connection.MAX_BACKLOG_BYTES the link is cut."""
        return self.backlog_bytes(node) > CONGESTED_BYTES

    # --- PySyncObj's side -------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        return self._listener is not None

    def tryGetReady(self) -> None:  # noqa: N802
        """Raises TransportNotReadyError: the address cannot be listened on."""
        if self._listener is not None or self._destroyed:
            return
        try:
            self._listener = Listener(self._network.address, self._poller, self._clock, self._accept)
        except (OSError, ValueError) as error:
            raise TransportNotReadyError(str(error)) from None

    def waitReady(self) -> None:  # noqa: N802
        self.tryGetReady()

    def addNode(self, node: Node) -> None:  # noqa: N802
        """A voter or an observer: links are the same."""
        self._nodes[node.id] = node
        self._apart_since[node] = self._clock()

    def dropNode(self, node: Node) -> None:  # noqa: N802
        self._nodes.pop(node.id, None)
        self._apart_since.pop(node, None)
        self._next_dial.pop(node, None)
        self._dials.pop(node, None)
        self._last_contact.pop(node, None)
        self._forget_refusal(node.id)
        link = self._links.get(node)
        if link is not None:
            self._drop(link, "no member any more")

    def destroy(self) -> None:
        self._destroyed = True
        self.setOnMessageReceivedCallback(None)
        self.setOnNodeConnectedCallback(None)
        self.setOnNodeDisconnectedCallback(None)
        if self._listener is not None:
            self._listener.close()
        for link in [*self._links.values(), *self._unknown]:
            link.connection.close()
        self._links.clear()
        self._unknown.clear()

    def _transmit(self, node: Node, message: Message) -> bool:
        link = self._links.get(node)
        if link is None or not link.up:
            return False
        try:
            data = encode(message)
        except WireError:
            log.exception("raft.message_not_sent", peer=node.id, kind=str(message.get("type")))
            return False
        return link.connection.send(data)

    # --- making links -----------------------------------------------------------------------------

    def _tick(self) -> None:
        """Once a round."""
        now = self._clock()
        gap, self._last_tick = now - self._last_tick, now
        if gap > PAUSED_S:
            for link in [*self._links.values(), *self._unknown]:
                link.connection.heard_at = now
        if now - self._last_look < LOOK_S or self._destroyed:
            return
        self._last_look = now
        if self._listener is not None:
            self._listener.tick(now)
            self._dial_missing(now)
        self._look_at_guests()
        for link in list(self._unknown):
            if now - link.connection.opened_at > HANDSHAKE_S:
                self._drop(link, "no handshake in time")
        for link in list(self._links.values()):
            if link.up and link.connection.quiet_since(now) > self._idle_s:
                self._drop(link, f"silent for {self._idle_s:.1f} s")

    def _dial_missing(self, now: float) -> None:
        for address, node in list((self._nodes or self._contacts).items()):
            if node in self._links:
                continue
            first = self._network.address > address
            apart_s = now - self._apart_since.setdefault(node, now)
            if (first or apart_s >= OTHER_SIDE_S) and now >= self._next_dial.get(node, now):
                self._next_dial[node] = now + (CONNECTION_RETRY_S if first else OTHER_SIDE_RETRY_S)
                self._dial(node)

    def _look_at_guests(self) -> None:
        """Has this node learnt of them?"""
        for node in self._guests:
            link = self._links[node]
            peer = link.handshake.peer
            assert peer is not None
            member = self._nodes.get(peer.address)
            if member is not None and self._network.knows(peer.address, peer.node_id):
                link.guest, link.node = False, member
                self._note_guests()
                self._onNodeConnected(member)
            elif peer.config_index <= self._network.decided_index() and not self._network.decided(
                peer.address, peer.node_id
            ):
                self._drop(link, "no member")

    def recheck(self) -> None:
        for node, link in list(self._links.items()):
            peer = link.handshake.peer
            if not link.up or link.guest or peer is None or node.id not in self._nodes:
                continue
            if not self._network.knows(peer.address, peer.node_id):
                self._drop(link, "another node id than the log names")

    def _note_guests(self) -> None:
        self._guests = frozenset(node for node, link in self._links.items() if link.up and link.guest)

    def _dial(self, node: Node) -> None:
        found = self._resolver.find(node.id)
        if not found:
            return
        attempt = self._dials[node] = self._dials.get(node, -1) + 1
        family, sockaddr = found[attempt % len(found)]
        try:
            sock = dial(family, sockaddr)
        except OSError:
            return  # such as no route: tried again
        self.counters["dialled"] += 1
        link = self._open(sock, node.id, node)
        if link is not None:
            self._links[node] = link
            link.connection.send(encode_frame(link.handshake.hello()))

    def _accept(self, sock: socket.socket, remote: str) -> None:
        self.counters["accepted"] += 1
        self._open(sock, remote, None)
        callers = [link for link in self._unknown if link.node is None]
        if len(callers) > MAX_UNKNOWN:
            self.counters["unknown_dropped"] += 1
            self._drop(callers[0], "too many callers")

    def _open(self, sock: socket.socket, remote: str, node: Node | None) -> _Link | None:
        tls = None
        if self._contexts is not None:
            tls = self._contexts.accept() if node is None else self._contexts.connect()
        handshake = Handshake(
            self._network,
            is_member=self._nodes.__contains__,
            dialled=None if node is None else node.id,
            certificate_addresses=lambda: None if tls is None else tls.peer_addresses(),
        )
        link = _Link(handshake, node)
        try:
            link.connection = Connection(
                sock,
                self._poller,
                self._clock,
                remote=remote,
                tls=tls,
                connecting=node is not None,
                max_frame_bytes=MAX_HELLO_BYTES,
                on_frame=lambda _, data: self._receive(link, data),
                on_closed=lambda _, why, offended: self._closed(link, why, offended),
            )
        except OSError:
            sock.close()  # gone again before it was ours
            return None
        self._unknown[link] = None
        return link

    # --- what comes in ----------------------------------------------------------------------------

    def _receive(self, link: _Link, data: bytes) -> None:
        """Raises WireError."""
        if not link.up:
            self._shake_hands(link, data)
            return
        node = link.node
        assert node is not None
        message = decode(data)
        if not link.announced:
            link.announced = True
            release = "" if link.handshake.peer is None else link.handshake.peer.release
            log.info("raft.link_up", peer=node.id, remote=link.connection.remote, release=release)
        self._last_contact[node] = link.connection.heard_at
        self.counters["messages"] += 1
        self.counters["bytes"] += len(data)
        try:
            self._onMessageReceived(node, message)
        except Exception:
            # A defect, or the node has ended itself. The peer sends again what still matters.
            log.exception("raft.message_failed", peer=node.id, kind=message["type"])
            self._drop(link, "its message could not be handled")

    def _shake_hands(self, link: _Link, data: bytes) -> None:
        step = link.handshake.receive(data)
        if step.send is not None:
            self._say(link, step.send)
        if step.refused:
            self._refused(link, step.refused)
        elif step.up and not link.connection.closed:
            self._up(link)

    def _say(self, link: _Link, frame: Frame) -> None:
        link.connection.send(encode_frame(frame))

    def _up(self, link: _Link) -> None:
        peer = link.handshake.peer
        assert peer is not None
        link.guest = link.handshake.guest
        node = self._nodes.get(peer.address)
        if node is None and link.guest:
            node = self._contacts.get(peer.address) or TCPNode(peer.address)
        if node is None:
            self._drop(link, "no member any more")
            return
        old = self._links.get(node)
        if old is not None and old is not link and self._stays(old, link, peer.address):
            self._drop(link, "there is a link already")
            return
        self._unknown.pop(link, None)
        if old is not None and old is not link:
            self._drop(old, "replaced by a newer link")
        self._links[node] = link
        link.node, link.up = node, True
        link.connection.max_frame_bytes = MAX_FRAME_BYTES
        self._last_contact[node] = link.connection.heard_at
        self._apart_since.pop(node, None)
        self._forget_refusal(node.id)
        self.counters["up"] += 1
        if link.guest:
            self._note_guests()
            if len(self._guests) > MAX_GUESTS:
                guests = [other for other in self._links.values() if other.up and other.guest]
                self._drop(guests[0], "too many guests")
        else:
            self._onNodeConnected(node)

    def _stays(self, old: _Link, new: _Link, address: str) -> bool:
        """Both ends decide the same: of two live ones, that of the greater address."""
        own_first = self._network.address > address
        alive = old.up and old.connection.quiet_since(self._clock()) < OTHER_SIDE_S
        return alive and old.dialled == own_first and new.dialled != own_first

    # --- ends -------------------------------------------------------------------------------------

    def _refused(self, link: _Link, why: str) -> None:
        """By either end."""
        self.counters["refused"] += 1
        peer = link.handshake.peer
        address = link.node.id if link.node is not None else peer.address if peer is not None else ""
        self._note_refusal(address, link.connection.remote, why)
        self._drop(link, why)

    def _note_refusal(self, address: str, remote: str, why: str) -> None:
        if address not in self._nodes:
            self._strangers.refused(address or remote, remote, why)
        elif self._refusals.get(address) != why:
            self._refusals = {**self._refusals, address: why}
            logged = self._logged.setdefault(address, [])
            if why not in logged:
                logged.append(why)
                del logged[:-MAX_LOGGED]
                log.warning("raft.link_refused", peer=address, remote=remote, why=why)

    def _forget_refusal(self, address: str) -> None:
        self._logged.pop(address, None)
        if address in self._refusals:
            self._refusals = {a: why for a, why in self._refusals.items() if a != address}

    def _closed(self, link: _Link, why: str, offended: bool) -> None:
        """The connection ended by itself."""
        if offended:
            self.counters["offended"] += 1
            if link.node is not None and not link.up:
                self._note_refusal(link.node.id, link.connection.remote, why)
            elif link.node is not None:
                why = f"a bad message: {why}"
                link.announced = True
            else:
                self._strangers.offended(link.connection.remote, why)
        self._forget(link, why)

    def _drop(self, link: _Link, why: str) -> None:
        link.connection.close()
        self._forget(link, why)

    def _forget(self, link: _Link, why: str) -> None:
        self._unknown.pop(link, None)
        node = link.node
        if node is None or self._links.get(node) is not link:
            return
        del self._links[node]
        if node.id in self._nodes:
            self._apart_since.setdefault(node, self._clock())
        if link.up:
            link.up = False
            if link.guest:
                self._note_guests()
            if link.announced:
                log.info("raft.link_down", peer=node.id, why=why)
            self._onNodeDisconnected(node)
