"""A connection to a peer that vanished without a word ends within seconds, not with the I/O timeout."""

import socket

from vimraft.data.remote import KEEPALIVE_S, USER_TIMEOUT_MS, connect_to_peer


def test_the_kernel_watches_the_peer() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    with server, connect_to_peer("rome", *server.getsockname(), 1.0) as sock:
        tcp = socket.IPPROTO_TCP
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(tcp, socket.TCP_KEEPIDLE) == KEEPALIVE_S
        assert sock.getsockopt(tcp, socket.TCP_KEEPINTVL) == KEEPALIVE_S
        assert sock.getsockopt(tcp, socket.TCP_USER_TIMEOUT) == USER_TIMEOUT_MS
