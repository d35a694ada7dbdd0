"""Who may talk to this node: members, by their Raft address, and nobody else.

May live here: the TCP transport. PySyncObj also serves admin commands (add, remove, status …) and
anonymous "readonly" peers, which may submit commands, to whoever connects; both are closed here. This
keeps accidents out, not attackers: there is no authentication yet (see the package's docstring).
"""

from typing import Any

from pysyncobj.tcp_connection import TcpConnection
from pysyncobj.transport import TCPTransport


class MemberTransport(TCPTransport):
    def _onIncomingMessageReceived(self, conn: TcpConnection, message: Any) -> None:  # noqa: N802
        """The first message on a connection that somebody opened to us names the sender."""
        node = self._nodeAddrToNode.get(message) if isinstance(message, str) else None
        if node is None:
            self._unknownConnections.discard(conn)
            conn.disconnect()
            return
        replaced = self._connections.get(node)
        super()._onIncomingMessageReceived(conn, message)
        if replaced is not None and replaced is not conn:
            replaced.disconnect()  # the stock transport forgets it open, until its timeout
