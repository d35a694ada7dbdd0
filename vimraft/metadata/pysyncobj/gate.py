"""Messages that must not leave before the disk has what they promise.

May live here: the base of all transports. Votes, requests for votes and acknowledgements speak of terms
and entries that this node claims to have on stable storage; stock PySyncObj sends them at once. The gate
holds them until the node has synced (`release`), and stamps acknowledgements with the term in which they
were given, since an index without a term may be counted for entries of another leader.
"""

from typing import Any, Final

from pysyncobj.node import Node
from pysyncobj.transport import Transport

HELD: Final = frozenset({"request_vote", "response_vote", "next_node_idx"})
"""Kinds (message["type"]) that wait for `release`."""

Message = dict[str, Any]


class GatedTransport(Transport):
    """Subclasses carry messages: `_transmit`, and PySyncObj's addNode, dropNode, tryGetReady, ready,
    destroy. They report links with `_onNodeConnected/_onNodeDisconnected` and messages with
    `_onMessageReceived`."""

    def __init__(self, node: Any, self_node: Node, other_nodes: set[Node]) -> None:
        super().__init__(node, self_node, other_nodes)
        self._held: list[tuple[Node, Message]] = []

    def send(self, node: Node, message: Message) -> bool:
        """True also for a held message: whether it arrives is never known here."""
        if message["type"] in HELD:
            self._held.append((node, message))
            return True
        return self._transmit(node, message)

    def release(self) -> None:
        """The disk has everything up to now: let the held messages go."""
        held, self._held = self._held, []
        for node, message in held:
            self._transmit(node, message)

    def drop_held(self) -> None:
        """The disk could not take it: these promises must never leave."""
        self._held.clear()

    def _transmit(self, node: Node, message: Message) -> bool:
        """False: there is no link. Never blocks, never raises."""
        raise NotImplementedError
