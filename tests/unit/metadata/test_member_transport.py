"""Real links on loopback: who gets one, what happens when it breaks, and what a peer cannot do."""

import socket
import time
from pathlib import Path
from typing import Any

import pytest
from pysyncobj.node import TCPNode
from pysyncobj.transport import TransportNotReadyError

from tests.raft_cases import free_addresses
from tests.raft_links import (
    LARGE,
    Authority,
    FakeIdentity,
    LinkEnd,
    Make,
    large_message,
    linked,
    refused,
    run_until,
)
from vimraft.metadata.pysyncobj import connection, member_transport, wire
from vimraft.metadata.pysyncobj.handshake import PROTOCOL, Hello, Ready, encode_frame

PING = {"type": "vimraft_ping"}


def frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


def call(address: str) -> socket.socket:
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), timeout=5)


def hello(address: str, **changed: Any) -> bytes:
    given = {"protocol": PROTOCOL, "cluster": FakeIdentity("").cluster, "generation": 1}
    return frame(
        encode_frame(Hello(**{**given, "node_id": f"id-of-{address}", "address": address, **changed}))
    )


def closed_by_peer(sock: socket.socket, ends: list[LinkEnd]) -> None:
    sock.setblocking(False)

    def gone() -> bool:
        try:
            return sock.recv(65536) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    run_until(ends, gone, "the connection closed")


def test_messages_go_both_ways_and_contact_is_noted(make: Make, two: tuple[str, str]) -> None:
    low, high = two
    a, b = make(low, high), make(high, low)
    assert not a.send(high, PING)
    linked(a, b)
    assert a.connected == [high]
    assert a.send(high, {"type": "response_vote", "term": 7})
    assert b.send(low, PING)
    run_until([a, b], lambda: a.received and b.received, "messages")
    assert b.received == [(low, {"type": "response_vote", "term": 7})]
    assert a.received == [(high, PING)]
    contact = b.links.last_contact(b.nodes[low])
    assert contact is not None
    assert 0 <= b.clock() - contact < 5
    assert not a.links.refusals


def test_acknowledgements_carry_the_term(make: Make, two: tuple[str, str]) -> None:
    low, high = two
    a, b = make(low, high), make(high, low)
    linked(a, b)
    a.send(high, {"type": "next_node_idx", "next_node_idx": 4, "reset": False, "success": True})
    run_until([a, b], lambda: b.received, "the acknowledgement")
    assert b.received[0][1]["term"] == 3


def test_large_messages_arrive_whole_and_in_order(make: Make, two: tuple[str, str]) -> None:
    low, high = two
    a, b = make(low, high), make(high, low)
    linked(a, b)
    for number in range(20):
        sent = large_message(number)
        assert a.send(high, sent)
    run_until([a, b], lambda: len(b.received) == 20, "20 MiB")
    assert [m["term"] for _, m in b.received] == list(range(20))
    assert all(m["serialized"][0] == LARGE for _, m in b.received)


def test_the_link_comes_back_after_either_end_died(make: Make, two: tuple[str, str]) -> None:
    low, high = two
    a, b = make(low, high), make(high, low)
    linked(a, b)
    a.close()
    run_until([b], lambda: not b.connected, "the end noticed")
    a = make(low, high, known=a.known)
    linked(a, b)
    b.close()
    run_until([a], lambda: not a.connected, "the end noticed")
    b = make(high, low, known=b.known)
    linked(a, b)


def test_a_new_link_of_a_node_replaces_and_closes_the_old_one(make: Make, two: tuple[str, str]) -> None:
    low, high = two
    a = make(low, high)
    first, second = call(low), call(low)
    first.sendall(hello(high) + frame(encode_frame(Ready())))
    run_until([a], lambda: a.connected, "the first link")
    second.sendall(hello(high) + frame(encode_frame(Ready())) + frame(wire.encode(PING)))
    closed_by_peer(first, [a])
    run_until([a], lambda: a.received, "a message through the second")
    assert a.connected == [high]
    first.close()
    second.close()


def test_another_cluster_is_refused_at_both_ends(make: Make, two: tuple[str, str]) -> None:
    low, high = two
    a, b = make(low, high), make(high, low, identity=FakeIdentity("x", cluster="another"))
    assert "other-cluster" in refused(a, b, at=a, other=b)
    assert "refused by it as other-cluster" in refused(a, b, at=b, other=a)


