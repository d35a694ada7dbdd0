"""Data requests on a socket: what comes in pieces, late, or wrong."""

import errno
import socket
import struct
import threading
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.copied_volumes import B, session
from vimraft.core.ids import ManagerName, VolumeName
from vimraft.data.copies.flights import Flight, poll_flights, ready_socket
from vimraft.data.copies.links import CopyLink, Place
from vimraft.data.errors import PeerLost
from vimraft.protocol.asks import AskKind
from vimraft.protocol.owner_effects import StoreRequest

KIB4 = 4096
REPLY_MAGIC = 0x67446698


class Ends(NamedTuple):
    link: CopyLink
    server: socket.socket


@pytest.fixture
def ends() -> Iterator[Ends]:
    link = CopyLink(Place(ManagerName("b"), "v", B), 1, session())
    link.guard, server = socket.socketpair()
    link.boot = "boot"
    ready_socket(link.guard)
    yield Ends(link, server)
    server.close()
    link.close()


def request(kind: AskKind, first: int, end: int, data: bytes = b"") -> StoreRequest:
    return StoreRequest(
        77, VolumeName("v"), B, kind, 1, "life", 1, first, end, data, False, False, (), "", 0
    )  # fmt: skip


def reply(error: int = 0, number: int = 77, magic: int = REPLY_MAGIC) -> bytes:
    return struct.pack(">IIQ", magic, error, number)


def test_a_request_is_what_nbd_says(ends: Ends) -> None:
    Flight(ends.link, request("write", KIB4, 2 * KIB4, b"x" * KIB4))
    sent = ends.server.recv(1 << 16)
    assert struct.unpack(">IHHQQI", sent[:28]) == (0x25609513, 0, 1, 77, KIB4, KIB4)
    assert sent[28:] == b"x" * KIB4


def test_a_flush_names_no_range(ends: Ends) -> None:
    Flight(ends.link, request("flush", 0, 1 << 20))
    assert struct.unpack(">IHHQQI", ends.server.recv(1 << 16)) == (0x25609513, 0, 3, 77, 0, 0)


def test_a_reply_that_comes_in_pieces_is_put_together(ends: Ends) -> None:
    flight = Flight(ends.link, request("read", 0, KIB4))
    assert flight.answer(wait=False) is None
    whole = reply() + b"a" * 1000 + b"b" * (KIB4 - 1000)
    for first, end in ((0, 7), (7, 16), (16, 1016)):
        ends.server.sendall(whole[first:end])
        assert flight.answer(wait=False) is None
    ends.server.sendall(whole[1016:])
    answer = flight.answer(wait=True)
    assert answer is not None
    assert (answer.how, answer.number, answer.boot) == ("done", 77, "boot")
    assert answer.data == whole[16:]


def test_what_the_socket_does_not_take_at_once_is_sent_later(ends: Ends) -> None:
    data = bytes(range(256)) * (16 << 10)
    came = bytearray()

    def serve() -> None:
        while len(came) < 28 + len(data):
            came.extend(ends.server.recv(1 << 20))
        ends.server.sendall(reply())

    flight = Flight(ends.link, request("write", 0, len(data), data))
    assert flight.answer(wait=False) is None
    server = threading.Thread(target=serve, daemon=True)
    server.start()
    answer = flight.answer(wait=True)
    server.join(10)
    assert answer is not None
    assert answer.how == "done"
    assert came[28:] == data


@pytest.mark.parametrize(("number", "how"), [(errno.EIO, "failed"), (errno.ESHUTDOWN, "older")])
def test_a_refusal_leaves_the_connection_usable(ends: Ends, number: int, how: str) -> None:
    ends.server.sendall(reply(number))
    answer = Flight(ends.link, request("read", 0, KIB4)).answer(wait=True)
    assert answer is not None
    assert answer.how == how
    ends.server.sendall(reply())
    answer = Flight(ends.link, request("write", 0, KIB4, b"x" * KIB4)).answer(wait=True)
    assert answer is not None
    assert answer.how == "done"


@pytest.mark.parametrize("wrong", [reply(number=78), reply(magic=1), reply(errno.EINVAL)])
def test_whatever_else_comes_loses_the_store(ends: Ends, wrong: bytes) -> None:
    flight = Flight(ends.link, request("write", 0, KIB4, b"x" * KIB4))
    ends.server.sendall(wrong)
    with pytest.raises(PeerLost):
        flight.answer(wait=True)


def test_a_connection_that_ends_loses_the_store(ends: Ends) -> None:
    flight = Flight(ends.link, request("write", 0, KIB4, b"x" * KIB4))
    ends.server.close()
    with pytest.raises(PeerLost):
        flight.answer(wait=True)
    with pytest.raises(PeerLost):
        Flight(ends.link, request("write", 0, KIB4, b"x" * KIB4))


def test_of_several_the_first_that_has_an_answer_is_enough(ends: Ends) -> None:
    other = CopyLink(Place(ManagerName("c"), "v", B), 1, session())
    other.guard, silent = socket.socketpair()
    ready_socket(other.guard)
    flights = [Flight(link, request("read", 0, KIB4)) for link in (other, ends.link)]
    ends.server.sendall(reply() + bytes(KIB4))
    poll_flights(flights)
    answers = [flight.answer(wait=False) for flight in flights]
    assert answers[0] is None
    assert answers[1] is not None
    silent.close()
    other.close()
