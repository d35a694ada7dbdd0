"""Dedupe, history, totality: what `apply` does for every command."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core_cases import Tables, build, manager, three_sites
from vimraft.core import apply as apply_module
from vimraft.core import codec
from vimraft.core.apply import MAX_NESTING, MAX_REQUEST_BYTES, apply, apply_request, plan
from vimraft.core.commands import (
    Applied,
    Barrier,
    ConfirmRelease,
    DeleteVolume,
    FormCluster,
    GrowVolume,
    Rejected,
    RenewLease,
    Request,
    SetManager,
    SetSetting,
)
from vimraft.core.nesting import nesting_exceeds
from vimraft.core.reasons import Exists, Invalid, Malformed, NotFormed, NotFound, Outdated
from vimraft.core.tables import Settings, State


def request(command, *, client="c", sequence=1):
    return codec.encode_request(Request(client, sequence, 5, "me", command))


def test_a_retry_is_answered_from_memory_and_changes_nothing():
    tables = three_sites()
    data = request(build("v", 3))
    first, outcome = apply(tables.state, data)
    again, same = apply(first, data)
    assert same == outcome
    assert again == first._replace(index=first.index + 1)


def test_a_retry_of_a_refused_command_stays_refused_even_if_it_could_succeed_now():
    tables = three_sites()
    delete = request(DeleteVolume("v"), client="other")
    refused, outcome = apply(tables.state, delete)
    assert isinstance(codec.decode_outcome(outcome), Rejected)
    built, _ = apply(refused, request(build("v", 3)))
    after, same = apply(built, delete)
    assert same == outcome
    assert "v" in after.volumes


def test_a_client_that_goes_back_in_sequence_is_outdated():
    tables = three_sites()
    state, _ = apply(tables.state, request(build("v", 3), sequence=7))
    after, outcome = apply(state, request(build("w", 3), sequence=6))
    assert codec.decode_outcome(outcome).reason == Outdated("client", "c")
    assert after == state._replace(index=state.index + 1)


@pytest.mark.parametrize("client", ["", "x" * 401, "a\nb"])
def test_a_client_id_that_is_no_id_is_refused_and_not_remembered(client):
    tables = three_sites()
    state, outcome = apply(tables.state, request(build("v", 3), client=client))
    reason = codec.decode_outcome(outcome).reason
    assert isinstance(reason, Invalid)
    assert reason.field == "client"
    assert state == tables.state._replace(index=state.index)


@pytest.mark.parametrize("command", [Barrier(), RenewLease("m-tokyo", "life", 1, 3)])
def test_commands_that_may_repeat_take_no_memory(command):
    tables = three_sites()
    state, _ = apply(tables.state, request(command, client="fresh"))
    again, outcome = apply(state, request(command, client="fresh"))
    assert codec.decode_outcome(outcome) == Applied(again.index)
    assert again == state._replace(index=again.index)
    assert "fresh" not in again.clients


@pytest.mark.parametrize("command", [build("v", 1), Barrier(), SetManager(manager("m", 1))])
def test_nothing_applies_before_the_cluster_is_formed(command):
    assert Tables().refused(command) == NotFormed()


def test_a_cluster_is_formed_once():
    tables = three_sites()
    assert tables.refused(FormCluster("other", Settings())) == Exists("cluster", "test-cluster")


@pytest.mark.parametrize(
    ("cluster_id", "settings", "field"),
    [
        ("", Settings(), "cluster id"),
        ("a b", Settings(), "cluster id"),
        ("x", Settings(unit_bytes=3 << 20), "unit_bytes"),
        ("x", Settings(lease_ms=1), "lease_ms"),
        ("x", Settings(history_changes=-1), "history_changes"),
    ],
)
def test_a_cluster_is_not_formed_from_nonsense(cluster_id, settings, field):
    reason = Tables().refused(FormCluster(cluster_id, settings))
    assert isinstance(reason, Invalid)
    assert reason.field == field


def malformed(data, state=None):
    state = three_sites().state if state is None else state
    after, outcome = apply(state, data)
    assert after == state._replace(index=state.index + 1)
    reason = codec.decode_outcome(outcome).reason
    assert isinstance(reason, Malformed)
    return reason.problem


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x02\x80", b"\x01\x80", b"\x01\xc1", b"garbage" * 20])
def test_bytes_that_are_no_request_are_refused(data):
    assert malformed(data)


def test_a_request_of_another_version_says_so():
    assert "version 9" in malformed(b"\x09" + request(Barrier())[1:])


def test_a_torn_request_is_refused_wherever_it_is_torn():
    state, data = three_sites().state, request(build("v", 3))
    for length in range(len(data)):
        assert malformed(data[:length], state)


def test_a_request_that_is_too_big_is_refused_unread():
    assert str(MAX_REQUEST_BYTES) in malformed(b"\x01" + b"\xc0" * MAX_REQUEST_BYTES)


def deep(levels):
    """A valid request with a surplus field that nests `levels` deep inside the request's map."""
    whole = request(Barrier())
    assert whole[1] == 0x85
    return b"\x01\x86\xa1z" + b"\x91" * levels + b"\xc0" + whole[2:]