def test_another_generation_is_refused(make: Make, two: tuple[str, str]) -> None:
    low, high = two
    a, b = make(low, high, identity=FakeIdentity("y", generation=2)), make(high, low)
    assert "other-generation" in refused(a, b, at=b, other=a)


def test_a_node_with_another_id_than_before_is_refused_until_it_is_forgotten(
    make: Make, two: tuple[str, str]
) -> None:
    low, high = two
    a, b = make(low, high, known={high: "of its old disk"}), make(high, low)
    assert "changed-identity" in refused(a, b, at=a, other=b)
    del a.known[high]
    linked(a, b)
    assert not a.links.refusals
    assert not b.links.refusals


def test_the_dialling_side_checks_the_id_too(make: Make, two: tuple[str, str]) -> None:
    low, high = two
    a, b = make(low, high), make(high, low, known={low: "of its old disk"})
    assert "changed-identity" in refused(a, b, at=b, other=a)
    assert "refused by it as changed-identity" in refused(a, b, at=a, other=b)


def test_a_node_that_is_no_member_gets_its_link_when_it_is_added(make: Make, two: tuple[str, str]) -> None:
    low, high = two
    a, b = make(low), make(high, low)
    run_until([a, b], lambda: b.why(low), "a refusal")
    assert "not-a-member" in b.why(low)
    node = a.nodes[high] = TCPNode(high)
    a.links.addNode(node)
    linked(a, b)
    a.links.dropNode(node)
    assert not a.connected
    run_until([a, b], lambda: b.why(low), "a refusal again")


def test_a_node_without_a_cluster_is_let_in_only_by_its_name_in_the_log(
    make: Make, two: tuple[str, str]
) -> None:
    low, high = two
    a, b = make(low, high), make(high, low, identity=FakeIdentity("new", cluster="", generation=0))
    assert "other-cluster" in refused(a, b, at=a, other=b)
    a.network.named = lambda address, node_id: (address, node_id) == (high, "new")
    assert b.links.cluster_of(b.nodes[low]) == ("", 0, "")
    linked(a, b)
    assert b.links.cluster_of(b.nodes[low]) == (FakeIdentity("").cluster, 1, "")


# --- guests ---------------------------------------------------------------------------------------


def test_who_knows_newer_members_is_a_guest_until_it_is_a_member_here_too(
    make: Make, two: tuple[str, str]
) -> None:
    low, high = two
    a, b = make(low), make(high, low)
    a.config_index, b.config_index = 7, 9
    node = TCPNode(high)
    run_until([a, b], lambda: b.sees(low) and a.links.guests == {node}, "a guest")
    assert not a.connected, "nothing is sent to it as to a member"
    a.nodes[high] = node
    assert b.send(low, PING)
    assert a.send(high, PING)
    run_until([a, b], lambda: a.received and b.received, "messages both ways")
    a.links.addNode(node)
    run_until([a, b], lambda: a.connected, "a member")
    assert not a.links.guests
    assert a.known[high] == f"id-of-{high}"
    assert b.connected == [low], "the link is the same"


def test_a_link_goes_when_the_log_names_another_node_at_its_address(make: Make, two: tuple[str, str]) -> None:
    low, high = two
    a, b = make(low, high), make(high, low)
    run_until([a, b], lambda: a.sees(high) and b.sees(low), "a link")
    a.links.recheck()
    assert a.sees(high), "nothing has changed"
    a.known[high] = "of the disk that has replaced it"
    a.links.recheck()
    assert not a.sees(high)
    assert "changed-identity" in refused(a, b, at=a, other=b)


def test_a_guest_of_whom_the_log_says_nothing_goes(make: Make, two: tuple[str, str]) -> None:
    low, high = two
    a, b = make(low), make(high, low)
    a.config_index, b.config_index = 7, 9
    run_until([a, b], lambda: b.sees(low) and a.links.guests, "a guest")
    a.config_index = 9
    run_until([a, b], lambda: b.why(low), "a refusal")
    assert "not-a-member" in b.why(low)
    assert not a.links.guests


def test_who_is_gone_only_by_what_is_undecided_here_is_heard(make: Make, two: tuple[str, str]) -> None:
    """A leader that was paused holds a removal that the others never saw; theirs is the leader now."""
    low, high = two
    a, b = make(low), make(high, low)
    a.config_index = b.config_index = 7
    a.decided = {high}
    run_until([a, b], lambda: b.sees(low) and a.links.guests == {TCPNode(high)}, "a guest")
    a.decided = set()
    run_until([a, b], lambda: b.why(low), "a refusal")
    assert not a.links.guests


