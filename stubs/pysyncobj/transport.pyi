from collections.abc import Callable
from typing import Any

from .node import Node, TCPNode
from .tcp_connection import TcpConnection

class Transport:
    def setOnMessageReceivedCallback(
        self, callback: Callable[[Node, dict[str, Any]], None] | None
    ) -> None: ...
    def send(self, node: Node, message: Any) -> bool: ...

class TCPTransport(Transport):
    _nodeAddrToNode: dict[str, TCPNode]
    _connections: dict[Node, TcpConnection]
    _unknownConnections: set[TcpConnection]
    def _onIncomingMessageReceived(self, conn: TcpConnection, message: Any) -> None: ...