def test_nesting_is_refused_by_the_bytes_alone_not_by_the_stack_of_the_caller():
    state = three_sites().state

    def at_depth(frames, data):
        return at_depth(frames - 1, data) if frames else apply(state, data)[1]

    assert isinstance(codec.decode_outcome(apply(state, deep(MAX_NESTING - 1))[1]), Applied)
    for levels in (MAX_NESTING, 400, 100_000):
        assert "containers" in malformed(deep(levels), state)
        assert at_depth(500, deep(levels)) == apply(state, deep(levels))[1]


def test_the_nesting_scan_steps_over_every_kind_of_value():

    values = ["é" * 40, "x" * 300, "y" * 70_000, b"\x91" * 50, b"\x91" * 300, 1.5, -5, -(1 << 40), 1 << 63]
    values += [None, True, [0x91] * 20, list(range(-300, 300)), {str(n): n for n in range(20)}]
    values += [msgspec.msgpack.Ext(5, b"\x91" * n) for n in (1, 2, 4, 8, 16, 17, 300, 70_000)]
    data = b"\x01" + msgspec.msgpack.encode({"a": values, "b": [[[values]]]})
    assert not nesting_exceeds(data, 6)
    assert nesting_exceeds(data, 5)


@given(st.binary(max_size=200))
def test_random_bytes_never_raise(data):
    apply(State(), data)
    nesting_exceeds(b"\x01" + data + b"\x91" * 40, 3)


def test_history_says_who_when_and_what():
    tables = three_sites()
    tables.applied(build("v", 3), who="admin@tokyo", at_ms=77)
    change = tables.state.history[-1]
    assert (change.index, change.at_ms, change.who) == (tables.state.index, 77, "admin@tokyo")
    assert (change.what, change.name) == ("built", "v")


def test_history_keeps_who_short_and_printable():
    tables = three_sites()
    tables.applied(build("v", 3), who="evil\x1b[2J" + "x" * 5_000)
    who = tables.state.history[-1].who
    assert who.isprintable()
    assert len(who) == 200


def test_history_is_bounded_by_the_setting_from_the_next_change_on():
    tables = three_sites()
    tables.applied(SetSetting("history_changes", 2))
    assert [change.what for change in tables.state.history] == ["site-changed", "setting-changed"]
    tables.applied(build("v", 3))
    assert [change.what for change in tables.state.history] == ["setting-changed", "built"]
    tables.applied(SetSetting("history_changes", 0))
    assert tables.state.history == ()


def test_commands_that_change_nothing_leave_no_history():
    tables = three_sites()
    before = tables.state.history
    tables.applied(Barrier())
    tables.applied(SetManager(manager("m-tokyo", 1)))
    tables.applied(SetSetting("lease_ms", 4_000))
    tables.applied(ConfirmRelease("m-tokyo", 9))
    assert tables.state.history == before


def test_a_plan_is_what_would_happen_and_keeps_nothing():
    tables = three_sites()
    before = tables.state
    planned = plan(before, build("v", 150), at_ms=1_000)
    assert tables.state is before
    assert tables.do(build("v", 150)) == planned


def test_a_plan_of_the_impossible_is_the_refusal():
    tables = three_sites()
    assert plan(tables.state, GrowVolume("v", 1)).reason == NotFound("virtual volume", "v")


def test_an_outcome_leaves_out_a_map_too_long_to_remember(monkeypatch):
    monkeypatch.setattr(apply_module, "MAX_OUTCOME_SEGMENTS", 2)
    tables = three_sites()
    assert tables.applied(build("small", 150)).volume is not None
    assert tables.applied(build("long", 50, sites=("nagoya",))).volume is not None
    assert tables.applied(GrowVolume("small", 230 * 2048)).volume is None
    assert len(tables.state.volumes["small"].replicas[0].segments) == 3


def test_a_request_id_used_for_another_change_is_refused_not_answered_with_the_old_outcome() -> None:
    tables = three_sites()
    first = Request("req/same", 1, 0, "x", SetSetting("lease_ms", 4_001))
    state, outcome = apply_request(tables.state, first)
    assert isinstance(outcome, Applied)
    again, repeated = apply_request(state, first)
    assert repeated == outcome
    other, refused = apply_request(again, Request("req/same", 1, 0, "x", SetSetting("lease_ms", 9_999)))
    assert isinstance(refused, Rejected)
    assert isinstance(refused.reason, Invalid)
    assert refused.reason.field == "request id"
    assert other.settings.lease_ms == 4_001
