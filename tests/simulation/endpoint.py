"""One process's end of its connections: what both kinds of transport need.

May live here: which peers a process talks to and over which connection. Messages are encoded when they
leave and decoded when they arrive, so no two nodes ever share an object.
"""

from collections.abc import Callable
from typing import Any

from pysyncobj.node import Node

from tests.simulation.machine import Machine
from tests.simulation.network import Connection

Encode = Callable[[Any], Any]

SEND_S = 0.00002


class Endpoint:
    def __init__(
        self,
        machine: Machine,
        *,
        encode: Encode,
        decode: Encode,
        connected: Callable[[Node], None],
        disconnected: Callable[[Node], None],
        received: Callable[[Node, Any], None],
    ) -> None:
        self.nodes: dict[str, Node] = {}
        self._connections: dict[str, Connection] = {}
        self._machine = machine
        self._encode = encode
        self._decode = decode
        self._connected = connected
        self._disconnected = disconnected
        self._received = received
        machine.endpoint = self

    def add(self, node: Node) -> None:
        self.nodes[node.id] = node
        self.call(node.id)

    def call(self, address: str) -> None:
        self._machine.network.connect_soon(self._machine.address, address)

    def drop(self, node: Node) -> None:
        if self.nodes.pop(node.id, None) is not None:
            self._connections.pop(node.id, None)
            self._machine.network.break_connection(self._machine.address, node.id)

    def wants(self, address: str) -> bool:
        """It calls there."""
        return address in self.nodes

    def accepts(self, address: str) -> bool:
        """It answers when that one calls."""
        return self.wants(address)

    def is_connected(self, node: Node) -> bool:
        return node.id in self._connections

    def send(self, node: Node, message: Any) -> bool:
        machine = self._machine
        connection = self._connections.get(node.id)
        if connection is None or machine.dying:
            return False
        machine.sends(machine, node.id, message)
        machine.busy_s += SEND_S  # PySyncObj has loops that only the clock ends
        world = machine.world
        connection.send(machine.address, self._encode(message), world.now + machine.busy_s)
        return True

    def take(self, kind: str, connection: Connection, address: str, payload: Any) -> None:
        node = self.nodes.get(address)
        if node is None:
            return
        if kind == "message":
            self._received(node, self._decode(payload))
        elif kind == "connected":
            self._connections[address] = connection
            self._connected(node)
        elif self._connections.get(address) is connection:
            del self._connections[address]
            self._disconnected(node)