def test_a_changed_identity_is_a_guest_only_if_it_knows_newer_members(
    make: Make, two: tuple[str, str]
) -> None:
    low, high = two
    a, b = make(low, high, known={high: "of its old disk"}), make(high, low)
    a.config_index, b.config_index = 7, 7
    assert "changed-identity" in refused(a, b, at=a, other=b)
    b.config_index = 8
    run_until([a, b], lambda: b.sees(low) and a.links.guests, "a guest")
    assert a.links.guests == {TCPNode(high)}
    assert not a.connected


def test_the_lesser_address_calls_when_the_greater_one_does_not(
    make: Make, two: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member_transport, "OTHER_SIDE_S", 0.5)
    low, high = two
    a, b = make(low, high), make(high)
    a.config_index, b.config_index = 9, 7
    run_until([a, b], lambda: a.sees(high), "a link")
    assert b.links.guests == {TCPNode(low)}
    assert a.connected == [high]


def test_when_both_call_the_link_of_the_greater_address_stays(make: Make, two: tuple[str, str]) -> None:
    low, high = two
    a, b = make(low, high), make(high, low)
    linked(a, b)
    second = call(high)
    second.sendall(hello(low) + frame(encode_frame(Ready())))
    closed_by_peer(second, [a, b])
    second.close()
    assert a.links.counters["up"] == b.links.counters["up"] == 1
    assert b.connected == [low]
    b.close()
    b = make(high, low, known=b.known)
    first = call(high)
    first.sendall(hello(low) + frame(encode_frame(Ready())))
    run_until([a, b], lambda: b.links.counters["up"] == 2, "the link of the greater address in its place")
    closed_by_peer(first, [a, b])
    first.close()
    assert b.connected == [low]


def test_a_joiner_calls_its_contacts_and_counts_nobody(make: Make, two: tuple[str, str]) -> None:
    low, high = two
    a, b = make(low, high), make(high)
    a.config_index = 4
    b.links.call_also((low,))
    run_until([a, b], lambda: a.sees(high), "a link")
    assert b.links.guests == {TCPNode(low)}
    assert not b.connected


# --- later generations ----------------------------------------------------------------------------


@pytest.mark.parametrize("dialler_is_newer", [True, False])
def test_a_member_of_a_later_generation_ends_the_earlier_one(
    make: Make, two: tuple[str, str], dialler_is_newer: bool
) -> None:
    low, high = two
    later = FakeIdentity("later", generation=2, birth="x")
    a = make(low, high, identity=None if dialler_is_newer else later)
    b = make(high, low, identity=later if dialler_is_newer else None)
    older = a if dialler_is_newer else b
    run_until([a, b], lambda: older.superseded, "told")
    assert older.superseded[0] == 2
    assert not (b if dialler_is_newer else a).superseded
    assert not a.connected


def test_a_greater_number_without_a_birth_of_its_own_ends_nothing(make: Make, two: tuple[str, str]) -> None:
    low, high = two
    a, b = make(low, high), make(high, low, identity=FakeIdentity("damaged", generation=3))
    assert "other-generation" in refused(a, b, at=a, other=b)
    assert not a.superseded


def test_a_later_generation_of_a_stranger_means_nothing(make: Make, two: tuple[str, str]) -> None:
    low, high = two
    a, b = make(low), make(high, low, identity=FakeIdentity("later", generation=2, birth="x"))
    run_until([a, b], lambda: b.why(low), "a refusal")
    assert not a.superseded


def test_two_generations_of_one_number_do_not_mix(make: Make, two: tuple[str, str]) -> None:
    low, high = two
    a = make(low, high, identity=FakeIdentity("x", generation=2, birth="x"))
    b = make(high, low, identity=FakeIdentity("y", generation=2, birth="y"))
    assert "of another recovery" in refused(a, b, at=b, other=a)
    assert not a.superseded
    assert not b.superseded


