"""Messages that must not leave before the disk has what they promise.

May live here: the base of all transports. Votes, requests for votes and acknowledgements speak of terms
and entries that this node claims to have on stable storage; stock PySyncObj sends them at once. The gate
holds them until the node has synced (`release`), and stamps acknowledgements with the term in which they
were *given*, since an index without a term may be counted for entries of another leader.

Keeps: what is given after the last sync stays held; per peer, kind and term only the newest is held (of
two acknowledgements of one term, the one that says more), so that a slow disk makes no queue.
"""

from collections.abc import Mapping
from typing import Any, Final

from pysyncobj.node import Node
from pysyncobj.transport import Transport

ACKNOWLEDGEMENT: Final = "next_node_idx"
HELD: Final = frozenset({"request_vote", "response_vote", ACKNOWLEDGEMENT})
"""Kinds (message["type"]) that wait for `release`."""
REPEAT_S: Final = 0.03
"""An acknowledgement that says what the last one to this peer said waits for the first heartbeat after this
time; a leader that only tells its commit index needs no answer."""
MAX_HELD: Final = 1_024
"""Messages; the oldest go first. All of them may be lost on the way as well."""

Message = dict[str, Any]
_Key = tuple[Node, str, int, bool, bool]


class GatedTransport(Transport):
    """Subclasses carry messages: `_transmit`, and PySyncObj's addNode, dropNode, tryGetReady, ready,
    destroy. They report links with `_onNodeConnected/_onNodeDisconnected` and messages with
    `_onMessageReceived`. `node` needs `raftCurrentTerm` and `clock` only."""

    def __init__(self, node: Any, self_node: Node, other_nodes: set[Node]) -> None:
        super().__init__(node, self_node, other_nodes)
        self._raft = node
        self._held: dict[_Key, tuple[Node, Message]] = {}
        self._said: dict[Node, tuple[Message, float]] = {}
        """The last acknowledgement to each peer that went out, and when."""

    # --- what others look at ----------------------------------------------------------------------

    @property
    def refusals(self) -> Mapping[str, str]:
        """Address → why the link with it is refused, at either end."""
        return {}

    def last_contact(self, node: Node) -> float | None:
        """When (the node's clock) something came from it; None: never."""
        del node
        return None

    def cluster_of(self, node: Node) -> tuple[str, int, str]:
        """(cluster, generation, birth) that the other end of the link with it has named; "": unknown."""
        del node
        return "", 0, ""

    @property
    def guests(self) -> frozenset[Node]:
        """Linked with, but no members here (see handshake.py): heard, never counted."""
        return frozenset()

    def call_also(self, addresses: tuple[str, ...]) -> None:
        """Whom to call as long as there is no member to talk to."""
        del addresses

    def congested(self, node: Node) -> bool:
        """So much waits for it already that more should be sent later."""
        del node
        return False

    # --- the gate ---------------------------------------------------------------------------------

    def send(self, node: Node, message: Message) -> bool:
        """True also for a held message: whether it arrives is never known here."""
        kind = message["type"]
        if kind not in HELD:
            return self._transmit(node, message)
        if kind == ACKNOWLEDGEMENT:
            # The term of now, not of the release: by then this node may follow another leader.
            message = {**message, "term": self._raft.raftCurrentTerm}
        success, reset = bool(message.get("success")), bool(message.get("reset"))
        key = (node, kind, message["term"], success, reset)
        older = self._held.pop(key, None)
        if older is not None and success and older[1][ACKNOWLEDGEMENT] > message[ACKNOWLEDGEMENT]:
            message = older[1]  # within a term nothing that was acknowledged is taken back
        self._held[key] = (node, message)
        while len(self._held) > MAX_HELD:
            del self._held[next(iter(self._held))]
        return True

    @property
    def holds(self) -> bool:
        return bool(self._held)

    def release(self) -> None:
        """The disk has everything up to now: let the held messages go."""
        if self._held:
            held, self._held = self._held, {}
            now = self._raft.clock()
            for node, message in held.values():
                if message["type"] != ACKNOWLEDGEMENT:
                    self._transmit(node, message)
                elif not self._repeats(node, message, now) and self._transmit(node, message):
                    self._said[node] = (message, now)

    def _repeats(self, node: Node, message: Message, now: float) -> bool:
        said = self._said.get(node)
        return said is not None and said[0] == message and now - said[1] < REPEAT_S and not message["reset"]

    def drop_held(self) -> None:
        """The disk could not take it: these promises must never leave."""
        self._held.clear()

    def recheck(self) -> None:
        """The members have changed: links whose other end is not who the log names now must go."""

    def _transmit(self, node: Node, message: Message) -> bool:
        """False: there is no link, and the message is certainly not delivered. Never blocks or raises."""
        raise NotImplementedError