def test_a_refusal_is_logged_once(
    make: Make, two: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    low, high = two
    a, b = make(low, high), make(high, low, identity=FakeIdentity("x", cluster="another"))
    run_until([a, b], lambda: b.links.counters["refused"] >= 3, "retries")
    assert capsys.readouterr().out.count("raft.link_refused") == 2  # one at each end


@pytest.mark.parametrize("tls", [False, True])
def test_a_silent_peer_is_dropped(make: Make, two: tuple[str, str], tls: bool, tmp_path: Path) -> None:
    low, high = two
    ca = Authority(tmp_path / "ca") if tls else None
    a = make(low, high, idle_s=0.4, tls=ca and ca.issue(low))
    b = make(high, low, tls=ca and ca.issue(high))
    linked(a, b)
    run_until([a], lambda: not a.connected, "silence noticed")


def test_a_pause_of_this_process_makes_nobody_silent(make: Make, two: tuple[str, str]) -> None:
    low, high = two
    a, b = make(low, high, idle_s=0.6), make(high, low, idle_s=60)
    linked(a, b)
    time.sleep(0.8)  # the pause itself
    assert b.send(low, PING)
    a.round()
    assert a.connected == [high]
    run_until([a, b], lambda: a.received, "what waited unread")


def test_a_peer_that_does_not_read_is_cut_off_at_the_bound(
    make: Make, two: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    low, high = two
    monkeypatch.setattr(connection, "MAX_BACKLOG_BYTES", 8 << 20)
    monkeypatch.setattr(member_transport, "CONGESTED_BYTES", 4 << 20)
    a = make(low, high)
    sock = call(low)
    sock.sendall(hello(high) + frame(encode_frame(Ready())))
    run_until([a], lambda: a.connected, "the link")
    sent = {
        "type": "append_entries",
        "term": 1,
        "commit_index": 0,
        "serialized": (bytes(1 << 20), True, False),
    }
    count, congested = 0, False
    while a.send(high, sent):
        count += 1
        congested = congested or a.links.congested(a.nodes[high])
        assert a.links.backlog_bytes(a.nodes[high]) <= 8 << 20
        assert count < 100
    assert congested
    assert not a.connected
    sock.close()


def test_callers_that_say_nothing_are_bounded_and_leave_room(
    make: Make, two: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    low, high = two
    a = make(low, high)
    callers = []
    for _ in range(member_transport.MAX_UNKNOWN + 20):
        callers.append(call(low))
        a.round(0)
    run_until([a], lambda: a.links.counters["unknown_dropped"] >= 20, "the oldest dropped")
    b = make(high, low)
    linked(a, b)
    monkeypatch.setattr(member_transport, "HANDSHAKE_S", 0.1)
    run_until([a, b], lambda: not a.links._unknown, "the others timed out")
    assert a.connected == [high]
    for sock in callers:
        sock.close()


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x00",
        b"\x00\x00\x10\x01" + bytes(64),
        frame(b"\x80\x02cos\nsystem\n."),
        frame(encode_frame(Ready())),
        frame(wire.encode(PING)),
    ],
)
def test_strangers_are_dropped_with_one_line(
    make: Make, two: tuple[str, str], data: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    low, high = two
    a = make(low, high)
    sock = call(low)
    sock.sendall(data)
    closed_by_peer(sock, [a])
    sock.close()
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert not a.received


def test_garbage_of_a_member_ends_its_link_only(make: Make) -> None:
    low, middle, high = sorted(free_addresses(3))
    a, b = make(low, middle, high), make(high, low, middle)
    linked(a, b)
    sock = call(low)
    sock.sendall(hello(middle) + frame(encode_frame(Ready())))
    run_until([a, b], lambda: len(a.connected) == 2, "both links")
    sock.sendall(frame(wire.encode(PING)) + frame(b"\xc1") + frame(wire.encode(PING)))
    closed_by_peer(sock, [a, b])
    sock.close()
    assert a.received == [(middle, PING)]
    assert a.connected == [high]


def test_a_message_that_fails_inside_ends_the_link_and_the_round_goes_on(
    make: Make, two: tuple[str, str]
) -> None:
    low, high = two
    a, b = make(low, high), make(high, low)
    linked(a, b)

    def fail(*_: object) -> None:
        raise KeyError("inside")

    a.links.setOnMessageReceivedCallback(fail)
    b.send(low, PING)
    run_until([a, b], lambda: not a.connected, "the link ended")
    linked(a, b)


def test_an_address_in_use_is_reported(make: Make, two: tuple[str, str]) -> None:
    low, high = two
    make(low, high)
    with pytest.raises(TransportNotReadyError):
        make(low, high)


def test_names_of_hosts_are_resolved(make: Make, two: tuple[str, str]) -> None:
    low, high = (address.replace("127.0.0.1", "localhost") for address in two)
    a, b = make(low, high), make(high, low)
    linked(a, b)
